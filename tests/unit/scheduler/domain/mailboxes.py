"""Mailboxes for the tests: settings to rules, and one driven as fast as the rules allow."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

from paceline_scheduler import policy
from paceline_scheduler.domain.caps import (
    DayCount,
    HourCount,
    RollingCount,
    day_of,
    hour_of,
)
from paceline_scheduler.domain.eligibility import (
    Release,
    Stretch,
    compile_stretch,
    earliest_slot,
)
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.rules import Rules, State

ZONES = sorted(available_timezones())
CONNECTED = datetime(2026, 1, 1, 12, tzinfo=UTC)
# Everything that narrows a mailbox switched off: a test switches on what it is about.
BARE: Mapping[str, Any] = {"ramp": None, "windows": None, "holidays": False, "health_floor": False}


def rules(
    settings: Mapping[str, Any] | None = None,
    tz: str = "UTC",
    provider: str = "smtp",
    country: str | None = None,
    region: str | None = None,
    connected_at: datetime = CONNECTED,
) -> Rules:
    """Return the rules that a mailbox's settings make."""
    return policy.read(
        {
            "policy": settings or {},
            "timezone": tz,
            "provider": provider,
            "country": country,
            "region": region,
            "connected_at": connected_at,
        }
    )


def bare(tz: str = "UTC", **settings: Any) -> Rules:
    """Return rules with nothing but the cadence and `settings`."""
    return rules({**BARE, **settings}, tz)


@dataclass
class Mailbox:
    """A mailbox that sends whenever its rules let it; it keeps every slot."""

    rules: Rules
    now: datetime
    seed: int = 0
    state: State = field(default_factory=State)
    slots: list[Release] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)

    def send(self, times: int) -> None:
        """Send so often, as the scheduler does: compile, take, count."""
        taken = 0
        while taken < times:
            stretch = compile_stretch(self.rules, self.state, self.now)
            assert isinstance(stretch, Stretch), stretch
            next_at = self.state.next_at or stretch.start
            if stretch.fresh and next_at <= stretch.start:
                next_at = self.rules.cadence.first_after(stretch.start, self._rng.random())
            while taken < times:
                found = earliest_slot(stretch, self.rules.cadence, next_at, self.now)
                if isinstance(found, Hold):
                    # Where the spread of an opening leaves no time in it.
                    if self.state.next_at is None or next_at > self.state.next_at:
                        self.state = replace(self.state, next_at=next_at)
                    break
                self._take(found)
                taken += 1
                assert self.state.next_at is not None
                next_at = self.state.next_at
                stretch = replace(stretch, left=max(-1, stretch.left - 1))

    def _take(self, slot: Release) -> None:
        self.slots.append(slot)
        at, state = slot.slot_at, self.state
        day, hour = day_of(at, self.rules.tz), hour_of(at)
        domain_day = day_of(at, state.domain_tz or self.rules.tz)
        self.state = replace(
            state,
            next_at=self.rules.cadence.next_at(at, self._rng.random()),
            day=DayCount(day, state.day.used + 1 if day == state.day.day else 1),
            hour=HourCount(hour, state.hour.used + 1 if hour == state.hour.hour else 1),
            rolling=counted(state.rolling, at),
            domain_day=DayCount(
                domain_day,
                state.domain_day.used + 1 if domain_day == state.domain_day.day else 1,
            ),
        )
        self.now = max(self.now, at)


def counted(rolling: RollingCount, at: datetime) -> RollingCount:
    """Return the rolling count with one more slot at `at`, not older than its newest hour."""
    passed = (hour_of(at) - rolling.newest) // timedelta(hours=1)
    assert passed >= 0
    hours = ((0,) * min(passed, 25) + rolling.hours)[:25]
    return RollingCount(hour_of(at), (hours[0] + 1, *hours[1:]))
