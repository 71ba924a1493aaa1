"""Effective capacity: what a day really holds, and which rule binds."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.scheduler.domain.mailboxes import Mailbox, bare, rules

from paceline_scheduler.domain.blackout import Blackouts
from paceline_scheduler.domain.capacity import Capacity, effective
from paceline_scheduler.domain.caps import day_of
from paceline_scheduler.domain.rules import State

FRIDAY = date(2026, 11, 20)
KNOWN = State(health=90)


def test_defaults_hold_about_270_a_day_however_high_the_cap() -> None:
    for cap in (None, 5_000):
        found = effective(rules({"daily_cap": cap}), KNOWN, FRIDAY)
        assert (found.per_day, found.bound_by) == (267, "cadence")
        assert found.parts["ramp_cap"] == 500


def test_day_zero_of_a_new_mailbox_is_bound_by_ramp_and_probation() -> None:
    new = rules({"ramp_from": "2026-11-20"}, provider="google_workspace")
    found = effective(new, State(), FRIDAY)
    assert (found.per_day, found.bound_by) == (40, "probation_cap")
    assert found.parts == {
        "probation_cap": 40,
        "ramp_cap": 40,
        "provider_ceiling": 1800,
        "cadence": 267,
    }


def test_each_rule_can_bind() -> None:
    for changes, state, expected in (
        ({"daily_cap": 100}, KNOWN, (100, "daily_cap")),
        ({"hourly_cap": 10}, KNOWN, (80, "hourly_cap")),
        ({"ceiling_24h": 70}, KNOWN, (70, "provider_ceiling")),
        ({}, replace(KNOWN, domain_cap=60), (60, "domain_budget")),
        ({"daily_cap": 100}, replace(KNOWN, throttled=True), (50, "throttled_cap")),
    ):
        found = effective(rules(changes), state, FRIDAY)
        assert (found.per_day, found.bound_by) == expected


def test_closed_day_holds_nothing_and_says_why() -> None:
    held = rules()
    sunday = date(2026, 11, 22)
    assert effective(held, KNOWN, sunday) == Capacity(0, "outside_window", {"outside_window": 0})
    closed = replace(
        held, window=replace(held.window, blackouts=Blackouts(holidays=frozenset({FRIDAY})))
    )
    assert effective(closed, KNOWN, FRIDAY) == Capacity(0, "holiday", {"holiday": 0})


def test_node_without_rate_or_quota_has_no_limit() -> None:
    node = rules({}, provider="esp")
    assert effective(node, State(), FRIDAY) == Capacity(None, None, {})


def test_dst_days_hold_an_hour_less_and_more() -> None:
    berlin = bare("Europe/Berlin", cadence_s=None, rate_per_s=1)
    assert effective(berlin, KNOWN, date(2026, 3, 29)).per_day == 23 * 3600
    assert effective(berlin, KNOWN, date(2026, 10, 25)).per_day == 25 * 3600


def test_hours_of_the_cap_are_those_the_window_touches() -> None:
    window = [{"days": [4], "start": "09:00", "end": "11:00"}]
    kolkata = bare("Asia/Kolkata", windows=window, hourly_cap=3)
    assert effective(kolkata, KNOWN, FRIDAY).parts["hourly_cap"] == 9
    both = [{"days": [4], "start": "09:00", "end": "09:20"}, *window[:0]]
    both.append({"days": [4], "start": "09:30", "end": "09:50"})
    assert effective(bare(windows=both, hourly_cap=3), KNOWN, FRIDAY).parts["hourly_cap"] == 3


@given(st.sampled_from(["UTC", "Asia/Kolkata", "America/St_Johns"]), st.integers(0, 50))
@settings(max_examples=12, deadline=None)
def test_driven_day_reaches_the_capacity_and_not_more(tz: str, seed: int) -> None:
    zone = ZoneInfo(tz)
    window = [{"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}]
    held = bare(tz, windows=window, cadence_s=300)
    start = datetime(2026, 11, 20, 3, tzinfo=zone).astimezone(UTC)
    mailbox = Mailbox(held, start, seed)
    mailbox.send(100)
    sent = sum(day_of(one.slot_at, zone) == FRIDAY for one in mailbox.slots)
    expected = effective(held, KNOWN, FRIDAY).per_day
    assert expected is not None
    assert abs(sent - expected) <= 1 + expected // 50
    assert timedelta(hours=8) // held.cadence.mean == expected
