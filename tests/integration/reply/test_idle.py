"""How long a message may lie unread on a real IMAP server, whenever it arrives."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.integration.reply.world import World, arrived
from tests.waiting import until

from paceline_providers.hosts import HostPolicy
from paceline_reply.app import resolver, tls_contexts
from paceline_reply.reader import Parts, Reader
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.imap import ImapSession, open_session
from paceline_reply.sources.imap_client import Endpoint, Tls

# Dovecot gathers pushes for half a second; without the push it would be `FOREVER_S`.
SOON_S = 5.0
FOREVER_S = 600.0


@pytest.fixture(params=["none", "starttls", "implicit"])
async def session(
    request: pytest.FixtureRequest, world: World, parts: Parts, settings: ReplySettings
) -> AsyncIterator[ImapSession]:
    """A session in an inbox with one message (UID 1) that has been looked at."""
    tls: Tls = request.param
    await put(world, 1)
    made = await open_session(
        Endpoint(
            "localhost",
            world.stack.ports["imaps" if tls == "implicit" else "imap"],
            tls,
            world.email,
        ),
        world.password,
        resolve=resolver(HostPolicy(settings.host_allowlist)),
        tls=tls_contexts(settings),
        threads=parts.threads,
    )
    await made.open_folder()
    assert await made.uids_after(0) == [1]
    yield made
    await made.close()


async def put(world: World, count: int) -> None:
    """Deliver the `count`th message of the inbox; return when it lies there."""
    world.deliver(b"From: lee@client.test\r\nSubject: Re: your roadmap\r\n\r\nYes.\r\n")
    await arrived(world, count)


async def test_a_message_told_in_the_answer_of_a_search_is_not_slept_through(
    world: World, session: ImapSession
) -> None:
    await put(world, 2)

    # Dovecot searches what it has told of, then tells of the rest.
    assert await session.uids_after(1) == []
    await asyncio.wait_for(session.wait(FOREVER_S), SOON_S)

    assert await session.uids_after(1) == [2]


async def test_a_message_told_in_the_answer_of_a_fetch_is_not_slept_through(
    world: World, session: ImapSession
) -> None:
    await put(world, 2)

    await session.fetch([1])
    await asyncio.wait_for(session.wait(FOREVER_S), SOON_S)

    assert await session.uids_after(1) == [2]


async def test_a_message_between_the_last_answer_and_idle_is_not_slept_through(
    world: World, session: ImapSession
) -> None:
    await session.fetch([1])
    await put(world, 2)

    await asyncio.wait_for(session.wait(FOREVER_S), SOON_S)

    assert await session.uids_after(1) == [2]


async def test_messages_that_arrive_in_idle_again_and_again_are_each_told(
    world: World, session: ImapSession
) -> None:
    for uid in (2, 3, 4):
        waiting = asyncio.create_task(session.wait(FOREVER_S))
        await put(world, uid)
        await asyncio.wait_for(waiting, SOON_S)

        assert await session.uids_after(uid - 1) == [uid]


async def test_waiting_goes_on_when_nothing_arrives(session: ImapSession) -> None:
    began = time.monotonic()

    await session.wait(1.0)

    assert time.monotonic() - began >= 1.0


class Mute:
    """A proxy before an IMAP server that lets no push through while the client idles."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._idling = False
        self.idles = 0
        self.held_back: list[bytes] = []
        self.port = 0

    async def __aenter__(self) -> "Mute":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._ask(reader, to_server), self._answer(server, writer))

    async def _ask(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await client.readline():
                server.write(line)
                await server.drain()
        server.close()

    async def _answer(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await server.readline():
                if self._idling and line.startswith(b"*"):
                    self.held_back.append(line)
                    continue
                self._idling = line.startswith(b"+ idling")
                self.idles += self._idling
                client.write(line)
                await client.drain()
        client.close()


async def test_without_any_push_a_message_lies_unread_for_one_poll_at_most(
    world: World, parts: Parts
) -> None:
    poll_s = 3.0
    sent = await world.sent()
    async with Mute(world.stack.ports["imap"]) as mute:
        email = f"tom-{uuid.uuid4().hex[:8]}@north.test"
        mailbox_id = await world.add_mailbox(email, port=mute.port)
        world.connect(mailbox_id)
        polling = replace(parts, settings=parts.settings.model_copy(update={"poll_s": poll_s}))
        task = asyncio.create_task(Reader(polling, world.workspace_id, mailbox_id).run())
        await until(lambda: mute.idles)

        for count in (1, 2):
            world.deliver(world.sample("human-gmail", sent), to=email)
            began = time.monotonic()
            await until(lambda expected=count: len(world.inbound()) == expected)  # type: ignore[misc]
            assert time.monotonic() - began < poll_s + SOON_S

        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    # The server did push.
    assert any(line.endswith(b" EXISTS\r\n") for line in mute.held_back)
