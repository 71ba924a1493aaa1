"""Reply's parts on the stack, without the service around them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from tests.integration.reply.world import Sql, World, key_login

from paceline_common.clock import SystemClock
from paceline_common.db import Database, Outbox
from paceline_common.keys import KeyService
from paceline_common.telemetry import Metrics
from paceline_local.stack import Stack
from paceline_providers.hosts import HostPolicy
from paceline_reply.access import Doors
from paceline_reply.app import resolver, tls_contexts
from paceline_reply.metrics import METRICS
from paceline_reply.patience import PatientDatabase
from paceline_reply.reader import Parts
from paceline_reply.receive import Receiver
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.api import Pace


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
        yield made
        # Other tests run whole services, which would go on reading.
        made.rows(
            "UPDATE reply.cursor SET is_active = false WHERE workspace_id = %s", made.workspace_id
        )


@pytest.fixture
def settings(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> ReplySettings:
    for name, value in stack.env("reply").items():
        monkeypatch.setenv(name, value)
    return ReplySettings(
        host_allowlist="127.0.0.0/8",
        tls_ca_file=stack.mailhost.ca_file,
        poll_s=5,
        reconnect_first_s=0.2,
        reconnect_cap_s=1,
        auth_retry_s=0.5,
        unreachable_after_s=0.5,
        supervise_s=0.5,
        api_poll_s=0.2,
    )


@pytest.fixture
async def keys(stack: Stack) -> AsyncIterator[KeyService]:
    async with KeyService(key_login(stack, "reply")) as keys:
        yield keys


@pytest.fixture
async def db(settings: ReplySettings) -> AsyncIterator[Database]:
    db = Database(settings)
    yield db
    await db.close()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield http


@pytest.fixture
def doors(
    settings: ReplySettings, db: Database, keys: KeyService, http: httpx.AsyncClient
) -> Doors:
    return Doors(
        settings=settings,
        db=db,
        keys=keys,
        clock=SystemClock(),
        http=http,
        resolve=resolver(HostPolicy(settings.host_allowlist)),
        tls=tls_contexts(settings),
    )


@pytest.fixture
async def parts(
    settings: ReplySettings, db: Database, keys: KeyService, doors: Doors
) -> AsyncIterator[Parts]:
    threads = ThreadPoolExecutor(8)
    patient = PatientDatabase(db, 5)
    outbox = Outbox(db)
    metrics = Metrics(METRICS)
    yield Parts(
        settings=settings,
        db=db,
        patient=patient,
        outbox=outbox,
        clock=SystemClock(),
        metrics=metrics,
        receiver=Receiver(
            db=patient,
            outbox=outbox,
            keys=keys,
            clock=SystemClock(),
            metrics=metrics,
            thread_life=timedelta(days=settings.thread_life_days),
        ),
        doors=doors,
        pace=Pace(settings.api_poll_s, asyncio.Semaphore(settings.api_concurrency)),
        threads=threads,
    )
    threads.shutdown()
