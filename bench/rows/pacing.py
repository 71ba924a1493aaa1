"""Rows 3 and 4: pacing decisions with every rule and their commit, against a bare script call;
and what one costs as the queue grows."""

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Final

from redis.asyncio import Redis

from bench import fill, house
from bench.measure import Result, interleave, process_cpu_s
from paceline_scheduler.pacing.redis import RedisPacing
from paceline_scheduler.reserve import Pacer

MAILBOXES: Final = 10_000
PIPELINE: Final = 32
CALLS: Final = 20_000
# Every rule is on, and none of them binds: what is measured is the deciding.
POLICY: Final = json.dumps(
    {
        "cadence_s": 60, "jitter_s": [5, 30], "daily_cap": 400, "hourly_cap": 60,
        "ceiling_24h": 1800, "ramp": {"curve": [[0, 500]]}, "country": "FR", "holidays": False,
        "blackouts": ["2020-01-01"],
        "windows": [{"days": [0, 1, 2, 3, 4, 5, 6], "start": "00:00", "end": "00:00"}],
    }
)  # fmt: skip
# Ten operations on four keys, about what the smallest useful pacing script does.
SCRIPT: Final = """
local job = redis.call('LPOP', KEYS[1])
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', '+inf', 'LIMIT', 0, 1)
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HGET', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[4], ARGV[1], 1)
redis.call('HGET', KEYS[4], ARGV[1])
redis.call('HINCRBY', KEYS[4], ARGV[1], -1)
return job
"""


Count = Callable[[], float]


async def bare(made: house.Servers) -> float:
    """Return calls per second of the bare script, pipelined by 32."""
    client = made.redis()
    keys = [f"pace:{{bench}}:{name}" for name in ("jobs", "ready", "mailbox", "count")]
    digest = await client.script_load(SCRIPT)
    start = time.perf_counter()
    for n in range(0, CALLS, PIPELINE):
        pipe = client.pipeline(transaction=False)
        for call in range(n, n + PIPELINE):
            pipe.evalsha(digest, len(keys), *keys, call % 1000, call)
        await pipe.execute()
    rate = CALLS / (time.perf_counter() - start)
    await client.delete(*keys)
    await client.aclose()
    return rate


class Decider:
    """Leases one slot of every mailbox, as the live pacer does, again and again.

    Between two runs every mailbox becomes free again, its limits unused, and the jobs leased go
    back to the end of the queue, whose length stays as it is.
    """

    def __init__(self, made: house.Servers, pacer: Pacer, redis: Redis, leased: Count) -> None:
        self._made, self._pacer, self._redis, self._leased = made, pacer, redis, leased

    async def run(self, measure: Count) -> float:
        """Lease a slot of every mailbox; return `measure`'s growth meanwhile."""
        self._free()
        while await self._pacer.tell_changes():
            pass
        # What the store was told is no part of a decision.
        while await self._redis.exists(f"pace:{{{house.WS}}}:incoming"):
            await RedisPacing(self._redis).reserve(house.WS, (), ())
        before, already = measure(), self._leased()
        while (done := self._leased()) - already < MAILBOXES:
            await self._pacer.reserve_ready(float("inf"))
            if self._leased() == done:
                await asyncio.sleep(0.005)
        return measure() - before

    def _free(self) -> None:
        self._made.sql("TRUNCATE scheduler.slot, scheduler.outbox, scheduler.pace_change")
        self._made.sql(
            "WITH freed AS (UPDATE scheduler.send_job SET state = 'queued', slot_at = NULL,"
            " not_after = NULL, mailbox_id = NULL, pool_id = NULL, fence = fence + 1"
            " WHERE state = 'reserved' RETURNING workspace_id, job_id)"
            " INSERT INTO scheduler.pace_change (workspace_id, jobs)"
            " SELECT workspace_id, array_agg(job_id) FROM freed GROUP BY 1"
        )
        self._made.sql(
            "UPDATE scheduler.mailbox_budget SET outstanding = 0, day_used = 0, hour_used = 0,"
            " next_at = '-infinity', day = '-infinity', hour = '-infinity'"
        )
        self._made.sql(
            "UPDATE scheduler.account_budget SET hour = '-infinity',"
            " hours = array_fill(0, ARRAY[25])"
        )
        # Every mailbox is told anew.
        self._made.sql(
            "INSERT INTO scheduler.pace_change (workspace_id, scope, ref)"
            " VALUES (%s, 'workspace', %s)",
            house.WS,
            house.WS,
        )
        self._made.sql("VACUUM scheduler.send_job, scheduler.mailbox_budget")


@contextmanager
def _deciding(made: house.Servers) -> Iterator[Callable[[Count], float]]:
    """Give what runs a decider; its loop and its connections stay open from run to run."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def begin() -> Decider:
            db, queries, redis = await stack.enter_async_context(made.scheduler())
            pacer, leased = await house.paced(made, db, queries, redis)
            return Decider(made, pacer, redis, leased)

        try:
            decider = runner.run(begin())
            yield lambda measure: runner.run(decider.run(measure))
        finally:
            runner.run(stack.aclose())


def measure_rate(repeats: int) -> list[Result]:
    """Row 3."""
    with house.servers() as made:
        house.campaign(made, mailboxes=MAILBOXES, policy=POLICY)
        fill.jobs(made, MAILBOXES * 2)
        with _deciding(made) as decide:
            mine, theirs = interleave(
                lambda: MAILBOXES / decide(time.perf_counter),
                lambda: asyncio.run(bare(made)),
                repeats,
            )
    return [
        Result(3, "pacing decisions with their commit, against a bare 10-operation EVALSHA",
               "per s", mine, theirs, 1.0, "higher")
    ]  # fmt: skip


def measure_growth(repeats: int) -> list[Result]:
    """Row 4."""
    results = []
    with _queue(10_000) as small:
        for queued, words, goal in ((1_000_000, "1 M", 1.15), (10_000_000, "10 M", 1.5)):
            with _queue(queued) as large:
                mine, theirs = interleave(large, small, repeats)
            results.append(
                Result(4, f"CPU of a decision at {words} queued jobs, against 10 k", "CPU-µs",
                       mine, theirs, goal, "lower")
            )  # fmt: skip
    return results


@contextmanager
def _queue(queued: int) -> Iterator[Callable[[], float]]:
    """Give what tells the CPU of one decision, all processes together, in µs."""
    with house.servers() as made:
        house.campaign(made, mailboxes=MAILBOXES, policy=POLICY)
        fill.jobs(made, queued + MAILBOXES)
        with _deciding(made) as decide:
            yield lambda: decide(lambda: process_cpu_s(*made.pids)) / MAILBOXES * 1e6
