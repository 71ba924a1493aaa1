"""Next slots of a mailbox, and when a fleet has served so many messages."""

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.caps import DayCount, HourCount, RollingCount
from paceline_scheduler.domain.eligibility import compile_stretch
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.outlook import Server, reached, slots, standing, taken
from paceline_scheduler.domain.rules import ALL_TYPES, Rules, State
from paceline_scheduler.domain.window import Interval, SendWindow

PARIS = ZoneInfo("Europe/Paris")
# A Monday, 10:00 in Paris.
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
OFFICE = (Interval(frozenset(range(5)), time(9), time(17)),)
RULES = Rules(
    profile="mailbox",
    provider="smtp",
    cadence=Cadence(
        timedelta(seconds=90), timedelta(seconds=5), timedelta(seconds=30), timedelta(seconds=2)
    ),
    window=SendWindow(PARIS, OFFICE),
    ramp=None,
    ramp_from=date(2026, 1, 1),
    daily_cap=None,
    hourly_cap=None,
    ceiling=None,
    types=ALL_TYPES,
    stage_gate={},
    health_floor=False,
    attested=True,
    max_outstanding=1,
)


def test_slots_keep_the_cadence_and_go_on_the_next_day_at_the_cap() -> None:
    rules = replace(RULES, daily_cap=3)
    found = slots(rules, State(), NOW, 5)
    assert [one.astimezone(PARIS).day for one in found] == [2, 2, 2, 3, 3]
    assert all(b - a >= timedelta(seconds=95) for a, b in pairwise(found))
    assert found[3].astimezone(PARIS).hour == 9


def test_a_mailbox_that_never_sends_has_no_slots() -> None:
    assert slots(replace(RULES, daily_cap=0), State(), NOW, 10) == []


@given(
    st.integers(1, 60), st.integers(0, 40), st.one_of(st.none(), st.integers(1, 20)),
    st.one_of(st.none(), st.integers(1, 30)),
)  # fmt: skip
def test_slots_told_are_slots_that_the_rules_allow(
    cap: int, used: int, hourly: int | None, ceiling: int | None
) -> None:
    rules = replace(RULES, daily_cap=cap, hourly_cap=hourly, ceiling=ceiling)
    state = State(day=DayCount(date(2026, 3, 2), used))
    for slot in slots(rules, state, NOW, 10):
        stretch = compile_stretch(rules, state, NOW)
        assert not isinstance(stretch, Hold)
        assert stretch.start <= slot < stretch.end
        assert stretch.left != 0
        state = taken(rules, state, slot)


def test_what_is_taken_counts_in_each_bucket() -> None:
    hours = tuple(range(25))
    state = State(
        day=DayCount(date(2026, 3, 2), 4),
        hour=HourCount(NOW, 2),
        rolling=RollingCount(NOW - timedelta(hours=2), hours),
        domain_cap=9,
        domain_day=DayCount(date(2026, 3, 1), 7),
    )
    after = taken(RULES, state, NOW)
    assert after.day == DayCount(date(2026, 3, 2), 5)
    assert after.hour == HourCount(NOW, 3)
    assert after.rolling == RollingCount(NOW, (1, 0, *hours[:23]))
    assert after.domain_day == DayCount(date(2026, 3, 2), 1)
    assert after.next_at == NOW + timedelta(seconds=107.5)
    again = taken(RULES, after, NOW - timedelta(hours=2)).rolling
    assert again.hours[:4] == (1, 0, 1, 1)


def close(one: datetime | None, other: datetime) -> bool:
    return one is not None and abs(one - other) <= timedelta(milliseconds=5)


def test_the_kth_message_of_a_fleet_comes_when_all_have_served_k() -> None:
    serving = [Server(RULES, State(next_at=NOW + timedelta(seconds=n))) for n in (10, 20, 30)]
    gap = timedelta(seconds=95)
    for count, expected in ((1, 10), (2, 20), (3, 30)):
        assert close(reached(serving, 1, count, NOW, "fast"), NOW + timedelta(seconds=expected))
    assert close(reached(serving, 1, 4, NOW, "fast"), NOW + timedelta(seconds=10) + gap)
    # Each stands for two.
    assert close(reached(serving, 2, 7, NOW, "fast"), NOW + timedelta(seconds=10) + gap)


def test_a_cap_moves_the_rest_to_the_next_days() -> None:
    capped = [Server(replace(RULES, daily_cap=10), State(day=DayCount(date(2026, 3, 2), 8)))]
    for count, day in ((2, 2), (3, 3), (12, 3), (13, 4), (42, 6), (43, 9)):
        found = reached(capped, 1, count, NOW, "fast")
        assert found is not None
        assert found.astimezone(PARIS).date() == date(2026, 3, day), count


def test_slow_is_never_before_fast() -> None:
    serving = [Server(RULES, State()), Server(replace(RULES, daily_cap=5), State())]
    for count in (1, 2, 10, 100, 1000):
        fast, slow = (reached(serving, 1, count, NOW, pace) for pace in ("fast", "slow"))
        assert fast is not None
        assert slow is not None
        assert slow > fast


def test_probation_is_over_sooner_or_later_at_best() -> None:
    unknown = replace(RULES, health_floor=True)
    serving = [Server(unknown, State())]
    count = 50 + 200
    fast, slow = (reached(serving, 1, count, NOW, pace) for pace in ("fast", "slow"))
    assert fast is not None
    assert slow is not None
    assert fast.astimezone(PARIS).day == 3
    # 50 a day.
    assert slow.astimezone(PARIS).day == 6


def test_beyond_the_horizon_nobody_can_tell() -> None:
    serving = [Server(replace(RULES, daily_cap=1), State())]
    assert reached(serving, 1, 40, NOW, "fast") is not None
    assert reached(serving, 1, 100, NOW, "fast") is None
    assert reached([Server(replace(RULES, daily_cap=0), State())], 1, 1, NOW, "fast") is None


def test_a_closed_mailbox_says_what_closes_it_first() -> None:
    capped = replace(RULES, daily_cap=120)
    state = State(day=DayCount(date(2026, 3, 2), 120))
    hold = standing(compile_stretch(capped, state, NOW), NOW)
    # Midnight, though it opens at nine.
    midnight = datetime(2026, 3, 2, 23, tzinfo=UTC)
    assert hold == Hold("daily_cap", midnight, 120, 120)
    assert standing(compile_stretch(RULES, State(), NOW), NOW) is None


def test_a_cap_holds_over_several_openings_of_a_day() -> None:
    twice = tuple(
        Interval(frozenset(range(5)), time(start), time(end)) for start, end in ((9, 12), (13, 17))
    )
    rules = replace(RULES, window=SendWindow(PARIS, twice), daily_cap=10)
    serving = [Server(rules, State(day=DayCount(date(2026, 3, 2), 8)))]
    for count, day in ((2, 2), (3, 3)):
        found = reached(serving, 1, count, NOW, "fast")
        assert found is not None
        assert found.astimezone(PARIS).day == day
