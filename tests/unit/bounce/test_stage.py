"""Stages: earned by numbers, lost one at a time by rates."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_bounce.domain.score import ScoreRules, Volumes, score
from paceline_bounce.domain.stage import Numbers, StageRules, Standing, measure

RULES = StageRules()
NOW = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
GOOD = Numbers(
    delivered=3_000, score=90, bounce_rate=0.004, complaint_rate=0.0001, bounce_rate_month=0.004
)
rates = st.floats(0, 0.2)
numbers = st.builds(
    Numbers,
    delivered=st.integers(0, 10_000),
    score=st.none() | st.integers(0, 100),
    bounce_rate=rates,
    complaint_rate=st.floats(0, 0.01),
    bounce_rate_month=rates,
    records_right=st.none() | st.booleans(),
)


def stage(numbers: Numbers, held: int = 0) -> int:
    return measure(Standing(held), numbers, NOW, RULES).stage


@pytest.mark.parametrize(
    ("delivered", "expected"),
    [
        (0, 0), (1, 1), (49, 1), (50, 2), (199, 2), (200, 3), (999, 3), (1_000, 4), (2_999, 4),
        (3_000, 5), (10**6, 5),
    ],
)  # fmt: skip
def test_clean_deliveries_earn_stages(delivered: int, expected: int) -> None:
    assert stage(replace(GOOD, delivered=delivered)) == expected


@pytest.mark.parametrize(
    ("change", "highest"),
    [
        ({"records_right": False}, 0),
        ({"score": 69}, 1),
        ({"score": None}, 1),
        ({"complaint_rate": 0.0011}, 2),
        ({"bounce_rate": 0.031}, 2),
        ({"bounce_rate": 0.030}, 3),
        ({"bounce_rate": 0.021}, 3),
        ({"bounce_rate": 0.020, "bounce_rate_month": 0.020}, 4),
        ({"bounce_rate_month": 0.011}, 4),
        ({"bounce_rate_month": 0.010, "complaint_rate": 0.001, "score": 70}, 5),
    ],
)
def test_rates_bound_the_stage_that_can_be_earned(change: dict[str, Any], highest: int) -> None:
    assert stage(replace(GOOD, **change)) == highest


@pytest.mark.parametrize(
    ("held", "change"),
    [
        (1, {"records_right": False}),
        (2, {"score": 69}),
        (3, {"bounce_rate": 0.031}),
        (3, {"complaint_rate": 0.0011}),
        (4, {"bounce_rate": 0.021}),
        (5, {"bounce_rate_month": 0.011}),
        (5, {"bounce_rate": 0.15}),
        (5, {"score": 10}),
    ],
)
def test_a_broken_rate_costs_one_stage(held: int, change: dict[str, Any]) -> None:
    assert measure(Standing(held), replace(GOOD, **change), NOW, RULES) == Standing(held - 1, NOW)


def test_a_stage_that_fell_rests_a_day_then_falls_on_or_recovers() -> None:
    bad = replace(GOOD, bounce_rate=0.15)
    fallen = measure(Standing(5), bad, NOW, RULES)
    soon, later = NOW + timedelta(hours=23, minutes=59), NOW + timedelta(hours=24)

    assert measure(fallen, bad, soon, RULES) == measure(fallen, GOOD, soon, RULES) == fallen
    assert measure(fallen, bad, later, RULES) == Standing(3, later)
    assert measure(fallen, GOOD, later, RULES).stage == 5


def test_silence_keeps_a_stage_and_earns_none() -> None:
    silent = replace(GOOD, score=None)

    assert stage(silent, held=4) == 4
    assert stage(silent, held=1) == 1


def test_a_stage_is_not_lost_for_numbers_below_it() -> None:
    assert stage(replace(GOOD, delivered=10), held=4) == 4


@given(numbers, st.integers(0, 5))
def test_a_stage_is_within_0_and_5_and_falls_by_one_at_most(numbers: Numbers, held: int) -> None:
    after = stage(numbers, held)

    assert 0 <= after <= 5
    assert after >= held - 1


@given(
    numbers,
    st.integers(0, 5),
    st.sampled_from(["bounce_rate", "complaint_rate", "bounce_rate_month"]),
    st.floats(0, 0.5),
)
def test_a_worse_rate_never_gives_a_higher_stage(
    numbers: Numbers, held: int, rate: str, more: float
) -> None:
    worse = replace(numbers, **{rate: getattr(numbers, rate) + more})

    assert stage(worse, held) <= stage(numbers, held)


NEW = Numbers(
    delivered=0, score=None, bounce_rate=0.005, complaint_rate=0.0005, bounce_rate_month=0.005,
    attested=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 3),
        ({"delivered": 199, "score": 90}, 3),
        ({"delivered": 999, "score": 90}, 3),
        ({"delivered": 1_000, "score": 90}, 4),
        ({"delivered": 1_000}, 3),
    ],
)
def test_an_attested_mailbox_begins_at_3_and_earns_what_is_above(
    change: dict[str, Any], expected: int
) -> None:
    found = measure(Standing(), replace(NEW, **change), NOW, RULES)

    assert found == Standing(expected, None, attested=True)


@pytest.mark.parametrize(
    "change",
    [{"bounce_rate": 0.031}, {"complaint_rate": 0.0011}, {"score": 69}, {"records_right": False}],
)
def test_an_attested_mailbox_falls_as_any_other(change: dict[str, Any]) -> None:
    bad = replace(NEW, **change)
    fallen = measure(Standing(), bad, NOW, RULES)
    later = NOW + timedelta(hours=24)

    assert fallen == measure(Standing(3, None, attested=True), bad, NOW, RULES)
    assert fallen == Standing(2, NOW, attested=True)
    assert measure(fallen, NEW, later - timedelta(minutes=1), RULES) == fallen
    worse = replace(bad, records_right=False)
    assert measure(fallen, worse, later, RULES) == Standing(1, later, attested=True)


def test_an_attested_mailbox_that_fell_is_back_when_its_rates_are_however_silent() -> None:
    fallen, later = Standing(1, NOW, attested=True), NOW + timedelta(hours=24)

    assert measure(fallen, NEW, later, RULES).stage == 3
    assert measure(fallen, replace(NEW, bounce_rate=0.031), later, RULES).stage == 2


@pytest.mark.parametrize("sends", [1, 2, 5, 10, 19, 20, 21, 40, 100])
@pytest.mark.parametrize("held", [Standing(), Standing(3, None, attested=True)])
def test_one_early_bounce_costs_no_stage(held: Standing, sends: int) -> None:
    rules, volumes = ScoreRules(), Volumes(sends=sends, hard=1)
    rate = rules.prior.rate(volumes.hard, volumes.sends)
    early = Numbers(
        delivered=sends - 1,
        score=score(volumes, rules),
        bounce_rate=rate,
        complaint_rate=rules.complaint_prior.rate(0, volumes.sends),
        bounce_rate_month=rate,
        attested=True,
    )

    assert measure(held, early, NOW, RULES) == Standing(3, None, attested=True)


@pytest.mark.parametrize(
    ("held", "delivered", "left"),
    [(3, 0, 0), (3, 60, 2), (3, 200, 3), (5, 3_000, 5), (4, 999, 3), (2, 200, 2)],
)
def test_an_attestation_withdrawn_takes_what_rested_on_it(
    held: int, delivered: int, left: int
) -> None:
    numbers = replace(NEW, delivered=delivered, attested=False)
    resting = Standing(held, NOW, attested=True)

    assert measure(resting, numbers, NOW, RULES) == Standing(left, NOW)


def test_attesting_anew_does_not_lift_what_fell() -> None:
    fallen, soon = Standing(2, NOW, attested=True), NOW + timedelta(hours=1)
    bad = replace(NEW, bounce_rate=0.2, delivered=60)
    withdrawn = measure(fallen, replace(bad, attested=False), soon, RULES)

    assert measure(withdrawn, bad, soon, RULES) == fallen


def test_attesting_later_lifts_what_never_fell() -> None:
    begun = Standing(1)

    assert measure(begun, replace(NEW, delivered=9), NOW, RULES).stage == 3


@given(numbers, st.integers(0, 5))
def test_attestation_alone_gives_3_at_most_and_never_takes(numbers: Numbers, held: int) -> None:
    without = stage(numbers, held)
    found = measure(
        Standing(held, None, attested=True), replace(numbers, attested=True), NOW, RULES
    )

    assert without <= found.stage <= max(without, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: StageRules(delivered=(1, 50, 40, 1_000, 3_000)),
        lambda: StageRules(delivered=(0, 50, 200, 1_000, 3_000)),
        lambda: StageRules(bounce_rates=(0.01, 0.02, 0.03)),
        lambda: StageRules(month_days=0),
    ],
)
def test_numbers_that_mean_nothing_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError):
        wrong()
