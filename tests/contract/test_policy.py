"""What the gateway shows as a mailbox's policy in effect is what the scheduler paces by."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args

import pytest

from paceline_common.db import Queries
from paceline_gateway.domain.mailbox_policy import CAMPAIGN_TYPES, check, in_effect
from paceline_gateway.domain.provider import Provider
from paceline_gateway.places import places
from paceline_scheduler import policy as scheduler
from paceline_scheduler.domain.rules import TYPES

CONNECTED = datetime(2026, 11, 20, 23, 30, tzinfo=UTC)
ZONE = "Europe/Berlin"
NODE = {"profile": "node"}

POLICIES: list[dict[str, Any]] = [
    {},
    {"cadence_s": 0.5, "jitter_s": [0.1, 0.3], "grace_s": 0.05},
    {"ramp": "conservative", "ramp_from": "2026-02-28"},
    {"ramp": None, "daily_cap": 40, "hourly_cap": 9, "ceiling_24h": 300},
    {"ramp": {"curve": [[0, 5], [10, 100]]}, "ceiling_24h": 20_000},
    {"windows": None, "holidays": False},
    {"windows": [{"days": [5, 6], "start": "22:00", "end": "06:00"}]},
    {"blackouts": ["2026-12-24", {"from": "2026-12-27", "to": "2027-01-02"}]},
    {"campaign_types": ["nurture"], "stage_gate": {"cold": 5}, "attested": False},
    {"stage_gate": None, "health_floor": False, "cooldown": False},
    NODE,
    {**NODE, "rate_per_s": 14.5, "max_outstanding": 10},
    {**NODE, "cadence_s": 3},
]


@pytest.mark.parametrize("provider", get_args(Provider))
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_both_read_a_policy_alike(policy: dict[str, Any], provider: str) -> None:
    check(policy, provider, places())
    shown = in_effect(policy, provider, "DE", "BY", date(2026, 11, 21))
    rules = scheduler.read(
        {
            "policy": policy, "timezone": ZONE, "provider": provider, "country": "DE",
            "region": "BY", "connected_at": CONNECTED,
        }
    )  # fmt: skip
    assert rules.profile == shown["profile"]
    rate, cadence = shown["rate_per_s"], rules.cadence
    if shown["cadence_s"] is not None:
        assert cadence.every == timedelta(seconds=shown["cadence_s"])
    else:
        assert cadence.every.total_seconds() == pytest.approx(1 / rate if rate else 0, abs=1e-3)
    jitter = [cadence.jitter_min.total_seconds(), cadence.jitter_max.total_seconds()]
    assert jitter == shown["jitter_s"]
    assert cadence.grace.total_seconds() == shown["grace_s"]
    assert rules.max_outstanding == shown["max_outstanding"]
    curve = None if rules.ramp is None else {"curve": [list(one) for one in rules.ramp.points]}
    assert curve == shown["ramp"]
    assert rules.ramp_from.isoformat() == shown["ramp_from"]
    assert rules.daily_cap == shown["daily_cap"]
    assert rules.hourly_cap == shown["hourly_cap"]
    assert rules.ceiling == shown["ceiling_24h"]
    assert (rules.window.intervals is None) == (shown["windows"] is None)
    assert rules.types == sum(TYPES[name] for name in shown["campaign_types"])
    gates = {TYPES[name]: stage for name, stage in (shown["stage_gate"] or {}).items()}
    assert rules.stage_gate == gates
    assert rules.attested == shown["attested"]
    assert rules.health_floor == shown["health_floor"]


def test_bounce_reads_what_is_not_set_as_the_gateway_shows_it() -> None:
    read = re.findall(
        r"coalesce\(CAST\(m\.policy ->> '(\w+)' AS boolean\), (\w+)\)",
        Queries("paceline_bounce")["load_settings"].text,
    )
    assert {name for name, _ in read} == {"attested", "cooldown"}
    for name, default in read:
        for provider in get_args(Provider):
            shown = in_effect({}, provider, None, None, date(2026, 11, 21))
            assert shown[name] is {"true": True, "false": False}[default]


def test_both_know_the_same_campaign_types() -> None:
    assert set(CAMPAIGN_TYPES) == set(TYPES)


@pytest.mark.parametrize("holidays", [True, False, None])
@pytest.mark.parametrize("provider", ["smtp", "esp"])
def test_holidays_close_where_the_policy_in_effect_says_so(
    holidays: bool | None, provider: str
) -> None:
    policy = {} if holidays is None else {"holidays": holidays}
    shown = in_effect(policy, provider, "DE", "BY", date(2026, 11, 20))
    rules = scheduler.read(
        {
            "policy": policy, "timezone": ZONE, "provider": provider, "country": "DE",
            "region": "BY", "connected_at": CONNECTED,
        }
    )  # fmt: skip
    # Epiphany is one in Bavaria, not in Berlin.
    assert (date(2027, 1, 6) in rules.window.blackouts.holidays) == shown["holidays"]
