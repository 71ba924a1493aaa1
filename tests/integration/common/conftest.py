"""Private Postgres and Kafka, which these tests stop and kill, and a scratch service on them."""

import asyncio
import itertools
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]
from pydantic import SecretStr
from tests.waiting import until

from paceline_common import events, ids
from paceline_common.db import Database, migrate
from paceline_common.kafka.broker import consuming_broker
from paceline_common.kafka.subscribe import Subscriber, Subscription
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic
from paceline_local.stack import Stack

PACKAGE = "tests.integration.common.scratch"
PASSWORD = "scratch-password"
WS = 7


@dataclass
class Parts:
    """The two servers, and the scratch service's settings on them."""

    stack: Stack
    settings: ServiceSettings

    def start(self, name: Literal["postgres", "kafka"]) -> None:
        """Start a server on the port it had: clients know no other."""
        part = self.stack.postgres if name == "postgres" else self.stack.kafka
        part.start(lambda _line: None)

    def admin_sql(self, statement: str, *args: object) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser, past every policy."""
        with psycopg.connect(self.stack.dsn(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), args)
            return cursor.fetchall() if cursor.description else []

    def create_topic(self, topic: Topic, name: str | None = None, partitions: int = 6) -> None:
        admin = self.stack.kafka.admin()
        wanted = [NewTopic(name or topic.name, partitions, 1)]
        if name is None:
            wanted.append(NewTopic(topic.dead_letter, 1, 1))
        for future in admin.create_topics(wanted).values():
            future.result(30)

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """Return the group's committed offset; negative when there is none."""
        consumer = Consumer({**self.stack.kafka.client_config("stack"), "group.id": group})
        try:
            (found,) = consumer.committed([TopicPartition(topic, partition)], timeout=10)
            return int(found.offset)
        finally:
            consumer.close()

    def members(self, group: str) -> int:
        """Return how many members the group has now."""
        admin = self.stack.kafka.admin()  # results come only while it lives
        return len(admin.describe_consumer_groups([group])[group].result(10).members)

    def read(self, topic: str, count: int, timeout_s: float = 20) -> list[Any]:
        """Read `count` records from the start of a topic, without a group."""
        consumer = Consumer(
            {
                **self.stack.kafka.client_config("stack"),
                "group.id": f"reader-{secrets.token_hex(4)}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
            }
        )
        found: list[Any] = []
        deadline = time.monotonic() + timeout_s
        try:
            consumer.subscribe([topic])
            while len(found) < count and time.monotonic() < deadline:
                found += [one for one in consumer.consume(count, 0.2) if one.error() is None]
        finally:
            consumer.close()
        return found


@pytest.fixture(scope="session")
def parts() -> Iterator[Parts]:
    run = Path(tempfile.mkdtemp(prefix="pl-common-"))
    run.chmod(0o755)
    stack = Stack(run)
    try:
        stack.start("postgres")
        stack.start("kafka")
        _make_roles(stack)
        migrate.upgrade("scratch", stack.dsn("migrator"), package=PACKAGE)
        _grant(stack)
        yield Parts(stack, _settings(stack))
    finally:
        stack.stop("kafka")
        stack.stop("postgres")
        shutil.rmtree(stack.layout.state, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)


def _make_roles(stack: Stack) -> None:
    migrator = stack.passwords.get("migrator", "paceline_postgres_password")
    with psycopg.connect(stack.dsn(), autocommit=True) as connection:
        for statement in (
            f"CREATE ROLE migrator LOGIN NOINHERIT PASSWORD '{migrator}'",
            "CREATE ROLE scratch_owner NOLOGIN",
            "CREATE ROLE scratch_worker NOLOGIN",
            f"CREATE ROLE scratch LOGIN NOINHERIT PASSWORD '{PASSWORD}'",
            "GRANT scratch_owner TO migrator",
            "GRANT scratch_worker TO scratch",
            "CREATE SCHEMA scratch AUTHORIZATION scratch_owner",
        ):
            connection.execute(statement.encode())


def _grant(stack: Stack) -> None:
    with psycopg.connect(stack.dsn(), autocommit=True) as connection:
        connection.execute("GRANT USAGE ON SCHEMA scratch TO scratch, scratch_worker")
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA scratch"
            " TO scratch, scratch_worker"
        )


def _settings(stack: Stack) -> ServiceSettings:
    return ServiceSettings(
        http_port=0,
        internal_token=SecretStr("internal-token"),
        postgres_host="127.0.0.1",
        postgres_port=stack.ports["postgres"],
        postgres_user="scratch",
        postgres_password=SecretStr(PASSWORD),
        kafka_bootstrap=stack.kafka.bootstrap(),
        kafka_user="stack",
        kafka_password=SecretStr(stack.passwords.get("stack", "paceline_kafka_password")),
        keys_url="http://127.0.0.1:1",
        keys_role_id="none",
        keys_secret_id=SecretStr("none"),
        lock_timeout_ms=1_000,
        drain_grace_s=10,
    )


@pytest.fixture
def clean(parts: Parts) -> Parts:
    """The parts, running, with empty tables."""
    parts.start("postgres")
    parts.start("kafka")
    for table in ("effect", "outbox", "inbox", "quarantine"):
        parts.admin_sql(f"DELETE FROM scratch.{table}")
    return parts


_names = itertools.count(1)


@pytest.fixture
def topic(clean: Parts) -> Topic:
    """A fresh topic of one partition, keyed like `sent`."""
    return new_topic(clean, partitions=1)


def new_topic(parts: Parts, partitions: int) -> Topic:
    name = f"t{next(_names)}-{secrets.token_hex(3)}"
    made = Topic(name, "enrollment", ("scratch",), ("scratch",), timedelta(days=1))
    parts.create_topic(made, partitions=partitions)
    return made


@pytest.fixture
async def db(clean: Parts) -> AsyncIterator[Database]:
    # Writers of one row wait for one another; on a busy machine longer than a consumer would.
    database = Database(clean.settings.model_copy(update={"lock_timeout_ms": 15_000}))
    yield database
    await database.close()


def body(job: int | str, workspace: int = WS) -> events.SendInDoubt:
    return events.SendInDoubt(
        workspace_id=ids.encode("ws", workspace),
        job_id=f"job-{job}",
        mailbox_id="mbx-1",
        message_id="<m@x.test>",
        since=datetime(2026, 11, 20, tzinfo=UTC),
    )


def record(
    topic: Topic,
    job: int | str,
    *,
    workspace: int = WS,
    key: str | None = "enr-1",
    value: bytes | None = None,
    **headers: Any,
) -> dict[str, Any]:
    """Return a record as `AIOKafkaProducer.send` takes it; a header given as None is left out."""
    envelope: dict[str, Any] = {
        "ce_specversion": b"1.0",
        "ce_id": f"id-{job}".encode(),
        "ce_type": events.event_type(topic).encode(),
        "ce_source": b"tests",
        "ce_time": b"2026-11-20T09:00:00Z",
        "ce_workspaceid": ids.encode("ws", workspace).encode(),
        "content-type": b"application/json",
    }
    envelope |= {name.replace("content_type", "content-type"): v for name, v in headers.items()}
    return {
        "key": None if key is None else key.encode(),
        "value": msgspec.json.encode(body(job, workspace)) if value is None else value,
        "headers": [(name, v) for name, v in envelope.items() if v is not None],
    }


async def produce(
    parts: Parts, topic: str, records: Sequence[dict[str, Any]], partition: int | None = None
) -> None:
    settings = parts.settings
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=settings.kafka_user,
        sasl_plain_password=settings.kafka_password.get_secret_value(),
    )
    try:
        await producer.start()
        sent = [await producer.send(topic, partition=partition, **one) for one in records]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


@asynccontextmanager
async def consuming(
    settings: ServiceSettings,
    db: Database,
    subscription: Subscription[Any],
    metrics: Metrics | None = None,
) -> AsyncIterator[Subscriber]:
    """Run one member of the subscription's group."""
    broker = consuming_broker(settings, "scratch", families=subscription.topic.pattern)
    subscriber = Subscriber(
        "scratch", subscription, settings=settings, db=db, metrics=metrics or Metrics()
    )
    subscriber.attach(broker)
    await broker.start()
    try:
        yield subscriber
    finally:
        subscriber.stopping()
        await broker.stop()


REPOSITORY = Path(__file__).resolve().parents[3]


@asynccontextmanager
async def worker(
    parts: Parts, *arguments: str, script: str = "worker.py", **extra: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `script` as a process; it is dead afterwards. `extra`: settings without the prefix."""
    settings = parts.settings
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(REPOSITORY)]),
        "PACELINE_HTTP_PORT": "0",
        "PACELINE_INTERNAL_TOKEN": "internal-token",
        "PACELINE_POSTGRES_HOST": settings.postgres_host,
        "PACELINE_POSTGRES_PORT": str(settings.postgres_port),
        "PACELINE_POSTGRES_USER": "scratch",
        "PACELINE_POSTGRES_PASSWORD": PASSWORD,
        "PACELINE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "PACELINE_KAFKA_USER": settings.kafka_user,
        "PACELINE_KAFKA_PASSWORD": settings.kafka_password.get_secret_value(),
        "PACELINE_KEYS_URL": "http://127.0.0.1:1",
        "PACELINE_KEYS_ROLE_ID": "none",
        "PACELINE_KEYS_SECRET_ID": "none",
        **{f"PACELINE_{name.upper()}": value for name, value in extra.items()},
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name(script)),
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**20,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def kill_kafka(parts: Parts) -> None:
    """Kill the broker with SIGKILL; return once it is dead."""
    parts.stack.kill("kafka")
    await until(lambda: parts.stack.processes.find("kafka") is None, "the broker is dead")
