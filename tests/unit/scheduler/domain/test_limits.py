"""What a provider's limit makes of the next days' caps."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_scheduler.domain.limits import (
    Limited,
    LimitRules,
    is_repeated,
    limited,
    throttled_until,
)

RULES = LimitRules()
PARIS = ZoneInfo("Europe/Paris")
FRIDAY = date(2026, 11, 20)


def days(*offsets: int) -> list[date]:
    return [FRIDAY + timedelta(days=one) for one in offsets]


def test_one_limit_halves_the_rest_of_its_day_and_the_next_whole_one() -> None:
    found = limited(None, days(0), RULES)
    assert found == Limited(FRIDAY, 1)
    assert not is_repeated(found, RULES)
    # The midnight after Saturday, in Paris.
    assert throttled_until(found, PARIS, RULES) == datetime(2026, 11, 21, 23, tzinfo=UTC)


def test_a_day_counts_once_whatever_was_refused_on_it() -> None:
    once = limited(None, days(0, 0, 0), RULES)
    assert once == limited(once, days(0), RULES) == Limited(FRIDAY, 1)


def test_a_second_day_within_a_week_is_a_repetition_and_lasts_a_week() -> None:
    again = limited(Limited(FRIDAY, 1), days(7), RULES)
    assert again == Limited(FRIDAY + timedelta(days=7), 2)
    assert is_repeated(again, RULES)
    assert throttled_until(again, PARIS, RULES) == datetime(2026, 12, 4, 23, tzinfo=UTC)
    third = limited(again, days(8), RULES)
    assert third is not None
    assert third.times == 3


def test_after_more_than_a_week_it_is_the_first_again() -> None:
    assert limited(Limited(FRIDAY, 4), days(8), RULES) == Limited(FRIDAY + timedelta(days=8), 1)


def test_what_is_told_late_says_nothing_new() -> None:
    last = Limited(FRIDAY, 2)
    assert limited(last, days(-1, -5), RULES) == last
    assert limited(None, [], RULES) is None


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(0, 12))
def test_it_does_not_matter_in_how_many_batches_the_days_are_told(
    offsets: list[int], cut: int
) -> None:
    told = sorted(days(*offsets))
    whole = limited(None, told, RULES)
    assert limited(limited(None, told[:cut], RULES), told[cut:], RULES) == whole
    assert limited(whole, told, RULES) == whole


@pytest.mark.parametrize("zone", ["Pacific/Apia", "America/New_York", "Europe/Paris", "UTC"])
def test_the_throttle_ends_at_a_local_midnight(zone: str) -> None:
    tz = ZoneInfo(zone)
    end = throttled_until(Limited(FRIDAY, 1), tz, RULES).astimezone(tz)
    assert (end.date(), end.hour, end.minute) == (FRIDAY + timedelta(days=2), 0, 0)
