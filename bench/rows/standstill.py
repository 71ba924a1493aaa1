"""Rows 12 and 13: a campaign of a million jobs paused, resumed and sent to its end; and what
waiting costs while every window is closed."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import psycopg

from bench import house
from bench.measure import Result, process_cpu_s
from paceline_local.process import wait_until
from paceline_scheduler.reserve import Pacer

JOBS: Final = 1_000_000
MAILBOXES: Final = 2_000
# Sent before the pause: some of every mailbox.
BEFORE: Final = 20_000
GOAL_S: Final = 2.0

WAITING: Final = 100_000
SETTLED_S: Final = 5.0
WATCHED_S: Final = 60.0
PATIENCE_S: Final = 300.0
GOAL_SHARE: Final = 0.01

# No distance between slots: what is measured is the queue.
OPEN: Final = json.dumps(
    {
        "profile": "node", "cadence_s": None, "grace_s": 60.0, "max_outstanding": 4,
        "windows": None,
    }
)  # fmt: skip


class Campaign:
    """A running campaign whose reserved jobs are told as sent at once."""

    def __init__(self, made: house.Servers, pacer: Pacer) -> None:
        self._pacer = pacer
        self._sql = psycopg.connect(made.stack.dsn(), autocommit=True)
        self._sql.execute("SELECT set_config('app.workspace_ids', %s, false)", (str(house.WS),))

    def close(self) -> None:
        """Let go of the connection."""
        self._sql.close()

    def count(self, state: str) -> int:
        """Return how many jobs are in a state."""
        row = self._sql.execute(
            "SELECT count(*) FROM scheduler.send_job WHERE state = %s", (state,)
        ).fetchone()
        return int(row[0]) if row else 0

    async def send(self, most: int) -> int:
        """Send until `most` are sent or nothing is proposed any more; return how many."""
        sent, idle = 0, 0
        while sent < most and idle < 5:
            await self._pacer.reserve_ready(float("inf"))
            now = self._finish()
            idle = 0 if now else idle + 1
            sent += now
            while await self._pacer.tell_changes():
                pass
        return sent

    def _finish(self) -> int:
        """Tell the reserved jobs as accepted, as a sender does after its claim."""
        row = self._sql.execute(
            "WITH claimed AS (UPDATE scheduler.send_job SET state = 'sending'"
            " WHERE state = 'reserved' RETURNING workspace_id, job_id, fence)"
            " SELECT array_agg(workspace_id), array_agg(job_id), array_agg(fence) FROM claimed"
        ).fetchone()
        if row is None or row[1] is None:
            return 0
        told = len(row[1])
        self._sql.execute(
            "SELECT count(*) FROM scheduler.finish_send(%s, %s, %s, %s, %s, %s)",
            (*row, ["accepted"] * told, [None] * told, [None] * told),
        )
        return told

    async def switch(self, function: str, *more: object) -> float:
        """Pause or resume; return the seconds until the store knows of it."""
        start = time.perf_counter()
        marks = ", ".join(["%s"] * (4 + len(more)))
        self._sql.execute(
            f"SELECT scheduler.{function}({marks})".encode(),
            (house.WS, "campaign", house.CAMPAIGN, "paused", *more),
        )
        while await self._pacer.tell_changes():
            pass
        return time.perf_counter() - start


def measure_pause(_repeats: int) -> list[Result]:
    """Row 12. Raises `RuntimeError` if a paused campaign sends, or a lead is left out."""
    with house.servers() as made:
        return asyncio.run(_pause(made))


async def _pause(made: house.Servers) -> list[Result]:
    house.campaign(made, mailboxes=MAILBOXES, policy=OPEN)
    house.jobs(made, JOBS)
    async with made.scheduler() as (db, queries, redis):
        pacer, _ = await house.paced(made, db, queries, redis)
        campaign = Campaign(made, pacer)
        sent = await campaign.send(BEFORE)
        paused = await campaign.switch("suspend", None, "bench", None)
        if during := await campaign.send(1):
            raise RuntimeError(f"{during} sent by a paused campaign")
        resumed = await campaign.switch("resume", "bench")
        sent += await campaign.send(JOBS)
        left = {state: campaign.count(state) for state in ("queued", "reserved", "sending")}
        (slots,) = made.sql("SELECT count(*) FROM scheduler.slot WHERE returned_at IS NULL")[0]
        campaign.close()
    if sent != JOBS or any(left.values()) or slots != JOBS:
        raise RuntimeError(f"{sent} of {JOBS} sent in {slots} slots; left: {left}")
    return [
        Result(12, f"{name} a campaign of 1 M jobs, against {GOAL_S:g} s", "s", took, GOAL_S, 1,
               "lower")
        for name, took in (("pausing", paused), ("resuming", resumed))
    ]  # fmt: skip


def measure_wait(_repeats: int) -> list[Result]:
    """Row 13: the scheduler's own process, all of it, over a minute in a closed window."""
    day = (datetime.now(UTC) + timedelta(days=2)).weekday()
    closed = json.dumps({"windows": [{"days": [day], "start": "09:00", "end": "10:00"}]})
    with house.everything() as made:
        house.campaign(made, mailboxes=MAILBOXES, policy=closed)
        house.jobs(made, WAITING)
        made.sql(
            "INSERT INTO scheduler.pace_change (workspace_id, scope, ref)"
            " VALUES (%s, 'campaign', %s)",
            house.WS,
            house.CAMPAIGN,
        )
        made.stack.restart("scheduler")
        if not wait_until(lambda: asyncio.run(_is_taken_in(made)), PATIENCE_S):
            raise TimeoutError("the queue is not in Redis")
        process = made.stack.processes.find("scheduler")
        if process is None:
            raise RuntimeError("the scheduler has ended")
        time.sleep(SETTLED_S)
        size, began, cpu = _size(made), time.perf_counter(), process_cpu_s(process.pid)
        time.sleep(WATCHED_S)
        share = (process_cpu_s(process.pid) - cpu) / (time.perf_counter() - began)
        grown = _size(made) - size
        (queued,) = made.sql("SELECT count(*) FROM scheduler.send_job WHERE state = 'queued'")[0]
    if queued != WAITING:
        raise RuntimeError(f"{queued} of {WAITING} still wait")
    return [
        Result(13, "100,000 waiting in a closed window, share of a core, against 1 %", "",
               share, GOAL_SHARE, 1, "lower"),
        # One page is what a counter's update may need.
        Result(13, "growth of the scheduler's tables meanwhile, against one page", "B",
               grown, 8192, 1, "lower"),
    ]  # fmt: skip


async def _is_taken_in(made: house.Servers) -> bool:
    redis = made.redis()
    try:
        told = [key async for key in redis.scan_iter(f"pace:{{{house.WS}}}:*")]
        return bool(told) and not any(key.endswith(b":incoming") for key in told)
    finally:
        await redis.aclose()


def _size(made: house.Servers) -> int:
    """Return the bytes of all the scheduler's tables and indexes."""
    (size,) = made.sql(
        "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class AS c"
        " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'scheduler' AND c.relkind = 'r'"
    )[0]
    return int(size)
