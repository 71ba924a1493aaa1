"""The sender as a process: events in, kills at every persisted transition, and its end."""

import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import msgspec
import pytest
from confluent_kafka import Producer
from tests.waiting import until

from paceline_common import events, ids, topics
from paceline_local.stack import Stack
from paceline_sender.job import Job

from .conftest import PASSWORD, World

QUICK = {
    "PACELINE_DEAD_AFTER_S": "1.5",
    "PACELINE_BEAT_S": "0.3",
    "PACELINE_RECONCILE_S": "0.3",
}


def publish(house: Stack, *jobs: Job) -> None:
    """Tell `send-scheduled`, as the scheduler would."""
    producer = Producer(house.kafka.client_config("scheduler"))
    for job in jobs:
        _publish(producer, job)
    assert producer.flush(10) == 0


def _publish(producer: Producer, job: Job) -> None:
    body = events.SendScheduled(
        workspace_id=job.workspace,
        job_id=job.public_id,
        mailbox_id=job.mailbox,
        enrollment_id=job.enrollment,
        campaign_id=job.campaign,
        step=job.step,
        kind="campaign",
        fence=job.fence,
        slot_at=job.slot_at,
        not_after=job.not_after,
    )
    producer.produce(
        topics.SEND_SCHEDULED.name,
        key=job.mailbox,
        value=msgspec.json.encode(body),
        headers={
            "ce_specversion": "1.0",
            "ce_id": ids.new_event_id(),
            "ce_type": events.event_type(topics.SEND_SCHEDULED),
            "ce_source": "scheduler",
            "ce_time": datetime.now(UTC).isoformat(),
            "ce_workspaceid": job.workspace,
            "content-type": "application/json",
        },
    )


def running(house: Stack) -> bool:
    return house.processes.find("sender") is not None


def copies(house: Stack, email: str) -> int:
    folder = house.mailhost.maildir(email) / "new"
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.fixture
def recipient(house: Stack, world: World) -> str:
    email = f"bob-{world.workspace_id}@example.test"
    house.mailhost.add_user(email, "x")
    return email


@pytest.fixture
def ended(house: Stack) -> Iterator[None]:
    yield
    house.stop("sender")


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize(
    ("failpoint", "state", "delivered"),
    [
        # Nothing was claimed: the lease runs out and the job is given back.
        ("before_claim", "queued", {0}),
        ("after_claim", "in_doubt", {0}),
        ("after_mail_from", "in_doubt", {0}),
        # Whether the last bytes got out of the dying process is exactly what nobody knows.
        ("after_final_dot", "in_doubt", {0, 1}),
        ("before_outcome", "in_doubt", {1}),
        ("after_outcome", "sent", {1}),
    ],
)
async def test_a_kill_anywhere_never_sends_twice(
    house: Stack, world: World, recipient: str, failpoint: str, state: str, delivered: set[int]
) -> None:
    house.restart("sender", QUICK | {"PACELINE_FAILPOINTS": f"sender.{failpoint}=kill"})
    job = world.job(world.lead(recipient), in_ms=1500, grace_ms=1500)
    publish(house, job)
    await until(lambda: not running(house), "killed")
    house.restart("sender", QUICK)
    publish(house, job)
    await until(lambda: world.job_row(job)["state"] == state, f"job {state}")
    # Another lease of the same mailbox passes: whatever was to happen to the first has happened.
    later = world.job(world.lead(recipient), in_ms=1500, grace_ms=2000)
    publish(house, later)
    await until(lambda: world.job_row(later)["state"] == "sent", "the next one is sent")
    await until(lambda: copies(house, recipient) - 1 in delivered, f"copies {delivered}")
    assert world.job_row(job)["state"] == state
    assert len([a for a in world.attempts(job) if a["claimed_at"]]) == (state != "queued")


@pytest.mark.usefixtures("ended")
async def test_a_term_gives_held_slots_back_and_ends_well(
    house: Stack, world: World, recipient: str
) -> None:
    house.restart("sender", QUICK)
    held = world.job(world.lead(recipient), in_ms=120_000)
    soon = world.job(world.lead(f"x{recipient}"), in_ms=8_000)
    for job in (held, soon):
        publish(house, job)
    url = f"{house.services['sender'].url()}/metrics"
    await until(
        lambda: (
            "paceline_held_jobs 1.0" in httpx.get(url).text
            and "paceline_events_consumed_total" in httpx.get(url).text
        ),
        "both consumed",
    )
    began = time.monotonic()
    house.kill("sender", signal.SIGTERM)
    await until(lambda: not running(house), "ended")
    assert time.monotonic() - began < 10
    for job in (held, soon):
        row = world.job_row(job)
        assert (row["state"], row["reason"]) == ("queued", "sender_stopping")
    assert copies(house, recipient) == 0


@pytest.mark.usefixtures("ended")
async def test_no_log_holds_a_password_an_address_or_a_body(
    house: Stack, world: World, recipient: str
) -> None:
    house.restart("sender", QUICK | {"PACELINE_LOG_LEVEL": "debug"})
    unknown = f"nobody-{world.workspace_id}@example.test"
    jobs = [
        world.job(world.lead(recipient), in_ms=1500),
        world.job(world.lead(unknown), in_ms=1500),
        world.job(world.lead(recipient + ".broken"), step=2, in_ms=1500),
    ]
    for job in jobs:
        publish(house, job)
    for job, state in zip(jobs, ("sent", "bounced", "failed"), strict=True):
        await until(lambda job=job, state=state: world.job_row(job)["state"] == state, state)  # type: ignore[misc]
    house.stop("sender")
    log = house.processes.log_path("sender").read_text()
    for secret in (PASSWORD, recipient, unknown, world.email, "Hi Bob", "Hello Bob"):
        assert secret not in log
