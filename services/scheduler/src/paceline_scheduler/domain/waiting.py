"""What an enrollment waits for: the binding constraint, when it ends, the change that ends it.

Pure: what is asked about was read before, now or as of then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from paceline_common import ids
from paceline_scheduler.domain.eligibility import Stretch, earliest_slot
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.outlook import Server, reached, standing
from paceline_scheduler.domain.reason import REASONS, sentence
from paceline_scheduler.domain.rules import Rules, State

# How wrong a place in the queue that was sampled may be.
_SAMPLED_LOW: Final = 0.7
_SAMPLED_HIGH: Final = 1.4

# Smallest change, by reason: a stable action, and what it does to {what} with {limit}.
_RELEASES: Final[Mapping[str, tuple[str, str]]] = {
    "outside_window": ("widen_windows", "widen the sending hours of {what}"),
    "holiday": ("ignore_holidays", "set holidays to false for {what}"),
    "blackout": ("lift_blackout", "take the date out of the blackouts of {what}"),
    "window_never_opens": ("widen_windows", "give {what} sending hours"),
    "daily_cap": ("raise_daily_cap", "raise the daily cap of {what} above {limit}"),
    "daily_cap_zero": ("raise_daily_cap", "raise the daily cap of {what} above 0"),
    "ramp_cap": ("change_ramp", "choose a ramp for {what} that allows more than {limit} today"),
    "probation_cap": (
        "switch_health_floor_off",
        "switch the health floor of {what} off: until its health is known it sends {limit} a day",
    ),
    "throttled_cap": ("settle_issue", "settle the issue of {what} that throttles it"),
    "hourly_cap": ("raise_hourly_cap", "raise the hourly cap of {what} above {limit}"),
    "provider_ceiling": ("add_mailbox", "add a mailbox of another account to {pools}"),
    "domain_budget": ("raise_domain_budget", "raise the budget of the domain above {limit}"),
    "cadence": ("add_mailbox", "add a mailbox to {pools}"),
    "outstanding": ("add_mailbox", "add a mailbox to {pools}"),
    "waiting_in_queue": ("add_mailbox", "add a mailbox to {pools}"),
    "type_restricted": ("allow_type", "let a mailbox of {pools} send campaigns of this type"),
    "stage_below": ("attest", "attest that a mailbox of {pools} is in use, or lower its gate"),
    "health_below_floor": ("lower_min_health", "lower min_health of {campaign} to {used} or less"),
    "esp_mismatch": ("prefer_esp", "set esp_match of {campaign} to prefer"),
    "recipient_spacing": ("change_shaping", "shorten the spacing of the recipient's domain"),
    "recipient_daily_max": (
        "change_shaping", "raise the daily maximum of the recipient's domain above {limit}",
    ),
    "lead_in_other_campaign": ("stop_enrollment", "stop {what}, or allow parallel campaigns"),
    "min_days_between": ("lower_min_days", "lower min_days_between of the workspace"),
    "campaign_not_started": ("start_campaign", "start {campaign}"),
    "campaign_paused": ("resume_campaign", "resume {campaign}"),
    "campaign_suspended": ("resume", "resume {campaign}"),
    "workspace_suspended": ("resume", "resume the workspace"),
    "pool_suspended": ("resume", "resume {what}"),
    "mailbox_suspended": ("resume", "resume {what}"),
    "domain_suspended": ("resume", "resume {what}"),
    "enrollment_suspended": ("resume", "resume the enrollment"),
    "mailbox_inactive": ("activate_mailbox", "activate {what}"),
    "cooldown": ("resume", "resume {what} before its cooldown ends"),
    "node_failed": ("mend_mailbox", "mend the connection of {what}"),
    "grant_revoked": ("reconnect_mailbox", "connect {what} again"),
    "app_refused": ("set_app_secret", "set the secret of the OAuth app of {what} again"),
    "app_limited": ("raise_app_quota", "ask the provider for a higher quota of the OAuth app"),
    "no_steps": ("add_step", "add a step to {campaign}"),
    "no_mailbox": ("add_mailbox", "add a mailbox to {pools}"),
    "waiting_for_sender": ("reassign", "bring {what} back, or set stickiness to reassign"),
    "in_doubt": ("settle", "settle the message by name"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Eta:
    """When the message leaves, at the earliest and the latest; None: nobody can tell."""

    earliest: datetime | None
    latest: datetime | None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What binds: a thing of `scope` by its public id, the hold, and the zone it is told in."""

    scope: str
    ref: str | None
    hold: Hold
    zone: ZoneInfo


@dataclass(frozen=True, slots=True)
class Answer:
    """Why, in words; what binds; when it ends; what would end it (`action`, `detail`)."""

    reason: str
    message: str
    constraint: Constraint | None = None
    eta: Eta | None = None
    action: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where the message may go: its campaign and pools, and the zone of its workspace.

    `next_tier_at` is when the next tier opens to it, None for never.
    """

    campaign_id: int
    pools: Sequence[int]
    zone: ZoneInfo
    next_tier_at: datetime | None = None

    def names(self) -> dict[str, str]:
        """Return what the sentences of releases may name."""
        pools = [f"pool {ids.encode('pool', one)}" for one in self.pools]
        return {
            "campaign": f"campaign {ids.encode('cmp', self.campaign_id)}",
            "pools": " or ".join(pools) or "a pool of the campaign",
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mailbox that may serve it, with what its rules come to (`found`).

    `is_busy`: it has as many messages on their way as it may. `is_backup`: it
    serves only while no better rank is open.
    """

    mailbox_id: int
    rules: Rules
    state: State
    found: Stretch | Hold
    is_busy: bool = False
    is_backup: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """How many of the mailboxes (`is_exact` unless sampled) are in which state, and when the first
    of them opens."""

    state: str
    count: int
    opens_at: datetime | None = None
    is_exact: bool = True


@dataclass(frozen=True, slots=True)
class Queue:
    """What is before it: messages of `lane` (`is_exact` unless sampled), follow-ups of the
    mailboxes, and how many other campaigns share them."""

    before: int = 0
    is_exact: bool = True
    follow_ups: int = 0
    others: int = 0
    lane: str = "its campaign"

    def told(self) -> str:
        """Return the place in words, the rounder the larger."""
        if self.before == 0:
            return f"it is next of {self.lane}"
        if self.is_exact:
            return f"{self.before:,} of {self.lane} before it"
        rounded = int(float(f"{self.before:.2g}"))
        return f"about {rounded:,} of {self.lane} before it"


@dataclass(frozen=True, slots=True)
class Fleet:
    """The mailboxes that it waits for: all of them by state, and those looked at closely.

    `serving` of them serve sooner or later; `candidates` are those that open first.
    """

    candidates: Sequence[Candidate]
    groups: Sequence[Group]
    serving: int
    queue: Queue = field(default_factory=Queue)


def answer(
    reason: str,
    route: Route,
    *,
    scope: str,
    ref: str | None = None,
    hold: Hold | None = None,
    zone: ZoneInfo | None = None,
    eta: Eta | None = None,
    now: datetime | None = None,
    note: str = "",
) -> Answer:
    """Return the answer for a reason that binds outside of the mailboxes' own pace.

    `hold` has its numbers; without it the reason has none.
    """
    bound = Constraint(scope, ref, hold or Hold(reason, None), zone or route.zone)
    return _answer(reason, route, bound, eta, now, note)


def final(state: str, detail: str | None) -> Answer:
    """Return the answer for an enrollment that is over, `detail` being its recorded reason."""
    meaning = REASONS[state].meaning
    told = f" ({detail.replace('_', ' ')})" if detail and detail != state else ""
    return Answer(state, f"{meaning.rstrip('.')}{told}.")


def of_fleet(fleet: Fleet, route: Route, due: datetime, now: datetime) -> Answer:
    """Return what a due message waits for among its mailboxes; `due` in the future looks ahead.

    The mailbox that can take it first binds. Is none open, then by the reason of
    the first to open; is none to open by itself, then by the commonest reason.
    """
    at = max(due, now)
    ways = sorted(
        ((_opens(one, at), one) for one in fleet.candidates),
        key=lambda way: (way[0] is None, way[0] or at, way[1].mailbox_id),
    )
    queue = fleet.queue
    states = _told(fleet.groups)
    if not ways or ways[0][0] is None:
        return _of_closed(fleet, route, now, states)
    first = ways[0][1]
    opening = ways[0][0]
    eta = _eta(fleet, route, at)
    hold = standing(first.found, at)
    if hold is None:
        if queue.before or queue.follow_ups:
            hold = Hold("waiting_in_queue", None)
        elif all(one.is_busy for opens, one in ways if standing(one.found, at) is None):
            hold = Hold("outstanding", None)
        elif opening is not None and first.state.next_at is not None and first.state.next_at > at:
            hold = Hold("cadence", opening)
        else:
            hold = Hold("waiting_in_queue", None)
    bound = Constraint("mailbox", ids.encode("mbx", first.mailbox_id), hold, first.rules.tz)
    note = "; ".join(one for one in (queue.told(), states) if one)
    return _answer(hold.reason, route, bound, eta, now, note)


def of_gone(
    candidate: Candidate | None, mailbox_id: int, route: Route, back_at: datetime | None,
    now: datetime,
) -> Answer:  # fmt: skip
    """Return the answer for a follow-up whose mailbox is gone; `back_at`: it may go from another
    one then, None for never."""
    zone = route.zone if candidate is None else candidate.rules.tz
    ref = ids.encode("mbx", mailbox_id)
    hold = Hold("waiting_for_sender", back_at)
    eta = None if back_at is None else Eta(max(back_at, now), None)
    return answer(
        hold.reason, route, scope="mailbox", ref=ref, hold=hold, zone=zone, eta=eta, now=now
    )


def _of_closed(fleet: Fleet, route: Route, now: datetime, states: str) -> Answer:
    """Return the answer when no mailbox opens by its own rules."""
    timed = [one for one in fleet.groups if one.opens_at is not None]
    if timed:
        group = min(timed, key=lambda one: (one.opens_at or now, one.state))
    else:
        group = max(
            fleet.groups, key=lambda one: (one.count, one.state), default=Group("no_mailbox", 0)
        )
    opens = [one for one in (route.next_tier_at, group.opens_at) if one is not None]
    eta = Eta(max(min(opens), now), None) if opens else None
    bound = Constraint(
        "campaign",
        ids.encode("cmp", route.campaign_id),
        Hold(group.state, group.opens_at),
        route.zone,
    )
    if group.count and route.pools:
        bound = replace(bound, scope="pool", ref=ids.encode("pool", route.pools[0]))
    for one in fleet.candidates:
        if isinstance(one.found, Hold) and one.found.reason == group.state:
            ref = ids.encode("mbx", one.mailbox_id)
            bound = Constraint("mailbox", ref, one.found, one.rules.tz)
            break
    return _answer(group.state, route, bound, eta, now, states)


def _opens(one: Candidate, at: datetime) -> datetime | None:
    """Return the mailbox's first slot at or after `at`."""
    if isinstance(one.found, Hold):
        return one.found.until
    slot = earliest_slot(one.found, one.rules.cadence, one.state.next_at or one.found.start, at)
    return slot.until if isinstance(slot, Hold) else slot.slot_at


def _eta(fleet: Fleet, route: Route, at: datetime) -> Eta:
    serving = [Server(one.rules, one.state) for one in fleet.candidates]
    primary = [
        Server(one.rules, one.state) for one in fleet.candidates if not one.is_backup
    ] or serving
    queue = fleet.queue
    scale = max(1.0, fleet.serving / len(serving))
    low = 1 + queue.before * (1.0 if queue.is_exact else _SAMPLED_LOW)
    high = 1 + queue.before * (1.0 if queue.is_exact else _SAMPLED_HIGH)
    high = high * (1 + queue.others) + queue.follow_ups
    earliest = reached(serving, scale, low, at, "fast")
    # A budget that several mailboxes share leaves each of them less than its own rules say.
    shared = any(one.state.domain_cap is not None for one in fleet.candidates)
    latest = None if shared else reached(primary, scale, high, at, "slow")
    tier_at = route.next_tier_at
    if tier_at is not None and (earliest is None or tier_at < earliest):
        earliest = max(tier_at, at)
    return Eta(earliest, latest)


def _told(groups: Sequence[Group]) -> str:
    """Return how many mailboxes are in which state: "of 3 mailboxes 2 daily cap, 1 open"."""
    total = sum(one.count for one in groups)
    if total < 2:
        return ""
    listed = sorted(groups, key=lambda one: (-one.count, one.state))
    parts = ", ".join(
        f"{'' if one.is_exact else 'about '}{one.count:,} {one.state.replace('_', ' ')}"
        for one in listed
    )
    return f"of {total:,} mailboxes {parts}"


def _answer(
    reason: str,
    route: Route,
    bound: Constraint,
    eta: Eta | None,
    now: datetime | None,
    note: str,
) -> Answer:
    hold = bound.hold
    numbers = sentence(hold, bound.zone, now)
    told = REASONS[reason].meaning.rstrip(".")
    message = f"{told}: {numbers}" if numbers != reason.replace("_", " ") else told
    if note:
        message += f"; {note}"
    action = detail = None
    if reason in _RELEASES:
        action, text = _RELEASES[reason]
        what = f"the {bound.scope}" if bound.ref is None else f"{bound.scope} {bound.ref}"
        detail = text.format(what=what, limit=hold.limit, used=hold.used, **route.names())
    return Answer(reason, f"{message}.", bound, eta, action, detail)
