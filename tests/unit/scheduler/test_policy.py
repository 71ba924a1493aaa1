"""Settings become rules, with the defaults of both profiles."""

from dataclasses import asdict
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from tests.unit.scheduler.domain.mailboxes import rules

from paceline_common.address import InvalidAddress
from paceline_scheduler import policy
from paceline_scheduler.domain.ramp import Ramp
from paceline_scheduler.domain.rules import ALL_TYPES, NURTURE, TRANSACTIONAL
from paceline_scheduler.domain.window import Interval


def test_mailbox_has_every_rule_of_the_design_on_from_the_connect() -> None:
    held = rules(provider="google_workspace", tz="Europe/Paris", country="FR")
    assert policy.columns(held) == policy.Columns(
        tz="Europe/Paris",
        cadence_ms=90_000,
        jitter_min_ms=5_000,
        jitter_max_ms=30_000,
        grace_ms=2_000,
        hour_cap=None,
        ceiling=1_800,
        types=ALL_TYPES,
        health_floor=True,
        max_outstanding=1,
    )
    assert held.profile == "mailbox"
    assert held.ramp == Ramp(((0, 40), (30, 500)))
    assert held.ramp_from == date(2026, 1, 1)
    assert held.daily_cap is None
    assert held.window.intervals == (Interval(frozenset(range(5)), time(9), time(17)),)
    assert held.stage_gate == {1: 3, 2: 2}
    assert held.attested
    assert not held.window.is_open(datetime(2026, 7, 14, 10, tzinfo=UTC)), "Bastille Day"
    assert held.window.is_open(datetime(2026, 7, 15, 10, tzinfo=UTC))


def test_node_has_them_off() -> None:
    for held in (
        rules(provider="esp", country="FR"),
        rules({"profile": "node"}, country="FR"),
    ):
        assert held.profile == "node"
        assert held.cadence.next_at(datetime(2026, 1, 1, tzinfo=UTC), 0.9) == datetime(
            2026, 1, 1, tzinfo=UTC
        )
        assert held.cadence.grace == timedelta(seconds=2)
        assert held.ramp is None
        assert held.window.intervals is None
        assert not held.window.blackouts.holidays
        assert held.ceiling is None
        assert held.stage_gate == {}
        assert not held.health_floor
        assert held.max_outstanding == 4
    assert rules({"profile": "mailbox"}, provider="esp").profile == "mailbox"


def test_every_setting_can_be_overridden() -> None:
    held = rules(
        {
            "cadence_s": 60.5,
            "jitter_s": [3, 4],
            "grace_s": 1,
            "max_outstanding": 9,
            "ramp": {"curve": [[0, 5], [10, 100]]},
            "ramp_from": "2026-03-01",
            "daily_cap": 77,
            "hourly_cap": 8,
            "windows": [{"days": [6], "start": "22:00", "end": "06:00"}],
            "blackouts": ["2026-12-24", {"from": "2026-12-30", "to": "2027-01-02"}],
            "campaign_types": ["nurture", "transactional"],
            "stage_gate": {"nurture": 5},
            "attested": False,
            "health_floor": False,
        },
        country="FR",
    )
    columns = asdict(policy.columns(held))
    assert (columns["cadence_ms"], columns["jitter_min_ms"], columns["jitter_max_ms"]) == (
        60_500, 3_000, 4_000,
    )  # fmt: skip
    assert held.max_outstanding == 1, "a mailbox has one on its way"
    assert held.ramp == Ramp(((0, 5), (10, 100)))
    assert held.ramp_from == date(2026, 3, 1)
    assert (held.daily_cap, held.hourly_cap) == (77, 8)
    assert held.types == NURTURE | TRANSACTIONAL
    assert held.stage_gate == {NURTURE: 5}
    assert not held.attested
    assert not held.health_floor
    assert held.window.intervals == (Interval(frozenset({6}), time(22), time(6)),)
    assert held.window.blackouts.dates == {
        date(2026, 12, 24),
        *(date(2026, 12, 30) + timedelta(days=n) for n in range(4)),
    }


def test_null_turns_a_rule_off() -> None:
    held = rules(
        {"cadence_s": None, "ramp": None, "windows": None, "stage_gate": None, "holidays": False},
        country="FR",
    )
    assert held.cadence.every == timedelta()
    assert held.ramp is None
    assert held.window.intervals is None
    assert held.stage_gate == {}
    assert not held.window.blackouts.holidays


def test_rate_of_a_node_replaces_its_cadence() -> None:
    held = rules({"rate_per_s": 20, "grace_s": 0.5, "max_outstanding": 16}, provider="esp")
    columns = policy.columns(held)
    assert (columns.cadence_ms, columns.jitter_max_ms, columns.grace_ms) == (50, 0, 500)
    assert columns.max_outstanding == 16


def test_users_ceiling_only_lowers_the_providers() -> None:
    for provider, own, ceiling in (
        ("gmail_consumer", None, 450),
        ("google_workspace", 5_000, 1_800),
        ("microsoft365", 500, 500),
        ("smtp", None, None),
        ("esp", 20_000, 20_000),
        ("gmail_consumer", 0, 0),
    ):
        assert rules({"ceiling_24h": own}, provider=provider).ceiling == ceiling


def test_jitter_below_grace_is_raised_to_it() -> None:
    columns = policy.columns(rules({"jitter_s": [0, 0], "grace_s": 3}))
    assert (columns.jitter_min_ms, columns.jitter_max_ms) == (3_000, 3_000)


def test_holidays_follow_country_and_region() -> None:
    corpus_christi = date(2026, 6, 4)
    bavaria = rules(country="DE", region="BY").window.blackouts
    assert bavaria.cause(corpus_christi) == "holiday"
    assert rules(country="DE", region="BE").window.blackouts.cause(corpus_christi) is None
    nationwide = rules(country="DE", region="nowhere").window.blackouts
    assert nationwide.cause(date(2026, 10, 3)) == "holiday"
    assert nationwide.cause(corpus_christi) is None
    for country in (None, "QQ"):
        assert not rules(country=country).window.blackouts.holidays
    for year in (2020, 2033, 2050):
        assert bavaria.cause(date(year, 12, 25)) == "holiday"


def test_own_blackout_is_told_from_a_holiday() -> None:
    closed = rules({"blackouts": ["2026-12-25"]}, country="FR").window.blackouts
    assert closed.cause(date(2026, 12, 25)) == "blackout"
    assert closed.cause(date(2027, 12, 25)) == "holiday"


def test_blackout_without_an_end_in_sight_is_cut() -> None:
    closed = rules({"blackouts": [{"from": "2050-12-30", "to": "9999-12-31"}]}).window.blackouts
    assert closed.dates == {date(2050, 12, 30), date(2050, 12, 31)}


def test_same_settings_share_one_window() -> None:
    first = rules({"blackouts": ["2026-12-24"]}, country="FR")
    assert rules({"blackouts": ["2026-12-24"]}, country="FR").window is first.window
    assert rules({"blackouts": ["2026-12-24"]}, country="DE").window is not first.window
    assert rules({"blackouts": ["2026-12-24"]}, "Europe/Paris", country="FR").window.tz == ZoneInfo(
        "Europe/Paris"
    )


def test_unknown_zone_is_read_as_utc() -> None:
    assert rules(tz="Mars/Olympus").tz == ZoneInfo("UTC")


def test_account_is_the_same_however_its_address_is_written() -> None:
    ref = policy.account_ref
    gmail = ref("gmail_consumer", "jane.doe@gmail.com")
    for same in ("JaneDoe@gmail.com", "j.a.n.e.doe+sales@googlemail.com"):
        assert ref("gmail_consumer", same) == gmail
    assert ref("gmail_consumer", "jane.do@gmail.com") != gmail
    workspace = ref("google_workspace", "jane.doe@example.com")
    assert ref("google_workspace", "janedoe@example.com") != workspace, "dots count there"
    assert ref("google_workspace", "Jane.Doe@Example.com") == workspace
    assert ref("smtp", "jane.doe@example.com") != workspace
    assert -(2**63) <= gmail < 2**63
    # Fixed: the same in every process and version.
    assert ref("smtp", "a@example.com") == -6349252160131853168
    with pytest.raises(InvalidAddress):
        ref("smtp", "nobody")


def test_host_is_who_reads_the_mailbox() -> None:
    codes = {
        one: policy.host_code(one)
        for one in ("gmail_consumer", "google_workspace", "microsoft365", "outlook_consumer")
    }
    assert codes == {
        "gmail_consumer": 1, "google_workspace": 1, "microsoft365": 2, "outlook_consumer": 2
    }  # fmt: skip
    assert {policy.host_code(one) for one in ("yahoo", "smtp", "esp")} == {0}
