"""Which events a consumer has applied: one row per (consumer, topic, source, event id)."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db.session import Database
from paceline_common.db.sql import bytes_array, text_array

TRIM_BATCH: Final = 10_000


# A struct, as in `kafka.envelope`: made once per event.
class Seen(msgspec.Struct, frozen=True, order=True):
    """An event's identity and the SHA-256 of its body."""

    topic: str
    source: str
    event_id: str
    digest: bytes


class Inbox:
    """The inbox of one service, for one consumer group."""

    def __init__(self, schema: str, consumer: str) -> None:
        self._consumer = consumer
        columns = (
            "unnest(CAST(:topics AS text[]), CAST(:sources AS text[]),"
            " CAST(:event_ids AS text[]), CAST(:digests AS bytea[]))"
            " AS e(topic, source, event_id, digest)"
        )
        # Sorted, so that two members with overlapping batches wait for each
        # other in one order instead of deadlocking.
        self._insert = text(
            f"WITH fresh AS (INSERT INTO {schema}.inbox (consumer, topic, source, event_id, digest)"  # noqa: S608 - own schema
            f" SELECT :consumer, topic, source, event_id, digest FROM {columns}"
            " ORDER BY topic, source, event_id"
            " ON CONFLICT DO NOTHING RETURNING topic, source, event_id)"
            # Nearly always all are: then one row says so instead of each its own.
            " SELECT n, topic, source, event_id FROM (SELECT count(*) AS n FROM fresh) AS counted"
            " LEFT JOIN fresh ON n < :count"
        )
        self._digests = text(
            f"SELECT i.topic, i.source, i.event_id, i.digest FROM {schema}.inbox i"  # noqa: S608 - own schema
            f" JOIN {columns} USING (topic, source, event_id) WHERE i.consumer = :consumer"
        )

    async def insert(
        self, tx: AsyncConnection, seen: Sequence[Seen]
    ) -> dict[tuple[str, str, str], bytes]:
        """Insert rows for events not seen before; return the digests of those already there.

        `seen` holds each (topic, source, event id) once. Blocks, up to the
        lock timeout, on another transaction that is inserting the same.
        """
        arguments = {
            "consumer": self._consumer,
            "topics": text_array(one.topic for one in seen),
            "sources": text_array(one.source for one in seen),
            "event_ids": text_array(one.event_id for one in seen),
            "digests": bytes_array(one.digest for one in seen),
        }
        rows = (await tx.execute(self._insert, {**arguments, "count": len(seen)})).all()
        if rows[0].n == len(seen):
            return {}
        fresh = {(row.topic, row.source, row.event_id) for row in rows}
        found = await tx.execute(self._digests, arguments)
        return {
            (row.topic, row.source, row.event_id): bytes(row.digest)
            for row in found
            if (row.topic, row.source, row.event_id) not in fresh
        }


async def trim(db: Database, older_than: timedelta) -> int:
    """Delete inbox rows of events that their topic no longer holds; return how many."""
    statement = text(
        f"DELETE FROM {db.schema}.inbox WHERE ctid = ANY (ARRAY("  # noqa: S608 - own schema
        f"SELECT ctid FROM {db.schema}.inbox WHERE seen_at < now() - CAST(:age AS interval)"
        f" LIMIT {TRIM_BATCH}))"
    )
    total = 0
    while True:
        async with db.transaction() as tx:
            deleted = (await tx.execute(statement, {"age": older_than})).rowcount
        total += deleted
        if deleted < TRIM_BATCH:
            return total
