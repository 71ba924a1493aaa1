"""When a mailbox may send next: its rules compiled to one stretch of open time.

`compile_stretch` turns calendar, caps and what is used into a stretch within
which a decision needs none of them (`earliest_slot`), in Redis or here;
`admits` says whether a mailbox may serve a campaign at all.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from paceline_scheduler.domain.cadence import Cadence
from paceline_scheduler.domain.caps import HOUR, hour_of, left_in, left_on, used_on
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.rules import CampaignRules, Rules, State, day_cap, stage_of
from paceline_scheduler.domain.window import day_span, local_day

# More days than any sensible ramp stays at 0.
_LOOKS: Final = 1000
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Open time `start`..`end` with `left` slots (-1: any number), binding by `left_by`.

    It lies within one local day, one opening of the window and, with an hourly
    cap, one UTC hour. `fresh`: nothing could be sent just before `start`, and
    nothing was sent since, so the first slot is spread. `day_cap` is the cap of
    its day. `ends_by` says why it is over, a reason code. `closed_by` is what
    first keeps the mailbox from the earliest instant it was asked for, None
    where the stretch holds that instant.
    """

    start: datetime
    end: datetime
    left: int
    fresh: bool
    day_cap: int | None = None
    left_by: str | None = None
    ends_by: str = "outside_window"
    closed_by: Hold | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """A slot at `slot_at`; the submission begins at it or up to `not_after`."""

    slot_at: datetime
    not_after: datetime


def compile_stretch(rules: Rules, state: State, now: datetime) -> Stretch | Hold:
    """Return the stretch in which the mailbox's next slot lies.

    That is the first one with something left that ends after both `now` plus
    the cadence's lead and `state.next_at`; it may have begun before, or begin
    later. Holds, `until` None, are for what no time mends: `window_never_opens`,
    `daily_cap_zero`, or another limit that is 0; a ramp that stays at 0 for
    years holds until somebody looks again.
    """
    at = now + rules.cadence.lead
    if state.next_at is not None and state.next_at > at:
        at = state.next_at
    first: Hold | None = None
    for _ in range(_LOOKS):
        found = _look(rules, state, at)
        if isinstance(found, Stretch):
            fresh = _is_fresh(rules, state, found)
            if fresh == found.fresh and first is None:
                return found
            return replace(found, fresh=fresh, closed_by=first)
        if found.until is None:
            return found
        first = first or found
        at = found.until
    assert first is not None
    return replace(first, until=at)


def earliest_slot(
    stretch: Stretch, cadence: Cadence, next_at: datetime, now: datetime
) -> Release | Hold:
    """Return the earliest slot of the stretch, or the hold that ends when it does.

    T = max(now + lead, next_at, start); not_after = min(T + grace, end). A hold
    means: compile the next stretch.
    """
    if stretch.left == 0:
        return Hold(stretch.left_by or "daily_cap", stretch.end)
    slot_at = max(now + cadence.lead, next_at, stretch.start)
    if slot_at >= stretch.end:
        return Hold(stretch.ends_by, stretch.end)
    return Release(slot_at, min(slot_at + cadence.grace, stretch.end))


def admits(rules: Rules, state: State, campaign: CampaignRules) -> Hold | None:
    """Return why the mailbox may not serve the campaign at all, None if it may.

    Unknown health passes: probation holds it by its cap. `used` and `limit` of
    the hold are what the mailbox has and what it needs.
    """
    if not rules.types & campaign.type:
        return Hold("type_restricted", None)
    stage, needed = stage_of(rules, state), rules.stage_gate.get(campaign.type, 0)
    if stage < needed:
        return Hold("stage_below", None, stage, needed)
    if rules.health_floor and state.health is not None and state.health < campaign.min_health:
        return Hold("health_below_floor", None, state.health, campaign.min_health)
    return None


def types_mask(rules: Rules, state: State) -> int:
    """Return the campaign types that restriction and stage admit now, as bits."""
    stage = stage_of(rules, state)
    closed = sum(bit for bit, needed in rules.stage_gate.items() if stage < needed)
    return rules.types & ~closed


def _look(rules: Rules, state: State, at: datetime) -> Stretch | Hold:
    """Return the stretch around `at`, or what closes the mailbox then."""
    opening = rules.window.next_opening(at)
    if opening is None:
        return Hold("window_never_opens", None)
    if opening.start > at:
        return Hold(rules.window.closed_by(at), opening.start)
    start, end, fresh, ends_by = opening.start, opening.end, opening.fresh, opening.ends_by
    left, left_by = -1, None

    cap = day_cap(rules, state, opening.day)
    if cap.limit is not None:
        if rules.daily_cap == 0:
            return Hold("daily_cap_zero", None, 0, 0)
        left, left_by = left_on(opening.day, cap.limit, state.day) or 0, cap.reason
        if left == 0:
            until = day_span(opening.day, rules.tz).end
            return Hold(cap.reason, until, used_on(opening.day, state.day), cap.limit)

    if rules.hourly_cap is not None:
        hour = hour_of(at)
        here = left_in(hour, rules.hourly_cap, state.hour) or 0
        if here == 0:
            used = state.hour.used if hour == state.hour.hour else 0
            over = hour + HOUR if rules.hourly_cap else None
            return Hold("hourly_cap", over, used, rules.hourly_cap)
        if left < 0 or here < left:
            left, left_by = here, "hourly_cap"
        if hour > start:
            start, fresh = hour, False
        if hour + HOUR < end:
            end, ends_by = hour + HOUR, "hour_ends"

    if rules.ceiling is not None:
        used = state.rolling.used_at(at)
        freed = state.rolling.frees_at(state.rolling.newest, rules.ceiling)
        if used >= rules.ceiling:
            return Hold("provider_ceiling", freed, used, rules.ceiling)
        if left < 0 or rules.ceiling - used < left:
            left, left_by = rules.ceiling - used, "provider_ceiling"
        if freed is not None and freed > max(start, state.rolling.newest):
            start, fresh = freed, False

    if state.domain_cap is not None:
        day, span = local_day(at, state.domain_tz or rules.tz)
        here = left_on(day, state.domain_cap, state.domain_day) or 0
        if here == 0:
            over = span.end if state.domain_cap else None
            used = used_on(day, state.domain_day)
            return Hold("domain_budget", over, used, state.domain_cap)
        if left < 0 or here < left:
            left, left_by = here, "domain_budget"
        if span.start > start:
            start, fresh = span.start, False
        if span.end < end:
            end, ends_by = span.end, "day_ends"

    return Stretch(start, end, left, fresh, cap.limit, left_by, ends_by)


def _is_fresh(rules: Rules, state: State, stretch: Stretch) -> bool:
    if state.next_at is not None and state.next_at > stretch.start:
        return False
    if stretch.fresh:
        return True
    # Open by the window: a cap may have been full until then.
    return isinstance(_look(rules, state, stretch.start - _TICK), Hold)
