"""A failed mailbox is tested again until it works, or until only a person can help."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import psycopg
import pytest

from paceline_common import events, ids
from paceline_common.db import Outbox
from paceline_scheduler.recheck import Rechecker

from .conftest import DEMO_POLICY, WS, House, World


class Sender:
    """The sender's `/internal`, answering as told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: httpx.Response | Exception = self.says(ok=True)

    @staticmethod
    def says(*, ok: bool, code: str = "ok", message: str = "signed in") -> httpx.Response:
        return httpx.Response(200, json={"ok": ok, "code": code, "message": message, "remedy": ""})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


FAILS = Sender.says(ok=False, code="auth_failed", message="535 5.7.8 no (ann@send.test) denied")


@pytest.fixture
def sender() -> Sender:
    return Sender()


@pytest.fixture
async def rechecker(house: House, sender: Sender) -> AsyncIterator[Rechecker]:
    client = httpx.AsyncClient(transport=httpx.MockTransport(sender), base_url="http://sender")
    yield Rechecker(house.db, house.queries, Outbox(house.db), client)
    await client.aclose()


@pytest.fixture
def caller(world: World) -> Iterator["psycopg.Connection[Any]"]:
    with world.login("sender") as connection:
        yield connection


async def mailbox(world: World, house: House, **policy: Any) -> None:
    world.mailbox(1, policy={**DEMO_POLICY, **policy})
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.refresh(tx, None)


def suspend(caller: "psycopg.Connection[Any]", reason: str, until: datetime | None = None) -> None:
    caller.execute(
        "SELECT scheduler.suspend(%s, 'mailbox', 1, %s, %s, 'sender', 'words')",
        (WS, reason, until),
    )


def probed(world: World, *, ok: bool, leg: Any = "send", code: str = "auth_failed") -> Any:
    return world.delivery(
        events.MailboxProbed(
            workspace_id=ids.encode("ws", WS), mailbox_id=ids.encode("mbx", 1), leg=leg, ok=ok,
            probed_at=datetime.now(UTC), code="ok" if ok else code, detail="535 denied",
        )
    )  # fmt: skip


def open_reasons(world: World) -> list[str]:
    return [reason for (reason,) in world.sql(
        "SELECT reason FROM suspension WHERE closed_at IS NULL ORDER BY reason")]  # fmt: skip


def rechecks(world: World) -> list[Any]:
    return world.sql(
        "SELECT reason, attempts, last_code, round(extract(epoch FROM next_at - now()))::int"
        " FROM node_recheck WHERE isfinite(next_at) ORDER BY reason"
    )


def due(world: World) -> None:
    world.sql("UPDATE node_recheck SET next_at = now() WHERE isfinite(next_at)")


def audited(world: World) -> list[str]:
    return [one.action for one in world.outbox("audit-recorded")]


async def test_a_failed_test_holds_the_mailbox_says_why_once_and_is_repeated(
    world: World, house: House
) -> None:
    await mailbox(world, house)
    for _ in range(2):
        await house.handle(house.changes.mailbox_probed, probed(world, ok=False))
    assert open_reasons(world) == ["probe_send_failed"]
    ((reason, attempts, code, wait),) = rechecks(world)
    assert (reason, attempts, code) == ("probe_send_failed", 0, None)
    assert 880 <= wait <= 900
    assert world.one("SELECT until - next_at FROM node_recheck").total_seconds() == 86400 - 900
    (issue,) = world.outbox("issue-raised")
    assert (issue.code, issue.severity, issue.detail) == (
        "probe_send_failed", "error", "535 denied",
    )  # fmt: skip
    await house.handle(house.changes.mailbox_probed, probed(world, ok=True))
    assert open_reasons(world) == []
    assert world.one("SELECT count(*) FROM node_recheck") == 0


async def test_what_passes_again_resumes_its_own_reason_only(
    world: World, house: House, rechecker: Rechecker, sender: Sender,
    caller: "psycopg.Connection[Any]",
) -> None:  # fmt: skip
    await mailbox(world, house)
    suspend(caller, "auth_failed")
    suspend(caller, "paused")
    assert await rechecker.look() == 0, "not yet"
    due(world)
    assert await rechecker.look() == 1
    assert sender.asked == [f"/internal/recheck/{ids.encode('ws', WS)}/{ids.encode('mbx', 1)}"]
    assert open_reasons(world) == ["paused"]
    assert world.one("SELECT closed_by FROM suspension WHERE reason = 'auth_failed'") == "recheck"
    assert world.one("SELECT count(*) FROM node_recheck") == 0
    assert audited(world) == [
        "suspension.opened", "suspension.opened", "suspension.closed", "mailbox.rechecked",
    ]  # fmt: skip


async def test_what_fails_again_is_tested_later_until_a_person_must_help(
    world: World, house: House, rechecker: Rechecker, sender: Sender,
    caller: "psycopg.Connection[Any]",
) -> None:  # fmt: skip
    await mailbox(world, house, recheck={"every_s": 600, "for_s": 1500})
    sender.answer = FAILS
    suspend(caller, "auth_failed")
    due(world)
    assert await rechecker.look() == 1
    assert rechecks(world) == [("auth_failed", 1, "auth_failed", 600)]
    assert await rechecker.look() == 0
    # The last test is at the end of the time, not one interval later.
    world.sql("UPDATE node_recheck SET until = now() + interval '100 s'")
    due(world)
    await rechecker.look()
    assert 95 <= rechecks(world)[0][3] <= 100
    assert world.outbox("issue-raised") == []
    world.sql("UPDATE node_recheck SET until = now()")
    due(world)
    await rechecker.look()
    (issue,) = world.outbox("issue-raised")
    assert (issue.code, issue.severity) == ("node_given_up", "error")
    assert issue.detail == "tested 3 times and still failing: 535 5.7.8 no (<address>) denied"
    assert rechecks(world) == []
    due(world)
    assert await rechecker.look() == 0
    assert open_reasons(world) == ["auth_failed"], "now only a person resumes it"
    assert audited(world) == [
        "suspension.opened", *["mailbox.rechecked"] * 3, "mailbox.recheck_given_up",
    ]  # fmt: skip


async def test_recheck_decides_the_end_of_a_hold_that_would_run_out(
    world: World, house: House, caller: "psycopg.Connection[Any]"
) -> None:
    await mailbox(world, house)
    suspend(caller, "connect_failed", datetime.now(UTC))
    assert world.one("SELECT until FROM suspension") is None
    await house.pacer.sweep()
    assert open_reasons(world) == ["connect_failed"]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"recheck": None}, "auth_failed"),
        ({}, "paused"),
        ({}, "limited"),
        ({}, "cooldown"),
        ({}, "probe_read_failed"),
        ({}, "read_grant_revoked"),
        ({}, "sender_refused"),
    ],
)
async def test_what_is_not_rechecked(
    world: World, house: House, caller: "psycopg.Connection[Any]", policy: Any, reason: str
) -> None:
    await mailbox(world, house, **policy)
    end = datetime.now(UTC)
    suspend(caller, reason, end)
    assert rechecks(world) == []
    assert world.one("SELECT until FROM suspension") == end


async def test_signing_in_does_not_disprove_what_was_refused_after_it(
    world: World, house: House
) -> None:
    await mailbox(world, house)
    await house.handle(house.changes.mailbox_probed, probed(world, ok=False, code="sender_refused"))
    assert open_reasons(world) == ["probe_send_failed"]
    assert rechecks(world) == []


async def test_a_failing_recheck_is_no_second_fault(
    world: World, house: House, caller: "psycopg.Connection[Any]"
) -> None:
    """The sender tells of the test as well: of a mailbox that is held already."""
    await mailbox(world, house)
    suspend(caller, "auth_failed")
    await house.handle(house.changes.mailbox_probed, probed(world, ok=False))
    assert open_reasons(world) == ["auth_failed"]
    await house.handle(house.changes.mailbox_probed, probed(world, ok=False, leg="read"))
    assert open_reasons(world) == ["auth_failed", "probe_read_failed"]


@pytest.mark.parametrize("away", [httpx.ConnectError("away"), httpx.Response(503)])
async def test_a_sender_that_does_not_answer_teaches_nothing(
    world: World, house: House, rechecker: Rechecker, sender: Sender,
    caller: "psycopg.Connection[Any]", away: Any,
) -> None:  # fmt: skip
    await mailbox(world, house)
    suspend(caller, "auth_failed")
    due(world)
    sender.answer = away
    assert await rechecker.look() == 1
    ((_, attempts, code, wait),) = rechecks(world)
    assert (attempts, code) == (0, None)
    assert wait <= 120


async def test_an_inactive_mailbox_is_not_tested(
    world: World, house: House, rechecker: Rechecker, caller: "psycopg.Connection[Any]"
) -> None:
    await mailbox(world, house)
    suspend(caller, "auth_failed")
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.deactivate(tx, [(WS, 1)])
    due(world)
    assert await rechecker.look() == 0
