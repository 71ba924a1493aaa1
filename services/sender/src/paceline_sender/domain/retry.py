"""When a softly refused message is tried again, and when it is given up."""

import random
from datetime import datetime, timedelta
from typing import Final

BACKOFF: Final = (
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
    timedelta(hours=8),
)
SPREAD: Final = 0.2
GIVE_UP_AFTER: Final = timedelta(hours=72)

# PROVIDERS §7: a mailbox at its provider's limit is held for a day.
LIMIT_HOLD: Final = timedelta(hours=24)
# A failed node is looked at again every 15 minutes.
CONNECT_HOLD: Final = timedelta(minutes=15)
# A limit of an OAuth app that names no time: an hour of all its mailboxes is a lot already.
APP_HOLD: Final = timedelta(hours=1)
CONNECT_FAILURES_BEFORE_HOLD: Final = 3


def backoff(failures: int, rng: random.Random) -> timedelta:
    """Return the wait after the `failures`-th soft failure (1-based), spread by ±20 %.

    Past the end of the table its last entry holds.
    """
    base = BACKOFF[min(max(failures, 1), len(BACKOFF)) - 1]
    return base * rng.uniform(1 - SPREAD, 1 + SPREAD)


def retry_at(
    now: datetime, first_deferred_at: datetime | None, failures: int, rng: random.Random
) -> datetime | None:
    """Return when to try again, or None when the message is given up.

    `failures` counts soft failures, this one included; `first_deferred_at` is
    the instant of the first one, None when this is the first.
    """
    next_try = now + backoff(failures, rng)
    if first_deferred_at is not None and next_try >= first_deferred_at + GIVE_UP_AFTER:
        return None
    return next_try
