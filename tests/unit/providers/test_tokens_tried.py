"""A refused token says something of the grant only when it is surely a new one."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import cast

import aiosmtplib
import httpx
import pytest

from paceline_providers.api import Api, Call, Reply
from paceline_providers.proof import TOKENS_TRIED
from paceline_providers.smtp_auth import sign_in


@dataclass
class Given:
    """Tokens in their order, the next one for each that is refused."""

    tokens: list[str]
    asked: list[str | None] = field(default_factory=list)

    async def __call__(self, refused: str | None = None) -> str:
        self.asked.append(refused)
        return self.tokens[len(self.asked) - 1]


def api(given: Given, good: str) -> Api:
    def answer(request: httpx.Request) -> httpx.Response:
        taken = request.headers["Authorization"] == f"Bearer {good}"
        return httpx.Response(200 if taken else 401, json={})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return Api(http=http, tokens=given, now=lambda: datetime.now(UTC))


CALL = Call("GET", "https://provider.test/me")
# The first is this process's own, the second another's, the third is new.
IN_TURN = ["own", "others", "new"]


def test_the_third_token_is_tried() -> None:
    given = Given(IN_TURN)
    found = asyncio.run(api(given, "new").once(CALL, 5))
    assert isinstance(found, Reply)
    assert found.status == 200
    assert given.asked == [None, "own", "others"]


def test_a_grant_whose_new_token_is_refused_is_refused() -> None:
    given = Given([*IN_TURN, "newer"])
    found = asyncio.run(api(given, "none").once(CALL, 5))
    assert isinstance(found, Reply)
    assert found.status == 401
    assert len(given.asked) == TOKENS_TRIED


@dataclass
class Server:
    """As much of an SMTP client as signing in needs."""

    good: str
    tried: list[str] = field(default_factory=list)
    server_auth_methods: tuple[str, ...] = ("xoauth2",)
    esmtp_extensions: Mapping[str, str] = field(default_factory=dict)

    async def auth_xoauth2(self, _username: str, token: str) -> None:
        self.tried.append(token)
        if token != self.good:
            raise aiosmtplib.SMTPAuthenticationError(535, "5.7.8 not accepted")


def signed_in(server: Server, given: Given) -> None:
    client = cast("aiosmtplib.SMTP", server)
    asyncio.run(sign_in(client, "a@example.test", given, "auto", encrypted=True))


def test_an_smtp_server_is_shown_the_third_token_too() -> None:
    server = Server("new")
    signed_in(server, Given(IN_TURN))
    assert server.tried == IN_TURN


def test_an_smtp_server_is_shown_no_fourth() -> None:
    server = Server("none")
    with pytest.raises(aiosmtplib.SMTPAuthenticationError):
        signed_in(server, Given([*IN_TURN, "newer"]))
    assert server.tried == IN_TURN
