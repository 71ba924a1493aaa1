"""The pacing rules of one mailbox, what is known of it now, and the cap of its day."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Final, Literal
from zoneinfo import ZoneInfo

from paceline_scheduler.domain import ramp as ramps
from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.caps import (
    NO_DAY,
    NO_HOUR,
    NO_ROLLING,
    DayCount,
    HourCount,
    RollingCount,
)
from paceline_scheduler.domain.ramp import Ramp
from paceline_scheduler.domain.window import SendWindow, day_span

Profile = Literal["mailbox", "node"]

# Campaign types, one bit each.
COLD: Final = 1
NURTURE: Final = 2
TRANSACTIONAL: Final = 4
TYPES: Final[Mapping[str, int]] = {
    "cold": COLD,
    "nurture": NURTURE,
    "transactional": TRANSACTIONAL,
}
ALL_TYPES: Final = COLD | NURTURE | TRANSACTIONAL

# What the owner's word, that the mailbox is already in use, is worth until bounce has measured it.
ATTESTED_STAGE: Final = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """What a mailbox's settings amount to. None turns a rule off.

    `ramp_from` is the local date of the ramp's day 0, `ceiling` what the
    provider account may send in 24 hours, `types` the campaign types that its
    owner allows, `stage_gate` the stage that each type asks for.
    """

    profile: Profile
    provider: str
    cadence: Cadence
    window: SendWindow
    ramp: Ramp | None
    ramp_from: date
    daily_cap: int | None
    hourly_cap: int | None
    ceiling: int | None
    types: int
    stage_gate: Mapping[int, int]
    health_floor: bool
    attested: bool
    max_outstanding: int

    @property
    def tz(self) -> ZoneInfo:
        """The zone whose midnights bound the mailbox's days."""
        return self.window.tz

    @property
    def start_cap(self) -> int:
        """The cap of a day of probation: the ramp's day 0, else the provider's start.

        At least 1: a mailbox that never sends would never become known.
        """
        first = ramps.start_of(self.provider) if self.ramp is None else self.ramp.cap_on(0)
        return max(1, first)


@dataclass(frozen=True, slots=True)
class State:
    """What is used and known of a mailbox. `health` and `stage` None: not yet known.

    `next_at` is the cadence's next instant, None before the first send. While `throttled`
    the days that begin before `throttled_until` (None: all) have half their cap.
    `domain_cap` is the budget of the sending domain, on the days of
    `domain_tz` (None: the mailbox's own zone).
    """

    next_at: datetime | None = None
    day: DayCount = NO_DAY
    hour: HourCount = NO_HOUR
    rolling: RollingCount = NO_ROLLING
    health: int | None = None
    stage: int | None = None
    throttled: bool = False
    throttled_until: datetime | None = None
    domain_cap: int | None = None
    domain_day: DayCount = field(default=NO_DAY)
    domain_tz: ZoneInfo | None = None


@dataclass(frozen=True, slots=True)
class CampaignRules:
    """What a campaign asks of a mailbox: its type's bit and the least health."""

    type: int
    min_health: int


@dataclass(frozen=True, slots=True)
class DayCap:
    """The cap of one local day (None: no cap) and the rule that sets it."""

    limit: int | None
    reason: str


def day_cap(rules: Rules, state: State, day: date) -> DayCap:
    """Return the cap of the local `day`: the least of the rules', halved while throttled.

    Of equal caps the owner's is named first, then probation's, then the ramp's.
    A throttled mailbox without any has half its ceiling for a day.
    """
    limit, reason = rules.daily_cap, "daily_cap"
    if state.health is None and rules.health_floor:
        start = rules.start_cap
        if limit is None or start < limit:
            limit, reason = start, "probation_cap"
    if rules.ramp is not None:
        cap = rules.ramp.cap_on((day - rules.ramp_from).days)
        if limit is None or cap < limit:
            limit, reason = cap, "ramp_cap"
    until = state.throttled_until
    if state.throttled and (until is None or day_span(day, rules.tz).start < until):
        whole = rules.ceiling if limit is None else limit
        if whole is not None and whole > 0:
            limit, reason = max(1, whole // 2), "throttled_cap"
    return DayCap(limit, reason)


def stage_of(rules: Rules, state: State) -> int:
    """Return the stage that counts: the measured one, which counts attestation in; until there is
    one an attested mailbox is at `ATTESTED_STAGE`, any other at 0."""
    if state.stage is not None:
        return state.stage
    return ATTESTED_STAGE if rules.attested else 0
