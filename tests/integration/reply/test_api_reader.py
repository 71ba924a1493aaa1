"""Reading Gmail and Graph mailboxes: nothing missed, nothing twice, whatever breaks."""

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from tests.conformance.sources.accounts import FULL, READ_ONLY
from tests.integration.reply.boxes import Box, connected
from tests.integration.reply.world import World
from tests.waiting import until

from paceline_common import failpoints
from paceline_common.keys import KeyService
from paceline_reply.failpoints import FAILPOINTS
from paceline_reply.reader import Parts
from paceline_reply.readers import Readers

Start = Callable[..., Awaitable["asyncio.Task[None]"]]


@pytest.fixture(params=["gmail", "graph"])
async def box(
    request: pytest.FixtureRequest,
    world: World,
    parts: Parts,
    keys: KeyService,
    http: httpx.AsyncClient,
) -> AsyncIterator[Box]:
    kind = request.param
    async with connected(kind, world, parts, keys, http, READ_ONLY[kind]) as one:
        world.connect(one.mailbox_id)
        yield one


@pytest.fixture
async def start(box: Box) -> AsyncIterator[Start]:
    """Start a reader and wait until it has read; all are ended with the test."""
    tasks: list[asyncio.Task[None]] = []

    async def begin(**changes: Any) -> "asyncio.Task[None]":
        reader = box.reader(**changes)
        tasks.append(asyncio.create_task(reader.run()))
        await until(lambda: reader.state == "reading" or tasks[-1].done())
        return tasks[-1]

    yield begin
    for task in tasks:
        await end(task)


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def kinds(world: World) -> list[str]:
    return [row["kind"] for row in world.inbound()]


async def test_an_answer_stops_its_enrollment(box: Box, world: World, start: Start) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start()

    box.account.deliver(box.sample("human-gmail", sent))
    await until(lambda: world.inbound())

    (row,) = world.inbound()
    assert (row["kind"], row["job_id"], row["matched_by"]) == ("human", sent.job_id, "references")
    assert row["provider_message_id"]
    assert world.suspensions() == [("enrollment", sent.enrollment_id, "replied")]
    assert [one.enrollment_id for one in world.events("replied")] == [sent.enrollment]


async def test_mail_between_connecting_and_the_first_reading_is_read_and_older_is_not(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    box.account.deliver(box.sample("human-outlook", sent), ago_s=3600)
    box.account.deliver(box.sample("human-gmail", sent))

    await start()

    assert len(world.inbound()) == 1


async def test_every_kind_of_mail_is_told_as_from_imap(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    other = await world.sent(mailbox_id=box.mailbox_id)
    await start()

    report = box.sample("dsn-postfix-unknown-user", sent)
    box.account.deliver(box.sample("auto-exchange-oof", sent))
    box.account.deliver(report)
    box.account.deliver(box.sample("unsubscribe-mailto", other), spam=True)
    box.account.deliver(box.sample("own-probe", sent))
    await until(lambda: len(world.inbound()) == 4)

    assert sorted(kinds(world)) == ["auto_reply", "dsn", "own", "unsubscribe"]
    (dsn,) = [row for row in world.inbound() if row["kind"] == "dsn"]
    assert bytes(dsn["report"]) == report
    assert world.suppressed() == {other.lead_email: "unsubscribed"}
    assert world.suspensions() == []


async def test_what_the_mailbox_sends_itself_is_never_an_answer(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start()
    followup = (
        f"From: {box.account.email}\r\nTo: {sent.lead_email}\r\nSubject: Re: {sent.subject}\r\n"
        f"In-Reply-To: {sent.message_id}\r\nReferences: {sent.message_id}\r\n\r\nAnd?\r\n"
    ).encode()

    box.account.send(followup)
    box.account.deliver(box.sample("human-no-ids", sent))
    await until(lambda: "human" in kinds(world))

    assert kinds(world) == ["human"]


async def test_an_answer_without_ids_is_matched_by_the_providers_conversation(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start()
    stranger = "someone@elsewhere.test"
    # The provider puts it into the conversation by ids that we never gave.
    first = (
        f"From: {stranger}\r\nTo: {box.account.email}\r\nSubject: Fwd: hello\r\n"
        "Message-ID: <first@elsewhere.test>\r\n\r\nOne.\r\n"
    ).encode()
    box.account.deliver(first)
    await until(lambda: world.inbound())
    thread = _thread(box)
    world.rows(
        "UPDATE sender.message SET thread_id = %s, thread_mailbox_id = %s WHERE job_id = %s",
        thread, box.mailbox_id, sent.job_id,
    )  # fmt: skip

    box.account.deliver(
        first.replace(b"<first@", b"<second@").replace(
            b"Subject", b"In-Reply-To: <first@elsewhere.test>\r\nSubject"
        )
    )
    await until(lambda: len(world.inbound()) == 2)

    assert [row["matched_by"] for row in world.inbound()] == [None, "thread"]
    assert world.suspensions() == [("enrollment", sent.enrollment_id, "replied")]


async def test_a_conversation_of_another_mailbox_with_the_same_name_is_another_one(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent()
    await start()
    raw = (
        f"From: x@elsewhere.test\r\nTo: {box.account.email}\r\nSubject: Fwd: hello\r\n"
        "Message-ID: <first@elsewhere.test>\r\n\r\nOne.\r\n"
    ).encode()
    box.account.deliver(raw)
    await until(lambda: world.inbound())
    world.rows(
        "UPDATE sender.message SET thread_id = %s, thread_mailbox_id = %s WHERE job_id = %s",
        _thread(box), world.mailbox_id, sent.job_id,
    )  # fmt: skip

    box.account.deliver(
        raw.replace(b"<first@", b"<second@").replace(
            b"Subject", b"In-Reply-To: <first@elsewhere.test>\r\nSubject"
        )
    )
    await until(lambda: len(world.inbound()) == 2)

    assert kinds(world) == ["other", "other"]


async def test_an_answer_to_a_rewritten_message_id_is_matched(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    rewritten = f"<{secrets.token_hex(8)}@mail.provider.test>"
    world.rows(
        "UPDATE sender.message SET sent_message_id = %s WHERE job_id = %s", rewritten, sent.job_id
    )
    await start()

    raw = box.sample("human-assistant", sent).replace(sent.message_id.encode(), rewritten.encode())
    box.account.deliver(raw)
    await until(lambda: world.inbound())

    assert world.inbound()[0]["matched_by"] == "references"
    assert world.suspensions() == [("enrollment", sent.enrollment_id, "replied")]


def _thread(box: Box) -> str:
    mailbox: Any = box.account.mailbox  # type: ignore[attr-defined]  # both kinds have one
    if box.kind == "gmail":
        return str(next(iter(mailbox.messages.values())).thread_id)
    return str(next(iter(mailbox.items.values())).conversation_id)


async def test_what_arrives_while_nobody_reads_is_read_once_afterwards(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    first = await start()
    box.account.deliver(box.sample("human-gmail", sent))
    await until(lambda: len(world.inbound()) == 1)
    await end(first)

    box.account.deliver(box.sample("human-outlook", sent))
    box.account.deliver(box.sample("auto-sieve-vacation", sent))
    await start()

    await until(lambda: len(world.inbound()) == 3)
    assert sorted(kinds(world)) == ["auto_reply", "human", "human"]


async def test_a_stale_cursor_loses_nothing_and_repeats_nothing(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    reader = await start()
    for name in ("human-gmail", "human-outlook"):
        box.account.deliver(box.sample(name, sent))
    await until(lambda: len(world.inbound()) == 2)
    await end(reader)
    place = world.cursor(box.mailbox_id)["place"]

    box.account.deliver(box.sample("human-apple-mail", sent))
    box.account.forget()
    fetched = box.account.twin.calls.count(box.account.fetches)
    await start()

    assert len(world.inbound()) == 3
    assert len(world.events("replied")) == 3
    assert world.cursor(box.mailbox_id)["place"] != place
    # What is known was listed, not fetched.
    assert box.account.twin.calls.count(box.account.fetches) == fetched + 1


async def test_a_cursor_that_goes_stale_while_reading_is_mended_at_once(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start()
    box.account.forget()
    box.account.deliver(box.sample("human-gmail", sent))
    box.account.forget()

    await until(lambda: len(world.inbound()) == 1)
    assert world.events("issue-raised") == []


@pytest.mark.parametrize("point", ["reply.before_inbound_commit", "reply.after_inbound_commit"])
async def test_a_crash_between_effect_and_cursor_loses_and_doubles_nothing(
    box: Box, world: World, start: Start, point: str
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start(reconnect_cap_s=0.2)
    before = world.cursor(box.mailbox_id)["place"]
    failpoints.configure(f"{point}=raise@2", extra_names=frozenset(FAILPOINTS))
    try:
        for name in ("human-gmail", "human-outlook", "human-apple-mail"):
            box.account.deliver(box.sample(name, sent))
        await until(lambda: len(world.inbound()) == 3)
    finally:
        failpoints.configure("")

    await until(lambda: world.cursor(box.mailbox_id)["place"] != before)
    assert len(world.events("inbound-received")) == len(world.events("replied")) == 3


async def test_a_throttled_mailbox_waits_as_long_as_it_is_told(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start()
    # Longer than a single call would wait for.
    box.account.twin.fail("any", "status", times=1, status=429, retry_after_s=11)
    await until(lambda: not box.account.twin.faults.waiting)
    throttled_at, calls = time.monotonic(), len(box.account.twin.calls)
    box.account.deliver(box.sample("human-gmail", sent))
    await until(lambda: len(box.account.twin.calls) > calls)

    assert time.monotonic() - throttled_at > 10.5
    await until(lambda: world.inbound())
    assert len(world.events("issue-raised")) <= 1


async def test_a_revoked_grant_holds_the_mailbox_until_it_is_connected_again(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start()
    box.account.revoke()

    await until(lambda: world.events("issue-raised"))
    assert world.suspensions() == [("mailbox", box.mailbox_id, "read_grant_revoked")]
    (issue,) = world.events("issue-raised")
    assert issue.code == "read_grant_revoked"
    assert issue.detail
    assert box.account.email not in issue.detail
    assert [(one.ok, one.code) for one in world.events("mailbox-probed")] == [
        (True, "ok"), (False, "grant_revoked"),
    ]  # fmt: skip

    box.account.deliver(box.sample("human-gmail", sent))
    await world.reconnect(box.mailbox_id, *box.account.credential(*FULL[box.kind]))
    await until(lambda: world.inbound())
    await until(
        lambda: ("mailbox", box.mailbox_id, "read_grant_revoked") not in world.suspensions()
    )

    assert len(world.events("issue-raised")) == 1
    assert world.events("mailbox-probed")[-1].ok


async def test_tokens_are_refreshed_when_they_end_and_the_newest_are_kept(
    box: Box, world: World, start: Start
) -> None:
    sent = await world.sent(mailbox_id=box.mailbox_id)
    await start()
    assert len(world.tokens(box.mailbox_id)) == 1
    for name in ("human-gmail", "human-outlook"):
        box.account.twin.identity.expire(box.account.email)
        box.account.deliver(box.sample(name, sent))
    await until(lambda: len(world.inbound()) == 2)

    (kept,) = world.tokens(box.mailbox_id)
    assert kept["version"] >= 2
    assert world.events("issue-raised") == []


async def test_tokens_of_an_older_connect_are_void(box: Box, world: World, start: Start) -> None:
    reader = await start()
    await end(reader)
    box.account.revoke()
    await world.reconnect(box.mailbox_id, *box.account.credential(*FULL[box.kind]))
    sent = await world.sent(mailbox_id=box.mailbox_id)
    box.account.deliver(box.sample("human-gmail", sent))

    await start()

    assert len(world.inbound()) == 1
    (kept,) = world.tokens(box.mailbox_id)
    assert kept["credential_version"] == 2


async def test_an_api_that_fails_for_long_is_an_issue_and_then_well_again(
    box: Box, world: World, start: Start
) -> None:
    await start()
    box.account.twin.fail("any", "status", times=10_000, status=500, retry_after_s=0)

    await until(lambda: world.events("issue-raised"), within_s=60)
    assert world.events("issue-raised")[0].code == "read_unreachable"
    assert world.suspensions() == []

    box.account.twin.faults.clear()
    await until(lambda: world.events("mailbox-probed")[-1].ok, within_s=60)


async def test_many_api_mailboxes_need_no_thread_each(box: Box, world: World, parts: Parts) -> None:
    # An account may hold a hundred live grants of one app.
    count = 60
    for _ in range(count - 1):
        mailbox_id = await world.add_api_mailbox(
            box.kind, f"{secrets.token_hex(6)}@north.test",
            *box.account.credential(*READ_ONLY[box.kind]),
        )  # fmt: skip
        world.connect(mailbox_id)
    settings = box.settings.model_copy(update={"api_poll_s": 2.0})
    readers = Readers(replace(box.parts, settings=settings))
    before = threading.active_count()
    task = asyncio.create_task(readers.run())
    await until(
        lambda: len([one for one in world.events("mailbox-probed") if one.ok]) == count, within_s=90
    )
    during = threading.active_count()
    await end(task)

    # The key client's and the loop's own.
    assert during - before < 15


async def test_readers_stop_at_once_for_what_is_disconnected(
    box: Box, world: World, parts: Parts
) -> None:
    task = asyncio.create_task(box.reader().run())
    await until(lambda: world.cursor(box.mailbox_id)["place"] is not None)
    world.rows(
        "UPDATE gateway.mailbox SET is_active = false, deleted_at = now(), send_credential = NULL,"
        " read_credential = NULL WHERE mailbox_id = %s",
        box.mailbox_id,
    )
    box.account.revoke()

    await asyncio.wait_for(task, 30)
    assert world.events("issue-raised") == []
