"""When slots come: the next ones of a mailbox, and when a fleet has served so many messages."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from paceline_scheduler.domain.caps import (
    HOUR,
    ROLLING_HOURS,
    DayCount,
    HourCount,
    RollingCount,
    day_of,
    hour_of,
    hours_between,
    used_on,
)
from paceline_scheduler.domain.eligibility import Stretch, compile_stretch, earliest_slot
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.rules import Rules, State, day_cap
from paceline_scheduler.domain.window import DAY, local_day

Pace = Literal["fast", "slow"]

# Further ahead nobody can tell: health, stages and settings will be others.
HORIZON_DAYS: Final = 60
# What a submission takes beyond its mailbox's cadence, and what a lease costs that nobody claims.
_SUBMISSION: Final = timedelta(seconds=2)
_LOOP: Final = timedelta(seconds=5)
_TICK: Final = timedelta(milliseconds=1)
_KNOWN: Final = 100


@dataclass(frozen=True, slots=True)
class Server:
    """A mailbox that serves: its rules, and what is used of them."""

    rules: Rules
    state: State


@dataclass(frozen=True, slots=True)
class _Run:
    """Messages at `start`, `start + gap`, …, at most `most`."""

    start: datetime
    gap: timedelta
    most: int

    @property
    def end(self) -> datetime:
        return self.start + self.gap * (self.most - 1)

    def served_by(self, at: datetime) -> int:
        if at < self.start:
            return 0
        return min(self.most, (at - self.start) // self.gap + 1)


def slots(rules: Rules, state: State, now: datetime, count: int) -> list[datetime]:
    """Return the next `count` slots of a mailbox if enough is queued, each at the mean jitter.

    Fewer where its rules end it. A first slot that is spread over an opening is
    told at the opening.
    """
    found: list[datetime] = []
    while len(found) < count:
        stretch = compile_stretch(rules, state, now)
        if isinstance(stretch, Hold):
            break
        slot = earliest_slot(stretch, rules.cadence, state.next_at or stretch.start, now)
        if isinstance(slot, Hold):
            break
        found.append(slot.slot_at)
        state = taken(rules, state, slot.slot_at)
    return found


def taken(rules: Rules, state: State, slot_at: datetime) -> State:
    """Return the state after a slot at `slot_at`, its next one at the mean distance."""
    day, hour = day_of(slot_at, rules.tz), hour_of(slot_at)
    domain_day = day_of(slot_at, state.domain_tz or rules.tz)
    return replace(
        state,
        next_at=max(slot_at + rules.cadence.mean, slot_at + _TICK),
        day=DayCount(day, used_on(day, state.day) + 1),
        hour=HourCount(hour, (state.hour.used if hour == state.hour.hour else 0) + 1),
        rolling=_counted(state.rolling, hour),
        domain_day=DayCount(domain_day, used_on(domain_day, state.domain_day) + 1),
    )


def reached(
    servers: Sequence[Server], scale: float, count: float, now: datetime, pace: Pace
) -> datetime | None:
    """Return when the servers, each standing for `scale` of its kind, have served `count` messages.

    `fast` is no later than it can be: least jitter, health known, no throttle
    after today. `slow` has the most jitter, slow submissions, and the spread of
    openings. None: not within `HORIZON_DAYS`.
    """
    days = [_runs(one, now, pace) for one in servers]
    runs: list[_Run] = []
    done = 0.0
    enough = False
    for _ in range(HORIZON_DAYS):
        fresh = [run for one in days for run in next(one, ())]
        if fresh and not enough:
            # What ended before anything of this day starts counts as a whole.
            first = min(run.start for run in fresh)
            done += scale * sum(run.most for run in runs if run.end < first)
            runs = [run for run in runs if run.end >= first]
        runs += fresh
        # Zones: one mailbox's next day begins before another's day is over.
        if enough:
            break
        enough = done + scale * sum(run.most for run in runs) >= count
    if not enough:
        return None
    low, high = now, max(run.end for run in runs)
    while high - low > _TICK:
        middle = low + (high - low) / 2
        if done + scale * sum(run.served_by(middle) for run in runs) >= count:
            high = middle
        else:
            low = middle
    # Back from the search's steps to the instants of messages.
    instants = [
        one
        for run in runs
        if (served := run.served_by(high)) and (one := run.start + run.gap * (served - 1)) >= low
    ]
    return max(instants) + _LOOP if pace == "slow" else min(instants)


def _runs(server: Server, now: datetime, pace: Pace) -> Iterator[list[_Run]]:
    """Yield the runs of one mailbox by local day, from today on."""
    rules, state = server.rules, server.state
    cadence = rules.cadence
    is_slow = pace == "slow"
    gap = cadence.every + (cadence.jitter_max + _SUBMISSION if is_slow else cadence.jitter_min)
    gap = max(gap, _TICK)
    stretch = compile_stretch(rules, state, now)
    if isinstance(stretch, Hold):
        return
    start = max(now + cadence.lead, state.next_at or stretch.start, stretch.start)
    if is_slow and stretch.fresh:
        start += cadence.every
    day, _ = local_day(stretch.start, rules.tz)
    runs = [one for one in [_run(start, stretch.end, gap, _none_if_any(stretch.left))] if one]
    used = sum(run.most for run in runs)
    # Once the stretch is over: an hourly cap is a longer distance.
    later = gap if rules.hourly_cap is None else max(gap, HOUR / max(1, rules.hourly_cap))
    if not is_slow:
        state = replace(state, health=state.health or _KNOWN, throttled=False)
    cap = stretch.day_cap
    left = None if cap is None else max(0, cap - used_on(day, state.day) - used)
    after = stretch.end
    for _ in range(HORIZON_DAYS):
        for opening in rules.window.openings_on(day):
            begins = max(opening.start, after)
            if is_slow and opening.fresh and begins == opening.start:
                begins += cadence.every
            run = _run(begins, opening.end, later, left)
            if run:
                runs.append(run)
                left = None if left is None else left - run.most
        yield runs
        day += DAY
        runs = []
        limits = (day_cap(rules, state, day).limit, rules.ceiling, state.domain_cap)
        left = min((one for one in limits if one is not None), default=None)


def _run(start: datetime, end: datetime, gap: timedelta, most: int | None) -> _Run | None:
    if start >= end or most == 0:
        return None
    fits = -(-(end - start) // gap)
    return _Run(start, gap, fits if most is None else min(fits, most))


def _none_if_any(left: int) -> int | None:
    return None if left < 0 else left


def _counted(rolling: RollingCount, hour: datetime) -> RollingCount:
    turns = hours_between(rolling.newest, hour)
    hours = rolling.hours
    if turns > 0:
        kept = max(0, ROLLING_HOURS - turns)
        return RollingCount(hour, (1, *(0,) * (ROLLING_HOURS - kept - 1), *hours[:kept]))
    if -turns >= ROLLING_HOURS:
        return rolling
    return replace(rolling, hours=(*hours[:-turns], hours[-turns] + 1, *hours[1 - turns :]))


def standing(found: Stretch | Hold, now: datetime) -> Hold | None:
    """Return what keeps a mailbox from sending at `now`, None when it is open.

    Of a stretch that lies ahead that is what closes it first: something else may
    keep it closed after that.
    """
    if isinstance(found, Hold):
        return found
    if found.start <= now:
        return None
    return found.closed_by or Hold("cadence", found.start)
