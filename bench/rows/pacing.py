"""Rows 3 and 4: pacing decisions with every rule and their commit, against a bare script call;
and what one costs as the queue grows."""

import asyncio
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from bench import house
from bench.measure import Result, interleave, process_cpu_s
from paceline_scheduler.pacing.redis import RedisPacing

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
    """Leases one slot of every mailbox, as the live pacer does; `reset` gives them all back."""

    def __init__(self, made: house.Servers) -> None:
        self._made = made

    def reset(self) -> None:
        """Make every mailbox free, its limits unused, and every job queued."""
        self._made.sql("TRUNCATE scheduler.slot, scheduler.outbox, scheduler.pace_change")
        self._made.sql(
            "UPDATE scheduler.send_job SET state = 'queued', slot_at = NULL, not_after = NULL,"
            " mailbox_id = NULL, pool_id = NULL, fence = fence + 1 WHERE state = 'reserved'"
        )
        self._made.sql(
            "UPDATE scheduler.mailbox_budget SET outstanding = 0, day_used = 0, hour_used = 0,"
            " next_at = '-infinity', day = '-infinity', hour = '-infinity'"
        )
        self._made.sql(
            "UPDATE scheduler.account_budget SET hour = '-infinity',"
            " hours = array_fill(0, ARRAY[25])"
        )
        self._made.sql("VACUUM scheduler.send_job, scheduler.mailbox_budget")

    async def run(self, measure: Callable[[], float]) -> float:
        """Rebuild, lease a slot of every mailbox; return `measure`'s growth over the leasing."""
        async with self._made.scheduler() as (db, queries, redis):
            pacer, leased = await house.paced(self._made, db, queries, redis)
            # What a rebuild told is no part of a decision.
            while await redis.exists(f"pace:{{{house.WS}}}:incoming"):
                await RedisPacing(redis).reserve(house.WS, (), ())
            before = measure()
            while (done := leased()) < MAILBOXES:
                await pacer.reserve_ready(float("inf"))
                if leased() == done:
                    await asyncio.sleep(0.005)
            return measure() - before


def measure_rate(repeats: int) -> list[Result]:
    """Row 3."""
    with house.servers() as made:
        house.campaign(made, mailboxes=MAILBOXES, policy=POLICY)
        house.jobs(made, MAILBOXES * 2)
        decider = Decider(made)

        def ours() -> float:
            decider.reset()
            return MAILBOXES / asyncio.run(decider.run(time.perf_counter))

        mine, theirs = interleave(ours, lambda: asyncio.run(bare(made)), repeats)
    return [
        Result(3, "pacing decisions with their commit, against a bare 10-operation EVALSHA",
               "per s", mine, theirs, 1.0, "higher")
    ]  # fmt: skip


def measure_growth(repeats: int) -> list[Result]:
    """Row 4."""
    results = []
    with house.servers() as small:
        _queue(small, 10_000)
        for queued, words, goal in ((1_000_000, "1 M", 1.15), (10_000_000, "10 M", 1.5)):
            with house.servers() as large:
                _queue(large, queued)
                mine, theirs = interleave(partial(_cost, large), partial(_cost, small), repeats)
            results.append(
                Result(4, f"CPU of a decision at {words} queued jobs, against 10 k", "CPU-µs",
                       mine, theirs, goal, "lower")
            )  # fmt: skip
    return results


def _queue(made: house.Servers, queued: int) -> None:
    house.campaign(made, mailboxes=MAILBOXES, policy=POLICY)
    house.jobs(made, queued + MAILBOXES)


def _cost(made: house.Servers) -> float:
    """Return the CPU of one decision, all processes together, in µs."""
    decider = Decider(made)
    decider.reset()
    return asyncio.run(decider.run(lambda: process_cpu_s(*made.pids))) / MAILBOXES * 1e6
