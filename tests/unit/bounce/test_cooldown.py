"""Cooldown: when it starts, how long it lasts, and what it may not count twice."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_bounce.domain.cooldown import (
    Cooldown,
    CooldownRules,
    Recent,
    begin,
    counts,
    judge,
)

RULES = CooldownRules()
NOTHING = Recent()
NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def after(*parts: tuple[int, int]) -> Recent:
    """Return what is counted after `(sends, hard)` one after the other, all at `NOW`."""
    recent = Recent()
    for sends, hard in parts:
        recent = recent.count(NOW, sends=sends, hard=hard, rules=RULES)
    return recent


def test_five_hard_bounces_in_fifty_sends_start_it() -> None:
    # Spread over a week, so that no day has enough.
    recent = Recent()
    for n in range(1, 51):
        at = NOW - timedelta(hours=20) * (50 - n)
        recent = recent.count(at, sends=1, hard=int(n in (1, 10, 20, 30, 50)), rules=RULES)
        assert judge(recent, at, RULES) == ("bounces" if n == 50 else None)


def test_four_or_five_in_fifty_one_do_not() -> None:
    for bounced in ((2, 10, 20, 50), (1, 10, 20, 30, 51)):
        recent = Recent()
        for n in range(1, 52):
            at = NOW - timedelta(hours=20) * (51 - n)
            recent = recent.count(at, sends=1, hard=int(n in bounced), rules=RULES)
            assert judge(recent, at, RULES) is None


def test_five_refusals_in_a_row_start_it_however_few_were_sent() -> None:
    assert judge(after((1, 1), (1, 1), (1, 1), (1, 1)), NOW, RULES) is None
    assert judge(after((1, 1), (1, 1), (1, 1), (1, 1), (1, 1)), NOW, RULES) == "bounces"
    assert judge(after((5, 5)), NOW, RULES) == "bounces"


@pytest.mark.parametrize(
    ("sends", "hard", "cause"),
    [(19, 4, None), (20, 1, None), (20, 2, "share"), (25, 2, "share"), (26, 2, None)],
)
def test_8_percent_of_20_sends_in_a_day_start_it(sends: int, hard: int, cause: str | None) -> None:
    assert judge(after((sends, hard)), NOW, RULES) == cause


def test_the_share_of_a_day_counts_that_day_only() -> None:
    recent = after((20, 2))

    assert recent.last_day(NOW) == (20, 2)
    assert recent.last_day(NOW + 24 * HOUR) == (20, 2)
    assert recent.last_day(NOW + 25 * HOUR) == (0, 0)
    assert recent.last_day(NOW - HOUR) == (20, 2)
    late = recent.count(NOW - 3 * HOUR, sends=4, hard=0, rules=RULES)
    assert late.last_day(NOW + 24 * HOUR) == (20, 2)
    assert late.last_day(NOW) == (24, 2)
    assert late.count(NOW - 30 * HOUR, sends=9, hard=9, rules=RULES).last_day(NOW) == (24, 2)


@given(st.lists(st.tuples(st.integers(0, 60 * 60), st.booleans()), max_size=60))
def test_the_last_day_holds_every_send_of_24_hours_and_none_of_25(
    sends: list[tuple[int, bool]],
) -> None:
    recent = Recent()
    for minutes, hard in sends:
        at = NOW - timedelta(minutes=minutes)
        recent = recent.count(at, sends=1, hard=int(hard), rules=RULES)

    total, bounced = recent.last_day(NOW)

    least = [hard for minutes, hard in sends if minutes <= 24 * 60]
    most = [hard for minutes, hard in sends if minutes < 25 * 60]
    assert len(least) <= total <= len(most)
    assert sum(least) <= bounced <= sum(most)


def test_it_doubles_up_to_a_week() -> None:
    last, lasted, now = None, [], NOW
    for _ in range(6):
        last = begin("bounces", last, now, RULES)
        lasted.append((last.until - now) / HOUR)
        now = last.until + HOUR
    assert lasted == [24, 48, 96, 168, 168, 168]


def test_it_starts_anew_after_two_clean_weeks() -> None:
    last = begin("share", None, NOW, RULES)
    again = last.until + 14 * DAY

    assert begin("share", last, again - HOUR, RULES).until == again - HOUR + 48 * HOUR
    assert begin("share", last, again, RULES) == Cooldown(again, again + DAY, 1)


def test_a_complaint_lasts_a_day_and_doubles_nothing() -> None:
    first = begin("complaint", None, NOW, RULES)
    second = begin("complaint", first, NOW + 2 * DAY, RULES)

    assert first == Cooldown(NOW, NOW + DAY, 0)
    assert second == Cooldown(NOW + 2 * DAY, NOW + 3 * DAY, 0)
    assert begin("bounces", second, NOW + 4 * DAY, RULES).until == NOW + 5 * DAY


@given(
    st.lists(
        st.tuples(st.sampled_from(["bounces", "share", "complaint"]), st.integers(0, 400)),
        min_size=1,
        max_size=100,
    )
)
def test_none_ends_before_the_last_or_lasts_longer_than_a_week(
    causes: list[tuple[Any, int]],
) -> None:
    last, now = None, NOW
    for cause, hours in causes:
        now += hours * HOUR
        next_one = begin(cause, last, now, RULES)
        assert now + DAY <= next_one.until <= now + 7 * DAY
        assert last is None or next_one.until >= last.until
        last = next_one


def test_late_reports_on_what_started_a_cooldown_start_no_other() -> None:
    last = Cooldown(NOW, NOW + DAY, 1)

    def new(at: datetime, recent: Recent = NOTHING, *, is_send: bool = False) -> bool:
        return counts(recent, last, at, is_send=is_send, rules=RULES)

    assert not new(NOW + HOUR)
    assert not new(NOW - HOUR, is_send=True)
    assert new(NOW + HOUR, is_send=True)
    assert new(NOW + DAY)
    # Sends in spite of it: somebody lifted it, so its reports are new ones.
    assert new(NOW + HOUR, after((5, 0)))
    assert counts(after(), None, NOW, is_send=False, rules=RULES)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: CooldownRules(bounces=0),
        lambda: CooldownRules(bounces=51),
        lambda: CooldownRules(share=0),
        lambda: CooldownRules(first_h=200),
        lambda: CooldownRules(complaint_h=0),
        lambda: CooldownRules(forget_days=-1),
    ],
)
def test_numbers_that_mean_nothing_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError):
        wrong()
