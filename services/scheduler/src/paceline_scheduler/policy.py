"""A mailbox's pacing policy: what the gateway's settings mean, with the defaults."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import holidays

from paceline_common.address import normalise
from paceline_scheduler.domain import ramp as ramps
from paceline_scheduler.domain.blackout import Blackouts
from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.ramp import Ramp
from paceline_scheduler.domain.rules import ALL_TYPES, TYPES, Profile, Rules
from paceline_scheduler.domain.window import DAY, Interval, SendWindow

CADENCE_S: Final = 90.0
JITTER_S: Final = (5.0, 30.0)
GRACE_S: Final = 2.0
WINDOWS: Final = ({"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"},)
STAGE_GATE: Final[Mapping[str, int]] = {"cold": 3, "nurture": 2}
NODE_OUTSTANDING: Final = 4
# PROVIDERS §7: messages in any 24 hours.
CEILINGS: Final[Mapping[str, int]] = {
    "gmail_consumer": 450,
    "google_workspace": 1_800,
    "microsoft365": 10_000,
}
# Every year that a policy may speak of, so that reading one needs no clock.
YEARS: Final = range(2020, 2051)

_FAMILIES: Final[Mapping[str, str]] = {
    "gmail_consumer": "google",
    "google_workspace": "google",
    "microsoft365": "microsoft",
    "outlook_consumer": "microsoft",
}
_HOSTS: Final[Mapping[str, int]] = {"google": 1, "microsoft": 2}


@dataclass(frozen=True, slots=True)
class Columns:
    """The rules in the units in which the budget row keeps them."""

    tz: str
    cadence_ms: int
    jitter_min_ms: int
    jitter_max_ms: int
    grace_ms: int
    hour_cap: int | None
    ceiling: int | None
    types: int
    health_floor: bool
    max_outstanding: int


def read(row: Mapping[str, Any]) -> Rules:
    """Return the rules that a row of `gateway.v_mailbox` amounts to.

    It needs `policy`, `timezone`, `provider`, `country`, `region` and
    `connected_at`. Absent keys of the policy take their profile's default. A
    jitter below grace is raised to it, since the cadence's floor rests on that.
    A zone unknown here is read as UTC, a country without a calendar has no
    holidays, blackouts outside `YEARS` are left out.
    """
    settings, provider = row["policy"], row["provider"]
    is_node = settings.get("profile", "node" if provider == "esp" else "mailbox") == "node"
    profile: Profile = "node" if is_node else "mailbox"
    tz = zone(row["timezone"])
    gate = settings.get("stage_gate", None if is_node else STAGE_GATE)
    types = settings.get("campaign_types")
    return Rules(
        profile=profile,
        provider=provider,
        cadence=_cadence_of(settings, is_node),
        window=_window(
            tz,
            _key(settings.get("windows", None if is_node else WINDOWS)),
            row["country"] if settings.get("holidays", not is_node) else None,
            row["region"],
            _key(settings.get("blackouts") or ()),
        ),
        ramp=_ramp(settings.get("ramp", None if is_node else "default"), provider),
        ramp_from=_day(settings.get("ramp_from")) or row["connected_at"].astimezone(tz).date(),
        daily_cap=settings.get("daily_cap"),
        hourly_cap=settings.get("hourly_cap"),
        ceiling=_lower(settings.get("ceiling_24h"), CEILINGS.get(provider)),
        types=ALL_TYPES if types is None else sum({TYPES[one] for one in types}),
        stage_gate={TYPES[name]: stage for name, stage in (gate or {}).items()},
        health_floor=settings.get("health_floor", not is_node),
        attested=settings.get("attested", True),
        max_outstanding=settings.get("max_outstanding", NODE_OUTSTANDING) if is_node else 1,
    )


def columns(rules: Rules) -> Columns:
    """Return the budget row's columns."""
    cadence = rules.cadence
    return Columns(
        tz=rules.tz.key,
        cadence_ms=_ms(cadence.every),
        jitter_min_ms=_ms(cadence.jitter_min),
        jitter_max_ms=_ms(cadence.jitter_max),
        grace_ms=_ms(cadence.grace),
        hour_cap=rules.hourly_cap,
        ceiling=rules.ceiling,
        types=rules.types,
        health_floor=rules.health_floor,
        max_outstanding=rules.max_outstanding,
    )


def account_ref(provider: str, email: str) -> int:
    """Return the number of the provider account behind a mailbox: signed 64 bit, the same in
    every workspace.

    Consumer Gmail reads past dots and `+tag`, and googlemail.com is gmail.com.
    Raises `InvalidAddress`.
    """
    address = normalise(email)
    if provider == "gmail_consumer":
        local, _, domain = address.partition("@")
        local = local.partition("+")[0].replace(".", "")
        address = f"{local}@{'gmail.com' if domain == 'googlemail.com' else domain}"
    name = f"{_FAMILIES.get(provider, provider)}/{address}"
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def host_code(provider: str) -> int:
    """Return who hosts the mailbox, for matching with the recipient's host: 1 Google,
    2 Microsoft, 0 anybody else."""
    return _HOSTS.get(_FAMILIES.get(provider, ""), 0)


def zone(name: str) -> ZoneInfo:
    """Return the IANA zone called `name`, UTC for a name nobody knows."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


def cadence(cadence_ms: int, jitter_min_ms: int, jitter_max_ms: int, grace_ms: int) -> Cadence:
    """Return the cadence that the budget's columns describe."""
    return Cadence(
        timedelta(milliseconds=cadence_ms),
        timedelta(milliseconds=jitter_min_ms),
        timedelta(milliseconds=jitter_max_ms),
        timedelta(milliseconds=grace_ms),
    )


def _cadence_of(settings: Mapping[str, Any], is_node: bool) -> Cadence:
    grace = round(settings.get("grace_s", GRACE_S) * 1000)
    rate = settings.get("rate_per_s")
    every = None if rate else settings.get("cadence_s", None if is_node else CADENCE_S)
    if every is None:
        return Cadence.of_rate(rate or None, timedelta(milliseconds=grace))
    low, high = settings.get("jitter_s", JITTER_S)
    least = max(grace, round(low * 1000))
    return cadence(round(every * 1000), least, max(least, round(high * 1000)), grace)


def _ramp(setting: Any, provider: str) -> Ramp | None:
    if setting is None:
        return None
    if setting == "default":
        return ramps.default(provider)
    if setting == "conservative":
        return ramps.conservative(provider)
    return Ramp(tuple((day, cap) for day, cap in setting["curve"]))


@lru_cache(maxsize=1 << 14)
def _window(
    tz: ZoneInfo, windows: Any, country: str | None, region: str | None, blackouts: Any
) -> SendWindow:
    """Return a window: one object for all mailboxes with the same settings, with what it knows."""
    intervals = None
    if windows is not None:
        intervals = tuple(
            Interval(
                frozenset(one["days"]),
                time.fromisoformat(one["start"]),
                time.fromisoformat(one["end"]),
            )
            for one in map(dict, windows)
        )
    closed = frozenset(day for one in blackouts for day in _dates(one))
    return SendWindow(tz, intervals, Blackouts(closed, _holidays(country, region)))


def _dates(blackout: Any) -> Iterator[date]:
    """Yield the local dates of one blackout: a date, or the items of `from` and `to`."""
    if isinstance(blackout, str):
        first = last = date.fromisoformat(blackout)
    else:
        bounds = dict(blackout)
        first, last = date.fromisoformat(bounds["from"]), date.fromisoformat(bounds["to"])
    first, last = max(first, date(YEARS[0], 1, 1)), min(last, date(YEARS[-1], 12, 31))
    for n in range((last - first).days + 1):
        yield first + n * DAY


@lru_cache(maxsize=1 << 10)
def _holidays(country: str | None, region: str | None) -> frozenset[date]:
    """Return the public holidays of a country, or of its region where the library knows it."""
    if country is None:
        return frozenset()
    known = holidays.list_supported_countries(include_aliases=True)
    if country not in known:
        return frozenset()
    subdivision = region if region in known[country] else None
    return frozenset(holidays.country_holidays(country, subdiv=subdivision, years=YEARS))


def _key(setting: Any) -> Any:
    """Return a JSON value in a form that can be a key; objects become their sorted items."""
    # Its types by name: the abstract ones cost a tenth of a rebuild to ask.
    if isinstance(setting, dict):
        return tuple(sorted((name, _key(one)) for name, one in setting.items()))
    if isinstance(setting, list | tuple):
        return tuple(map(_key, setting))
    return setting


def _lower(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)


def _ms(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)
