"""An OAuth app whose secret was changed at the provider, and what becomes of its mailboxes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.waiting import until

from paceline_common.keys import KeyService
from paceline_sender.job import Job
from paceline_sender.settings import SenderSettings

from .api_mailbox import Api, ApiKind, api
from .conftest import Sender, World

ROTATED = "rotated-secret"
Run = Callable[[], Awaitable[Sender]]
pytestmark = pytest.mark.parametrize("kind", ["gmail", "graph"])


@pytest.fixture
async def box(
    kind: ApiKind, world: World, keys: KeyService, own_keys: KeyService, settings: SenderSettings
) -> AsyncIterator[Api]:
    async with api(kind, world, keys, own_keys, settings) as one:
        await one.connect()
        yield one


@pytest.fixture
def run(box: Api, make_sender: Callable[[Any], Sender]) -> Run:
    async def started() -> Sender:
        made = make_sender(box.mail)
        await made.reconciler.beat_once()
        made.start()
        return made

    return started


def hand(world: World, sender: Sender) -> Job:
    """Give the sender one more message to send."""
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    return job


async def becomes(world: World, job: Job, state: str) -> None:
    await until(lambda: world.job_row(job)["state"] == state, state)


async def test_a_secret_that_is_set_anew_reaches_connected_mailboxes_by_itself(
    world: World, box: Api, run: Run
) -> None:
    sender = await run()
    await becomes(world, hand(world, sender), "sent")
    box.identity.clients[box.client_id] = ROTATED
    box.expire()
    await box.set_app_secret(ROTATED)
    await becomes(world, hand(world, sender), "sent")
    assert len(box.sent()) == 2
    assert world.suspensions() == []
    row = world.one("SELECT send_credential_version AS n FROM gateway.mailbox"
                    " WHERE mailbox_id = %s", world.mailbox_id)  # fmt: skip
    assert row["n"] == 1


async def test_a_refused_app_is_an_issue_about_the_app_and_no_mailboxs_fault(
    world: World, box: Api, run: Run
) -> None:
    sender = await run()
    box.identity.clients[box.client_id] = ROTATED
    box.expire()
    await box.set_app_secret("mistyped")
    job = hand(world, sender)
    await becomes(world, job, "queued")
    await until(lambda: world.attempts(job), "recorded")
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["reason"]) == ("unsent", "app_refused")
    (held,) = world.suspensions()
    assert (held["reason"], held["until"] > datetime.now(UTC)) == ("app_refused", True)
    (issue,) = world.events("issue-raised")
    assert (issue.code, issue.severity) == ("app_refused", "error")
    assert issue.subject == f"oauth_app:{provider_of(box)}:{box.client_id}"
    assert "client secret" in issue.detail
    assert box.sent() == []


def provider_of(box: Api) -> str:
    return "google" if box.kind == "gmail" else "microsoft"
