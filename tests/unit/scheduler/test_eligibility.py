"""Cadence, caps and windows together: a mailbox driven through days never breaks a limit."""

import itertools
import random
from collections import Counter
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.caps import DayCount, day_of, left_on
from paceline_scheduler.domain.eligibility import (
    Hold,
    Release,
    Stretch,
    compile_stretch,
    earliest_slot,
)
from paceline_scheduler.domain.window import Interval, SendWindow

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = DayCount(date.min, 0)
ZONES = sorted(available_timezones())
WORKDAYS = Interval(frozenset(range(5)), time(9), time(17))


def ninety() -> Cadence:
    return Cadence(
        timedelta(seconds=90), timedelta(seconds=5), timedelta(seconds=30), timedelta(seconds=2)
    )


def drive(
    window: SendWindow, cadence: Cadence, cap: int | None, start: datetime, sends: int, seed: int
) -> list[Release]:
    """Send as fast as the rules allow, as the scheduler does: compile, take, count."""
    rng = random.Random(seed)
    now, next_at, count = start, LONG_AGO, NEVER
    slots: list[Release] = []
    while len(slots) < sends:
        stretch = compile_stretch(window, cap, count, now)
        assert isinstance(stretch, Stretch)
        if stretch.fresh and next_at < stretch.start:
            next_at = max(next_at, cadence.first_after(stretch.start, rng.random()))
        while len(slots) < sends:
            found = earliest_slot(stretch, cadence, next_at, now)
            if isinstance(found, Hold):
                assert found.until is not None
                now = max(now, found.until)
                break
            slots.append(found)
            day = day_of(found.slot_at, window.tz)
            count = DayCount(day, count.used + 1 if day == count.day else 1)
            stretch = Stretch(stretch.start, stretch.end, max(-1, stretch.left - 1), stretch.fresh)
            next_at = cadence.next_at(found.slot_at, rng.random())
            now = max(now, found.slot_at)
    return slots


@given(
    st.sampled_from(ZONES).map(ZoneInfo),
    st.integers(1_577_836_800, 1_893_456_000),  # 2020 to 2030
    st.integers(1, 7),
    st.integers(0, 1000),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_no_mailbox_exceeds_cadence_cap_or_window_in_any_zone(
    tz: ZoneInfo, start: int, cap: int, seed: int, always_open: bool
) -> None:
    window = SendWindow(tz, None if always_open else (WORKDAYS,))
    cadence = ninety()
    slots = drive(window, cadence, cap, datetime.fromtimestamp(start, UTC), 20, seed)
    for earlier, later in itertools.pairwise(slots):
        # Between real submissions: the earlier one at the end of its grace.
        assert later.slot_at - earlier.not_after >= cadence.every
    assert max(Counter(day_of(s.slot_at, tz) for s in slots).values()) <= cap
    for slot in slots:
        assert window.is_open(slot.slot_at)
        assert slot.slot_at <= slot.not_after <= slot.slot_at + cadence.grace
        assert day_of(slot.slot_at, tz) == day_of(
            max(slot.slot_at, slot.not_after - timedelta(microseconds=1)), tz
        )


def test_lead_time_is_half_a_cadence_between_250_ms_and_2_s() -> None:
    def lead(every: float) -> timedelta:
        zero = timedelta()
        return Cadence(timedelta(seconds=every), zero, zero, zero).lead

    assert lead(90) == timedelta(seconds=2)
    assert lead(1) == timedelta(milliseconds=500)
    assert lead(0.1) == timedelta(milliseconds=250)


def test_jitter_below_grace_is_refused() -> None:
    with pytest.raises(ValueError, match="grace"):
        Cadence(timedelta(seconds=1), timedelta(0), timedelta(1), timedelta(seconds=1))


def test_full_day_moves_to_the_next_local_midnight() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    now = datetime(2026, 11, 20, 3, tzinfo=UTC)
    stretch = compile_stretch(SendWindow(tokyo, None), 5, DayCount(date(2026, 11, 20), 5), now)
    assert isinstance(stretch, Stretch)
    assert stretch.start == datetime(2026, 11, 20, 15, tzinfo=UTC)
    assert (stretch.left, stretch.fresh) == (5, True)


def test_midnight_of_an_open_window_is_no_opening() -> None:
    window = SendWindow(ZoneInfo("UTC"), None)
    stretch = compile_stretch(window, 5, NEVER, datetime(2026, 11, 20, tzinfo=UTC))
    assert isinstance(stretch, Stretch)
    assert not stretch.fresh


def test_cap_lowered_below_what_is_used_leaves_nothing() -> None:
    assert left_on(date(2026, 11, 20), 3, DayCount(date(2026, 11, 20), 7)) == 0


def test_day_before_the_bucket_is_over() -> None:
    assert left_on(date(2026, 11, 19), 3, DayCount(date(2026, 11, 20), 1)) == 0


def test_cap_of_zero_and_a_window_without_hours_hold() -> None:
    now = datetime(2026, 11, 20, tzinfo=UTC)
    assert compile_stretch(SendWindow(ZoneInfo("UTC"), None), 0, NEVER, now) == Hold(
        "daily_cap_zero", None
    )
    assert compile_stretch(SendWindow(ZoneInfo("UTC"), ()), 5, NEVER, now) == Hold(
        "window_never_opens", None
    )


def test_first_slots_after_an_opening_are_spread_over_one_cadence() -> None:
    window = SendWindow(ZoneInfo("UTC"), (WORKDAYS,))
    opening = datetime(2026, 11, 23, 9, tzinfo=UTC)
    firsts = [
        drive(window, ninety(), 10, datetime(2026, 11, 21, tzinfo=UTC), 1, seed)[0].slot_at
        for seed in range(300)
    ]
    offsets = [(first - opening).total_seconds() for first in firsts]
    assert 0 <= min(offsets) < 5
    assert 85 < max(offsets) <= 90
    quarters = Counter(int(offset // 22.5) for offset in offsets)
    assert all(45 <= quarters[n] <= 105 for n in range(4))


def test_submission_may_not_begin_after_the_window_closes() -> None:
    stretch = Stretch(LONG_AGO, datetime(2026, 11, 20, 17, tzinfo=UTC), -1, False)
    next_at = datetime(2026, 11, 20, 16, 59, 59, tzinfo=UTC)
    found = earliest_slot(stretch, ninety(), next_at, next_at - timedelta(minutes=5))
    assert found == Release(next_at, stretch.end)
    assert isinstance(earliest_slot(stretch, ninety(), stretch.end, next_at), Hold), (
        "the end itself is closed"
    )
