"""What a mailbox, a pool or a campaign can send: next slots, limits, capacity, and what binds."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Row

from paceline_common.db import Database, Queries
from paceline_scheduler.budgets import rules_of, state_of, stretch_of
from paceline_scheduler.domain.capacity import Capacity, effective
from paceline_scheduler.domain.caps import HOUR, ROLLING_HOURS, day_of, hour_of, used_on
from paceline_scheduler.domain.eligibility import admits
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.outlook import slots, standing
from paceline_scheduler.domain.rules import CampaignRules, Rules, State, day_cap, stage_of
from paceline_scheduler.domain.window import local_day

SLOTS: Final = 10


@dataclass(frozen=True, slots=True)
class Limit:
    """What is used of a limit and when it starts anew; `resets_at` None: nothing is used yet."""

    reason: str
    used: int
    limit: int
    resets_at: datetime | None

    @property
    def left(self) -> int:
        """What is left of it."""
        return max(0, self.limit - self.used)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a mailbox sends next if enough is queued. `hold` None: it may send now."""

    at: datetime
    zone: ZoneInfo
    hold: Hold | None
    next_slots: Sequence[datetime]
    limits: Sequence[Limit]
    capacity: Capacity
    stage: int
    health: int | None


@dataclass(frozen=True, slots=True)
class Share:
    """What one mailbox can send on its local day (None: nothing limits it), and what binds."""

    mailbox_id: int
    per_day: int | None
    bound_by: str | None


@dataclass(frozen=True, slots=True)
class Together:
    """What mailboxes can send on a day together, shared budgets counted once."""

    per_day: int | None
    bound_by: str | None
    shares: Sequence[Share]


class Schedules:
    """Answers from the budget rows, with the rules of every decision."""

    def __init__(self, db: Database, queries: Queries) -> None:
        self._db = db
        self._queries = queries

    async def mailbox(self, workspace_id: int, mailbox_id: int) -> Schedule | None:
        """Return a mailbox's schedule, None for one that nobody knows."""
        arguments = {"workspace": workspace_id, "mailboxes": [mailbox_id]}
        async with self._db.transaction([workspace_id]) as tx:
            row = (await tx.execute(self._queries["load_budgets"], arguments)).one_or_none()
        if row is None:
            return None
        rules, state, now = rules_of(row), state_of(row), row.db_now
        found = stretch_of(row)
        stopped = isinstance(found, Hold) and (not row.is_active or row.is_suspended)
        return Schedule(
            at=now,
            zone=rules.tz,
            hold=standing(found, now),
            next_slots=() if stopped else slots(rules, state, now, SLOTS),
            limits=limits(rules, state, now),
            capacity=effective(rules, state, day_of(now, rules.tz)),
            stage=stage_of(rules, state),
            health=state.health,
        )

    async def pool(self, workspace_id: int, pool_id: int) -> Together | None:
        """Return what a pool's mailboxes can send today, None for one that does not exist."""
        return await self._together(workspace_id, {"pool": pool_id, "campaign": None})

    async def campaign(self, workspace_id: int, campaign_id: int) -> Together | None:
        """Return what the mailboxes of a campaign's tiers can send for it today."""
        return await self._together(workspace_id, {"pool": None, "campaign": campaign_id})

    async def _together(self, workspace_id: int, of: dict[str, int | None]) -> Together | None:
        async with self._db.transaction([workspace_id]) as tx:
            arguments: dict[str, Any] = {"workspace": workspace_id, **of}
            members = (await tx.execute(self._queries["load_members"], arguments)).all()
            if not members:
                return None
            known = {one.mailbox_id: one for one in members if one.mailbox_id is not None}
            arguments = {"workspace": workspace_id, "mailboxes": list(known)}
            rows = (await tx.execute(self._queries["load_budgets"], arguments)).all()
        return together([(row, known[row.mailbox_id]) for row in rows])


def limits(rules: Rules, state: State, now: datetime) -> list[Limit]:
    """Return every limit of a mailbox that counts, with what is used of it at `now`."""
    today, span = local_day(now, rules.tz)
    used = used_on(today, state.day)
    found: list[Limit] = []
    if rules.daily_cap is not None:
        found.append(Limit("daily_cap", used, rules.daily_cap, span.end))
    if rules.ramp is not None:
        cap = rules.ramp.cap_on((today - rules.ramp_from).days)
        found.append(Limit("ramp_cap", used, cap, span.end))
    if state.health is None and rules.health_floor:
        found.append(Limit("probation_cap", used, rules.start_cap, span.end))
    binding = day_cap(rules, state, today)
    if binding.reason == "throttled_cap" and binding.limit is not None:
        found.append(Limit(binding.reason, used, binding.limit, span.end))
    if rules.hourly_cap is not None:
        hour = hour_of(now)
        here = state.hour.used if state.hour.hour == hour else 0
        found.append(Limit("hourly_cap", here, rules.hourly_cap, hour + HOUR))
    if rules.ceiling is not None:
        rolling = state.rolling
        resets_at = None
        if rolling.used_at(now):
            oldest = max(n for n, count in enumerate(rolling.hours) if count)
            resets_at = rolling.newest + HOUR * (ROLLING_HOURS - oldest)
        found.append(Limit("provider_ceiling", rolling.used_at(now), rules.ceiling, resets_at))
    if state.domain_cap is not None:
        day, whole = local_day(now, state.domain_tz or rules.tz)
        here = used_on(day, state.domain_day)
        found.append(Limit("domain_budget", here, state.domain_cap, whole.end))
    return found


def together(members: Sequence[tuple[Row[Any], Row[Any]]]) -> Together:
    """Return what mailboxes can send today: rows of `load_budgets.sql`, each with its row of
    `load_members.sql`."""
    shares: list[Share] = []
    # By account and by domain: what several mailboxes have together.
    accounts: dict[int, int] = {}
    domains: dict[int, int] = {}
    per_account: dict[tuple[int, int], int] = defaultdict(int)
    unlimited = False
    for row, member in members:
        share = _share(row, member)
        shares.append(share)
        if share.per_day is None:
            unlimited = True
            continue
        if row.ceiling is not None:
            accounts[row.account_ref] = row.ceiling
        if row.domain_cap is not None:
            domains[row.domain_ref] = row.domain_cap
        per_account[row.account_ref, row.domain_ref] += share.per_day
    if unlimited:
        return Together(None, None, shares)
    per_domain: dict[int, int] = defaultdict(int)
    cut: Counter[str] = Counter()
    for (account, domain), count in per_account.items():
        kept = min(count, accounts.get(account, count))
        cut["provider_ceiling"] += count - kept
        per_domain[domain] += kept
    total = 0
    for domain, count in per_domain.items():
        kept = min(count, domains.get(domain, count))
        cut["domain_budget"] += count - kept
        total += kept
    shared, lost = max(cut.items(), key=lambda one: one[1], default=("", 0))
    if lost:
        return Together(total, shared, shares)
    bound = Counter(one.bound_by for one in shares if one.bound_by is not None)
    commonest = max(bound, key=lambda reason: (bound[reason], reason), default="no_mailbox")
    return Together(total, commonest, shares)


def _share(row: Row[Any], member: Row[Any]) -> Share:
    rules, state = rules_of(row), state_of(row)
    held = _held(row, member, rules, state)
    if held is not None:
        return Share(row.mailbox_id, 0, held)
    found = effective(rules, state, day_of(row.db_now, rules.tz))
    return Share(row.mailbox_id, found.per_day, found.bound_by)


def _held(row: Row[Any], member: Row[Any], rules: Rules, state: State) -> str | None:
    if not row.is_active or row.is_suspended:
        found = stretch_of(row)
        return found.reason if isinstance(found, Hold) else None
    if member.is_closed:
        return "pool_suspended"
    if member.type is None:
        return None
    refused = admits(rules, state, CampaignRules(member.type, member.min_health))
    return None if refused is None else refused.reason
