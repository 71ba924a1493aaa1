"""Counts and caps: days, hours, the rolling day, the ramp, and which rule sets a day's cap."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.scheduler.domain.mailboxes import bare, counted, rules

from paceline_scheduler.domain import ramp as ramps
from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.caps import (
    DayCount,
    HourCount,
    RollingCount,
    hour_of,
    left_in,
    left_on,
)
from paceline_scheduler.domain.ramp import Ramp
from paceline_scheduler.domain.rules import DayCap, State, day_cap

HOUR = timedelta(hours=1)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TODAY = NOON.date()
ZERO = timedelta()

counts = st.lists(st.integers(0, 4), min_size=25, max_size=25).map(tuple)


# --- buckets


def test_cap_lowered_below_what_is_used_leaves_nothing() -> None:
    assert left_on(TODAY, 3, DayCount(TODAY, 7)) == 0
    assert left_in(NOON, 3, HourCount(NOON, 7)) == 0


def test_bucket_counts_on_its_own_day_and_hour_alone() -> None:
    assert left_on(TODAY, 3, DayCount(TODAY, 1)) == 2
    assert left_on(TODAY + timedelta(days=1), 3, DayCount(TODAY, 1)) == 3
    assert left_in(NOON, 3, HourCount(NOON, 1)) == 2
    assert left_in(NOON + HOUR, 3, HourCount(NOON, 1)) == 3


def test_day_or_hour_before_the_bucket_is_over() -> None:
    assert left_on(TODAY - timedelta(days=1), 3, DayCount(TODAY, 1)) == 0
    assert left_in(NOON - HOUR, 3, HourCount(NOON, 1)) == 0


def test_without_a_cap_nothing_is_counted() -> None:
    assert left_on(TODAY, None, DayCount(TODAY, 7)) is None
    assert left_in(NOON, None, HourCount(NOON, 7)) is None


@given(st.lists(st.integers(0, 60 * 3600).map(lambda s: NOON + timedelta(seconds=s)), min_size=1))
def test_rolling_count_is_never_less_than_the_last_24_hours(sent: list[datetime]) -> None:
    rolling = RollingCount(hour_of(min(sent)), (0,) * 25)
    for at in sorted(sent):
        rolling = counted(rolling, at)
    for later in (timedelta(), 7 * HOUR, 24 * HOUR - timedelta(microseconds=1)):
        at = max(sent) + later
        assert rolling.used_at(at) >= sum(one > at - 24 * HOUR for one in sent)
        # What it counts in excess is within the hour before.
        assert rolling.used_at(at) <= sum(one > at - 25 * HOUR for one in sent)


@given(counts, st.integers(0, 30 * 3600), st.integers(1, 60))
def test_rolling_count_frees_at_the_first_hour_with_enough_dropped(
    hours: tuple[int, ...], seconds: int, limit: int
) -> None:
    rolling, at = RollingCount(NOON, hours), NOON + timedelta(seconds=seconds)
    found = rolling.frees_at(at, limit)
    assert found is not None
    assert rolling.used_at(found) < limit
    if found != at:
        assert found == hour_of(found)
        assert rolling.used_at(found - timedelta(microseconds=1)) >= limit


def test_rolling_count_of_later_slots_counts_before_them() -> None:
    rolling = RollingCount(NOON + 2 * HOUR, (3, *(0,) * 23, 2))
    assert rolling.used_at(NOON) == 5
    assert rolling.frees_at(NOON, 5) == NOON + 3 * HOUR
    assert rolling.frees_at(NOON, 3) == NOON + 27 * HOUR


def test_ceiling_of_nothing_never_frees() -> None:
    assert RollingCount(NOON, (0,) * 25).frees_at(NOON, 0) is None


def test_rolling_count_needs_25_hours() -> None:
    with pytest.raises(ValueError, match="25"):
        RollingCount(NOON, (0,) * 24)


# --- ramp


def test_default_ramp_climbs_from_the_providers_start_to_500_on_day_30() -> None:
    for provider, start in (
        ("smtp", 50),
        ("yahoo", 50),
        ("google_workspace", 40),
        ("microsoft365", 30),
        ("gmail_consumer", 20),
    ):
        ramp = ramps.default(provider)
        assert ramp.cap_on(0) == ramp.cap_on(-3) == start
        assert ramp.cap_on(15) == start + (500 - start) // 2
        assert ramp.cap_on(29) < ramp.cap_on(30) == ramp.cap_on(400) == 500


def test_conservative_ramp_starts_at_half_and_ends_at_300_on_day_45() -> None:
    assert ramps.conservative("smtp").points == ((0, 25), (45, 300))
    assert ramps.conservative("microsoft365").cap_on(0) == 15
    assert replace(ramps.conservative("smtp"), points=((0, 13), (45, 300))).cap_on(45) == 300


@given(
    st.lists(st.integers(1, 60), unique=True, max_size=5),
    st.lists(st.integers(0, 600), min_size=6, max_size=6),
    st.integers(-5, 70),
)
def test_ramp_lies_on_the_line_between_its_points(
    days: list[int], caps: list[int], day: int
) -> None:
    points = tuple(zip([0, *sorted(days)], caps, strict=False))
    found = Ramp(points).cap_on(day)
    below = [point for point in points if point[0] <= day] or [points[0]]
    above = [point for point in points if point[0] > day]
    (a, low) = below[-1]
    if day <= 0 or not above:
        assert found == low
        return
    (b, high) = above[0]
    exact = low + (high - low) * (day - a) / (b - a)
    assert exact - 1 < found <= exact + 1e-9


@pytest.mark.parametrize(
    "points", [(), ((1, 5),), ((0, 5), (0, 6)), ((0, 5), (3, 6), (2, 7)), ((0, -1),)]
)
def test_ramp_that_does_not_ascend_from_day_0_is_refused(
    points: tuple[tuple[int, int], ...],
) -> None:
    with pytest.raises(ValueError, match="ramp"):
        Ramp(points)


# --- the cap of a day


def capped(settings: dict[str, Any], state: State, day: date = TODAY) -> DayCap:
    held = rules({"ramp_from": "2026-11-20", **settings}, provider="google_workspace")
    return day_cap(held, state, day)


KNOWN = State(health=90)


def test_the_least_cap_binds_and_is_named() -> None:
    later = TODAY + timedelta(days=15)  # the ramp is at 270
    assert capped({}, KNOWN, later) == DayCap(270, "ramp_cap")
    assert capped({"daily_cap": 120}, KNOWN, later) == DayCap(120, "daily_cap")
    assert capped({"daily_cap": 900}, KNOWN, later) == DayCap(270, "ramp_cap")
    assert capped({"ramp": None}, KNOWN, later) == DayCap(None, "daily_cap")


def test_unknown_health_is_held_to_the_first_days_cap() -> None:
    later, unknown = TODAY + timedelta(days=15), State()
    assert capped({}, unknown, later) == DayCap(40, "probation_cap")
    assert capped({"daily_cap": 30}, unknown, later) == DayCap(30, "daily_cap")
    assert capped({"ramp": None}, unknown, later) == DayCap(40, "probation_cap")
    assert capped({"ramp": {"curve": [[0, 7], [9, 90]]}}, unknown, later).limit == 7
    assert capped({"health_floor": False}, unknown, later) == DayCap(270, "ramp_cap")


def test_probation_leaves_at_least_one_so_that_health_can_become_known() -> None:
    curve = {"ramp": {"curve": [[0, 0], [1, 90]]}}
    later = TODAY + timedelta(days=3)
    assert capped(curve, State(), later) == DayCap(1, "probation_cap")
    assert capped(curve, State()) == DayCap(0, "ramp_cap"), "but day 0 stays at 0"


def test_throttled_mailbox_has_half_rounded_down_and_at_least_one() -> None:
    throttled = replace(KNOWN, throttled=True)
    assert capped({"daily_cap": 31}, throttled) == DayCap(15, "throttled_cap")
    assert capped({"daily_cap": 1}, throttled) == DayCap(1, "throttled_cap")
    assert capped({"daily_cap": 0}, throttled) == DayCap(0, "daily_cap")
    assert capped({"ramp": None}, throttled) == DayCap(900, "throttled_cap"), "half its ceiling"
    assert day_cap(bare(), throttled, TODAY) == DayCap(None, "daily_cap"), "nothing to halve"


def test_the_day_on_which_the_throttle_ends_is_whole_again() -> None:
    midnight = datetime.combine(TODAY + timedelta(days=1), time(), bare().tz)
    throttled = replace(KNOWN, throttled=True, throttled_until=midnight)
    assert capped({"daily_cap": 30}, throttled) == DayCap(15, "throttled_cap")
    tomorrow = TODAY + timedelta(days=1)
    assert capped({"daily_cap": 30}, throttled, tomorrow) == DayCap(30, "daily_cap")


def test_ramp_days_are_local_dates() -> None:
    # Connected at 23:30 on the 19th in Honolulu, already the 20th in UTC.
    at = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    held = rules(tz="Pacific/Honolulu", connected_at=at)
    assert held.ramp_from == date(2026, 11, 19)
    assert day_cap(held, KNOWN, date(2026, 11, 19)).limit == 50
    assert day_cap(held, KNOWN, date(2026, 11, 21)).limit == 80


# --- cadence


def ninety() -> Cadence:
    return Cadence(
        timedelta(seconds=90), timedelta(seconds=5), timedelta(seconds=30), timedelta(seconds=2)
    )


def test_next_send_is_a_cadence_and_its_jitter_later() -> None:
    assert ninety().next_at(NOON, 0.0) == NOON + timedelta(seconds=95)
    assert ninety().next_at(NOON, 0.5) == NOON + timedelta(seconds=107.5)
    assert ninety().mean == timedelta(seconds=107.5)


def test_first_slot_is_uniform_over_one_cadence() -> None:
    assert ninety().first_after(NOON, 0.0) == NOON
    assert ninety().first_after(NOON, 0.5) == NOON + timedelta(seconds=45)


def test_lead_time_is_half_a_cadence_between_250_ms_and_2_s() -> None:
    def lead(every: float) -> timedelta:
        return Cadence(timedelta(seconds=every), ZERO, ZERO, ZERO).lead

    assert lead(90) == timedelta(seconds=2)
    assert lead(1) == timedelta(milliseconds=500)
    assert lead(0.1) == timedelta(milliseconds=250)


def test_jitter_below_grace_is_refused() -> None:
    with pytest.raises(ValueError, match="grace"):
        Cadence(timedelta(seconds=1), ZERO, timedelta(1), timedelta(seconds=1))


def test_rate_of_a_node_is_a_distance_without_jitter_never_undercut() -> None:
    grace = timedelta(seconds=2)
    assert Cadence.of_rate(10, grace) == Cadence(timedelta(milliseconds=100), ZERO, ZERO, grace)
    assert Cadence.of_rate(3, grace).every == timedelta(milliseconds=334)
    assert Cadence.of_rate(0.5, grace).next_at(NOON, 0.9) == NOON + timedelta(seconds=2)
    assert Cadence.of_rate(None, grace).next_at(NOON, 0.9) == NOON
