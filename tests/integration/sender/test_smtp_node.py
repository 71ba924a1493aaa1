"""SMTP nodes on their twin: connections kept for the next message, grants instead of passwords."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from psycopg.types.json import Jsonb
from tests.twins.gmail import oauth as google
from tests.twins.gmail.server import running as gmail_running
from tests.twins.smtp.twin import SmtpTwin, running
from tests.waiting import until

from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.keys import KeyService
from paceline_local.stack import Stack
from paceline_sender.settings import SenderSettings
from paceline_sender.transport import MailTransport

from .conftest import PASSWORD, Sender, World, key_login

Connect = Callable[..., Awaitable[Sender]]


@pytest.fixture
async def twin(world: World) -> AsyncIterator[tuple[SmtpTwin, int]]:
    async with running() as (one, port, _):
        one.add_account(world.email, PASSWORD)
        yield one, port


@pytest.fixture
async def connect(
    house: Stack,
    world: World,
    keys: KeyService,
    settings: SenderSettings,
    twin: tuple[SmtpTwin, int],
    make_sender: Callable[[Any], Sender],
) -> AsyncIterator[Connect]:
    """Point the world's mailbox at the twin and start a sender on the real transport."""
    db = Database(settings)
    mails: list[MailTransport] = []
    async with KeyService(key_login(house, "sender")) as own:

        async def connected(
            oauth: dict[str, Any] | None = None, token_url: str | None = None, **smtp: Any
        ) -> Sender:
            host = {
                "host": "127.0.0.1", "port": twin[1], "tls": "none", "username": world.email,
                "auth": "auto", **smtp,
            }  # fmt: skip
            world.rows(
                "UPDATE gateway.mailbox SET smtp = %s, send_oauth = %s WHERE mailbox_id = %s",
                Jsonb(host),
                Jsonb({"provider": "google", "scopes": oauth["scopes"]}) if oauth else None,
                world.mailbox_id,
            )
            if oauth is not None:
                sealed = await keys.seal(
                    "send", world.workspace_id, msgspec.json.encode({"oauth": oauth}),
                    table="mailbox", row=world.mailbox_id,
                )  # fmt: skip
                world.rows(
                    "UPDATE gateway.mailbox SET send_credential = %s WHERE mailbox_id = %s",
                    sealed, world.mailbox_id,
                )  # fmt: skip
            at = settings.model_copy(update={"google_token_url": token_url})
            mail = MailTransport(at if token_url else settings, SystemClock(), db, own)
            mails.append(mail)
            sender = make_sender(mail)
            await sender.reconciler.beat_once()
            sender.start()
            return sender

        yield connected
        for mail in mails:
            await mail.close()
    await db.close()


async def test_a_node_with_many_messages_signs_in_a_few_times(
    world: World, twin: tuple[SmtpTwin, int], connect: Connect
) -> None:
    sender = await connect()
    jobs = [
        world.job(world.lead(f"b{n}@example.test"), in_ms=2000 + 200 * n, grace_ms=8000)
        for n in range(12)
    ]
    sender.preparer.hold(jobs)
    for job in jobs:
        await until(lambda job=job: world.job_row(job)["state"] == "sent", "sent")  # type: ignore[misc]
    assert len(twin[0].submissions) == 12
    # As many at once as it may have, and no more ever.
    assert twin[0].calls.count("connect") <= 4
    assert world.used()[0] == 0


async def test_a_lone_message_takes_its_leave(
    world: World, twin: tuple[SmtpTwin, int], connect: Connect
) -> None:
    sender = await connect()
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "sent", "sent")
    await until(lambda: not sender.preparer._tasks, "done")
    assert not any(place.idle for place in sender.transport._pool._places.values())


@pytest.mark.parametrize(
    ("place", "reply", "used", "hold"),
    [
        ("connect", "421 4.3.2 come later", (0, 0, 0), None),
        ("AUTH", "454 4.7.0 too many sign-ins", (0, 0, 0), None),
        ("AUTH", "535 5.7.8 not accepted", (0, 0, 0), "auth_failed"),
        ("MAIL", "450 4.7.1 greylisted", (0, 1, 1), None),
        ("RCPT", "452 4.2.2 mailbox full", (0, 1, 1), None),
        ("RCPT", "550 5.4.5 daily sending quota exceeded", (0, 1, 1), "limited"),
        ("MAIL", "553 5.1.8 sender not yours", (0, 1, 1), "sender_refused"),
    ],
)
async def test_capacity_comes_back_only_where_mail_from_never_left(
    world: World,
    twin: tuple[SmtpTwin, int],
    connect: Connect,
    place: str,
    reply: str,
    used: tuple[int, int, int],
    hold: str | None,
) -> None:
    sender = await connect()
    twin[0].fail(place, "status", message=reply)
    job = world.job(world.lead("bob@example.test"), in_ms=4000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "not sent")
    assert world.used() == used
    assert [one["reason"] for one in world.suspensions()] == ([hold] if hold else [])
    row = world.job_row(job)
    if reply.startswith("454"):
        assert row["due_at"] - row["updated_at"] > timedelta(minutes=14)


async def grant(url_twin: Any, world: World, ends_in: timedelta) -> dict[str, Any]:
    url_twin.add_mailbox(world.email)
    given = url_twin.identity.grant(world.email, (google.ALL_MAIL,))
    return {
        "client_id": google.CLIENT_ID, "client_secret": google.CLIENT_SECRET,
        "refresh_token": given["refresh_token"], "access_token": given["access_token"],
        "expires_at": (datetime.now(UTC) + ends_in).isoformat(), "scopes": [google.ALL_MAIL],
    }  # fmt: skip


@pytest.mark.parametrize("auth", ["xoauth2", "oauthbearer"])
async def test_a_node_with_a_grant_signs_in_with_fresh_tokens_until_it_is_revoked(
    world: World, twin: tuple[SmtpTwin, int], connect: Connect, auth: str
) -> None:
    async with gmail_running() as (identity, url):
        twin[0].bearer = lambda token: (
            found.email if (found := identity.identity.who(f"Bearer {token}")) else None
        )
        oauth = await grant(identity, world, timedelta(minutes=1))
        sender = await connect(oauth, f"{url}/token", auth=auth)
        first = world.job(world.lead("bob@example.test"), grace_ms=8000)
        sender.preparer.hold([first])
        await until(lambda: world.job_row(first)["state"] == "sent", "sent")
        assert identity.identity.refreshes == 1
        # The server takes the token no more, the grant lives.
        identity.identity.expire(world.email)
        second = world.job(world.lead("c@example.test"), grace_ms=8000)
        sender.preparer.hold([second])
        await until(lambda: world.job_row(second)["state"] == "sent", "sent")
        assert identity.identity.refreshes == 2
        identity.identity.revoke_all(world.email)
        await until(lambda: not sender.preparer._tasks, "let go")
        await sender.transport._pool.close()
        third = world.job(world.lead("d@example.test"), in_ms=4000)
        sender.preparer.hold([third])
        await until(lambda: world.job_row(third)["state"] == "queued", "given back")
        (suspension,) = world.suspensions()
        assert suspension["reason"] == "grant_revoked"
        assert len(twin[0].submissions) == 2
