"""Local hours in which a mailbox may send, on any day of any IANA zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)
# A week of closed days, a window that began the day before, and a calendar day
# that a zone left out (Samoa had no 30 December 2011).
_HORIZON_DAYS: Final = 16


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


@dataclass(frozen=True, slots=True)
class Interval:
    """Opens at `start` on each of `days` (0 is Monday), closes before `end`.

    `end <= start` closes on the next day.
    """

    days: frozenset[int]
    start: time
    end: time


@dataclass(frozen=True, slots=True)
class SendWindow:
    """The hours of one mailbox in its zone; no `intervals` at all (None) means always open.

    An opening or a closing that a DST change skips moves to the change; in a
    repeated hour the first pass counts. Overlapping intervals are one.
    """

    tz: ZoneInfo
    intervals: tuple[Interval, ...] | None

    def is_open(self, at: datetime) -> bool:
        """Return whether the window is open at the instant `at` (aware)."""
        span = self.next_span(at)
        return span is not None and span.start <= at

    def next_span(self, after: datetime) -> Span | None:
        """Return the first open stretch that ends after `after`, or None if there never is one.

        It may have begun before. An always open window gives the local day of `after`.
        """
        if self.intervals is None:
            return local_day(after, self.tz)
        merged: Span | None = None
        for span in self._spans(after.astimezone(self.tz).date() - 2 * _DAY):
            if merged is not None and span.start > merged.end:
                if merged.end > after:
                    break
                merged = span
            elif merged is None:
                merged = span
            else:
                merged = Span(merged.start, max(merged.end, span.end))
        return merged if merged is not None and merged.end > after else None

    def _spans(self, first: date) -> Iterator[Span]:
        for n in range(_HORIZON_DAYS):
            day = first + n * _DAY
            spans = [
                Span(
                    instant(day, one.start, self.tz),
                    instant(day + _DAY * (one.end <= one.start), one.end, self.tz),
                )
                for one in self.intervals or ()
                if day.weekday() in one.days
            ]
            yield from sorted(
                (span for span in spans if span.start < span.end), key=lambda span: span.start
            )


def local_day(at: datetime, tz: ZoneInfo) -> Span:
    """Return the local calendar day around `at`: 23, 24 or 25 hours, from midnight to midnight.

    A midnight that does not exist is the change that skips it.
    """
    day = at.astimezone(tz).date()
    start, end = instant(day, time(), tz), instant(day + _DAY, time(), tz)
    # Around a change at midnight the wall clock's date can lag behind or run
    # back; the day is the one whose midnights lie around the instant.
    while at < start:
        day -= _DAY
        start, end = instant(day, time(), tz), start
    while at >= end:
        day += _DAY
        start, end = end, instant(day + _DAY, time(), tz)
    return Span(start, end)
