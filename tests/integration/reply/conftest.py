"""Reply's parts on the stack, without the service around them."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

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
from paceline_reply.app import resolver, tls_contexts
from paceline_reply.metrics import METRICS
from paceline_reply.reader import Parts
from paceline_reply.receive import Receiver
from paceline_reply.settings import ReplySettings


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
    )


@pytest.fixture
async def parts(settings: ReplySettings, stack: Stack) -> AsyncIterator[Parts]:
    db = Database(settings)
    threads = ThreadPoolExecutor(8)
    async with KeyService(key_login(stack, "reply")) as keys:
        outbox = Outbox(db)
        metrics = Metrics(METRICS)
        yield Parts(
            settings=settings,
            db=db,
            outbox=outbox,
            keys=keys,
            clock=SystemClock(),
            metrics=metrics,
            receiver=Receiver(
                db=db,
                outbox=outbox,
                keys=keys,
                clock=SystemClock(),
                metrics=metrics,
                thread_life=timedelta(days=settings.thread_life_days),
            ),
            resolve=resolver(HostPolicy(settings.host_allowlist)),
            tls=tls_contexts(settings),
            threads=threads,
        )
    threads.shutdown()
    await db.close()
