"""The rows that Postgres decides on, in memory, with the guards of `reserve_slots.sql`.

Nothing here looks at a calendar or at what the pacing store believes: a slot
is leased under what is counted, or refused with the reason. Instants are
milliseconds since the epoch, days are counted from it, in local time.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

from paceline_scheduler.domain.caps import NO_DAY, ROLLING_HOURS, DayCount, HourCount, RollingCount
from paceline_scheduler.domain.eligibility import Stretch, types_mask
from paceline_scheduler.domain.rules import Rules, State

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_HOUR: Final = 3_600_000
_QUARTER: Final = 900_000
_DAY: Final = 86_400_000
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
_NEVER: Final = 1 << 62
# Further ahead no slot is leased.
_AHEAD: Final = 5_000


def to_datetime(ms: int) -> datetime:
    """Return the instant (aware, UTC)."""
    return EPOCH + timedelta(milliseconds=ms)


def to_ms(at: datetime) -> int:
    """Return the instant in ms, rounded up."""
    return -((EPOCH - at) // _MS)


class Account:
    """`account_budget`: what a provider account sent in each of 25 UTC hours, newest first."""

    __slots__ = ("hours", "newest")

    def __init__(self) -> None:
        self.newest = 0
        self.hours = [0] * ROLLING_HOURS

    def used_at(self, hour: int) -> int:
        """Return what counts for a slot in that hour, later hours included."""
        kept = ROLLING_HOURS - max(0, hour - self.newest)
        return sum(self.hours[:kept]) if kept > 0 else 0

    def add(self, hour: int, count: int) -> None:
        """Count slots of that hour; a negative `count` gives some back while the hour counts."""
        if hour > self.newest:
            shift = min(hour - self.newest, ROLLING_HOURS)
            self.hours[:] = [0] * shift + self.hours[: ROLLING_HOURS - shift]
            self.newest = hour
        if self.newest - hour < ROLLING_HOURS:
            self.hours[self.newest - hour] += count

    def resume(self, count: RollingCount) -> None:
        """Go on from what was sent so far."""
        self.newest, self.hours = to_ms(count.newest) // _HOUR, list(count.hours)

    def count(self) -> RollingCount:
        """Return it as the rules read it."""
        return RollingCount(to_datetime(self.newest * _HOUR), tuple(self.hours))


class DomainCount:
    """`domain_budget`: what a sending domain may send on a day of its zone, and has sent."""

    __slots__ = ("cap", "count", "day", "offsets", "tz")

    def __init__(self, cap: int, tz: ZoneInfo, used: DayCount) -> None:
        self.cap = cap
        self.tz = tz
        self.offsets = _offsets(tz.key)
        self.day, self.count = used.day.toordinal() - _EPOCH_DAY, used.used

    def day_of(self, slot: int) -> int:
        """Return the day that a slot counts on."""
        return (slot + self.offsets(slot // _QUARTER)) // _DAY

    def left_at(self, slot: int) -> int:
        """Return how many slots are left on the day of `slot`."""
        day = self.day_of(slot)
        if day < self.day:
            return 0
        return self.cap - (self.count if day == self.day else 0)

    def add(self, slot: int, count: int) -> None:
        """Count slots on the day of `slot`."""
        day = self.day_of(slot)
        self.day, self.count = day, count + (self.count if day == self.day else 0)


class Budget:
    """`mailbox_budget`: the limits of one mailbox as compiled, and what is used of them."""

    __slots__ = (
        "account",
        "active",
        "day",
        "day_cap",
        "day_used",
        "domain",
        "every",
        "gone_since",
        "grace",
        "health",
        "hour",
        "hour_used",
        "lead",
        "mailbox_id",
        "next_ms",
        "offsets",
        "open_from",
        "open_until",
        "outstanding",
        "rules",
        "spacing",
        "stage",
        "throttled_until",
        "types",
        "workspace_id",
    )

    def __init__(self, workspace_id: int, mailbox_id: int, rules: Rules, account: Account) -> None:
        self.workspace_id = workspace_id
        self.mailbox_id = mailbox_id
        self.account = account
        self.domain: DomainCount | None = None
        self.active = True
        self.next_ms: int | None = None
        self.day = -_NEVER
        self.day_used = 0
        self.hour = -_NEVER
        self.hour_used = 0
        self.outstanding = 0
        self.open_from = self.open_until = _NEVER
        self.day_cap: int | None = None
        self.health: int | None = None
        self.stage: int | None = None
        self.throttled_until = 0
        self.gone_since: int | None = None
        self.set_rules(rules)

    def set_rules(self, rules: Rules) -> None:
        """Take new settings. The stretch compiled of the old ones is over."""
        self.rules = rules
        self.offsets = _offsets(rules.tz.key)
        cadence = rules.cadence
        self.every, self.grace = cadence.every // _MS, cadence.grace // _MS
        self.lead = to_ms(EPOCH + cadence.lead)
        # Least distance to the next slot, and by how much a draw in [0, 1) lengthens it.
        least = cadence.jitter_min // _MS
        self.spacing = (self.every + least, cadence.jitter_max // _MS - least)
        self.open_from = self.open_until = _NEVER
        self.admit()

    def admit(self) -> None:
        """Work out anew which campaign types restriction and stage admit."""
        self.types = types_mask(self.rules, self.state(0))

    def state(self, now: int) -> State:
        """Return what the rules need to know."""
        return State(
            next_at=None if self.next_ms is None else to_datetime(self.next_ms),
            day=NO_DAY
            if self.day < 0
            else DayCount(date.fromordinal(self.day + _EPOCH_DAY), self.day_used),
            hour=HourCount(to_datetime(max(0, self.hour) * _HOUR), self.hour_used),
            rolling=self.account.count(),
            health=self.health,
            stage=self.stage,
            throttled=now < self.throttled_until,
            domain_cap=None if self.domain is None else self.domain.cap,
            domain_day=NO_DAY
            if self.domain is None
            else DayCount(date.fromordinal(self.domain.day + _EPOCH_DAY), self.domain.count),
            domain_tz=None if self.domain is None else self.domain.tz,
        )

    def resume(self, state: State) -> None:
        """Go on from what is used and known; the counts of account and domain are shared ones."""
        self.next_ms = None if state.next_at is None else to_ms(state.next_at)
        if state.day != NO_DAY:
            self.day, self.day_used = state.day.day.toordinal() - _EPOCH_DAY, state.day.used
        if state.hour.used:
            self.hour, self.hour_used = to_ms(state.hour.hour) // _HOUR, state.hour.used
        self.health, self.stage = state.health, state.stage
        self.admit()

    def open(self, stretch: Stretch) -> None:
        """Write the stretch that was compiled of the present settings."""
        self.open_from, self.open_until = to_ms(stretch.start), to_ms(stretch.end)
        self.day_cap = stretch.day_cap

    def admits(self, type_bit: int, min_health: int) -> bool:
        """Return whether it may serve a campaign of that type and floor now."""
        return bool(self.types & type_bit) and (
            self.health is None or not self.rules.health_floor or self.health >= min_health
        )

    def lease(self, slot: int, not_after: int, spacing: int, now: int) -> str | None:
        """Lease a slot, the next one not before `slot + spacing`; else return why not."""
        if not self.active:
            return "mailbox_inactive"
        if not_after <= now or slot > now + _AHEAD:
            return "clock"
        if self.outstanding >= self.rules.max_outstanding:
            return "outstanding"
        if self.next_ms is not None and slot < self.next_ms:
            return "cadence"
        if not self.open_from <= slot < self.open_until:
            return "stretch"
        day, hour = (slot + self.offsets(slot // _QUARTER)) // _DAY, slot // _HOUR
        if day < self.day or hour < self.hour:
            return "stretch"
        day_used = self.day_used if day == self.day else 0
        if self.day_cap is not None and day_used >= self.day_cap:
            return "daily_cap"
        hour_used = self.hour_used if hour == self.hour else 0
        if self.rules.hourly_cap is not None and hour_used >= self.rules.hourly_cap:
            return "hourly_cap"
        ceiling = self.rules.ceiling
        if ceiling is not None and self.account.used_at(hour) >= ceiling:
            return "provider_ceiling"
        if self.domain is not None:
            if self.domain.left_at(slot) < 1:
                return "domain_budget"
            self.domain.add(slot, 1)
        self.next_ms = slot + spacing
        self.day, self.day_used = day, day_used + 1
        self.hour, self.hour_used = hour, hour_used + 1
        self.account.add(hour, 1)
        self.outstanding += 1
        return None

    def extend(self, most: int, spacing: int) -> int:
        """Lease up to `most` more slots, each `spacing` after the last, as far as this stretch and
        every limit go; return how many."""
        assert self.next_ms is not None
        first, rules = self.next_ms, self.rules
        count = most
        if spacing > 0:
            count = min(count, -((first - self.open_until) // spacing))
        else:
            count = count if first < self.open_until else 0
        if self.day_cap is not None:
            count = min(count, self.day_cap - self.day_used)
        if rules.hourly_cap is not None:
            count = min(count, rules.hourly_cap - self.hour_used)
        if rules.ceiling is not None:
            last = (first + spacing * max(0, count - 1)) // _HOUR
            count = min(count, rules.ceiling - self.account.used_at(last))
        if self.domain is not None:
            count = min(count, self.domain.left_at(first))
        if count <= 0:
            return 0
        self.day_used += count
        self.hour_used += count
        self.next_ms += count * spacing
        if rules.ceiling is not None:
            for n in range(count):
                self.account.add((first + n * spacing) // _HOUR, 1)
        if self.domain is not None:
            self.domain.add(first, count)
        return count

    def give_back(self, slot: int) -> None:
        """Undo the counts of a slot whose submission never began, in its own buckets."""
        if (slot + self.offsets(slot // _QUARTER)) // _DAY == self.day:
            self.day_used -= 1
        if slot // _HOUR == self.hour:
            self.hour_used -= 1
        if self.domain is not None and self.domain.day_of(slot) == self.domain.day:
            self.domain.add(slot, -1)
        self.account.add(slot // _HOUR, -1)


class _Offsets(dict[int, int]):
    """A zone's offset from UTC in ms, by quarter of an hour since the epoch."""

    def __init__(self, zone: str) -> None:
        self._zone = ZoneInfo(zone)

    def __missing__(self, quarter: int) -> int:
        offset = to_datetime(quarter * _QUARTER).astimezone(self._zone).utcoffset()
        self[quarter] = found = (offset or timedelta()) // _MS
        return found


@cache
def _offsets(zone: str) -> Callable[[int], int]:
    return _Offsets(zone).__getitem__
