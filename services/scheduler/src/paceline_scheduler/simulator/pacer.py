"""One workspace's pacing on a virtual clock: compile, propose, lease, as `reserve.py` does live."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from typing import Any, Final, cast

from sqlalchemy import Row

from paceline_scheduler.budgets import opening_of
from paceline_scheduler.domain.eligibility import Stretch, compile_stretch
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.pacing.base import MailboxRecord, Match, Mode, Place, Proposal
from paceline_scheduler.pacing.shard import Shard
from paceline_scheduler.routes import Lanes, Members
from paceline_scheduler.simulator.budget import Budget, to_datetime, to_ms

_BATCH: Final = 16
_BUSY_MS: Final = 50
_MS_PER_DAY: Final = 86_400_000


@dataclass(slots=True)
class Mailbox:
    """A mailbox in its pools: `members` maps each to position, weight and rank."""

    budget: Budget
    domain: int
    host: int
    members: Mapping[int, tuple[int, int, int]]
    klass: int = -1
    places: tuple[Place, ...] = ()
    # When a gate of its own was opened last.
    reopened_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Campaign:
    """A campaign, worded as a row of `load_routes.sql`: `type` is its bit."""

    campaign_id: int
    type: int
    min_health: int
    esp_match: Match
    tiers: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Member:
    """A mailbox in a pool, worded as a row of `load_pools.sql`."""

    mailbox_id: int
    pool_id: int
    rotation: Mode
    weight: int
    rank: int
    position: int
    types: int
    host: int
    health: int | None


@dataclass(frozen=True, slots=True)
class _Reopened:
    """What `opening_of` reads in a row of `load_budgets.sql`."""

    reopened_at: datetime | None
    db_now: datetime
    next_at: datetime | None


@dataclass(slots=True)
class Pacer:
    """The shard of one workspace with the rows behind it.

    `gates` counts the open suspensions by (scope, ref). Changes of mailboxes,
    campaigns or gates take effect with `compile` and `route`.
    """

    workspace_id: int
    rng: random.Random
    pools: Mapping[int, Mode]
    gates: Mapping[tuple[str, int], int]
    shard: Shard = field(default_factory=Shard)
    mailboxes: dict[int, Mailbox] = field(default_factory=dict)
    campaigns: dict[int, Campaign] = field(default_factory=dict)
    _lanes: Lanes = field(default_factory=lambda: Lanes(()))
    _looks: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shard.open(1)

    def may_send(self, mailbox: Mailbox) -> bool:
        """Return whether no gate of the mailbox itself is closed."""
        gates = self.gates
        return mailbox.budget.active and not (
            ("mailbox", mailbox.budget.mailbox_id) in gates
            or ("domain", mailbox.domain) in gates
            or ("workspace", self.workspace_id) in gates
        )

    def route(self, now: int) -> None:
        """Class the mailboxes anew, compile those that changed their lanes, and write which
        campaigns are in rotation, over which lanes."""
        floors = sorted({one.min_health for one in self.campaigns.values()})
        members = [
            _Member(
                mailbox_id,
                pool,
                self.pools[pool],
                weight,
                rank,
                position,
                one.budget.types,
                one.host,
                one.budget.health if one.budget.rules.health_floor else None,
            )
            for mailbox_id, one in self.mailboxes.items()
            if one.budget.active
            for pool, (position, weight, rank) in one.members.items()
            if ("pool", pool) not in self.gates
        ]
        found = Members.of(cast("Sequence[Row[Any]]", members), floors, self._lanes)
        moved = []
        for mailbox_id, klass in found.classes.items():
            mailbox = self.mailboxes[mailbox_id]
            if (klass, found.places[mailbox_id]) != (mailbox.klass, mailbox.places):
                mailbox.klass, mailbox.places = klass, found.places[mailbox_id]
                moved.append(mailbox_id)
        self.shard.set_rotation(
            found.routes(
                cast(
                    "Sequence[Row[Any]]",
                    [
                        one
                        for one in self.campaigns.values()
                        if ("campaign", one.campaign_id) not in self.gates
                    ],
                ),
                self._lanes,
            )
        )
        self.compile(moved, now)

    def compile(
        self, mailboxes: Iterable[int], now: int, not_before: Mapping[int, int] | None = None
    ) -> None:
        """Compile the next stretch of some mailboxes and write their records."""
        records, dropped = [], []
        for mailbox_id in mailboxes:
            mailbox = self.mailboxes[mailbox_id]
            budget = mailbox.budget
            if not self.may_send(mailbox):
                dropped.append(mailbox_id)
                continue
            state = budget.state(now)
            found = compile_stretch(budget.rules, state, to_datetime(now))
            if isinstance(found, Hold):
                dropped.append(mailbox_id)
                if found.until is not None:
                    heappush(self._looks, (to_ms(found.until), mailbox_id))
                continue
            budget.open(found)
            wait = (not_before or {}).get(mailbox_id, 0)
            records.append(self._record(mailbox, found, wait, now))
        if dropped:
            self.shard.drop_mailboxes(dropped)
        self.shard.set_mailboxes(records)

    def propose(self, now: int) -> tuple[list[tuple[Proposal, int]], int | None]:
        """Return what the shard proposes now, each with the spacing (ms) to the slot after it, and
        when to ask again, not before the proposals are leased or put back."""
        looks = self._looks
        while looks and looks[0][0] <= now:
            self.compile({heappop(looks)[1]}, now)
        draw = self.rng.random
        draws = [draw() for _ in range(_BATCH)]
        picks = [draw() for _ in range(_BATCH)]
        batch = self.shard.reserve(now, draws, picks)
        assert batch is not None
        wake = batch.wake_ms
        if batch.stale:
            self.compile(batch.stale, now)
            wake = now
        found = []
        for one, drawn in zip(batch.proposals, draws, strict=False):
            cadence = self.mailboxes[one.mailbox_id].budget.spacing
            found.append((one, cadence[0] + int(cadence[1] * drawn)))
        if looks:
            wake = looks[0][0] if wake is None else min(wake, looks[0][0])
        return found, wake

    def refuse(self, proposal: Proposal, reason: str, now: int) -> None:
        """Bring the shard back in line after a proposal was not leased.

        The job goes back in front, unless it is the job that was refused.
        """
        if reason != "job":
            self.shard.put_back([proposal])
        wait = now + (_BUSY_MS if reason == "outstanding" else 0)
        self.compile([proposal.mailbox_id], now, {proposal.mailbox_id: wait})

    def _record(
        self, mailbox: Mailbox, stretch: Stretch, not_before: int, now: int
    ) -> MailboxRecord:
        budget = mailbox.budget
        cadence = budget.rules.cadence
        next_ms = max(budget.open_from, budget.next_ms or 0)
        row = _Reopened(
            mailbox.reopened_at,
            to_datetime(now),
            None if budget.next_ms is None else to_datetime(budget.next_ms),
        )
        opening = opening_of(cast("Row[Any]", row), stretch, cadence.every)
        if opening is not None:
            # Never a burst at an opening: the first slot lies within one cadence of it.
            first = to_ms(cadence.first_after(opening, self.rng.random()))
            next_ms = max(next_ms, first)
        return MailboxRecord(
            mailbox_id=budget.mailbox_id,
            eligible_ms=max(next_ms - budget.lead, not_before),
            next_ms=next_ms,
            cadence_ms=budget.every,
            jitter_min_ms=budget.spacing[0] - budget.every,
            jitter_max_ms=budget.spacing[0] - budget.every + budget.spacing[1],
            grace_ms=budget.grace,
            lead_ms=budget.lead,
            open_from_ms=budget.open_from,
            open_until_ms=budget.open_until,
            left=stretch.left,
            klass=mailbox.klass,
            places=mailbox.places,
        )
