"""How many messages a day a mailbox can really send, and which rule keeps it from more."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from paceline_scheduler.domain.caps import HOUR, hour_of
from paceline_scheduler.domain.rules import Rules, State, day_cap


@dataclass(frozen=True, slots=True)
class Capacity:
    """Messages on one local day (None: no rule limits them) and the rule that binds.

    `parts` has what each rule alone would allow, by reason code.
    """

    per_day: int | None
    bound_by: str | None
    parts: Mapping[str, int]


def effective(rules: Rules, state: State, day: date) -> Capacity:
    """Return the capacity of the whole local `day`, as if nothing of it were used.

    `cadence` is the window's length over the mean distance of two sends; a day
    without open hours has 0, by `outside_window`, `holiday` or `blackout`.
    """
    openings = rules.window.openings_on(day)
    if not openings:
        reason = rules.window.blackouts.cause(day) or "outside_window"
        return Capacity(0, reason, {reason: 0})
    parts: dict[str, int] = {}
    cap = day_cap(rules, state, day)
    if cap.limit is not None:
        parts[cap.reason] = cap.limit
    if rules.daily_cap is not None:
        parts["daily_cap"] = rules.daily_cap
    if rules.ramp is not None:
        parts["ramp_cap"] = rules.ramp.cap_on((day - rules.ramp_from).days)
    if state.domain_cap is not None:
        parts["domain_budget"] = state.domain_cap
    if rules.ceiling is not None:
        parts["provider_ceiling"] = rules.ceiling
    if rules.hourly_cap is not None:
        hours = {
            hour_of(one.start) + HOUR * n
            for one in openings
            for n in range(-(-(one.end - hour_of(one.start)) // HOUR))
        }
        parts["hourly_cap"] = rules.hourly_cap * len(hours)
    mean = rules.cadence.mean
    if mean > timedelta():
        parts["cadence"] = sum((one.end - one.start for one in openings), timedelta()) // mean
    if not parts:
        return Capacity(None, None, parts)
    bound_by = min(parts, key=lambda reason: parts[reason])
    return Capacity(parts[bound_by], bound_by, parts)
