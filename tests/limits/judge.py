"""What a mailbox may do, recomputed from instants alone: nothing is shared with what decides."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any, Final
from zoneinfo import ZoneInfo

# The next one is due 2.8 to 2.85 s after the last. One that comes in between is nearer than the
# cadence to one of its neighbours, wherever it falls: twice the cadence is more than that.
CADENCE_S: Final = 1.5
GRACE_S: Final = 1.2
JITTER_S: Final = (1.3, 1.35)
# Messages of a node in a second.
RATE: Final = 1

Span = tuple[datetime, datetime]
"""From an instant (included) to another (not), both aware."""


@dataclass(frozen=True, slots=True)
class Box:
    """A mailbox and its limits.

    `windows` are local hours as its policy says them; `open` what they amount to while the
    test runs, as its author reads the calendar. A node sends at `RATE` and may have several
    slots at once.
    """

    daily_cap: int | None = None
    hourly_cap: int | None = None
    ceiling: int | None = None
    zone: str = "UTC"
    windows: Sequence[tuple[str, str]] | None = None
    open: Sequence[Span] | None = None
    node: bool = False

    @property
    def cap(self) -> int | None:
        """The one cap it has, by whatever it is counted."""
        return self.daily_cap or self.hourly_cap or self.ceiling

    def policy(self) -> dict[str, Any]:
        """Return its policy for the API: nothing else binds."""
        windows: list[dict[str, Any]] | None = None
        if self.windows is not None:
            days = list(range(7))
            windows = [{"days": days, "start": start, "end": end} for start, end in self.windows]
        pace: dict[str, Any] = {"cadence_s": CADENCE_S, "jitter_s": JITTER_S}
        if self.node:
            pace = {"profile": "node", "rate_per_s": RATE, "max_outstanding": 4}
        return pace | {
            "grace_s": GRACE_S, "daily_cap": self.daily_cap, "hourly_cap": self.hourly_cap,
            "ceiling_24h": self.ceiling, "windows": windows, "ramp": None, "holidays": False,
            "health_floor": False, "cooldown": False, "stage_gate": None, "reroute": False,
            "recheck": None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Begun:
    """A submission, at `at`; of a slot `over` is the last instant at which it may begin."""

    at: datetime
    over: datetime


def breaches(box: Box, begun: Sequence[Begun]) -> Iterator[str]:
    """Say of each limit where it was passed; `begun` is in order of time."""
    # A node's slots keep a distance, its submissions may come closer by the grace.
    floor = timedelta(seconds=0 if box.node else CADENCE_S)
    for before, after in pairwise(begun):
        if not box.node and after.at - before.over < floor:
            gap = (after.at - before.over).total_seconds()
            yield f"{gap:.3f} s after the last at {_told(after.at)}"
    zone = ZoneInfo(box.zone)
    days = Counter(one.at.astimezone(zone).date() for one in begun)
    hours = Counter(
        one.at.astimezone(UTC).replace(minute=0, second=0, microsecond=0) for one in begun
    )
    for cap, counts in ((box.daily_cap, days), (box.hourly_cap, hours)):
        for when, found in counts.items():
            if cap is not None and found > cap:
                yield f"{found} in {when}, not {cap}"
    for last in begun:
        within = sum(last.at - timedelta(days=1) < one.at <= last.at for one in begun)
        if box.ceiling is not None and within > box.ceiling:
            yield f"{within} within 24 h at {_told(last.at)}, not {box.ceiling}"
    for one in begun:
        if box.open is not None and not any(start <= one.at < end for start, end in box.open):
            yield f"outside its window at {_told(one.at)}"


def next_change(zone: str, after: datetime, *, forward: bool) -> datetime:
    """Return when the zone's clocks next go forward, or back (aware, UTC, a whole hour)."""
    tz, start = ZoneInfo(zone), after.replace(minute=0, second=0, microsecond=0)
    for hours in count(1):
        at = start + timedelta(hours=hours)
        before, then = ((at - timedelta(hours=n)).astimezone(tz).utcoffset() for n in (1, 0))
        assert before is not None
        assert then is not None
        if then != before and (then > before) is forward:
            return at
    raise AssertionError


def _told(at: datetime) -> str:
    return f"{at.astimezone(UTC):%d.%m. %H:%M:%S.%f}"[:-3]
