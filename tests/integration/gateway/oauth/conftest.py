"""The gateway between both providers' twins, and two people with a browser each."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from tests.integration.gateway.conftest import Login, Peers
from tests.integration.gateway.oauth.world import (
    ANN,
    BOB,
    PUBLIC,
    Browser,
    Twins,
)
from tests.twins.gmail import server as gmail
from tests.twins.graph import server as graph

from paceline_common.keys import KeyService
from paceline_gateway.app import build
from paceline_gateway.parts import Parts
from paceline_gateway.settings import GatewaySettings
from paceline_local.stack import Stack


@pytest.fixture
async def twins() -> AsyncIterator[Twins]:
    async with gmail.running() as (google, one), graph.running() as (microsoft, other):
        for twin in (google, microsoft):
            for email in (ANN, BOB):
                twin.add_mailbox(email)
        yield Twins(google, one, microsoft, other)


@pytest.fixture
async def app(
    stack: Stack, peers: Peers, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    for name, value in stack.env("gateway").items():
        monkeypatch.setenv(name, value)
    settings = GatewaySettings(
        http_port=0, sender_url=peers.url, reply_url=peers.url, scheduler_url=peers.url,
        **{"public_url": PUBLIC, **twins.settings},
    )  # fmt: skip
    service = build(settings)
    yield service.http
    parts: Parts = service.http.state.parts
    await parts.prober.close()
    await parts.pacing.close()
    await parts.oauth.close()
    parts.keys.close()
    await service.db.close()


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[Browser]:
    one = Browser(app)
    yield one
    await one.client.aclose()


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[Browser]:
    one = Browser(app)
    yield one
    await one.client.aclose()


@pytest.fixture
async def reply_keys(stack: Stack, sender_keys: KeyService) -> AsyncIterator[KeyService]:
    env = stack.env("reply")
    secret = stack.passwords.get("reply", "paceline_keys_secret_id")
    async with KeyService(
        Login(env["PACELINE_KEYS_URL"], env["PACELINE_KEYS_ROLE_ID"], SecretStr(secret))
    ) as keys:
        yield keys
