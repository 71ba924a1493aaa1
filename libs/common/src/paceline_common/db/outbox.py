"""Events that leave with the transaction that caused them.

`Outbox.add` writes rows; the relay publishes committed rows in the order of
their ids per key and deletes them afterwards: nothing is published that was
not committed, everything committed is published at least once (a relay that
dies between the two publishes again, with the same event id). Order per key
holds if the aggregate's row is locked before its event is added.
"""

import asyncio
import base64
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
import psycopg
from aiokafka.errors import KafkaError
from psycopg.rows import namedtuple_row
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, failpoints, ids, telemetry
from paceline_common.db.session import Database, after_commit
from paceline_common.db.sql import bytes_array, number_array, text_array
from paceline_common.db.tables import LANES
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic

if TYPE_CHECKING:
    from paceline_common.kafka.broker import Publisher

Headers = list[tuple[str, bytes]]

# Commits of this process wake the relay. This finds what others wrote: the owner's SQL functions
# in another service's transaction, and a replica that does not hold the lane.
POLL_S: Final = 0.1
ROUND: Final = 1_000
_PAUSE_S: Final = 1.0
_LANES_AGAIN_S: Final = 2.0
_AGE_EVERY_S: Final = 0.5

_log = telemetry.logger("outbox")


# A struct, as in `kafka.envelope`: made once per event.
class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """One event to publish.

    `key` as the topic's declaration says; `subject` is the public id of what it
    speaks of. Without a `traceparent` the current span's is taken.
    """

    topic: Topic
    key: str
    body: events.Event
    subject: str | None = None
    traceparent: str | None = None
    event_id: str | None = None


class Outbox:
    """Adds events to the outbox of one service, and wakes its relay."""

    def __init__(self, db: Database) -> None:
        self.wake = asyncio.Event()
        self._insert = text(
            f"INSERT INTO {db.schema}.outbox"  # noqa: S608 - the schema is our own role's name
            " (workspace_id, topic, key, event_id, type, subject, traceparent, body)"
            " SELECT workspace_id, topic, key, event_id, type, subject, traceparent, body"
            " FROM unnest(CAST(:workspaces AS bigint[]), CAST(:topics AS text[]),"
            " CAST(:keys AS text[]), CAST(:event_ids AS uuid[]), CAST(:types AS text[]),"
            " CAST(:subjects AS text[]), CAST(:traceparents AS text[]), CAST(:bodies AS bytea[]))"
            " WITH ORDINALITY AS"
            " e(workspace_id, topic, key, event_id, type, subject, traceparent, body, n)"
            " ORDER BY n"
        )

    async def add(self, tx: AsyncConnection, outgoing: Sequence[Outgoing]) -> None:
        """Write the events into `tx`, in the given order; they leave once it commits."""
        if not outgoing:
            return
        current = telemetry.current_traceparent()
        await tx.execute(
            self._insert,
            {
                "workspaces": number_array(_workspace(one.body.workspace_id) for one in outgoing),
                "topics": text_array(one.topic.name for one in outgoing),
                "keys": text_array(one.key for one in outgoing),
                "event_ids": text_array(one.event_id or ids.new_event_id() for one in outgoing),
                "types": text_array(events.event_type(one.topic) for one in outgoing),
                "subjects": text_array(one.subject for one in outgoing),
                "traceparents": text_array(one.traceparent or current for one in outgoing),
                "bodies": bytes_array(msgspec.json.encode(one.body) for one in outgoing),
            },
        )
        after_commit(tx, "outbox", self.wake.set)


# A round speaks of few workspaces.
@lru_cache(maxsize=1024)
def _workspace(public_id: str) -> int | None:
    return ids.decode("ws", public_id) if public_id else None


@lru_cache(maxsize=1024)
def _public_workspace(workspace_id: int) -> bytes:
    return ids.encode("ws", workspace_id).encode()


def record_headers(row: Any, source: str) -> Headers:
    """Return the Kafka headers of an outbox row: its own, or the CloudEvents envelope."""
    if row.headers is not None:
        return [(name, _header_value(value)) for name, value in row.headers]
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", row.event_id.encode()),
        ("ce_type", row.type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", row.at.isoformat().encode()),
        ("content-type", b"application/json"),
    ]
    if row.subject is not None:
        headers.append(("ce_subject", row.subject.encode()))
    if row.workspace_id is not None:
        headers.append(("ce_workspaceid", _public_workspace(row.workspace_id)))
    if row.traceparent is not None:
        headers.append(("traceparent", row.traceparent.encode()))
    return headers


def stored_headers(headers: Sequence[tuple[str, bytes | None]]) -> list[list[Any]]:
    """Return record headers as JSON: `[name, text]`, `[name, null]` or `[name, {"base64": …}]`."""
    return [[name, _stored_value(value)] for name, value in headers]


def _stored_value(value: bytes | None) -> str | dict[str, str] | None:
    if value is None:
        return None
    try:
        decoded = value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
    # jsonb holds no NUL.
    return decoded if "\0" not in decoded else {"base64": base64.b64encode(value).decode()}


def _header_value(value: str | dict[str, str] | None) -> bytes:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    # A null header cannot be published again (aiokafka); an empty one is the nearest.
    return (value or "").encode()


class Record(msgspec.Struct, frozen=True):
    """One record to publish."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Relay:
    """Publishes a service's outbox; run as a background task in every replica.

    A session-level advisory lock per lane lets one replica at a time publish
    the keys of that lane. The locks live on one connection, outside of any
    transaction: while Kafka is away nothing holds back vacuum. All statements
    run on that one, straight through the driver: most rounds find nothing.
    """

    def __init__(
        self, db: Database, outbox: Outbox, publisher: "Publisher", metrics: Metrics, service: str
    ) -> None:
        self._db = db
        self._outbox = outbox
        self._publisher = publisher
        self._source = f"paceline/{service}"
        self._age = metrics.gauge("paceline_outbox_age_seconds")
        self._waiting = metrics.gauge("paceline_outbox_waiting")
        self._published = metrics.counter("paceline_outbox_published_total")
        self._failures = metrics.counter("paceline_outbox_failures_total")
        self._blocked: dict[str, float] = {}
        self._under_way: dict[str, asyncio.Task[list[int]]] = {}
        self._idle = asyncio.Event()
        schema = db.schema
        self._lock = (
            "SELECT lane FROM unnest(%(lanes)s::int[]) AS lane"  # noqa: S608 - own schema
            f" WHERE pg_try_advisory_lock(hashtext('{schema}.outbox'), lane)"
        ).encode()
        self._read = (
            "SELECT id, workspace_id, topic, key, event_id::text, type, subject, at, traceparent,"  # noqa: S608 - own schema
            " body, headers"
            f" FROM {schema}.outbox WHERE lane = ANY (%(lanes)s::smallint[])"
            " AND topic <> ALL (%(without)s::text[])"
            f" ORDER BY id LIMIT {ROUND}"
        ).encode()
        self._oldest = (
            "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - at)), 0)::float8"  # noqa: S608 - own schema
            f" FROM (SELECT at FROM {schema}.outbox ORDER BY id LIMIT 1) AS oldest"
        ).encode()
        self._delete = f"DELETE FROM {schema}.outbox WHERE id = ANY (%(ids)s::bigint[])".encode()  # noqa: S608 - own schema

    async def run(self) -> None:
        """Publish until cancelled. Raises what the database raises: the runner starts it again."""
        async with self._db.engine.connect() as connection:
            try:
                driver: psycopg.AsyncConnection[Any] | None
                driver = (await connection.get_raw_connection()).driver_connection
                assert driver is not None
                await driver.set_autocommit(True)
                await self._relay(driver)
            finally:
                for task in self._under_way.values():
                    task.cancel()
                if self._under_way:
                    await asyncio.wait(self._under_way.values())
                self._under_way.clear()
                # The locks belong to the session; back in the pool it would keep them.
                await connection.invalidate()

    async def drained(self) -> None:
        """Return once everything committed before the call was published, or refused."""
        for _ in range(2):  # the first end may be of a round that had begun before
            self._idle.clear()
            self._outbox.wake.set()
            await self._idle.wait()

    async def _relay(self, driver: psycopg.AsyncConnection[Any]) -> None:
        loop = asyncio.get_running_loop()
        held: list[int] = []
        lanes_at = aged_at = loop.time()
        empty = False
        while True:
            if len(held) < LANES and loop.time() >= lanes_at:
                wanted = [lane for lane in range(LANES) if lane not in held]
                taken = await driver.execute(self._lock, {"lanes": wanted})
                held += [lane for (lane,) in await taken.fetchall()]
                lanes_at = loop.time() + _LANES_AGAIN_S
            if loop.time() >= aged_at:
                self._age.set(0 if empty else await self._oldest_age(driver))
                aged_at = loop.time() + _AGE_EVERY_S
            self._outbox.wake.clear()
            await self._settle(driver)
            if held and await self._begin(driver, held):
                empty = False
                continue
            if not self._under_way:
                self._idle.set()
            # Nothing was there, left out, or in another replica's lanes.
            empty = len(held) == LANES and not self._under_way and not self._blocked
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._outbox.wake.wait()

    async def _oldest_age(self, driver: psycopg.AsyncConnection[Any]) -> float:
        found = await (await driver.execute(self._oldest)).fetchone()
        assert found is not None
        return float(found[0])

    async def _begin(self, driver: psycopg.AsyncConnection[Any], held: list[int]) -> bool:
        """Read up to `ROUND` events and begin to publish them; False when there were none.

        Each topic goes at its own pace: one that refuses holds up no other.
        """
        now = asyncio.get_running_loop().time()
        self._blocked = {topic: until for topic, until in self._blocked.items() if until > now}
        without = [*self._blocked, *self._under_way]
        cursor = driver.cursor(row_factory=namedtuple_row)
        await cursor.execute(self._read, {"lanes": held, "without": without})
        by_topic: dict[str, list[Any]] = defaultdict(list)
        rows: list[Any] = await cursor.fetchall()
        for row in rows:
            by_topic[row.topic].append(row)
        for topic, its_rows in by_topic.items():
            task = asyncio.create_task(self._publish(topic, its_rows))
            # Its end makes room for the topic's next events.
            task.add_done_callback(lambda _: self._outbox.wake.set())
            self._under_way[topic] = task
            self._waiting.inc(len(its_rows))
        return bool(by_topic)

    async def _publish(self, topic: str, rows: Sequence[Any]) -> list[int]:
        """Return the rows that Kafka has: all, or none if the topic refused some."""
        try:
            failpoints.hit("outbox.before_publish")
            await self._publisher.publish(
                topic,
                [
                    Record(row.key.encode(), row.body, record_headers(row, self._source))
                    for row in rows
                ],
            )
            failpoints.hit("outbox.after_publish")
        except (KafkaError, OSError) as error:
            self._failures.labels(topic).inc()
            self._blocked[topic] = asyncio.get_running_loop().time() + _PAUSE_S
            _log.warning("publishing failed", topic=topic, **telemetry.describe_error(error))
            return []
        finally:
            self._waiting.dec(len(rows))
        return [row.id for row in rows]

    async def _settle(self, driver: psycopg.AsyncConnection[Any]) -> None:
        """Delete what rounds that have ended published; only then may their topics go on."""
        ended = {topic: task.result() for topic, task in self._under_way.items() if task.done()}
        published = [row_id for row_ids in ended.values() for row_id in row_ids]
        if published:
            await driver.execute(self._delete, {"ids": published})
            failpoints.hit("outbox.after_delete")
        for topic, row_ids in ended.items():
            del self._under_way[topic]
            if row_ids:
                self._published.labels(topic).inc(len(row_ids))
