"""Row 8: `lead-enrolled` records to address, lead, enrollment, job and receipts, against raw COPY.

Ours reads the records, judges and hashes the addresses, and writes six tables in batches as Kafka
gives them. Two peers, both the superuser's, past every policy, in one transaction:

- COPY of the rows that ours has just written, all six tables of them, into tables with the same
  columns, keys, checks and foreign keys, as full as ours: what these rows cost Postgres at least.
- COPY of the seven fields of each record, decoded before, into one table without any key: what a
  record costs that nothing is made of.
"""

import asyncio
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from bench import house
from bench.measure import Result, in_turn
from paceline_common import events, ids, topics
from paceline_common.db import Database, Queries
from paceline_common.db.inbox import Inbox, Seen
from paceline_common.kafka.envelope import EnvelopeReader
from paceline_scheduler.consumers import LEADS_AT_ONCE
from paceline_scheduler.enroll import Enroller

ROWS = 10_000
# The tables that enrollment fills, each with the column that says when a row was written.
WRITTEN = {
    "address": "created_at", "lead": "created_at", "enrollment": "enrolled_at",
    "send_job": "updated_at", "receipt": "at", "inbox": "seen_at",
}  # fmt: skip
COLUMNS = (
    "workspace_id", "campaign_id", "email", "first_name", "last_name", "company", "fields",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Record:
    """What the reader needs of a Kafka record."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


def _records(run: int) -> list[Record]:
    """Return one run's records: new people each time, twenty to a company's domain."""
    workspace = ids.encode("ws", house.WS)
    campaign = ids.encode("cmp", house.CAMPAIGN)
    made = []
    for n in range(ROWS):
        email = f"person{n}.{run}@company{n // 20}.test"
        body = {
            "workspace_id": workspace, "campaign_id": campaign, "email": email,
            "first_name": "Ada", "last_name": f"Lovelace {n}", "company": f"Company {n // 20}",
            "fields": {"city": "London", "product": "engine"},
        }  # fmt: skip
        headers = {
            "ce_specversion": "1.0", "ce_id": ids.new_event_id(), "ce_source": "bench",
            "ce_type": events.event_type(topics.LEAD_ENROLLED), "ce_subject": "lead",
            "ce_time": datetime.now(UTC).isoformat(), "ce_workspaceid": workspace,
            "content-type": "application/json",
        }  # fmt: skip
        made.append(
            Record(
                "lead-enrolled", 0, n, email.encode(), json.dumps(body).encode(),
                [(name, value.encode()) for name, value in headers.items()],
            )
        )  # fmt: skip
    return made


async def _enroll(db: Database, enroller: Enroller, records: Sequence[Record]) -> float:
    """Do what the subscribe wrapper does with these records; return rows per second."""
    reader, inbox = EnvelopeReader(topics.LEAD_ENROLLED), Inbox(db.schema, "bench")
    start = time.perf_counter()
    for n in range(0, len(records), LEADS_AT_ONCE):
        batch = records[n : n + LEADS_AT_ONCE]
        deliveries = [
            one for one in (reader.read(record).delivery for record in batch) if one is not None
        ]
        async with db.transaction({one.workspace_id for one in deliveries}) as tx:
            await inbox.insert(
                tx, [Seen(one.topic, one.source, one.event_id, one.digest) for one in deliveries]
            )
            await enroller.enroll(tx, deliveries)
    return len(records) / (time.perf_counter() - start)


def _copy(dsn: str, records: Sequence[Record]) -> float:
    """COPY the fields of records, decoded before, into a plain table; return records per second."""
    rows: list[tuple[Any, ...]] = []
    for record in records:
        body = json.loads(record.value)
        rows.append(
            (house.WS, house.CAMPAIGN, body["email"], body["first_name"], body["last_name"],
             body["company"], json.dumps(body["fields"]))
        )  # fmt: skip
    with psycopg.connect(dsn) as connection:
        start = time.perf_counter()
        with connection.cursor().copy(f"COPY bench_rows ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        connection.commit()
        return len(records) / (time.perf_counter() - start)


class Twins:
    """Empty tables like those that enrollment writes, to be filled with the same rows."""

    def __init__(self, made: house.Servers) -> None:
        self._made = made
        made.sql("CREATE SCHEMA twin")
        for table in WRITTEN:
            made.sql(f"CREATE TABLE twin.{table} (LIKE scheduler.{table} INCLUDING ALL)")
        for table, name, foreign in made.sql(
            "SELECT r.relname, c.conname, pg_get_constraintdef(c.oid) FROM pg_constraint AS c"
            " JOIN pg_class AS r ON r.oid = c.conrelid"
            " WHERE c.contype = 'f' AND c.conrelid = ANY (CAST(%s AS regclass[]))",
            [f"scheduler.{table}" for table in WRITTEN],
        ):
            there = foreign.replace("REFERENCES scheduler.", "REFERENCES twin.")
            made.sql(f"ALTER TABLE twin.{table} ADD CONSTRAINT {name} {there}")

    def copy(self, count: int) -> float:
        """COPY the rows not there yet, made of `count` records; return records per second."""
        with psycopg.connect(self._made.stack.dsn()) as connection:
            rows = {table: self._missing(connection, table) for table in WRITTEN}
            start = time.perf_counter()
            for table, data in rows.items():
                query = f"COPY twin.{table} FROM STDIN (FORMAT binary)"
                with connection.cursor().copy(query.encode()) as copy:
                    copy.write(data)
            connection.commit()
            return count / (time.perf_counter() - start)

    def _missing(self, connection: "psycopg.Connection[Any]", table: str) -> bytes:
        since = WRITTEN[table]
        query = (
            f"COPY (SELECT * FROM scheduler.{table} WHERE {since} >"
            f" (SELECT coalesce(max({since}), '-infinity') FROM twin.{table}))"
            " TO STDOUT (FORMAT binary)"
        )
        with connection.cursor().copy(query.encode()) as copy:
            return b"".join(bytes(data) for data in copy)


def measure(repeats: int) -> list[Result]:
    """Rows per second of wall time, one open connection each."""
    with house.servers() as made, asyncio.Runner() as runner:
        house.campaign(made, mailboxes=10, policy="{}")
        made.sql(
            "CREATE TABLE bench_rows (workspace_id bigint, campaign_id bigint, email text,"
            " first_name text, last_name text, company text, fields jsonb)"
        )
        twins = Twins(made)
        runs = iter(range(1_000))
        records: list[Record] = []

        db = Database(made.settings())
        enroller = house.enroller(db, Queries("paceline_scheduler"))

        def ours() -> float:
            records[:] = _records(next(runs))
            # As a service does once it has started: what stays is not looked at for garbage.
            gc.collect()
            gc.freeze()
            return runner.run(_enroll(db, enroller, records))

        try:
            mine, same, plain = in_turn(
                repeats,
                ours,
                lambda: twins.copy(ROWS),
                lambda: _copy(made.stack.dsn(), records),
            )
        finally:
            runner.run(db.close())
    return [
        Result(8, "enrollment, against a raw COPY of the rows it writes", "leads/s", mine, same,
               0.10, "higher"),
        Result(8, "enrollment, against a raw COPY of its records into a bare table", "leads/s",
               mine, plain, 0.10, "higher"),
    ]  # fmt: skip
