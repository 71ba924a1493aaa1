from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_gateway.domain.mailbox_policy import (
    DEFAULTS,
    KEYS,
    InvalidPolicy,
    check,
    in_effect,
    whole,
)

PLACES = {"DE": frozenset({"BE", "BY"}), "FR": frozenset({"57"}), "MC": frozenset[str]()}
DAY = date(2026, 11, 16)
NODE = {"profile": "node"}
WINDOW = {"days": [0], "start": "09:00", "end": "17:00"}

GOOD: list[dict[str, Any]] = [
    {},
    {"cadence_s": 0.5, "jitter_s": [0.1, 0.3], "grace_s": 0.05},
    {"ramp": "conservative", "ramp_from": "2026-02-28"},
    {"ramp": None},
    {"ramp": {"curve": [[0, 5], [10, 100], [90, 0]]}},
    {"daily_cap": 0, "hourly_cap": 10, "ceiling_24h": 300},
    {"windows": None},
    {"windows": [WINDOW, {"days": [5, 6], "start": "22:00", "end": "06:00"}]},
    {"country": "DE", "region": "BY", "holidays": False},
    {"country": "MC"},
    {"blackouts": ["2026-12-24", {"from": "2026-12-27", "to": "2027-01-02"}]},
    {"campaign_types": ["nurture"]},
    {"stage_gate": {"cold": 5}, "attested": False, "health_floor": False},
    {"stage_gate": None, "cooldown": False},
    {"recheck": None, "reroute": False},
    {"recheck": {"every_s": 60, "for_s": 60}},
    NODE,
    {**NODE, "rate_per_s": 14.5, "max_outstanding": 10},
    {**NODE, "cadence_s": 3},
    {**NODE, "rate_per_s": 5, "cadence_s": None},
]

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"profile": "esp"}, "profile", "mailbox or node"),
    ({"profile": ["node"]}, "profile", "mailbox or node"),
    ({"cadence_s": 0}, "cadence_s", "above 0"),
    ({"cadence_s": "90"}, "cadence_s", "above 0"),
    ({"cadence_s": True}, "cadence_s", "above 0"),
    ({"cadence_s": None}, "cadence_s", 'set profile to "node"'),
    ({"grace_s": 0}, "grace_s", "above 0"),
    ({"jitter_s": [1, 30]}, "jitter_s", "at least grace_s (2)"),
    ({"grace_s": 10}, "jitter_s", "at least grace_s (10)"),
    ({**NODE, "cadence_s": 9, "grace_s": 10}, "jitter_s", "at least grace_s (10)"),
    ({"jitter_s": [9, 5]}, "jitter_s", "high end"),
    ({"jitter_s": 5}, "jitter_s", "[low, high]"),
    ({"jitter_s": [float("nan"), 5]}, "jitter_s", "[low, high]"),
    ({"rate_per_s": 2}, "rate_per_s", 'set profile to "node"'),
    ({**NODE, "rate_per_s": 0}, "rate_per_s", "above 0"),
    ({**NODE, "rate_per_s": 2, "cadence_s": 9}, "rate_per_s", "one of the two to null"),
    ({"max_outstanding": 2}, "max_outstanding", "is 1 for a mailbox"),
    ({**NODE, "max_outstanding": 0}, "max_outstanding", "from 1 to"),
    ({"daily_cap": -1}, "daily_cap", "0 or more"),
    ({"daily_cap": 1.5}, "daily_cap", "whole number"),
    ({"daily_cap": 10**7}, "daily_cap", "up to 1000000"),
    ({"hourly_cap": -1}, "hourly_cap", "0 or more"),
    ({"ceiling_24h": "500"}, "ceiling_24h", "whole number"),
    ({"ramp": "steep"}, "ramp", '"conservative"'),
    ({"ramp": {"from": 10}}, "ramp", "curve"),
    ({"ramp": {"curve": []}}, "ramp", "1 to 100 points"),
    ({"ramp": {"curve": [[0, 5.5]]}}, "ramp", "whole numbers"),
    ({"ramp": {"curve": [[1, 5]]}}, "ramp", "begin at 0"),
    ({"ramp": {"curve": [[0, 5], [0, 6]]}}, "ramp", "ascend"),
    ({"ramp_from": "2026-02-30"}, "ramp_from", "a date like"),
    ({"ramp_from": "20260228"}, "ramp_from", "a date like"),
    ({"windows": []}, "windows", "null (always open)"),
    ({"windows": [{**WINDOW, "days": [7]}]}, "windows", "0 (Monday)"),
    ({"windows": [{**WINDOW, "start": "9:00"}]}, "windows", "start must be"),
    ({"windows": [{**WINDOW, "end": "24:00"}]}, "windows", "end must be"),
    ({"windows": [{"days": [0], "start": "09:00"}]}, "windows", "exactly days"),
    ({"country": "DEU"}, "country", "two letters"),
    ({"country": 49}, "country", "a code"),
    ({"region": "BY"}, "region", "set country beside it"),
    ({"country": "DE", "region": "57"}, "region", "known are BE, BY"),
    ({"country": "MC", "region": "BY"}, "region", "no regions of MC"),
    ({"holidays": "yes"}, "holidays", "true or false"),
    ({"blackouts": "2026-12-24"}, "blackouts", "must be a list"),
    ({"blackouts": ["24.12.2026"]}, "blackouts", "entry 1"),
    ({"blackouts": ["2026-12-24", {"from": "2026-12-24"}]}, "blackouts", "entry 2"),
    ({"blackouts": [{"from": "2026-12-24", "to": "2026-12-23"}]}, "blackouts", "first or later"),
    ({"campaign_types": []}, "campaign_types", "deactivated instead"),
    ({"campaign_types": ["warm"]}, "campaign_types", "cold, nurture, transactional"),
    ({"campaign_types": ["cold", "cold"]}, "campaign_types", "each once"),
    ({"stage_gate": {"cold": 6}}, "stage_gate", "from 0 to 5"),
    ({"stage_gate": {"warm": 1}}, "stage_gate", "from 0 to 5"),
    ({"attested": 1}, "attested", "true or false"),
    ({"health_floor": None}, "health_floor", "true or false"),
    ({"cooldown": "off"}, "cooldown", "true or false"),
    ({"recheck": {"every_s": 900}}, "recheck", "exactly every_s and for_s"),
    ({"recheck": {"every_s": 1, "for_s": 900}}, "recheck", "every_s must be"),
    ({"recheck": {"every_s": 900, "for_s": 899}}, "recheck", "for_s must be"),
    ({"reroute": "no"}, "reroute", "true or false"),
    ({"cadence": 90}, "cadence", "no such setting"),
]


@pytest.mark.parametrize("policy", GOOD, ids=str)
def test_what_can_hold_is_taken(policy: dict[str, Any]) -> None:
    check(policy, "smtp", PLACES)
    assert set(in_effect(policy, "smtp", None, None, DAY)) == set(KEYS)


@pytest.mark.parametrize(("policy", "field", "words"), BAD, ids=str)
def test_a_policy_that_cannot_hold_says_what_to_change(
    policy: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidPolicy) as refused:
        check(policy, "smtp", PLACES)
    assert set(refused.value.faults) == {field}
    assert words in refused.value.faults[field]


def test_every_setting_has_a_case_that_is_refused() -> None:
    assert {field for _, field, _ in BAD} >= set(KEYS)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidPolicy) as refused:
        check({"cadence_s": -1, "daily_cap": -1, "region": "BY"}, "smtp", PLACES)
    assert set(refused.value.faults) == {"cadence_s", "daily_cap", "region"}


def test_defaults_are_those_of_the_profile() -> None:
    assert whole({"cadence_s": 30}, "smtp") == {**DEFAULTS["mailbox"], "cadence_s": 30}
    assert whole(NODE, "smtp") == whole({}, "esp") | {"profile": "node"} == DEFAULTS["node"]
    assert whole({"profile": "mailbox"}, "esp") == DEFAULTS["mailbox"]
    for provider in ("smtp", "esp"):
        check({}, provider, PLACES)
    check({"rate_per_s": 5}, "esp", PLACES)


@pytest.mark.parametrize(
    ("ramp", "provider", "curve"),
    [
        ("default", "smtp", [[0, 50], [30, 500]]),
        ("default", "google_workspace", [[0, 40], [30, 500]]),
        ("default", "microsoft365", [[0, 30], [30, 500]]),
        ("default", "gmail_consumer", [[0, 20], [30, 500]]),
        ("conservative", "smtp", [[0, 25], [45, 300]]),
        ("conservative", "microsoft365", [[0, 15], [45, 300]]),
        ({"curve": [[0, 7]]}, "gmail_consumer", [[0, 7]]),
    ],
)
def test_the_ramp_in_effect_is_a_curve(ramp: Any, provider: str, curve: list[list[int]]) -> None:
    assert in_effect({"ramp": ramp}, provider, None, None, DAY)["ramp"] == {"curve": curve}


def test_the_ramp_begins_with_the_connect_unless_told_otherwise() -> None:
    assert in_effect({}, "smtp", None, None, DAY)["ramp_from"] == "2026-11-16"
    held = in_effect({"ramp_from": "2026-01-02"}, "smtp", None, None, DAY)
    assert held["ramp_from"] == "2026-01-02"


@pytest.mark.parametrize(
    ("own", "provider", "ceiling"),
    [
        (None, "smtp", None), (None, "gmail_consumer", 450), (None, "google_workspace", 1800),
        (100, "gmail_consumer", 100), (900, "gmail_consumer", 450), (900, "smtp", 900),
    ],
)  # fmt: skip
def test_a_ceiling_of_ones_own_only_lowers_the_providers(
    own: int | None, provider: str, ceiling: int | None
) -> None:
    held = in_effect({"ceiling_24h": own}, provider, None, None, DAY)
    assert held["ceiling_24h"] == ceiling


def test_nothing_in_effect_is_shared_with_the_defaults() -> None:
    before = whole({}, "smtp")
    held = in_effect({}, "smtp", "DE", "BY", DAY)
    assert (held["country"], held["region"]) == ("DE", "BY")
    assert whole({}, "smtp") == before


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(KEYS), anything, max_size=4))
def test_whatever_is_sent_is_taken_or_refused_with_words(policy: dict[str, Any]) -> None:
    faults: dict[str, str] = {}
    try:
        check(policy, "smtp", PLACES)
        in_effect(policy, "smtp", None, None, DAY)
    except InvalidPolicy as refused:
        faults = refused.faults
    assert set(faults) <= set(KEYS)
    assert all(faults.values())
