"""A mailbox's pacing policy: what may be set, and what holds when nothing is.

What it adds up to, slot by slot and day by day, is the scheduler's to say.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from itertools import pairwise
from math import ceil, isfinite
from typing import Any, Final, Literal

Profile = Literal["mailbox", "node"]
Places = Mapping[str, frozenset[str]]
"""Countries (ISO 3166, two letters) whose holidays are known → their regions' codes."""

CAMPAIGN_TYPES: Final = ("cold", "nurture", "transactional")

_MAILBOX: Final[dict[str, Any]] = {
    "profile": "mailbox",
    "cadence_s": 90,
    "rate_per_s": None,
    "jitter_s": [5, 30],
    "grace_s": 2,
    "max_outstanding": 1,
    "ramp": "default",
    "ramp_from": None,
    "daily_cap": None,
    "hourly_cap": None,
    "ceiling_24h": None,
    "windows": [{"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}],
    "country": None,
    "region": None,
    "holidays": True,
    "blackouts": [],
    "campaign_types": list(CAMPAIGN_TYPES),
    "stage_gate": {"cold": 3, "nurture": 2},
    "attested": True,
    "health_floor": True,
    "cooldown": True,
    "recheck": {"every_s": 900, "for_s": 86_400},
    "reroute": True,
}
DEFAULTS: Final[Mapping[Profile, Mapping[str, Any]]] = {
    "mailbox": _MAILBOX,
    "node": {
        **_MAILBOX,
        "profile": "node",
        "cadence_s": None,
        "max_outstanding": 4,
        "ramp": None,
        "windows": None,
        "holidays": False,
        "stage_gate": None,
        "health_floor": False,
    },
}
"""Per profile. Null is "off" where off means something: windows always open, no cap,
no ramp, no gate. A window whose `end` is not after its `start` closes on the next day."""

KEYS: Final = tuple(_MAILBOX)

START: Final[Mapping[str, int]] = {"google_workspace": 40, "microsoft365": 30, "gmail_consumer": 20}
"""Messages on day 0 of the default ramp, by provider, where it is lower than `START_ELSEWHERE`."""
START_ELSEWHERE: Final = 50
CEILINGS: Final[Mapping[str, int]] = {
    "gmail_consumer": 450, "google_workspace": 1800, "microsoft365": 10_000
}  # fmt: skip
"""Messages in any 24 h, by provider (PROVIDERS §7); elsewhere none is known."""

DAY_S: Final = 86_400
MAX_CADENCE_S: Final = 7 * DAY_S
MAX_CAP: Final = 1_000_000
MAX_RATE: Final = 1000
MAX_RAMP_DAY: Final = 3650
MAX_OUTSTANDING: Final = 64
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class InvalidPolicy(ValueError):
    """A policy that cannot hold; `faults` maps each field to what is wrong and what to change."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in faults.items()))
        self.faults = dict(faults)


def whole(policy: Mapping[str, Any], provider: str) -> dict[str, Any]:
    """Return the policy with every key: the mailbox's own, else its profile's default.

    Without a profile of its own a mailbox at an ESP is a node.
    """
    profile = policy.get("profile", "node" if provider == "esp" else "mailbox")
    return {**DEFAULTS["node" if profile == "node" else "mailbox"], **policy}


def in_effect(
    policy: Mapping[str, Any],
    provider: str,
    country: str | None,
    region: str | None,
    connected_on: date,
) -> dict[str, Any]:
    """Return a checked policy as it holds, nothing left to look up.

    The ramp is a curve with its first day, the ceiling the lower of the
    mailbox's and the provider's. `country` and `region` are what the workspace
    leaves it with, `connected_on` is the local date of its connect.
    """
    held = whole(policy, provider)
    held["ramp"] = _curve(held["ramp"], provider)
    held["ramp_from"] = held["ramp_from"] or connected_on.isoformat()
    ceilings = (held["ceiling_24h"], CEILINGS.get(provider))
    held["ceiling_24h"] = min((one for one in ceilings if one is not None), default=None)
    held["country"], held["region"] = country, region
    if held["cadence_s"] is None:
        # A node is spaced by its rate alone.
        held["jitter_s"] = [0, 0]
    return held


def _curve(ramp: Any, provider: str) -> dict[str, Any] | None:
    if ramp is None or isinstance(ramp, Mapping):
        return None if ramp is None else {"curve": [list(point) for point in ramp["curve"]]}
    start = START.get(provider, START_ELSEWHERE)
    if ramp == "conservative":
        return {"curve": [[0, ceil(start / 2)], [45, 300]]}
    return {"curve": [[0, start], [30, 500]]}


def check(policy: Mapping[str, Any], provider: str, places: Places) -> None:
    """Raise `InvalidPolicy` with a sentence for each field that cannot hold.

    Fields are checked as they will apply, defaults included: a `jitter_s` that
    is fine alone may be too small for the `grace_s` set beside it.
    """
    faults: dict[str, str] = {
        name: f"there is no such setting; known are {', '.join(KEYS)}"
        for name in policy
        if name not in _MAILBOX
    }
    if policy.get("profile", "mailbox") not in ("mailbox", "node"):
        raise InvalidPolicy(faults | {"profile": "must be mailbox or node"})
    held = whole(policy, provider)
    for name, fault in _RULES.items():
        if found := fault(held[name]):
            faults[name] = found
    for fault_between in (_pace_fault, _jitter_fault, _place_fault):
        # A field that is wrong by itself says nothing about its neighbours.
        if found_between := fault_between(held, faults, places):
            faults.setdefault(*found_between)
    if faults:
        raise InvalidPolicy(faults)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _whole_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"must be true or false, got {value!r}"


def _cap(value: Any) -> str | None:
    if value is None or (_whole_number(value) and 0 <= value <= MAX_CAP):
        return None
    return f"must be a whole number of messages, 0 or more, up to {MAX_CAP}, or null, got {value!r}"


def _cadence(value: Any) -> str | None:
    if value is None or (_number(value) and 0 < value <= MAX_CADENCE_S):
        return None
    return f"must be a number of seconds above 0 and at most {MAX_CADENCE_S}, got {value!r}"


def _rate(value: Any) -> str | None:
    if value is None or (_number(value) and 0 < value <= MAX_RATE):
        return None
    return f"must be messages per second above 0 and at most {MAX_RATE}, or null, got {value!r}"


def _grace(value: Any) -> str | None:
    if _number(value) and 0 < value <= 60:
        return None
    return f"must be a number of seconds above 0 and at most 60, got {value!r}"


def _jitter(value: Any) -> str | None:
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(_number(part) for part in value)
    ):
        return f"must be [low, high] in seconds, got {value!r}"
    low, high = value
    if low < 0 or high < low or high > DAY_S:
        return f"its high end ({high}) must be between the low end ({low}) and {DAY_S}"
    return None


def _outstanding(value: Any) -> str | None:
    if _whole_number(value) and 1 <= value <= MAX_OUTSTANDING:
        return None
    return f"must be a whole number from 1 to {MAX_OUTSTANDING}, got {value!r}"


def _ramp(value: Any) -> str | None:
    if value is None or value in ("default", "conservative"):
        return None
    if not isinstance(value, Mapping) or set(value) != {"curve"}:
        return 'must be "default", "conservative", null (off) or {"curve": [[day, cap], …]}'
    curve = value["curve"]
    if (
        not isinstance(curve, list)
        or not 1 <= len(curve) <= 100
        or not all(
            isinstance(point, list | tuple)
            and len(point) == 2
            and all(_whole_number(part) and 0 <= part <= MAX_CAP for part in point)
            and point[0] <= MAX_RAMP_DAY
            for point in curve
        )
    ):
        return (
            "its curve must be 1 to 100 points [day, cap] of whole numbers, "
            f"days from 0 to {MAX_RAMP_DAY}"
        )
    days = [day for day, _ in curve]
    if days[0] != 0 or any(late <= early for early, late in pairwise(days)):
        return f"the days of its curve must begin at 0 and ascend, got {days}"
    return None


def _day(value: Any) -> date | None:
    if not isinstance(value, str) or not _DATE.fullmatch(value):
        return None
    try:
        return date.fromisoformat(value)
    except ValueError:
        return None


def _ramp_from(value: Any) -> str | None:
    if value is None or _day(value):
        return None
    return f"must be a date like 2026-12-24, or null (the day of the connect), got {value!r}"


def _windows(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, list) or not 1 <= len(value) <= 50:
        return "must be null (always open) or a list of 1 to 50 {days, start, end}"
    for position, window in enumerate(value):
        at = f"entry {position + 1}"
        if not isinstance(window, Mapping) or set(window) != {"days", "start", "end"}:
            return f"{at} must have exactly days, start and end"
        days = window["days"]
        if (
            not isinstance(days, list)
            or not days
            or not all(_whole_number(day) and 0 <= day <= 6 for day in days)
        ):
            return f"{at}: days must be numbers from 0 (Monday) to 6 (Sunday), got {days!r}"
        for edge in ("start", "end"):
            if not isinstance(window[edge], str) or not _CLOCK.fullmatch(window[edge]):
                return f"{at}: {edge} must be a time from 00:00 to 23:59, got {window[edge]!r}"
    return None


def _blackouts(value: Any) -> str | None:
    if not isinstance(value, list) or len(value) > 400:
        return 'must be a list (at most 400) of dates and of {"from": date, "to": date}'
    for position, one in enumerate(value):
        at = f"entry {position + 1}"
        first, last = (
            (one.get("from"), one.get("to"))
            if isinstance(one, Mapping) and set(one) == {"from", "to"}
            else (one, one)
        )
        begins, ends = _day(first), _day(last)
        if begins is None or ends is None:
            return f'{at} must be a date like "2026-12-24", or {{"from": …, "to": …}} with two'
        if not timedelta() <= ends - begins <= timedelta(days=366):
            return f"{at}: its last day must be its first or later, at most 366 days on"
    return None


def _types(value: Any) -> str | None:
    if (
        isinstance(value, list)
        and value
        and all(one in CAMPAIGN_TYPES for one in value)
        and len(set(value)) == len(value)
    ):
        return None
    return (
        f"must list one or more of {', '.join(CAMPAIGN_TYPES)}, each once; "
        "a mailbox that shall send nothing is deactivated instead"
    )


def _gate(value: Any) -> str | None:
    if value is None or (
        isinstance(value, Mapping)
        and set(value) <= set(CAMPAIGN_TYPES)
        and all(_whole_number(stage) and 0 <= stage <= 5 for stage in value.values())
    ):
        return None
    return (
        "must be null (off) or give a stage from 0 to 5 for some of "
        f"{', '.join(CAMPAIGN_TYPES)}; a type left out has no gate"
    )


def _recheck(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or set(value) != {"every_s", "for_s"}:
        return "must be null (off) or have exactly every_s and for_s"
    every, lasting = value["every_s"], value["for_s"]
    if not _whole_number(every) or not 60 <= every <= DAY_S:
        return f"every_s must be whole seconds from 60 to {DAY_S}, got {every!r}"
    if not _whole_number(lasting) or not every <= lasting <= 30 * DAY_S:
        return f"for_s must be whole seconds from every_s to {30 * DAY_S}, got {lasting!r}"
    return None


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else f"must be a code, got {value!r}"


_RULES: Final[Mapping[str, Callable[[Any], str | None]]] = {
    "cadence_s": _cadence,
    "rate_per_s": _rate,
    "jitter_s": _jitter,
    "grace_s": _grace,
    "max_outstanding": _outstanding,
    "ramp": _ramp,
    "ramp_from": _ramp_from,
    "daily_cap": _cap,
    "hourly_cap": _cap,
    "ceiling_24h": _cap,
    "windows": _windows,
    "country": _text,
    "region": _text,
    "holidays": _flag,
    "blackouts": _blackouts,
    "campaign_types": _types,
    "stage_gate": _gate,
    "attested": _flag,
    "health_floor": _flag,
    "cooldown": _flag,
    "recheck": _recheck,
    "reroute": _flag,
}

Faults = Mapping[str, str]
Fault = tuple[str, str]


def _pace_fault(held: Mapping[str, Any], _faults: Faults, _places: Places) -> Fault | None:
    if held["profile"] == "mailbox":
        if held["rate_per_s"] is not None:
            return "rate_per_s", 'only nodes have one: set profile to "node", or cadence_s instead'
        if held["cadence_s"] is None:
            return "cadence_s", 'only nodes go without: give seconds, or set profile to "node"'
        if held["max_outstanding"] != 1:
            return "max_outstanding", 'is 1 for a mailbox: set profile to "node" for more'
    elif held["cadence_s"] is not None and held["rate_per_s"] is not None:
        return "rate_per_s", "is set beside cadence_s: set one of the two to null"
    return None


def _jitter_fault(held: Mapping[str, Any], faults: Faults, _places: Places) -> Fault | None:
    if held["cadence_s"] is None or {"jitter_s", "grace_s"} & set(faults):
        return None
    low, grace = held["jitter_s"][0], held["grace_s"]
    if low >= grace:
        return None
    return "jitter_s", (
        f"its low end ({low}) must be at least grace_s ({grace}), so that two messages are "
        "never closer than the cadence: raise it or lower grace_s"
    )


def _place_fault(held: Mapping[str, Any], faults: Faults, places: Places) -> Fault | None:
    if {"country", "region"} & set(faults):
        return None
    country, region = held["country"], held["region"]
    if country is None:
        # The workspace's may change: a region of it would then be nowhere.
        return region and ("region", "needs its country: set country beside it")
    return place_fault(country, region, places)


def place_fault(country: str, region: str | None, places: Places) -> Fault | None:
    """Return which of the two is wrong and why; None for a place whose holidays are known."""
    if country not in places:
        return "country", (
            f"{country!r} is no country whose holidays are known; write two letters, like DE"
        )
    if region is None or region in places[country]:
        return None
    if not places[country]:
        return "region", f"no regions of {country} are known: set it to null"
    known = ", ".join(sorted(places[country]))
    return "region", f"{region!r} is no region of {country}; known are {known}"
