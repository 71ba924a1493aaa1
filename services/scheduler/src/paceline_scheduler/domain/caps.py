"""What is used of a limit, in the buckets in which the database counts it."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

HOUR: Final = timedelta(hours=1)
# The last 24 hours touch at most 25 hours of the clock.
ROLLING_HOURS: Final = 25
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DayCount:
    """What the day bucket holds: `used` slots on the local `day`; later days are at 0."""

    day: date
    used: int


@dataclass(frozen=True, slots=True)
class HourCount:
    """`used` slots in the UTC hour that begins at `hour`; later hours are at 0."""

    hour: datetime
    used: int


@dataclass(frozen=True, slots=True)
class RollingCount:
    """Slots of one provider account in 25 UTC hours: `hours[0]` begins at `newest`, older follow.

    The sum of the 25 hours up to an instant is never less than what was sent in
    the 24 hours before it.
    """

    newest: datetime
    hours: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.hours) != ROLLING_HOURS:
            raise ValueError("a rolling count has 25 hours")

    def used_at(self, at: datetime) -> int:
        """Return what counts at `at`: hours that begin within 25 hours before, and later ones."""
        kept = ROLLING_HOURS - max(0, hours_between(self.newest, at))
        return sum(self.hours[:kept]) if kept > 0 else 0

    def frees_at(self, at: datetime, limit: int) -> datetime | None:
        """Return the first instant from `at` on at which less than `limit` counts.

        It is `at` itself or the start of an hour; None when there never is one.
        """
        if limit <= 0:
            return None
        total = self.used_at(at)
        if total < limit:
            return at
        kept = min(ROLLING_HOURS, ROLLING_HOURS - hours_between(self.newest, at))
        while total >= limit:
            kept -= 1
            total -= self.hours[kept]
        return self.newest + HOUR * (ROLLING_HOURS - kept)


NO_DAY: Final = DayCount(date.min, 0)
NO_HOUR: Final = HourCount(_LONG_AGO, 0)
NO_ROLLING: Final = RollingCount(_LONG_AGO, (0,) * ROLLING_HOURS)


def hours_between(earlier: datetime, later: datetime) -> int:
    """Return how many hours of the clock begin after `earlier` (an hour's start) up to `later`."""
    return (later - earlier) // HOUR


def hour_of(at: datetime) -> datetime:
    """Return the start of the UTC hour that a slot at `at` counts in."""
    return at.replace(minute=0, second=0, microsecond=0)


def day_of(at: datetime, tz: ZoneInfo) -> date:
    """Return the local date that a slot at `at` counts on."""
    return at.astimezone(tz).date()


def used_on(day: date, count: DayCount) -> int:
    """Return how many slots the bucket counts on `day`."""
    return count.used if day == count.day else 0


def left_on(day: date, cap: int | None, count: DayCount) -> int | None:
    """Return how many slots are left on `day`, never less than 0; None without a cap.

    A day before the bucket's is over, whatever a zone change makes of it: 0.
    """
    if cap is None:
        return None
    if day < count.day:
        return 0
    return max(0, cap - used_on(day, count))


def left_in(hour: datetime, cap: int | None, count: HourCount) -> int | None:
    """Return how many slots are left in a UTC hour, as `left_on` does for days."""
    if cap is None:
        return None
    if hour < count.hour:
        return 0
    return max(0, cap - (count.used if hour == count.hour else 0))
