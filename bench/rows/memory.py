"""Rows 5 and 6: what a queued job and a mailbox weigh, against an ETA task of Celery."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from bench import house
from bench.measure import Result
from bench.rows import celery_peer
from paceline_scheduler.reserve import Pacer

JOBS: Final = 1_000_000
MAILBOXES: Final = 10_000
TASKS: Final = 5_000
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


async def _used(redis: Redis) -> int:
    """Return the bytes of Redis's data set, once deferred frees are done."""
    await asyncio.sleep(0.2)
    return int((await redis.info("memory"))["used_memory"])


@asynccontextmanager
async def _admin(made: house.Servers) -> AsyncIterator[Redis]:
    redis = Redis.from_url(made.stack.redis.url())
    try:
        yield redis
    finally:
        await redis.aclose()


async def _take_in(pacer: Pacer, redis: Redis) -> None:
    """Have the store take in all that it was told."""
    while await redis.exists(f"pace:{{{house.WS}}}:incoming"):
        await pacer.reserve_ready(float("inf"))


async def _weigh(made: house.Servers, policy: str) -> tuple[float, float]:
    """Return Redis bytes per mailbox and per queued job, by a rebuild without and with jobs."""
    async with made.scheduler() as (db, queries, redis), _admin(made) as admin:
        await admin.flushall()
        empty = await _used(admin)
        house.campaign(made, mailboxes=MAILBOXES, policy=policy)
        pacer, _ = await house.paced(made, db, queries, redis)
        await _take_in(pacer, redis)
        mailboxes = await _used(admin) - empty
        await admin.flushall()
        house.jobs(made, JOBS)
        before = await _used(admin)
        pacer, _ = await house.paced(made, db, queries, redis)
        await _take_in(pacer, redis)
        jobs = await _used(admin) - before - mailboxes
    return mailboxes / MAILBOXES, jobs / JOBS


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


async def _celery(made: house.Servers) -> float:
    """Return bytes per ETA task: in the broker, and in the worker that has fetched it."""
    url = made.stack.redis.url()
    async with _admin(made) as admin:
        await admin.flushall()
        with celery_peer.worker(url, "--pool=solo") as pid:
            app = celery_peer.connect(url)
            app.send_task("send", args=[0], eta=datetime.now(UTC) + timedelta(days=1))
            await _fetched(admin, 1)
            redis_before, worker_before = await _used(admin), _resident(pid)
            eta = datetime.now(UTC) + timedelta(days=1)
            for n in range(TASKS):
                app.send_task("send", args=[n], eta=eta)
            await _fetched(admin, TASKS + 1)
            grown = await _used(admin) - redis_before + _resident(pid) - worker_before
        await admin.flushall()
    return grown / TASKS


async def _fetched(redis: Redis, count: int) -> None:
    """Wait until the worker holds `count` tasks: it fetches ETA tasks ahead, without a limit."""
    end = time.monotonic() + 60
    while await redis.hlen("unacked") < count:
        if time.monotonic() > end:
            raise RuntimeError("Celery's worker did not fetch the tasks within 60 s")
        await asyncio.sleep(0.1)


def measure_bytes(_repeats: int) -> list[Result]:
    """Rows 5 and 6. Weights do not vary from run to run: each is taken once."""
    with house.servers() as made:
        mailbox, job = asyncio.run(_weigh(made, "{}"))
        (size,) = made.sql("SELECT pg_total_relation_size('scheduler.send_job')")[0]
        task = asyncio.run(_celery(made))
    return [
        Result(5, "hot Redis bytes per queued job, against 16", "B", job, 16, 1, "lower"),
        Result(5, "an ETA task of Celery, against a queued job in Redis", "B", task, job, 600,
               "higher"),
        Result(5, "Postgres bytes per queued job with indexes, against 200", "B", size / JOBS,
               200, 1, "lower"),
        Result(6, "Redis bytes per mailbox, against 512", "B", mailbox, 512, 1, "lower"),
    ]  # fmt: skip
