"""Is a message among what the account has sent? On a real IMAP server and on the twins."""

import asyncio
import imaplib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from tests.conformance.sources.accounts import READ_ONLY, SEND_ONLY
from tests.integration.reply.boxes import Box, connected, make_doors
from tests.integration.reply.world import World

from paceline_common.db import Database
from paceline_common.keys import KeyService
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Found, NotSeen, Unavailable
from paceline_reply.find_sent import SentFinder
from paceline_reply.reader import Parts
from paceline_reply.settings import ReplySettings

RECIPIENT = "lee@client.test"


def message(sender: str, token: str, to: str = RECIPIENT) -> bytes:
    return (
        f"From: {sender}\r\nTo: {to}\r\nSubject: Hello\r\nMessage-ID: <{token}@north.test>\r\n"
        f"X-Paceline-Job: {token}\r\n\r\nHello.\r\n"
    ).encode()


def some_token() -> str:
    return f"job_{secrets.token_hex(8)}.ws_{secrets.token_hex(8)}.1.{secrets.token_urlsafe(32)}"


def ago(**spans: float) -> datetime:
    return datetime.now(UTC) - timedelta(**spans)


class Client:
    """A mail client of the account, which keeps what it sent as clients do."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._imap = imaplib.IMAP4("127.0.0.1", world.stack.ports["imap"])
        self._imap.login(world.email, world.password)

    def file(self, raw: bytes, folder: str = "Sent", at: datetime | None = None) -> None:
        stamp = imaplib.Time2Internaldate(at or datetime.now(UTC))
        if folder != "Sent":
            self._imap.create(f'"{folder}"')
        assert self._imap.append(f'"{folder}"', r"(\Seen)", stamp, raw)[0] == "OK"


@pytest.fixture
def client(world: World) -> Client:
    return Client(world)


@pytest.fixture
def finder(parts: Parts) -> SentFinder:
    return SentFinder(parts.doors, parts.threads)


async def test_a_copy_in_the_servers_sent_folder_is_found_by_its_whole_token(
    finder: SentFinder, world: World, client: Client
) -> None:
    token, other = some_token(), some_token()
    client.file(message(world.email, other))
    client.file(message(world.email, token))
    client.file(message(world.email, f"{token}x"))

    found = await finder.find(world.workspace_id, world.mailbox_id, RECIPIENT, token, ago(hours=1))

    assert isinstance(found, Found)
    assert found.message_id == f"<{token}@north.test>"
    assert found.provider_message_id.startswith("Sent/")
    assert abs(found.sent_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_what_only_begins_like_the_token_or_lies_elsewhere_is_not_found(
    finder: SentFinder, world: World, client: Client
) -> None:
    token = some_token()
    client.file(message(world.email, f"{token}x"))
    client.file(message(world.email, token), folder="Drafts")
    world.deliver(message(world.email, token))

    found = await finder.find(world.workspace_id, world.mailbox_id, RECIPIENT, token, ago(hours=1))

    assert found == NotSeen()


class Altered:
    """A proxy before an IMAP server; `refuse` answers searches by header, `hide` is replaced."""

    def __init__(self, port: int, refuse: bytes = b"", hide: bytes = b"") -> None:
        self._target, self._refuse, self._hide = port, refuse, hide
        self.refused = 0
        self.port = 0

    async def __aenter__(self) -> "Altered":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)

        async def back() -> None:
            while line := await server.readline():
                hidden = b"X" * len(self._hide)
                writer.write(line.replace(self._hide, hidden) if self._hide else line)

        answers = asyncio.create_task(back())
        while line := await reader.readline():
            tag, _, command = line.partition(b" ")
            if self._refuse and b"SEARCH" in command and b"HEADER" in command:
                self.refused += 1
                writer.write(self._refuse.replace(b"TAG", tag))
            else:
                to_server.write(line)
        answers.cancel()
        to_server.close()
        writer.close()


def move(world: World, port: int) -> None:
    world.rows(
        "UPDATE gateway.mailbox SET imap = jsonb_set(imap, '{port}', to_jsonb(%s::int))"
        " WHERE mailbox_id = %s",
        port, world.mailbox_id,
    )  # fmt: skip


@pytest.mark.parametrize(
    "answer", [b"TAG NO no search by headers here\r\n", b"* SEARCH\r\nTAG OK done\r\n"]
)
async def test_a_server_that_cannot_search_headers_is_looked_through(
    finder: SentFinder, world: World, client: Client, answer: bytes
) -> None:
    token = some_token()
    for number in range(30):
        client.file(message(world.email, some_token(), to=f"lee{number}@else.test"))
    client.file(message(world.email, token))
    async with Altered(world.stack.ports["imap"], refuse=answer) as proxy:
        move(world, proxy.port)
        found = await finder.find(
            world.workspace_id, world.mailbox_id, RECIPIENT, token, ago(hours=1)
        )

    assert isinstance(found, Found)
    assert proxy.refused == 1


@pytest.mark.parametrize("folder", ["Sent", "Gesendete Objekte"])
async def test_without_special_uses_the_folder_is_known_by_its_name(
    finder: SentFinder, world: World, client: Client, folder: str
) -> None:
    token = some_token()
    client.file(message(world.email, token), folder=folder)
    async with Altered(world.stack.ports["imap"], hide=rb"\Sent") as proxy:
        move(world, proxy.port)
        found = await finder.find(
            world.workspace_id, world.mailbox_id, RECIPIENT, token, ago(hours=1)
        )

    assert isinstance(found, Found)
    assert found.provider_message_id.startswith(f"{folder}/")


async def test_a_mailbox_that_is_switched_off_is_looked_through_and_a_gone_one_is_not(
    finder: SentFinder, world: World, client: Client
) -> None:
    token = some_token()
    client.file(message(world.email, token))
    world.rows(
        "UPDATE gateway.mailbox SET is_active = false WHERE mailbox_id = %s", world.mailbox_id
    )
    key = (world.workspace_id, world.mailbox_id, RECIPIENT, token, ago(hours=1))
    assert isinstance(await finder.find(*key), Found)

    world.rows(
        "UPDATE gateway.mailbox SET deleted_at = now(), send_credential = NULL,"
        " read_credential = NULL WHERE mailbox_id = %s",
        world.mailbox_id,
    )
    gone = await finder.find(*key)
    assert isinstance(gone, Unavailable)
    assert gone.outcome_class is None


async def test_a_refused_password_and_a_dead_host_are_told_apart(
    finder: SentFinder, world: World
) -> None:
    token = some_token()
    world.stack.mailhost.add_user(world.email, "another")
    key = (world.workspace_id, world.mailbox_id, RECIPIENT, token, ago(hours=1))
    refused = await finder.find(*key)
    move(world, 1)
    dead = await finder.find(*key)

    assert isinstance(refused, Unavailable)
    assert refused.outcome_class is OutcomeClass.AUTH
    assert isinstance(dead, Unavailable)
    assert dead.outcome_class is OutcomeClass.SOFT


async def test_several_ask_at_once(finder: SentFinder, world: World, client: Client) -> None:
    tokens = [some_token() for _ in range(6)]
    for token in tokens[:4]:
        client.file(message(world.email, token))

    found = await asyncio.gather(
        *(
            finder.find(world.workspace_id, world.mailbox_id, RECIPIENT, token, ago(hours=1))
            for token in tokens
        )
    )

    assert [isinstance(one, Found) for one in found] == [True] * 4 + [False] * 2


# ---- through an API


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
        yield one


async def look(box: Box, token: str, doors: Any = None) -> Found | NotSeen | Unavailable:
    finder = SentFinder(doors or box.doors, box.parts.threads)
    return await finder.find(
        box.world.workspace_id, box.mailbox_id, RECIPIENT, token, ago(minutes=10)
    )


async def test_an_api_account_is_looked_through_with_the_reading_grant(box: Box) -> None:
    token = some_token()
    box.account.send(message(box.account.email, some_token()))
    assert await look(box, token) == NotSeen()

    box.account.send(message(box.account.email, token))
    found = await look(box, token)

    assert isinstance(found, Found)
    assert found.thread_id
    assert found.message_id


async def test_expired_tokens_are_refreshed_once_for_replicas_and_kept_sealed(
    box: Box, keys: KeyService, http: httpx.AsyncClient, settings: ReplySettings
) -> None:
    token = some_token()
    box.account.send(message(box.account.email, token))
    box.account.twin.identity.expire(box.account.email)
    db = Database(settings)
    other = make_doors(box.settings, db, keys, http)

    first = await look(box, token)
    second = await look(box, token, other)
    await db.close()

    assert isinstance(first, Found)
    assert isinstance(second, Found)
    # The other replica took the tokens that the first one stored.
    assert box.account.twin.identity.refreshes == 1
    (kept,) = box.world.tokens(box.mailbox_id)
    assert kept["version"] == 1
    assert b"ya29" not in bytes(kept["sealed"])


async def test_a_revoked_grant_is_told_as_one_for_a_person(box: Box) -> None:
    box.account.revoke()

    found = await look(box, some_token())

    assert isinstance(found, Unavailable)
    assert found.outcome_class is OutcomeClass.AUTH


@pytest.mark.parametrize("kind", ["gmail", "graph"])
async def test_a_grant_that_may_not_read_can_never_look(
    kind: str, world: World, parts: Parts, keys: KeyService, http: httpx.AsyncClient
) -> None:
    async with connected(kind, world, parts, keys, http, SEND_ONLY[kind]) as box:
        found = await look(box, some_token())

    assert isinstance(found, Unavailable)
    assert found.outcome_class is None
