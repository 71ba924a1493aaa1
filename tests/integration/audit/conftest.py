"""Audit's parts on the stack, with its own credentials."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from typer.testing import CliRunner

from paceline_audit.append import append
from paceline_audit.checkpoint import Checkpointer
from paceline_audit.metrics import METRICS
from paceline_audit.settings import AuditSettings
from paceline_common import events, ids
from paceline_common.admin import build as build_admin
from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.kafka.subscribe import Delivery
from paceline_common.keys import KeyService
from paceline_common.telemetry import Metrics
from paceline_local.stack import Stack

Sql = psycopg.Connection[dict[str, Any]]
Admin = Callable[..., Any]


@pytest.fixture
def sql(stack: Stack) -> Iterator[Sql]:
    with psycopg.connect(stack.dsn(), autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def settings(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> AuditSettings:
    for name, value in stack.env("audit").items():
        monkeypatch.setenv(name, value)
    return AuditSettings()


@pytest.fixture
async def db(settings: AuditSettings) -> AsyncIterator[Database]:
    made = Database(settings)
    yield made
    await made.close()


@pytest.fixture
async def checkpointer(settings: AuditSettings, db: Database) -> AsyncIterator[Checkpointer]:
    async with KeyService(settings) as keys:
        yield Checkpointer(
            db=db, keys=keys, clock=SystemClock(), metrics=Metrics(METRICS), every_records=5,
            every_s=600,
        )  # fmt: skip


@pytest.fixture
def admin(stack: Stack) -> Admin:
    """Run `paceline-admin audit … --json` as admin; return what it printed."""
    env = stack.env("admin")

    def run(*arguments: str, code: int = 0) -> Any:
        # The command starts an event loop of its own: not in this one's thread.
        result = CliRunner().invoke(build_admin(), ["audit", *arguments, "--json"], env=env)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return run


@dataclass
class Log:
    """One workspace's chain, written as the consumer writes it."""

    db: Database
    sql: Sql
    workspace_id: int

    @property
    def public(self) -> str:
        return ids.encode("ws", self.workspace_id)

    async def write(self, count: int, **changes: Any) -> None:
        async with self.db.transaction(worker=True) as tx:
            await append(tx, [self.delivery(**changes) for _ in range(count)])

    def delivery(self, **changes: Any) -> Delivery[events.AuditRecorded]:
        body = {
            "workspace_id": self.public if self.workspace_id else "",
            "action": "mailbox.connected", "actor": "key_1", "subject": "mbx_1",
            "at": datetime.now(UTC), "source_ip": "192.0.2.7",
            "detail": {"kind": "smtp", "ü": "\n"},
            **changes,
        }  # fmt: skip
        return Delivery(
            topic="audit-recorded", partition=0, offset=0, key="k", event_id=str(uuid.uuid4()),
            source="/paceline/gateway", workspace_id=self.workspace_id, time=datetime.now(UTC),
            body=events.AuditRecorded(**body), digest=b"",
        )  # fmt: skip

    def tamper(self, statement: str, *args: object) -> None:
        """Change rows as only a superuser past the trigger can."""
        with self.sql.transaction():
            self.sql.execute("SET LOCAL session_replication_role = replica")
            self.sql.execute(statement.encode(), args)

    def rows(self) -> list[dict[str, Any]]:
        return self.sql.execute(
            "SELECT * FROM audit.audit_record WHERE workspace_id = %s ORDER BY seq",
            (self.workspace_id,),
        ).fetchall()


@pytest.fixture
async def log(db: Database, sql: Sql) -> AsyncIterator[Log]:
    # No workspace of these tests exists: audit keeps the trail of erased ones too.
    made = Log(db, sql, uuid.uuid4().int >> 66)
    yield made
    for table in ("checkpoint", "audit_record"):
        made.tamper(f"DELETE FROM audit.{table} WHERE workspace_id = %s", made.workspace_id)


async def in_thread(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Run a blocking call that has an event loop of its own."""
    return await asyncio.to_thread(call, *arguments, **options)
