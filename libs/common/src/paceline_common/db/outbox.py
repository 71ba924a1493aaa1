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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiokafka.errors import KafkaError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, failpoints, ids, telemetry
from paceline_common.db.session import Database, after_commit
from paceline_common.db.tables import LANES
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic

if TYPE_CHECKING:
    from paceline_common.kafka.broker import Publisher

Headers = list[tuple[str, bytes]]

POLL_S: Final = 0.1
ROUND: Final = 1_000
_PAUSE_S: Final = 1.0
_LANES_AGAIN_S: Final = 2.0
_AGE_EVERY_S: Final = 0.5

_log = telemetry.logger("outbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
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
                "workspaces": [_workspace(one.body) for one in outgoing],
                "topics": [one.topic.name for one in outgoing],
                "keys": [one.key for one in outgoing],
                "event_ids": [one.event_id or ids.new_event_id() for one in outgoing],
                "types": [events.event_type(one.topic) for one in outgoing],
                "subjects": [one.subject for one in outgoing],
                "traceparents": [one.traceparent or current for one in outgoing],
                "bodies": [msgspec.json.encode(one.body) for one in outgoing],
            },
        )
        after_commit(tx, "outbox", self.wake.set)


def _workspace(body: events.Event) -> int | None:
    return ids.decode("ws", body.workspace_id) if body.workspace_id else None


def record_headers(row: Row[Any], source: str) -> Headers:
    """Return the Kafka headers of an outbox row: its own, or the CloudEvents envelope."""
    if row.headers is not None:
        return [(name, _header_value(value)) for name, value in row.headers]
    envelope = {
        "ce_specversion": "1.0",
        "ce_id": str(row.event_id),
        "ce_type": row.type,
        "ce_source": source,
        "ce_time": row.at.isoformat(),
        "ce_subject": row.subject,
        "ce_workspaceid": None if row.workspace_id is None else ids.encode("ws", row.workspace_id),
        "traceparent": row.traceparent,
        "content-type": "application/json",
    }
    return [(name, value.encode()) for name, value in envelope.items() if value is not None]


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


@dataclass(frozen=True, slots=True)
class Record:
    """One record to publish."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Relay:
    """Publishes a service's outbox; run as a background task in every replica.

    A session-level advisory lock per lane lets one replica at a time publish
    the keys of that lane. The locks live on one connection, outside of any
    transaction: while Kafka is away nothing holds back vacuum.
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
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._idle = asyncio.Event()
        schema = db.schema
        self._lock = text(
            "SELECT lane FROM unnest(CAST(:lanes AS int[])) AS lane"  # noqa: S608 - own schema
            f" WHERE pg_try_advisory_lock(hashtext('{schema}.outbox'), lane)"
        )
        self._read = text(
            "SELECT id, workspace_id, topic, key, event_id, type, subject, at, traceparent, body,"  # noqa: S608 - own schema
            " headers"
            f" FROM {schema}.outbox WHERE lane = ANY (CAST(:lanes AS smallint[]))"
            " AND topic <> ALL (CAST(:without AS text[]))"
            f" ORDER BY id LIMIT {ROUND}"
        )
        self._oldest = text(
            "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - at)), 0)::float8"  # noqa: S608 - own schema
            f" FROM (SELECT at FROM {schema}.outbox ORDER BY id LIMIT 1) AS oldest"
        )
        self._delete = text(f"DELETE FROM {schema}.outbox WHERE id = ANY (CAST(:ids AS bigint[]))")  # noqa: S608 - own schema

    async def run(self) -> None:
        """Publish until cancelled. Raises what the database raises: the runner starts it again."""
        async with self._db.engine.connect() as connection:
            try:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await self._relay(connection)
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

    async def _relay(self, connection: AsyncConnection) -> None:
        loop = asyncio.get_running_loop()
        held: list[int] = []
        lanes_at = aged_at = loop.time()
        while True:
            if len(held) < LANES and loop.time() >= lanes_at:
                wanted = [lane for lane in range(LANES) if lane not in held]
                held += (await connection.execute(self._lock, {"lanes": wanted})).scalars()
                lanes_at = loop.time() + _LANES_AGAIN_S
            if loop.time() >= aged_at:
                self._age.set((await connection.execute(self._oldest)).scalar_one())
                aged_at = loop.time() + _AGE_EVERY_S
            self._outbox.wake.clear()
            self._collect()
            if held and await self._begin(connection, held):
                continue
            if not self._under_way:
                self._idle.set()
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._outbox.wake.wait()

    async def _begin(self, connection: AsyncConnection, held: list[int]) -> bool:
        """Read up to `ROUND` events and begin to publish them; False when there were none.

        Each topic goes at its own pace: one that refuses holds up no other.
        """
        now = asyncio.get_running_loop().time()
        self._blocked = {topic: until for topic, until in self._blocked.items() if until > now}
        without = [*self._blocked, *self._under_way]
        found = await connection.execute(self._read, {"lanes": held, "without": without})
        by_topic: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in found:
            by_topic[row.topic].append(row)
        for topic, rows in by_topic.items():
            task = asyncio.create_task(self._publish(topic, rows))
            # Its end makes room for the topic's next events.
            task.add_done_callback(lambda _: self._outbox.wake.set())
            self._under_way[topic] = task
            self._waiting.inc(len(rows))
        return bool(by_topic)

    async def _publish(self, topic: str, rows: Sequence[Row[Any]]) -> None:
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
        else:
            async with self._db.transaction() as tx:
                await tx.execute(self._delete, {"ids": [row.id for row in rows]})
            failpoints.hit("outbox.after_delete")
            self._published.labels(topic).inc(len(rows))
        finally:
            self._waiting.dec(len(rows))

    def _collect(self) -> None:
        for topic in [topic for topic, task in self._under_way.items() if task.done()]:
            self._under_way.pop(topic).result()
