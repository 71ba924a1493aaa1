"""The Celery application of row 5's worker; `PACELINE_BENCH_BROKER` is its Redis."""

import os
from typing import Final

from celery import Celery

BROKER: Final = "PACELINE_BENCH_BROKER"


def connect(url: str) -> Celery:
    """Return an application with one task, `send`, that does nothing."""
    made = Celery("bench", broker=url)
    made.task(name="send")(_send)
    return made


def _send(job: int) -> int:
    return job


app = connect(os.environ[BROKER]) if BROKER in os.environ else None
