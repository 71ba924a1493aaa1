"""Local hours in which a mailbox may send, on any day of any IANA zone."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from paceline_scheduler.domain.blackout import NONE, Blackouts

DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
# A week of closed days, a window that began the day before, and a calendar day
# that a zone left out (Samoa had no 30 December 2011).
_HORIZON_DAYS: Final = 16
# Days whose openings one window remembers.
_REMEMBERED: Final = 400


def instant(day: date, at: time, tz: ZoneInfo) -> datetime:
    """Return when the local wall clock of `tz` first shows `day` `at` (aware, UTC).

    A time that a change skips moves to the change itself, the next real
    instant; of a repeated time the first pass counts.
    """
    wall = datetime.combine(day, at.replace(fold=0), tz)
    found = wall.astimezone(UTC)
    if found.astimezone(tz).replace(tzinfo=None) == wall.replace(tzinfo=None):
        return found
    # Skipped: the change lies after the wall time read with the later offset
    # and not after it read with the earlier one.
    before, after = wall.replace(fold=1).astimezone(UTC), found
    offset = before.astimezone(tz).utcoffset()
    while after - before > _SECOND:
        middle = before + (after - before) / 2
        if middle.astimezone(tz).utcoffset() == offset:
            before = middle
        else:
            after = middle
    # Changes happen on whole seconds.
    return after.replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time, `start` included, `end` not (aware, UTC)."""

    start: datetime
    end: datetime


@lru_cache(maxsize=1 << 16)
def day_span(day: date, tz: ZoneInfo) -> Span:
    """Return the local calendar `day`: 23, 24 or 25 hours, from midnight to midnight.

    A midnight that does not exist is the change that skips it; a date that a
    zone left out is empty.
    """
    return Span(instant(day, time(), tz), instant(day + DAY, time(), tz))


def local_day(at: datetime, tz: ZoneInfo) -> tuple[date, Span]:
    """Return the local date whose midnights lie around the instant, and its span."""
    day = at.astimezone(tz).date()
    span = day_span(day, tz)
    # Around a change at midnight the wall clock's date can lag behind or run back.
    while at < span.start:
        day -= DAY
        span = day_span(day, tz)
    while at >= span.end:
        day += DAY
        span = day_span(day, tz)
    return day, span


@dataclass(frozen=True, slots=True)
class Interval:
    """Opens at `start` on each of `days` (0 is Monday), closes before `end`.

    `end <= start` closes on the next day.
    """

    days: frozenset[int]
    start: time
    end: time


@dataclass(frozen=True, slots=True)
class Opening:
    """Open time `start`..`end` within the local `day` (aware, UTC).

    `fresh`: it was closed just before. `ends_by`: why it is over, a reason
    code; `day_ends` when it stays open and only the day is over.
    """

    start: datetime
    end: datetime
    day: date
    fresh: bool
    ends_by: str


@dataclass(frozen=True, slots=True)
class SendWindow:
    """The hours of one mailbox in its zone; no `intervals` at all (None) means always open.

    An opening or a closing that a DST change skips moves to the change; in a
    repeated hour the first pass counts. Overlapping intervals are one. A
    blacked-out local date is closed from its midnight to the next, whatever
    interval reaches into it.
    """

    tz: ZoneInfo
    intervals: tuple[Interval, ...] | None
    blackouts: Blackouts = NONE
    _known: dict[date, tuple[Opening, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def is_open(self, at: datetime) -> bool:
        """Return whether the window is open at the instant `at` (aware)."""
        found = self.next_opening(at)
        return found is not None and found.start <= at

    def closed_by(self, at: datetime) -> str:
        """Return why the window is closed at an instant at which it is."""
        return self.blackouts.cause(local_day(at, self.tz)[0]) or "outside_window"

    def next_opening(self, at: datetime) -> Opening | None:
        """Return the first opening that ends after `at`, or None if there never is one.

        It may have begun before.
        """
        day, _ = local_day(at, self.tz)
        for _ in range(_HORIZON_DAYS + len(self.blackouts)):
            for one in self.openings_on(day):
                if one.end > at:
                    return one
            day += DAY
        return None

    def openings_on(self, day: date) -> tuple[Opening, ...]:
        """Return the openings of a local date, in order, none touching another."""
        found = self._known.get(day)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self._known[day] = self._openings(day)
        return found

    def _openings(self, day: date) -> tuple[Opening, ...]:
        spans = self._spans(day)
        if not spans:
            return ()
        whole = day_span(day, self.tz)
        before, after = self._spans(day - DAY), self._spans(day + DAY)
        goes_on = bool(after) and after[0].start == whole.end
        ends_by = self.blackouts.cause(day + DAY) or ("day_ends" if goes_on else "outside_window")
        return tuple(
            Opening(
                span.start,
                span.end,
                day,
                fresh=not (before and before[-1].end == span.start),
                ends_by=ends_by if span.end == whole.end else "outside_window",
            )
            for span in spans
        )

    def _spans(self, day: date) -> list[Span]:
        """Return the open spans of a local date, cut at its midnights and merged."""
        whole = day_span(day, self.tz)
        if self.blackouts.cause(day) is not None or whole.start >= whole.end:
            return []
        if self.intervals is None:
            return [whole]
        found = sorted(
            (
                instant(opens, one.start, self.tz),
                instant(opens + DAY * (one.end <= one.start), one.end, self.tz),
            )
            for opens in (day - DAY, day)
            for one in self.intervals
            if opens.weekday() in one.days
        )
        merged: list[Span] = []
        for start, end in found:
            start, end = max(start, whole.start), min(end, whole.end)
            if start >= end:
                continue
            if merged and start <= merged[-1].end:
                merged[-1] = Span(merged[-1].start, max(merged[-1].end, end))
            else:
                merged.append(Span(start, end))
        return merged
