"""An IMAP account that is read with a grant: signed in by access token, renewed when refused."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from psycopg.types.json import Jsonb
from tests.conformance.sources.accounts import ApiAccount, account
from tests.integration.reply.boxes import make_doors
from tests.integration.reply.world import World

from paceline_common.keys import KeyService
from paceline_reply.access import Doors
from paceline_reply.reader import Parts
from paceline_reply.sources.base import SourceError


class TokenImap:
    """As much of an IMAP server as signing in with a token takes; the twin knows good ones."""

    def __init__(self, twin: Any) -> None:
        self._twin = twin
        self.users: list[str] = []
        self.refused = 0
        self.port = 0

    async def __aenter__(self) -> "TokenImap":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK [CAPABILITY IMAP4rev1 AUTH=XOAUTH2] hello\r\n")
        while line := await reader.readline():
            tag, _, command = line.strip().partition(b" ")
            if command.upper().startswith(b"AUTHENTICATE XOAUTH2"):
                writer.write(b"+ \r\n")
                told = base64.b64decode(await reader.readline()).decode()
                user, token = (part.partition("=")[2] for part in told.split("\x01")[:2])
                if self._twin.identity.who(token) is not None:
                    self.users.append(user)
                    writer.write(tag + b" OK done\r\n")
                else:
                    self.refused += 1
                    writer.write(tag + b" NO [AUTHENTICATIONFAILED] Invalid credentials\r\n")
            elif command.upper() == b"CAPABILITY":
                writer.write(b"* CAPABILITY IMAP4rev1 AUTH=XOAUTH2\r\n" + tag + b" OK done\r\n")
            else:
                writer.write(tag + b" BAD what\r\n")
            await writer.drain()
        writer.close()


@pytest.fixture(params=["gmail", "graph"])
async def one(request: pytest.FixtureRequest) -> AsyncIterator[ApiAccount]:
    async with account(request.param, f"ann-{secrets.token_hex(4)}@north.test") as found:
        yield found


@pytest.fixture
async def server(one: ApiAccount) -> AsyncIterator[TokenImap]:
    async with TokenImap(one.twin) as found:
        yield found


@pytest.fixture
async def granted(
    one: ApiAccount,
    server: TokenImap,
    world: World,
    parts: Parts,
    keys: KeyService,
    http: httpx.AsyncClient,
) -> tuple[Doors, int]:
    """An IMAP mailbox whose credential is a grant."""
    mailbox_id = await world.add_mailbox(one.email, port=server.port, auth="xoauth2")
    credential, oauth = one.credential("https://mail.google.com/", "offline_access")
    sealed = await world.gateway_keys.seal(
        "read", world.workspace_id, msgspec.json.encode(credential), table="mailbox",
        row=mailbox_id,
    )  # fmt: skip
    world.rows(
        "UPDATE gateway.mailbox SET read_credential = %s, read_oauth = %s WHERE mailbox_id = %s",
        sealed, Jsonb(oauth), mailbox_id,
    )  # fmt: skip
    settings = parts.settings.model_copy(update=one.settings())
    return make_doors(settings, parts.db, keys, http), mailbox_id


async def sign_in(granted: tuple[Doors, int], world: World, parts: Parts) -> None:
    doors, mailbox_id = granted
    loaded = await doors.load(world.workspace_id, mailbox_id)
    assert loaded is not None
    session = await doors.session(loaded[0], parts.threads)
    await session.close()


async def test_the_access_token_signs_in(
    granted: tuple[Doors, int], server: TokenImap, one: ApiAccount, world: World, parts: Parts
) -> None:
    await sign_in(granted, world, parts)

    assert server.users == [one.email]


async def test_a_token_that_the_server_takes_no_more_is_renewed_once(
    granted: tuple[Doors, int], server: TokenImap, one: ApiAccount, world: World, parts: Parts
) -> None:
    await sign_in(granted, world, parts)
    one.twin.identity.expire(one.email)

    await sign_in(granted, world, parts)

    assert len(server.users) == 2
    assert server.refused == 1
    assert world.tokens(granted[1])


async def test_a_grant_that_was_taken_back_is_told_as_that(
    granted: tuple[Doors, int], world: World, one: ApiAccount, parts: Parts
) -> None:
    one.revoke()

    with pytest.raises(SourceError) as failure:
        await sign_in(granted, world, parts)

    assert failure.value.code == "grant_revoked"
