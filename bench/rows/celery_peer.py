"""The Celery application of rows 1 and 5; `PACELINE_BENCH_BROKER` is its Redis."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from celery import Celery

from bench import peer

BROKER: Final = "PACELINE_BENCH_BROKER"


def connect(url: str) -> Celery:
    """Return an application with `send`, which does nothing, and `submit`; results are not kept."""
    made = Celery("bench", broker=url)
    made.task(name="send", ignore_result=True)(_send)
    made.task(name="submit", ignore_result=True)(peer.submit)
    return made


@contextmanager
def worker(url: str, *options: str) -> Iterator[int]:
    """Run a worker, with what it does for itself alone switched off; give its pid."""
    command = [sys.executable, "-m", "celery", "-A", "bench.rows.celery_peer", "worker",
               "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR",
               *options]  # fmt: skip
    process = subprocess.Popen(
        command, env=os.environ | {BROKER: url}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def _send(job: int) -> int:
    return job


app = connect(os.environ[BROKER]) if BROKER in os.environ else None
