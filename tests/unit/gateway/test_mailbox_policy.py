from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_gateway.domain.mailbox_policy import (
    DEFAULTS,
    InvalidPolicy,
    check,
    daily_capacity,
    effective,
)

MONDAY = date(2026, 11, 16)
ALWAYS = {"jitter_s": [2, 2], "daily_cap": None, "windows": None}


def test_defaults_hold_where_nothing_is_set() -> None:
    assert effective({"cadence_s": 30}) == {**DEFAULTS, "cadence_s": 30}
    check({})


@pytest.mark.parametrize(
    ("policy", "field", "words"),
    [
        ({"cadence_s": 0}, "cadence_s", "above 0"),
        ({"cadence_s": "90"}, "cadence_s", "above 0"),
        ({"cadence_s": True}, "cadence_s", "above 0"),
        ({"grace_s": 0}, "grace_s", "above 0"),
        ({"jitter_s": [1, 30]}, "jitter_s", "at least grace_s (2)"),
        ({"grace_s": 10}, "jitter_s", "at least grace_s (10)"),
        ({"jitter_s": [9, 5]}, "jitter_s", "high end"),
        ({"jitter_s": 5}, "jitter_s", "[low, high]"),
        ({"jitter_s": [float("nan"), 5]}, "jitter_s", "[low, high]"),
        ({"daily_cap": -1}, "daily_cap", "0 or more"),
        ({"daily_cap": 1.5}, "daily_cap", "whole number"),
        ({"hourly_cap": -1}, "hourly_cap", "0 or more"),
        ({"ramp": {"from": 10}}, "ramp", "cannot be set yet"),
        ({"windows": []}, "windows", "null (always open)"),
        ({"windows": [{"days": [7], "start": "09:00", "end": "17:00"}]}, "windows", "0 (Monday)"),
        ({"windows": [{"days": [0], "start": "9:00", "end": "17:00"}]}, "windows", "start must be"),
        ({"windows": [{"days": [0], "start": "09:00", "end": "24:00"}]}, "windows", "end must be"),
        ({"windows": [{"days": [0], "start": "09:00"}]}, "windows", "exactly days"),
        ({"cadence": 90}, "cadence", "no such setting"),
    ],
)
def test_a_policy_that_cannot_hold_says_what_to_change(
    policy: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        check(policy)
    assert set(refused.value.faults) == {field}
    assert words in refused.value.faults[field]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidPolicy) as refused:
        check({"cadence_s": -1, "daily_cap": -1})
    assert set(refused.value.faults) == {"cadence_s", "daily_cap"}


def test_capacity_at_defaults_is_bound_by_the_window_not_the_cap() -> None:
    # 8 h at 90 s plus 17.5 s mean jitter.
    assert daily_capacity({}, "Europe/Berlin", MONDAY) == 267
    assert daily_capacity({"daily_cap": 10_000}, "Europe/Berlin", MONDAY) == 267
    assert daily_capacity({"daily_cap": 40}, "Europe/Berlin", MONDAY) == 40
    assert daily_capacity({"hourly_cap": 5}, "Europe/Berlin", MONDAY) == 40


def test_a_closed_day_has_no_capacity() -> None:
    assert daily_capacity({}, "Europe/Berlin", date(2026, 11, 21)) == 0


@pytest.mark.parametrize(
    ("day", "hours"),
    [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)],
)
def test_dst_days_are_23_and_25_hours(day: date, hours: int) -> None:
    policy = {**ALWAYS, "cadence_s": 3598}
    assert daily_capacity(policy, "Europe/Berlin", day) == hours


def test_a_window_across_midnight_counts_on_both_days() -> None:
    night = [{"days": [0], "start": "22:00", "end": "06:00"}]
    policy = {**ALWAYS, "cadence_s": 3598, "windows": night}
    assert daily_capacity(policy, "UTC", MONDAY) == 2
    assert daily_capacity(policy, "UTC", date(2026, 11, 17)) == 6


def test_overlapping_windows_count_once() -> None:
    twice = [
        {"days": [0], "start": "09:00", "end": "12:00"},
        {"days": [0], "start": "10:00", "end": "13:00"},
    ]
    policy = {**ALWAYS, "cadence_s": 3598, "windows": twice}
    assert daily_capacity(policy, "UTC", MONDAY) == 4


@given(
    st.floats(0.1, 3600), st.floats(0.05, 10), st.floats(0, 100),
    st.one_of(st.none(), st.integers(0, 1000)),
)  # fmt: skip
def test_capacity_never_exceeds_the_cap_nor_the_cadence(
    cadence: float, grace: float, spread: float, cap: int | None
) -> None:
    policy = {
        "cadence_s": cadence, "grace_s": grace, "jitter_s": [grace, grace + spread],
        "daily_cap": cap, "windows": None,
    }  # fmt: skip
    check(policy)
    capacity = daily_capacity(policy, "UTC", MONDAY)
    assert capacity <= 86_400 / cadence
    assert cap is None or capacity <= cap
