"""A mailbox's pacing policy: what may be set, what holds when nothing is, what it adds up to."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from math import isfinite
from typing import Any, Final
from zoneinfo import ZoneInfo

DEFAULTS: Final[dict[str, Any]] = {
    "cadence_s": 90,
    "jitter_s": [5, 30],
    "grace_s": 2,
    "daily_cap": 500,
    "hourly_cap": None,
    "ramp": None,
    "windows": [{"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}],
}
"""DESIGN §5. `windows: null` means always open, a cap or ramp of null that there is none.

A window whose `end` is not after its `start` closes on the next day.
"""

DAY_S: Final = 86_400
MAX_CADENCE_S: Final = 7 * DAY_S
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):[0-5]\d", re.ASCII)


class InvalidPolicy(ValueError):
    """A policy that cannot hold; `faults` maps each field to what is wrong and what to change."""

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in faults.items()))
        self.faults = dict(faults)


def effective(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return the policy with every key: the mailbox's own, else the default."""
    return {**DEFAULTS, **policy}


def check(policy: Mapping[str, Any]) -> None:
    """Raise `InvalidPolicy` with a sentence for each field that cannot hold.

    Fields are checked as they will apply, defaults included: a `jitter_s` that
    is fine alone may be too small for the `grace_s` set beside it.
    """
    faults: dict[str, str] = {
        name: f"there is no such setting; known are {', '.join(DEFAULTS)}"
        for name in policy
        if name not in DEFAULTS
    }
    whole = effective(policy)
    cadence, grace = whole["cadence_s"], whole["grace_s"]
    if not _number(cadence) or not 0 < cadence <= MAX_CADENCE_S:
        faults["cadence_s"] = (
            f"must be a number of seconds above 0 and at most {MAX_CADENCE_S}, got {cadence!r}"
        )
    if not _number(grace) or not 0 < grace <= 60:
        faults["grace_s"] = f"must be a number of seconds above 0 and at most 60, got {grace!r}"
    elif fault := _jitter_fault(whole["jitter_s"], grace):
        faults["jitter_s"] = fault
    for name in ("daily_cap", "hourly_cap"):
        cap = whole[name]
        if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 0):
            faults[name] = f"must be a whole number of messages, 0 or more, or null, got {cap!r}"
    if whole["ramp"] is not None:
        faults["ramp"] = "must be null: ramps cannot be set yet"
    if whole["windows"] is not None and (fault := _windows_fault(whole["windows"])):
        faults["windows"] = fault
    if faults:
        raise InvalidPolicy(faults)


def daily_capacity(policy: Mapping[str, Any], zone: str, day: date) -> int:
    """Return how many messages the mailbox can send on `day` (local), whatever the demand.

    The least of the daily cap and of what the open hours hold at cadence plus
    mean jitter, or at the hourly cap if that is slower. A day with a DST change
    has 23 or 25 hours.
    """
    whole = effective(policy)
    low, high = whole["jitter_s"]
    open_s = _open_seconds(whole["windows"], zone, day)
    limits = [open_s / (whole["cadence_s"] + (low + high) / 2)]
    if whole["hourly_cap"] is not None:
        limits.append(open_s / 3600 * whole["hourly_cap"])
    if whole["daily_cap"] is not None:
        limits.append(whole["daily_cap"])
    return int(min(limits))


def _open_seconds(windows: Sequence[Mapping[str, Any]] | None, zone: str, day: date) -> float:
    tz = ZoneInfo(zone)

    def instant(on: date, at: time) -> datetime:
        return datetime.combine(on, at, tz).astimezone(UTC)

    midnight, end_of_day = instant(day, time()), instant(day + timedelta(days=1), time())
    if windows is None:
        return (end_of_day - midnight).total_seconds()
    spans: list[tuple[datetime, datetime]] = []
    for window in windows:
        start, end = time.fromisoformat(window["start"]), time.fromisoformat(window["end"])
        for opens_on in (day - timedelta(days=1), day):
            if opens_on.weekday() in window["days"]:
                closes = instant(opens_on + timedelta(days=end <= start), end)
                spans.append((max(instant(opens_on, start), midnight), min(closes, end_of_day)))
    total, reached = 0.0, midnight
    for opens, closes in sorted(spans):
        total += max(0.0, (closes - max(opens, reached)).total_seconds())
        reached = max(reached, closes)
    return total


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _jitter_fault(jitter: Any, grace: float) -> str | None:
    if (
        not isinstance(jitter, list | tuple)
        or len(jitter) != 2
        or not all(_number(part) for part in jitter)
    ):
        return f"must be [low, high] in seconds, got {jitter!r}"
    low, high = jitter
    if low < grace:
        return (
            f"its low end ({low}) must be at least grace_s ({grace}), so that two messages are "
            "never closer than the cadence: raise it or lower grace_s"
        )
    if high < low or high > DAY_S:
        return f"its high end ({high}) must be between the low end ({low}) and {DAY_S}"
    return None


def _windows_fault(windows: Any) -> str | None:
    if not isinstance(windows, list) or not windows:
        return "must be null (always open) or a list of {days, start, end} with at least one entry"
    for position, window in enumerate(windows):
        at = f"entry {position + 1}"
        if not isinstance(window, Mapping) or set(window) != {"days", "start", "end"}:
            return f"{at} must have exactly days, start and end"
        days = window["days"]
        if (
            not isinstance(days, list)
            or not days
            or not all(isinstance(d, int) and not isinstance(d, bool) and 0 <= d <= 6 for d in days)
        ):
            return f"{at}: days must be numbers from 0 (Monday) to 6 (Sunday), got {days!r}"
        for edge in ("start", "end"):
            if not isinstance(window[edge], str) or not _CLOCK.fullmatch(window[edge]):
                return f"{at}: {edge} must be a time from 00:00 to 23:59, got {window[edge]!r}"
    return None
