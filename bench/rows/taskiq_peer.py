"""The Taskiq application of row 1; `PACELINE_BENCH_BROKER` is its Redis."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from taskiq_redis import ListQueueBroker

from bench import peer

BROKER: Final = "PACELINE_BENCH_BROKER"


def connect(url: str) -> ListQueueBroker:
    """Return a broker with one task, `submit`; results are not kept.

    A list, not a stream: the cheapest of its brokers, which loses what a killed worker held.
    """
    made = ListQueueBroker(url)
    made.register_task(peer.submit_async, task_name="submit")
    return made


@contextmanager
def worker(url: str) -> Iterator[int]:
    """Run a worker with one process of its own, on uvloop as ever; give its pid."""
    command = [sys.executable, "-m", "taskiq", "worker", "bench.rows.taskiq_peer:broker",
               "--workers", "1", "--log-level", "ERROR"]  # fmt: skip
    process = subprocess.Popen(
        command, env=os.environ | {BROKER: url}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def send(url: str, count: int, job: peer.Job) -> None:
    """Queue `count` tasks."""
    asyncio.run(_send(url, count, job))


async def _send(url: str, count: int, job: peer.Job) -> None:
    made = connect(url)
    await made.startup()
    task = made.find_task("submit")
    assert task is not None
    for _ in range(count):
        await task.kiq(*job)
    await made.shutdown()


broker = connect(os.environ[BROKER]) if BROKER in os.environ else None
