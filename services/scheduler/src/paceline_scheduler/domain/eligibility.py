"""When a mailbox may send next: its calendar compiled to one stretch of open time.

`compile_stretch` turns zone, windows, daily cap and what is used into a stretch
within one local day and the slots left in it; within the stretch a decision
needs no calendar (`earliest_slot`), in Redis or here. Later rules (ramp,
ceilings, blackouts, health, stage, cooldown) narrow the stretch or hold it back.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.caps import DayCount, capped_day
from paceline_scheduler.domain.window import SendWindow

_DAYS: Final = 16


@dataclass(frozen=True, slots=True)
class Hold:
    """The mailbox may not send; `until` is when to look again, None for not by itself."""

    reason: str
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Open time `start`..`end` of one local day with `left` slots (-1: no cap).

    `fresh`: nothing was open just before `start`, so the first slot is spread.
    """

    start: datetime
    end: datetime
    left: int
    fresh: bool


@dataclass(frozen=True, slots=True)
class Release:
    """A slot at `slot_at`; the submission begins at it or up to `not_after`."""

    slot_at: datetime
    not_after: datetime


def compile_stretch(
    window: SendWindow, cap: int | None, count: DayCount, now: datetime
) -> Stretch | Hold:
    """Return the first stretch of open time with something left that ends after `now`.

    Holds: `daily_cap_zero`, `window_never_opens`.
    """
    if cap == 0:
        return Hold("daily_cap_zero", None)
    at = now
    for _ in range(_DAYS):
        day, left = capped_day(at, window.tz, cap, count)
        span = window.next_span(max(at, day.start))
        if span is None:
            return Hold("window_never_opens", None)
        start, end = max(span.start, day.start), min(span.end, day.end)
        if left and start < end:
            was_full = day.start > at
            return Stretch(start, end, left, fresh=was_full or not _open_before(window, start))
        at = day.end
    return Hold("window_never_opens", None)


def _open_before(window: SendWindow, start: datetime) -> bool:
    return window.intervals is None or window.is_open(start - timedelta(microseconds=1))


def earliest_slot(
    stretch: Stretch, cadence: Cadence, next_at: datetime, now: datetime
) -> Release | Hold:
    """Return the earliest slot of the stretch, or the hold that ends when it does.

    T = max(now + lead, next_at, start); not_after = min(T + grace, end). Holds:
    `stretch_over` (compile the next one), `daily_cap`.
    """
    if stretch.left == 0:
        return Hold("daily_cap", stretch.end)
    slot_at = max(now + cadence.lead, next_at, stretch.start)
    if slot_at >= stretch.end:
        return Hold("stretch_over", stretch.end)
    return Release(slot_at, min(slot_at + cadence.grace, stretch.end))
