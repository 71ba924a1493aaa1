"""Real servers for one bench run, migrated, in a folder of their own."""

import asyncio
import json
import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from confluent_kafka import Producer
from pydantic import SecretStr
from redis.asyncio import Redis

from paceline_common import events, ids, topics
from paceline_common.address import AddressHasher
from paceline_common.db import Database, Outbox, Queries
from paceline_common.keys import KeyAdmin, KeyService
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_local.stack import Stack
from paceline_scheduler.campaigns import Campaigns
from paceline_scheduler.enroll import Enroller
from paceline_scheduler.ledger import Ledger
from paceline_scheduler.metrics import METRICS
from paceline_scheduler.pacing.redis import RedisPacing
from paceline_scheduler.rebuild import PacingState
from paceline_scheduler.reserve import Pacer
from paceline_scheduler.shaping import Shaper

WS = 1
CAMPAIGN = 1
POOL = 1
HASHER = AddressHasher(b"k" * 32)


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers; SQL goes past every policy, to set a scene and look at it."""

    stack: Stack

    def sql(self, statement: str, *args: object) -> list[Any]:
        """Run one statement as the superuser and return its rows."""
        with psycopg.connect(self.stack.dsn(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), args)
            return cursor.fetchall() if cursor.description else []

    def settings(self, role: str = "scheduler", pool: int = 10) -> ServiceSettings:
        """Return the settings of a service that talks to these servers alone."""
        return ServiceSettings(
            http_port=0,
            internal_token=SecretStr("token"),
            postgres_host="127.0.0.1",
            postgres_port=self.stack.ports["postgres"],
            postgres_user=role,
            postgres_password=SecretStr(
                self.stack.passwords.get(role, "paceline_postgres_password")
            ),
            postgres_pool_size=pool,
            kafka_bootstrap="127.0.0.1:1",
            kafka_user=role,
            kafka_password=SecretStr("none"),
            keys_url="http://127.0.0.1:1",
            keys_role_id="none",
            keys_secret_id=SecretStr("none"),
        )

    def login(self, principal: str) -> ServiceSettings:
        """Return the settings of a principal who may go to Kafka and the key service as well."""
        secret = self.stack.passwords.folder(principal) / "paceline_keys_secret_id"
        return self.settings(principal).model_copy(
            update={
                "kafka_bootstrap": self.stack.kafka.bootstrap(),
                "kafka_password": SecretStr(
                    self.stack.passwords.get(principal, "paceline_kafka_password")
                ),
                "keys_url": self.stack.keys.url(),
                "keys_role_id": self.stack.keys.role_id(principal),
                "keys_secret_id": SecretStr(secret.read_text()),
            }
        )

    def idle(self) -> bool:
        """Tell whether nothing is leased or on its way."""
        ((busy,),) = self.sql(
            "SELECT EXISTS (SELECT FROM scheduler.send_job WHERE state IN ('reserved', 'sending'))"
        )
        return not busy

    def pid(self, service: str) -> int:
        """Return a running service's process id."""
        found = self.stack.processes.find(service)
        if found is None:
            raise RuntimeError(f"{service} has ended")
        return found.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of Postgres's first process and of Redis."""
        found = (self.stack.processes.find(name) for name in ("postgres", "redis"))
        return tuple(one.pid for one in found if one is not None)

    def redis(self) -> Redis:
        """Return a client with the scheduler's rights."""
        return Redis(
            host="127.0.0.1",
            port=self.stack.ports["redis"],
            username="scheduler",
            password=self.stack.passwords.get("scheduler", "paceline_redis_password"),
            protocol=2,
        )

    @asynccontextmanager
    async def scheduler(self) -> AsyncIterator[tuple[Database, Queries, Redis]]:
        """Give what the scheduler's parts are made of."""
        db, redis = Database(self.settings()), self.redis()
        try:
            yield db, Queries("paceline_scheduler"), redis
        finally:
            await db.close()
            await redis.aclose()


@contextmanager
def servers() -> Iterator[Servers]:
    """Start Postgres and Redis, migrate, and end both."""
    run = Path(tempfile.mkdtemp(prefix="pl-bench-"))
    run.chmod(0o755)
    stack = Stack(run)
    try:
        stack.start("postgres")
        stack.schema.start(lambda _line: None)
        stack.start("redis")
        yield Servers(stack)
    finally:
        stack.stop("redis")
        stack.stop("postgres")
        shutil.rmtree(run, ignore_errors=True)


@contextmanager
def everything() -> Iterator[Servers]:
    """Start all the servers of a stack, with the key-service twin; end them and what else runs.

    Services do not run yet: `stack.restart`.
    """
    run = Path(tempfile.mkdtemp(prefix="pl-bench-"))
    run.chmod(0o755)
    stack = Stack(run)
    try:
        yield Servers(stack.up(keys="twin", services=False))
    finally:
        stack.down()
        shutil.rmtree(stack.layout.state, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)


def campaign(made: Servers, *, mailboxes: int, policy: str) -> None:
    """Write a workspace, a running campaign of one step, and its pool of mailboxes.

    `policy` is the mailboxes' policy as JSON.
    """
    made.sql(
        "INSERT INTO gateway.workspace (workspace_id, name, timezone) OVERRIDING SYSTEM VALUE"
        " VALUES (%s, 'bench', 'UTC')",
        WS,
    )
    made.sql(
        "INSERT INTO gateway.mailbox (workspace_id, mailbox_id, email, domain, kind, policy, smtp,"
        " imap, send_credential, read_credential) OVERRIDING SYSTEM VALUE"
        " SELECT %s, n, 'm' || n || '@send' || n %% 500 || '.test', 'send' || n %% 500 || '.test',"
        " 'smtp', %s, '{}', '{}', '', '' FROM generate_series(1, %s) AS n",
        WS,
        policy,
        mailboxes,
    )
    made.sql(
        "INSERT INTO gateway.pool (workspace_id, pool_id, name) OVERRIDING SYSTEM VALUE"
        " VALUES (%s, %s, 'bench')",
        WS,
        POOL,
    )
    made.sql(
        "INSERT INTO gateway.pool_member (workspace_id, pool_id, mailbox_id, position)"
        " SELECT %s, %s, n, n FROM generate_series(1, %s) AS n",
        WS,
        POOL,
        mailboxes,
    )
    made.sql(
        "INSERT INTO gateway.campaign (workspace_id, campaign_id, name, status)"
        " OVERRIDING SYSTEM VALUE VALUES (%s, %s, 'bench', 'running')",
        WS,
        CAMPAIGN,
    )
    made.sql(
        "INSERT INTO gateway.campaign_tier (workspace_id, campaign_id, tier, position, pool_id)"
        " VALUES (%s, %s, 1, 1, %s)",
        WS,
        CAMPAIGN,
        POOL,
    )
    made.sql(
        "INSERT INTO gateway.step (workspace_id, campaign_id, position, delay_s, subject,"
        " text_template) VALUES (%s, %s, 1, 0, 's', 't')",
        WS,
        CAMPAIGN,
    )


def letter(made: Servers, *, text: str, html: str) -> None:
    """Have the campaign's step send this."""
    made.sql("UPDATE gateway.step SET text_template = %s, html_template = %s", text, html)


def jobs(made: Servers, count: int) -> None:
    """Queue `count` first messages of the campaign, each to its own lead at one of 1,000 domains.

    Addresses, leads, enrollments and jobs n share their number.
    """
    statements = (
        (
            "INSERT INTO scheduler.address (workspace_id, address_id, kind, hash)"
            " SELECT %(ws)s, n, 'address', sha256(int8send(n)) FROM generate_series(1, %(n)s) AS n"
        ),
        (
            "INSERT INTO scheduler.address (workspace_id, address_id, kind, hash)"
            " SELECT %(ws)s, 1000000000 + n, 'domain', sha256(int8send(-1 - n))"
            " FROM generate_series(0, 999) AS n"
        ),
        (
            "INSERT INTO scheduler.lead (workspace_id, lead_id, address_id, domain_id, email)"
            " SELECT %(ws)s, n, n, 1000000000 + n %% 1000, n || '@lead' || n %% 1000 || '.test'"
            " FROM generate_series(1, %(n)s) AS n"
        ),
        (
            "INSERT INTO scheduler.enrollment (workspace_id, enrollment_id, campaign_id, lead_id,"
            " address_id, domain_id, job_id)"
            " SELECT %(ws)s, n, %(c)s, n, n, 1000000000 + n %% 1000, n"
            " FROM generate_series(1, %(n)s) AS n"
        ),
        (
            "INSERT INTO scheduler.send_job"
            " (workspace_id, job_id, enrollment_id, campaign_id, step)"
            " SELECT %(ws)s, n, n, %(c)s, 1 FROM generate_series(1, %(n)s) AS n"
        ),
        (
            "INSERT INTO scheduler.gate (workspace_id, scope, ref) VALUES"
            " (%(ws)s, 'workspace', %(ws)s), (%(ws)s, 'campaign', %(c)s), (%(ws)s, 'pool', 1)"
            " ON CONFLICT DO NOTHING"
        ),
        *(
            f"SELECT setval(pg_get_serial_sequence('scheduler.{table}', '{table}_id'), %(n)s)"
            for table in ("lead", "enrollment")
        ),
        "SELECT setval(pg_get_serial_sequence('scheduler.address', 'address_id'), 2000000000)",
        "SELECT setval(pg_get_serial_sequence('scheduler.send_job', 'job_id'), %(n)s)",
    )
    arguments = {"ws": WS, "c": CAMPAIGN, "n": count}
    with psycopg.connect(made.stack.dsn(), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode(), arguments)
        # As autovacuum does within a minute: without statistics plans are guesses.
        connection.execute("VACUUM ANALYZE")


def connect(made: Servers, mailboxes: range, smtp: Mapping[str, Any]) -> None:
    """Give mailboxes an SMTP server and a sealed password. Makes the workspace's keys."""
    asyncio.run(_connect(made, mailboxes, smtp))


async def _connect(made: Servers, mailboxes: range, smtp: Mapping[str, Any]) -> None:
    admin = KeyAdmin(made.login("admin"))
    await admin.create_workspace_keys(WS)
    admin.close()
    password = msgspec.json.encode({"password": "any"})
    async with KeyService(made.login("gateway")) as keys:
        sealed = await asyncio.gather(
            *(keys.seal("send", WS, password, table="mailbox", row=n) for n in mailboxes)
        )
    made.sql(
        "UPDATE gateway.mailbox AS m SET smtp = %s, send_credential = u.sealed"
        " FROM unnest(%s::bigint[], %s::bytea[]) AS u(mailbox_id, sealed)"
        " WHERE m.mailbox_id = u.mailbox_id",
        json.dumps(smtp),
        list(mailboxes),
        sealed,
    )


def activate(
    made: Servers, mailboxes: range, policy: Mapping[str, Any]
) -> Sequence[tuple[int, int]]:
    """Have these mailboxes send by `policy`, and no others, once they are told; return who
    changed, to which version."""
    return made.sql(
        "UPDATE gateway.mailbox SET is_active = mailbox_id BETWEEN %s AND %s, policy = %s,"
        " version = version + 1 WHERE is_active OR mailbox_id BETWEEN %s AND %s"
        " RETURNING mailbox_id, version",
        mailboxes.start,
        mailboxes.stop - 1,
        json.dumps(policy),
        mailboxes.start,
        mailboxes.stop - 1,
    )


def tell(made: Servers, changed: Sequence[tuple[int, int]]) -> None:
    """Tell `mailbox-changed`, as the gateway would."""
    producer = Producer(made.stack.kafka.client_config("gateway"))
    workspace = ids.encode("ws", WS)
    for number, version in changed:
        mailbox = ids.encode("mbx", number)
        body = events.MailboxChanged(workspace_id=workspace, mailbox_id=mailbox, version=version)
        producer.produce(
            topics.MAILBOX_CHANGED.name,
            key=mailbox,
            value=msgspec.json.encode(body),
            headers={
                "ce_specversion": "1.0",
                "ce_id": ids.new_event_id(),
                "ce_type": events.event_type(topics.MAILBOX_CHANGED),
                "ce_source": "gateway",
                "ce_time": datetime.now(UTC).isoformat(),
                "ce_workspaceid": workspace,
                "content-type": "application/json",
            },
        )
    if producer.flush(30):
        raise RuntimeError("Kafka took not every event")


def rng() -> random.Random:
    """Return the benches' one source of chance."""
    return random.Random(7)


async def _hasher() -> AddressHasher:
    return HASHER


async def paced(
    made: Servers, db: Database, queries: Queries, redis: Redis
) -> tuple[Pacer, Callable[[], float]]:
    """Return the live pacer, put together as in `app.py`, once it has told Redis the workspace's
    state; and what tells how many slots it has leased."""
    store, chance, metrics = RedisPacing(redis), rng(), Metrics(METRICS)
    ledger = Ledger(db, queries, timedelta(days=30))
    state = PacingState(db, queries, store, ledger, chance)
    shaper = Shaper(db, queries, _hasher, lambda: None)
    pacer = Pacer(
        db, queries, store, state, Outbox(db), ledger, shaper, metrics, chance,
        wake=asyncio.Event(),
    )  # fmt: skip
    # A workspace that the pacer does not know yet is built from nothing.
    made.sql(
        "INSERT INTO scheduler.pace_change (workspace_id, scope, ref) VALUES (%s, 'campaign', %s)",
        WS,
        CAMPAIGN,
    )
    await pacer.tell_changes()
    return pacer, lambda: metrics.registry.get_sample_value("paceline_slots_leased_total") or 0.0


def enroller(db: Database, queries: Queries) -> Enroller:
    """Return what takes `lead-enrolled` in."""
    shaper = Shaper(db, queries, _hasher, lambda: None)
    return Enroller(
        queries, _hasher, lambda: None, Campaigns(queries), shaper, accept_test_domains=True
    )
