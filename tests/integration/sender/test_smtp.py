"""The sender on a real mail host: what arrives, when, and what its refusals become."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from tests.waiting import until

from paceline_common.keys import KeyService
from paceline_local.stack import Stack
from paceline_sender.settings import SenderSettings
from paceline_sender.transport import MailTransport

from .conftest import Sender, World, key_login

# Postfix's long queue ids begin with seconds and microseconds in base 52 (postconf(5),
# enable_long_queue_ids).
_DIGITS = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


def received_at(queue_id: str) -> datetime:
    def number(text: str) -> int:
        value = 0
        for char in text:
            value = value * 52 + _DIGITS.index(char)
        return value

    return datetime.fromtimestamp(number(queue_id[:6]), UTC) + timedelta(
        microseconds=number(queue_id[6:10])
    )


@pytest.fixture
async def postal(make_sender: Callable[[Any], Sender], mail: MailTransport) -> Sender:
    made = make_sender(mail)
    await made.reconciler.beat_once()
    made.start()
    return made


def delivered(house: Stack, email: str) -> list[EmailMessage]:
    folder = house.mailhost.maildir(email) / "new"
    if not folder.exists():
        return []
    return [
        message_from_bytes(path.read_bytes(), _class=EmailMessage, policy=policy.default)
        for path in sorted(folder.iterdir())
    ]


async def test_a_message_arrives_as_it_was_meant(
    house: Stack, world: World, postal: Sender, settings: SenderSettings
) -> None:
    recipient = f"bob-{world.workspace_id}@example.test"
    house.mailhost.add_user(recipient, "x")
    job = world.job(world.lead(recipient, first_name="Bøb =?utf-8?q?x?=\r\nBcc: eve@evil.test"))
    postal.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "sent", "sent")
    await until(lambda: bool(delivered(house, recipient)), "delivered")

    (message,) = delivered(house, recipient)
    assert message["Subject"] == "Hello Bøb =?utf-8?q?x?= Bcc: eve@evil.test"
    assert message["Bcc"] is None
    assert message["From"].addresses[0].display_name == "Ann Nörth"
    assert message["From"].addresses[0].addr_spec == world.email
    assert message["Return-Path"] == f"<{world.email}>"
    assert message["Message-ID"] == world.message(job)["message_id"]
    https, mailto = re.findall(r"<([^>]+)>", message["List-Unsubscribe"])
    token_job, token_ws, *mac = message["X-Paceline-Job"].split(".")
    verifier = KeyService(key_login(house, "gateway"))
    try:
        unsubscribe_ws, unsubscribe_job, *unsubscribe_mac = https.rpartition("/u/")[2].split(".")
        assert await verifier.verify_mac(
            [
                f"job/{token_ws}/{token_job}".encode(),
                f"unsubscribe/{unsubscribe_ws}/{unsubscribe_job}".encode(),
            ],
            [".".join(mac), ".".join(unsubscribe_mac)],
        ) == [True, True]
    finally:
        verifier.close()
    assert (token_job, token_ws) == (job.public_id, job.workspace)
    assert https.startswith(f"{settings.public_url}/u/{job.workspace}.{job.public_id}.")
    assert mailto.startswith(f"mailto:{world.email}?subject=unsubscribe%20")
    (attempt,) = world.attempts(job)
    assert attempt["provider_message_id"]
    assert attempt["provider_message_id"] == world.message(job)["provider_message_id"]


async def test_no_message_starts_before_its_slot_or_after_its_grace(
    house: Stack, world: World, postal: Sender
) -> None:
    """At the demo's pace: a slot every 250 ms, 50 ms of grace, a new connection each."""
    recipient = f"bob-{world.workspace_id}@example.test"
    house.mailhost.add_user(recipient, "x")
    leads = [world.lead(recipient) for _ in range(12)]
    jobs = [world.job(lead, in_ms=600 + 250 * n, grace_ms=50) for n, lead in enumerate(leads)]
    postal.preparer.hold(jobs)
    for job in jobs:
        await until(
            lambda job=job: world.job_row(job)["state"] in ("sent", "queued"),  # type: ignore[misc]
            "finished",
        )
    sent = [job for job in jobs if world.job_row(job)["state"] == "sent"]
    # A busy machine may be late, which hands the slot back; it may never be early.
    assert len(sent) >= len(jobs) // 2
    for job in sent:
        began = received_at(world.attempts(job)[0]["provider_message_id"])
        # Postfix names a message when it has read MAIL FROM: on a busy machine, later.
        assert timedelta(0) <= began - job.slot_at <= timedelta(milliseconds=500)


async def test_an_unknown_recipient_is_a_hard_bounce(
    house: Stack, world: World, postal: Sender
) -> None:
    job = world.job(world.lead(f"nobody-{world.workspace_id}@example.test"))
    postal.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "bounced", "bounced")
    (event,) = world.events("send-rejected")
    assert (event.outcome_class, event.code, event.status) == ("hard", 550, "5.1.1")


async def test_a_wrong_password_holds_the_mailbox(
    house: Stack, world: World, postal: Sender, keys: KeyService
) -> None:
    sealed = await keys.seal(
        "send", world.workspace_id, json.dumps({"password": "wrong"}).encode(),
        table="mailbox", row=world.mailbox_id,
    )  # fmt: skip
    world.rows(
        "UPDATE gateway.mailbox SET send_credential = %s WHERE mailbox_id = %s",
        sealed, world.mailbox_id,
    )  # fmt: skip
    job = world.job(world.lead("bob@example.test"))
    postal.preparer.hold([job])
    await until(lambda: bool(world.suspensions()), "suspended")
    (suspension,) = world.suspensions()
    assert suspension["reason"] == "auth_failed"
    assert "5.7.8" in suspension["detail"]
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["code"]) == ("unsent", 535)


async def test_a_credential_moved_from_another_mailbox_does_not_open(
    world: World, postal: Sender, keys: KeyService
) -> None:
    sealed = await keys.seal(
        "send", world.workspace_id, b'{"password": "x"}',
        table="mailbox", row=world.mailbox_id + 1,
    )  # fmt: skip
    world.rows(
        "UPDATE gateway.mailbox SET send_credential = %s WHERE mailbox_id = %s",
        sealed, world.mailbox_id,
    )  # fmt: skip
    job = world.job(world.lead("bob@example.test"))
    postal.preparer.hold([job])
    await until(lambda: bool(world.suspensions()), "suspended")
    assert [one["reason"] for one in world.suspensions()] == ["credential_unreadable"]


@pytest.mark.parametrize(
    ("host", "reason"),
    [("no-such-host.invalid", "dns_failed"), ("10.255.255.1", "host_not_allowed")],
)
async def test_a_host_that_cannot_be_dialled_gives_the_job_back(
    world: World, postal: Sender, host: str, reason: str
) -> None:
    world.rows(
        "UPDATE gateway.mailbox SET smtp = smtp || %s WHERE mailbox_id = %s",
        Jsonb({"host": host}), world.mailbox_id,
    )  # fmt: skip
    job = world.job(world.lead("bob@example.test"), in_ms=5000)
    postal.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "given back")
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["reason"]) == ("unsent", reason)
    assert world.job_row(job)["due_at"] > job.slot_at
