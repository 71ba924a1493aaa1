"""Bounce's parts on the stack, and the world that reply's tests build."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.rows import dict_row
from tests.integration.reply.world import Sql, World, key_login

from paceline_bounce.classify import Classifier
from paceline_bounce.health import Health, HealthRules
from paceline_bounce.metrics import METRICS
from paceline_bounce.settings import BounceSettings
from paceline_common.clock import ManualClock
from paceline_common.db import Database, Outbox
from paceline_common.keys import KeyService
from paceline_common.telemetry import Metrics
from paceline_local.stack import Stack


@pytest.fixture
def sql(stack: Stack) -> Iterator[Sql]:
    with psycopg.connect(stack.dsn(), autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
async def world(stack: Stack, sql: Sql) -> AsyncIterator[World]:
    async with (
        KeyService(key_login(stack, "gateway")) as gateway,
        KeyService(key_login(stack, "sender")) as sender,
    ):
        made = await World.create(stack, sql, gateway, sender)
        # Its stage is by its numbers alone, unless a test says otherwise.
        made.set_policy(attested=False)
        yield made
        made.close()


@pytest.fixture
async def db(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    for name, value in stack.env("bounce").items():
        monkeypatch.setenv(name, value)
    made = Database(BounceSettings())
    yield made
    await made.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def health(db: Database, clock: ManualClock) -> Health:
    return Health(outbox=Outbox(db), clock=clock, metrics=Metrics(METRICS), rules=HealthRules())


@pytest.fixture
async def classifier(
    stack: Stack, db: Database, health: Health, clock: ManualClock
) -> AsyncIterator[Classifier]:
    async with KeyService(key_login(stack, "bounce")) as keys:
        yield Classifier(
            keys=keys,
            outbox=Outbox(db),
            health=health,
            clock=clock,
            metrics=Metrics(METRICS),
        )
