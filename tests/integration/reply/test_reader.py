"""Reading a real IMAP server: nothing missed, nothing twice, whatever breaks."""

import asyncio
import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.reply.world import World, arrived
from tests.waiting import until

from paceline_reply.reader import Parts, Reader
from paceline_reply.readers import Readers

Start = Callable[..., Awaitable[asyncio.Task[None]]]


@pytest.fixture
async def start(parts: Parts, world: World) -> AsyncIterator[Start]:
    """Start a reader and wait until it has signed in; all are ended with the test."""
    tasks: list[asyncio.Task[None]] = []

    async def begin(mailbox_id: int | None = None, **changes: Any) -> asyncio.Task[None]:
        box = mailbox_id or world.mailbox_id
        chosen = replace(parts, settings=parts.settings.model_copy(update=changes))
        reader = Reader(chosen, world.workspace_id, box)
        tasks.append(asyncio.create_task(reader.run()))
        await until(lambda: world.cursor(box)["place"] is not None or tasks[-1].done())
        return tasks[-1]

    yield begin
    for task in tasks:
        await end(task)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_mail_from_before_the_connect_is_not_read_and_mail_after_it_is(
    world: World, start: Start
) -> None:
    sent = await world.sent()
    world.deliver(world.sample("human-gmail", sent))
    await arrived(world, 1)
    world.connect(at=datetime.now(UTC) + timedelta(minutes=5))

    await start()
    world.deliver(world.sample("human-outlook", sent))
    await until(lambda: len(world.inbound()) == 1)

    assert world.events("replied")[0].enrollment_id == sent.enrollment
    assert world.inbound()[0]["message_id"].startswith("<human-outlook.")


async def test_mail_between_connecting_and_the_first_reading_is_read(
    world: World, start: Start
) -> None:
    world.connect()
    sent = await world.sent()
    world.deliver(world.sample("human-gmail", sent))
    await arrived(world, 1)

    await start()

    await until(lambda: len(world.inbound()) == 1)


async def test_new_mail_is_pushed_long_before_the_next_poll(world: World, start: Start) -> None:
    world.connect()
    sent = await world.sent()
    await start(poll_s=600)

    for count in (1, 2, 3):
        began = time.monotonic()
        world.deliver(world.sample("human-gmail", sent))
        await until(lambda expected=count: len(world.inbound()) == expected)  # type: ignore[misc]
        assert time.monotonic() - began < 15

    assert world.cursor()["place"]["last_uid"] == 3


async def test_what_arrives_while_nobody_reads_is_read_once_afterwards(
    world: World, start: Start
) -> None:
    world.connect()
    sent = await world.sent()
    first = await start()
    world.deliver(world.sample("human-gmail", sent))
    await until(lambda: len(world.inbound()) == 1)
    await end(first)

    world.deliver(world.sample("human-outlook", sent))
    world.deliver(world.sample("auto-sieve-vacation", sent))
    await arrived(world, 3)
    await start()

    await until(lambda: len(world.inbound()) == 3)
    assert [row["kind"] for row in world.inbound()] == ["human", "human", "auto_reply"]


async def test_two_readers_of_one_mailbox_count_each_message_once(
    world: World, start: Start
) -> None:
    world.connect()
    sent = await world.sent()
    await start()
    await start()

    for _ in range(10):
        world.deliver(world.sample("human-gmail", sent))
    await until(lambda: world.cursor()["place"]["last_uid"] == 10)

    assert len(world.inbound()) == len(world.events("inbound-received")) == 10


async def test_a_new_uid_validity_loses_nothing_and_repeats_nothing(
    world: World, start: Start
) -> None:
    world.connect()
    sent = await world.sent()
    reader = await start()
    for name in ("human-gmail", "human-outlook"):
        world.deliver(world.sample(name, sent))
    await until(lambda: len(world.inbound()) == 2)
    await end(reader)
    before = world.cursor()["place"]["uid_validity"]

    world.deliver(world.sample("human-apple-mail", sent))
    await arrived(world, 3)
    # Dovecot's new UIDVALIDITY is the time in whole seconds.
    await until(lambda: int(time.time()) > before)
    _forget_uids(world)
    await start()

    await until(lambda: len(world.inbound()) == 3)
    await until(lambda: world.cursor()["place"]["last_uid"] >= 3)
    assert world.cursor()["place"]["uid_validity"] != before
    assert len(world.events("replied")) == 3


async def test_a_thousand_and_more_messages_are_read_in_order(world: World, start: Start) -> None:
    world.connect()
    sent = await world.sent()
    world.deliver(world.sample("human-gmail", sent))
    await arrived(world, 1)
    _fill(world, 1199)

    await start()

    await until(lambda: world.cursor()["place"]["last_uid"] == 1200, within_s=120)
    assert len(world.inbound()) == 1200


async def test_a_message_deleted_by_its_owner_is_passed_over(world: World, start: Start) -> None:
    world.connect()
    sent = await world.sent()
    for name in ("human-gmail", "human-outlook"):
        world.deliver(world.sample(name, sent))
    await arrived(world, 2)
    for path in sorted((world.stack.mailhost.maildir(world.email) / "new").iterdir())[:1]:
        path.unlink()

    await start()

    await until(lambda: len(world.inbound()) == 1)


async def test_reading_changes_no_flag(world: World, start: Start) -> None:
    world.connect()
    sent = await world.sent()
    await start()
    world.deliver(world.sample("human-gmail", sent))
    await until(lambda: len(world.inbound()) == 1)

    box = world.stack.mailhost.maildir(world.email)
    # Unseen mail stays in new/, or in cur/ without the S flag.
    assert not [path for path in box.glob("cur/*") if "S" in path.name.rpartition(":2,")[2]]


async def test_a_refused_password_holds_the_mailbox_until_it_is_right(
    world: World, parts: Parts
) -> None:
    email = f"tom-{uuid.uuid4().hex[:8]}@north.test"
    mailbox_id = await world.add_mailbox(email, password="not the one")
    world.connect(mailbox_id)
    task = asyncio.create_task(Reader(parts, world.workspace_id, mailbox_id).run())

    await until(lambda: world.events("issue-raised"))
    assert world.suspensions() == [("mailbox", mailbox_id, "read_auth_failed")]
    (issue,) = world.events("issue-raised")
    assert issue.code == "read_auth_failed"
    assert "AUTHENTICATIONFAILED" in issue.detail
    assert email not in issue.detail
    assert [(one.ok, one.code) for one in world.events("mailbox-probed")] == [
        (False, "auth_failed")
    ]

    world.stack.mailhost.add_user(email, "not the one")
    await until(lambda: world.suspensions() == [])
    await end(task)

    # Refused again and again, told once.
    assert len(world.events("issue-raised")) == 1
    assert [one.ok for one in world.events("mailbox-probed")] == [False, True]


async def test_a_credential_that_does_not_open_holds_only_its_mailbox(
    world: World, parts: Parts
) -> None:
    world.rows(
        "UPDATE gateway.mailbox SET read_credential = 'nonsense' WHERE mailbox_id = %s",
        world.mailbox_id,
    )
    world.connect()
    task = asyncio.create_task(Reader(parts, world.workspace_id, world.mailbox_id).run())

    await until(lambda: world.events("issue-raised"))
    await end(task)

    assert world.events("issue-raised")[0].code == "read_credential_unreadable"
    assert world.suspensions() == [("mailbox", world.mailbox_id, "read_auth_failed")]


class Proxy:
    """A TCP proxy whose connections can be cut, or stopped without a word."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._writers: list[asyncio.StreamWriter] = []
        self.connections = 0
        self.port = 0

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        above, below = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, below]
        await asyncio.gather(_pump(reader, below), _pump(above, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_connection_lost_while_idle_is_noticed_at_once(world: World, parts: Parts) -> None:
    sent = await world.sent()
    async with Proxy(world.stack.ports["imap"]) as proxy:
        email = f"tom-{uuid.uuid4().hex[:8]}@north.test"
        mailbox_id = await world.add_mailbox(email, port=proxy.port)
        world.connect(mailbox_id)
        patient = replace(parts, settings=parts.settings.model_copy(update={"poll_s": 600}))
        task = asyncio.create_task(Reader(patient, world.workspace_id, mailbox_id).run())
        await until(lambda: world.cursor(mailbox_id)["place"] is not None)

        for count in (1, 2, 3):
            world.deliver(world.sample("human-gmail", sent), to=email)
            await until(lambda expected=count: len(world.inbound()) == expected)  # type: ignore[misc]
            proxy.cut()
            await until(lambda expected=count: proxy.connections > expected)  # type: ignore[misc]

        await end(task)
    assert len(world.inbound()) == 3


async def test_a_mailbox_out_of_reach_for_long_is_an_issue_and_then_well_again(
    world: World, parts: Parts
) -> None:
    async with Proxy(world.stack.ports["imap"]) as proxy:
        port = proxy.port
    email = f"tom-{uuid.uuid4().hex[:8]}@north.test"
    mailbox_id = await world.add_mailbox(email, port=port)
    world.connect(mailbox_id)
    task = asyncio.create_task(Reader(parts, world.workspace_id, mailbox_id).run())

    await until(lambda: world.events("issue-raised"))
    assert world.events("issue-raised")[0].code == "read_unreachable"
    assert world.suspensions() == []

    world.rows(
        "UPDATE gateway.mailbox SET imap = jsonb_set(imap, '{port}', to_jsonb(%s))"
        " WHERE mailbox_id = %s",
        world.stack.ports["imap"], mailbox_id,
    )  # fmt: skip
    await until(lambda: world.events("mailbox-probed")[-1].ok)
    await end(task)


@pytest.mark.parametrize(("tls", "port"), [("implicit", "imaps"), ("starttls", "imap")])
async def test_tls_is_used_and_checked_against_the_name(
    world: World, parts: Parts, tls: str, port: str
) -> None:
    email = f"tom-{uuid.uuid4().hex[:8]}@north.test"
    mailbox_id = await world.add_mailbox(
        email, host="localhost", port=world.stack.ports[port], tls=tls
    )
    world.connect(mailbox_id)
    task = asyncio.create_task(Reader(parts, world.workspace_id, mailbox_id).run())

    await until(lambda: world.events("mailbox-probed"))
    await end(task)

    assert world.events("mailbox-probed")[0].ok


async def test_readers_follow_the_cursor_table(world: World, parts: Parts) -> None:
    sent = await world.sent()
    readers = Readers(parts)
    task = asyncio.create_task(readers.run())
    world.connect()
    readers.wake.set()
    world.deliver(world.sample("human-gmail", sent))
    await until(lambda: len(world.inbound()) == 1)

    world.disconnect()
    readers.wake.set()
    await until(lambda: not _reads(world))
    world.deliver(world.sample("human-outlook", sent))
    await arrived(world, 2)
    assert len(world.inbound()) == 1

    world.rows(
        "UPDATE reply.cursor SET is_active = true, version = 2 WHERE workspace_id = %s",
        world.workspace_id,
    )
    await until(lambda: len(world.inbound()) == 2)
    await end(task)


def _reads(world: World) -> bool:
    """Whether a task of this process reads the world's mailbox."""
    name = f"reader-{world.mailbox_id}"
    return any(task.get_name() == name for task in asyncio.all_tasks())


def _forget_uids(world: World) -> None:
    """Make Dovecot number the mailbox anew, as after a restore."""
    box = world.stack.mailhost.maildir(world.email)
    for path in [*box.glob("dovecot*"), *box.glob(".dovecot*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _fill(world: World, count: int) -> None:
    new: Path = world.stack.mailhost.maildir(world.email) / "new"
    for number in range(count):
        path = new / f"{time.time_ns()}.{number:05}.host"
        path.write_text(
            f"From: a@b.test\nMessage-ID: <{number}@bulk.test>\nSubject: n {number}\n\nx\n"
        )
        # This one file: Dovecot's account must be able to read it.
        shutil.chown(path, new.owner(), new.group())
