"""A mailbox's pacing policy: what the gateway's settings mean, with the defaults of DESIGN §5."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.window import Interval, SendWindow

CADENCE_S: Final = 90.0
JITTER_S: Final = (5.0, 30.0)
GRACE_S: Final = 2.0
DAILY_CAP: Final = 500
WINDOWS: Final[list[dict[str, Any]]] = [{"days": [0, 1, 2, 3, 4], "start": "09:00", "end": "17:00"}]


@dataclass(frozen=True, slots=True)
class MailboxPolicy:
    """The rules of one mailbox in the units the budget row keeps them in."""

    tz: str
    cadence_ms: int
    jitter_min_ms: int
    jitter_max_ms: int
    grace_ms: int
    day_cap: int | None
    hour_cap: int | None
    windows: list[dict[str, Any]] | None


def read(settings: Mapping[str, Any], timezone: str) -> MailboxPolicy:
    """Return the policy that `gateway.v_mailbox.policy` and `.timezone` amount to.

    Absent keys take their default. A jitter below grace is raised to it, since
    the cadence floor rests on that. A zone unknown here is read as UTC.
    """
    jitter = settings.get("jitter_s", JITTER_S)
    grace_ms = _ms(settings.get("grace_s", GRACE_S))
    jitter_min_ms = max(grace_ms, _ms(jitter[0]))
    cap = settings.get("daily_cap", DAILY_CAP)
    return MailboxPolicy(
        tz=zone(timezone).key,
        cadence_ms=_ms(settings.get("cadence_s", CADENCE_S)),
        jitter_min_ms=jitter_min_ms,
        jitter_max_ms=max(jitter_min_ms, _ms(jitter[1])),
        grace_ms=grace_ms,
        day_cap=None if cap is None else int(cap),
        hour_cap=settings.get("hourly_cap"),
        windows=settings.get("windows", WINDOWS),
    )


def zone(name: str) -> ZoneInfo:
    """Return the IANA zone called `name`, UTC for a name nobody knows."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def window(windows: list[dict[str, Any]] | None, tz: str) -> SendWindow:
    """Return the send window that the budget's `windows` and `tz` describe."""
    if windows is None:
        return SendWindow(zone(tz), None)
    return SendWindow(
        zone(tz),
        tuple(
            Interval(
                frozenset(one["days"]),
                time.fromisoformat(one["start"]),
                time.fromisoformat(one["end"]),
            )
            for one in windows
        ),
    )


def cadence(cadence_ms: int, jitter_min_ms: int, jitter_max_ms: int, grace_ms: int) -> Cadence:
    """Return the cadence that the budget's columns describe."""
    return Cadence(
        timedelta(milliseconds=cadence_ms),
        timedelta(milliseconds=jitter_min_ms),
        timedelta(milliseconds=jitter_max_ms),
        timedelta(milliseconds=grace_ms),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
