"""How many messages a mailbox may still send on a local day."""

from dataclasses import dataclass
from datetime import date, datetime
from zoneinfo import ZoneInfo

from paceline_scheduler.domain.window import Span, local_day


@dataclass(frozen=True, slots=True)
class DayCount:
    """What the day bucket holds: `used` slots on the local `day`; other days are at 0."""

    day: date
    used: int


def day_of(at: datetime, tz: ZoneInfo) -> date:
    """Return the local date that a slot at `at` counts on."""
    return at.astimezone(tz).date()


def left_on(day: date, cap: int | None, count: DayCount) -> int | None:
    """Return how many slots are left on `day`; None without a cap.

    A day before the bucket's is over, whatever a zone change makes of it: 0.
    """
    if cap is None:
        return None
    if day < count.day:
        return 0
    return max(0, cap - (count.used if day == count.day else 0))


def capped_day(at: datetime, tz: ZoneInfo, cap: int | None, count: DayCount) -> tuple[Span, int]:
    """Return the first local day from `at` on that has something left, and how much (-1: no cap).

    With a cap of 0 there is none; the day after the next is given with 0 left,
    to look again then.
    """
    span = local_day(at, tz)
    for _ in range(2):
        left = left_on(day_of(span.start, tz), cap, count)
        if left is None:
            return span, -1
        if left > 0:
            return span, left
        span = local_day(span.end, tz)
    return span, left_on(day_of(span.start, tz), cap, count) or 0
