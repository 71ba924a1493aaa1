"""Jobs of one group of workspaces on a virtual clock: decided, leased, submitted, answered.

The production code decides (`domain`, `pacing.shard.Shard`); this module is
what is around it: the guards of Postgres (`budget`), the claim, senders, mail
hosts, people who answer.
"""

import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from heapq import heappop, heappush
from typing import Any, Final, cast

from paceline_scheduler.domain import sequence, stickiness
from paceline_scheduler.domain.rules import TYPES as TYPE_BITS
from paceline_scheduler.pacing.base import Proposal, QueuedJob
from paceline_scheduler.simulator.budget import EPOCH, to_datetime, to_ms
from paceline_scheduler.simulator.events import TYPES, EventList
from paceline_scheduler.simulator.pacer import Mailbox, Pacer
from paceline_scheduler.simulator.plans import START, CampaignPlan, MailboxPlan, WorkspacePlan

_MINUTE: Final = 60_000
HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * HOUR
# Jobs due later are not in the pacing store yet, as live.
_HORIZON: Final = 10 * _MINUTE

# Order of kinds at one instant.
WORLD, _SUBMIT, _ANSWER, _DUE, _WAKE = range(5)

# States of an enrollment's job.
NONE, QUEUED, STICKY, RESERVED, RESERVED_STICKY, ENDED = range(6)

# What becomes of submissions: shares of all of them.
_UNSENT: Final = 0.002
_DEFERRED: Final = 0.006
_REJECTED: Final = 0.016
_REPLIES: Final = 0.025
_BOUNCES: Final = 0.033
_UNSUBSCRIBES: Final = 0.036

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Workspace:
    """A workspace as it runs."""

    plan: WorkspacePlan
    pacer: Pacer
    campaigns: Mapping[int, CampaignPlan]
    plans: dict[int, MailboxPlan]
    # Its enrollments and addresses are numbered from here.
    base: int
    enrolled: int = 0
    wake_at: int | None = None
    # Follow-ups by the stretch of time in which they come within the horizon.
    buckets: dict[int, list[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot that was leased; its submission is on its way."""

    workspace: Workspace
    mailbox: Mailbox
    enrollment: int
    pool: int
    slot: int
    reserved: int


class Sending:
    """The clock and the jobs. `gates` counts the open suspensions by (scope, ref).

    What happens at one instant happens in this order: the world and operators,
    submissions, answers, newly due follow-ups, decisions.
    """

    def __init__(self, leads: int, seed: str) -> None:
        self.events = EventList()
        self._rng = random.Random(seed)  # noqa: S311 - drawn, not secret
        self._now = round(START.timestamp() * 1000)
        self._heap: list[tuple[int, int, int, Callable[..., None], Any]] = []
        self._sequence = 0
        self._gates: dict[tuple[str, int], int] = {}
        self._state = bytearray(leads)
        self._step = bytearray(b"\x01") * leads
        self._campaign = array("i", bytes(4 * leads))
        self._address = array("i", bytes(4 * leads))
        self._mailbox = array("i", bytes(4 * leads))
        self._pool = array("i", bytes(4 * leads))
        self._due_at = array("q", bytes(8 * leads))
        self._namesakes: dict[int, list[int]] = {}
        self._suppressed: set[int] = set()
        self._followers: dict[int, list[int]] = defaultdict(list)
        # Jobs that wait for a gate to open, out of the pacing store.
        self._held: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._workspaces: list[Workspace] = []

    def run(self, days: float, progress: Progress | None = None) -> EventList:
        """Run to the end and return the event list. `progress` hears of instant and sends."""
        until = self._now + round(days * _DAY)
        heap = self._heap
        told = 0
        while heap and heap[0][0] < until:
            now, _, _, act, what = heappop(heap)
            self._now = now
            act(what)
            if progress is not None and now - told >= 2 * HOUR:
                told = now
                progress(now, len(self.events))
        return self.events

    def enrollments(self) -> dict[str, int]:
        """Return how many enrollments are waiting, ended early, and done with every step."""
        counts = Counter(self._state)
        waiting = counts[QUEUED] + counts[STICKY] + counts[RESERVED] + counts[RESERVED_STICKY]
        return {
            "waiting": waiting,
            "ended": counts[ENDED],
            "finished": sum(one.enrolled for one in self._workspaces) - waiting - counts[ENDED],
        }

    def _at(self, at: int, order: int, act: Callable[..., None], what: Any) -> None:
        self._sequence += 1
        heappush(self._heap, (max(at, self._now), order, self._sequence, act, what))

    # Deciding.

    def _wake(self, ours: Workspace, at: int | None = None) -> None:
        at = self._now if at is None else at
        if ours.wake_at is None or at < ours.wake_at:
            ours.wake_at = at
            self._at(at, _WAKE, self._decide, ours)

    def _decide(self, ours: Workspace) -> None:
        now = self._now
        if ours.wake_at != now:
            return
        ours.wake_at = None
        proposed, wake = ours.pacer.propose(now)
        for proposal, spacing in proposed:
            reason = self._lease(ours, proposal, spacing)
            if reason is not None:
                ours.pacer.refuse(proposal, reason, now)
                wake = now
        if wake is not None:
            # After a decision the clock moves on: nothing is decided twice in one instant.
            self._wake(ours, max(wake, now + 1))

    def _lease(self, ours: Workspace, proposal: Proposal, spacing: int) -> str | None:
        """Lease a slot as `reserve_slots.sql` does, and tell the sender; else return why not."""
        now = self._now
        enrollment, step = proposal.job_id >> 4, (proposal.job_id & 15) + 1
        state = self._state[enrollment]
        sticky = state == STICKY
        if (
            not (state == QUEUED or sticky)
            or step != self._step[enrollment]
            or sticky != proposal.sticky
            or (sticky and self._mailbox[enrollment] != proposal.mailbox_id)
            or self._due_at[enrollment] > proposal.slot_ms
        ):
            return "job"
        mailbox = ours.pacer.mailboxes[proposal.mailbox_id]
        pool = proposal.pool_id or self._pool[enrollment]
        scope = self._suspended(ours, mailbox, enrollment, pool)
        if scope is not None:
            key = (scope, {"pool": pool, "enrollment": enrollment}.get(scope, 0))
            if scope == "enrollment" or (scope == "pool" and sticky):
                # Its opening brings it back.
                self._held[key].append(enrollment)
                return "job"
            return f"suspended:{scope}"
        campaign = ours.pacer.campaigns[self._campaign[enrollment]]
        if not mailbox.budget.admits(campaign.type, campaign.min_health):
            return "admission"
        slot, not_after = proposal.slot_ms, proposal.not_after_ms
        reason = mailbox.budget.lease(slot, not_after, spacing, now)
        if reason is not None:
            return reason
        self._state[enrollment] = RESERVED_STICKY if sticky else RESERVED
        # Anywhere within its grace.
        at = slot + int((not_after - slot) * self._rng.random())
        lease = Lease(ours, mailbox, enrollment, pool, slot, now)
        self._at(at, _SUBMIT, self._submit, lease)
        return None

    def _suspended(
        self, ours: Workspace, mailbox: Mailbox, enrollment: int, pool: int
    ) -> str | None:
        gates = self._gates
        if not gates:
            return None
        for gate in (
            ("workspace", ours.plan.workspace_id),
            ("campaign", self._campaign[enrollment]),
            ("pool", pool),
            ("mailbox", mailbox.budget.mailbox_id),
            ("domain", mailbox.domain),
            ("enrollment", enrollment),
        ):
            if gate in gates:
                return gate[0]
        return None

    # Sending.

    def _submit(self, lease: Lease) -> None:
        """Claim, submit, and record what became of it."""
        now, enrollment, mailbox = self._now, lease.enrollment, lease.mailbox
        budget = mailbox.budget
        budget.outstanding -= 1
        draw = self._rng.random()
        state = self._state[enrollment]
        campaign = lease.workspace.pacer.campaigns[self._campaign[enrollment]]
        if (
            state == ENDED
            or draw < _UNSENT
            or not budget.active
            or not budget.admits(campaign.type, campaign.min_health)
            or self._suspended(lease.workspace, mailbox, enrollment, lease.pool) is not None
        ):
            budget.give_back(lease.slot)
            lease.workspace.pacer.compile([budget.mailbox_id], now)
            if state != ENDED:
                self._requeue(lease, now + int(_MINUTE * self._rng.random()), state)
            self._wake(lease.workspace)
            return
        step = self._step[enrollment]
        self.events.send(
            now,
            lease.slot,
            lease.reserved,
            budget.workspace_id,
            budget.mailbox_id,
            lease.workspace.plans[budget.mailbox_id].account,
            mailbox.domain,
            campaign.campaign_id,
            _TYPE_OF[campaign.type],
            lease.pool,
            enrollment,
            self._address[enrollment],
            step,
            enrollment << 4 | step - 1,
            draw >= _REJECTED,
        )
        if draw < _DEFERRED:
            # Greylisting remembers who asked: the same mailbox again.
            self._mailbox[enrollment], self._pool[enrollment] = budget.mailbox_id, lease.pool
            self._requeue(lease, now + round(HOUR * (0.1 + draw / _DEFERRED)), RESERVED_STICKY)
        elif draw < _REJECTED:
            self._suppress(lease.workspace, enrollment, "bounced")
        else:
            self._accepted(lease, step)

    def _accepted(self, lease: Lease, step: int) -> None:
        now, enrollment, ours = self._now, lease.enrollment, lease.workspace
        following = _after(step, ours.campaigns[self._campaign[enrollment]].delays_s)
        if following is None:
            self._state[enrollment] = NONE
        else:
            position, delay = following
            mailbox_id = lease.mailbox.budget.mailbox_id
            self._step[enrollment] = position
            self._state[enrollment] = STICKY
            self._mailbox[enrollment], self._pool[enrollment] = mailbox_id, lease.pool
            self._followers[mailbox_id].append(enrollment)
            self._due_at[enrollment] = due = now + delay
            self._schedule(ours, enrollment, due)
        drawn = self._rng.random()
        if drawn < _UNSUBSCRIBES:
            state = (
                "replied" if drawn < _REPLIES else "bounced" if drawn < _BOUNCES else "unsubscribed"
            )
            # Bounces come within minutes, people take hours.
            span = 20 * _MINUTE if state == "bounced" else 40 * HOUR
            self._at(
                now + 1000 + int(span * self._rng.random()),
                _ANSWER, self._answer, (ours, enrollment, state),
            )  # fmt: skip

    def _answer(self, what: tuple[Workspace, int, str]) -> None:
        ours, enrollment, state = what
        if state == "replied":
            self._end(enrollment, state)
        else:
            self._suppress(ours, enrollment, state)

    def _suppress(self, ours: Workspace, enrollment: int, state: str) -> None:
        """Suppress the address of an enrollment, which ends in `state`, and all others of it."""
        address = self._address[enrollment]
        if address not in self._suppressed:
            self._suppressed.add(address)
            self.events.fact(
                self._now, "suppressed", workspace=ours.plan.workspace_id, address=address
            )
        self._end(enrollment, state)
        for one in self._namesakes.get(address, (address,)):
            if one != enrollment and self._state[one] not in (NONE, ENDED):
                self._end(one, "suppressed")

    def _end(self, enrollment: int, state: str) -> None:
        if self._state[enrollment] == ENDED:
            return
        self._state[enrollment] = ENDED
        self.events.fact(self._now, "ended", enrollment=enrollment, state=state)

    def _requeue(self, lease: Lease, due: int, was: int) -> None:
        enrollment, ours = lease.enrollment, lease.workspace
        self._state[enrollment] = STICKY if was == RESERVED_STICKY else QUEUED
        self._due_at[enrollment] = due
        if self._state[enrollment] == STICKY:
            self._followers[self._mailbox[enrollment]].append(enrollment)
        self._push(ours, enrollment)

    def _push(self, ours: Workspace, enrollment: int) -> None:
        """Tell the pacing store of a queued job."""
        sticky = self._state[enrollment] == STICKY
        campaign = self._campaign[enrollment]
        matches = not sticky and ours.campaigns[campaign].match != "off"
        job = QueuedJob(
            enrollment << 4 | self._step[enrollment] - 1,
            campaign,
            self._mailbox[enrollment] if sticky else None,
            self._due_at[enrollment],
            host_of(self._address[enrollment]) if matches else 0,
        )
        ours.pacer.shard.push([job], self._now)
        self._wake(ours, max(self._now, self._due_at[enrollment]))

    def _schedule(self, ours: Workspace, enrollment: int, due: int) -> None:
        """Keep a follow-up until it comes within the horizon."""
        bucket = due // _HORIZON
        found = ours.buckets.get(bucket)
        if found is None:
            found = ours.buckets[bucket] = []
            self._at(bucket * _HORIZON, _DUE, self._load_due, (ours, bucket))
        found.append(enrollment)

    def _load_due(self, what: tuple[Workspace, int]) -> None:
        ours, bucket = what
        for enrollment in ours.buckets.pop(bucket):
            if self._state[enrollment] == STICKY:
                self._judge(ours, enrollment)
            if self._state[enrollment] in (QUEUED, STICKY):
                self._push(ours, enrollment)

    # Follow-ups whose mailbox is gone.

    def _note_gone(self, ours: Workspace, mailbox: Mailbox) -> None:
        budget = mailbox.budget
        gone = not budget.active or any(
            gate in self._gates
            for gate in (("mailbox", budget.mailbox_id), ("domain", mailbox.domain))
        )
        if not gone:
            budget.gone_since = None
        elif budget.gone_since is None:
            budget.gone_since = self._now
            for after in {one.reassign_after_s for one in ours.campaigns.values()}:
                self._at(self._now + 1000 * after, WORLD, self._lose, (ours, mailbox))

    def _lose(self, what: tuple[Workspace, Mailbox]) -> None:
        ours, mailbox = what
        if mailbox.budget.gone_since is not None:
            self._each_follower(mailbox, lambda one: self._judge(ours, one, push=True))

    def _judge(self, ours: Workspace, enrollment: int, *, push: bool = False) -> None:
        """Decide whether a queued follow-up goes on waiting for its mailbox."""
        campaign = ours.campaigns[self._campaign[enrollment]]
        gone = ours.pacer.mailboxes[self._mailbox[enrollment]].budget.gone_since
        verdict = stickiness.decide(
            cast("stickiness.Mode", campaign.stickiness),
            timedelta(seconds=campaign.reassign_after_s),
            None if gone is None else to_datetime(gone),
            to_datetime(self._now),
        )
        if isinstance(verdict, stickiness.Reassign):
            self._let_go(ours, enrollment, push=push)
        elif isinstance(verdict, stickiness.Stop):
            self._end(enrollment, "stopped")

    def _let_go(self, ours: Workspace, enrollment: int, *, push: bool) -> None:
        """Let any mailbox of the campaign send a follow-up."""
        self._state[enrollment] = QUEUED
        if push and self._due_at[enrollment] < (self._now // _HORIZON + 1) * _HORIZON:
            self._push(ours, enrollment)

    def _each_follower(self, mailbox: Mailbox, act: Callable[[int], None]) -> None:
        """Act on each queued follow-up that waits for the mailbox."""
        mailbox_id = mailbox.budget.mailbox_id
        waiting = [
            one
            for one in dict.fromkeys(self._followers[mailbox_id])
            if self._state[one] == STICKY and self._mailbox[one] == mailbox_id
        ]
        for one in waiting:
            act(one)
        self._followers[mailbox_id] = [one for one in waiting if self._state[one] == STICKY]


_TYPE_OF: Final = {bit: TYPES.index(name) for name, bit in TYPE_BITS.items()}


@cache
def _after(step: int, delays_s: tuple[int, ...]) -> tuple[int, int] | None:
    """Return position and delay (ms) of the step after `step`."""
    delays = {n + 1: timedelta(seconds=delay) for n, delay in enumerate(delays_s)}
    found = sequence.after(step, EPOCH, delays)
    return None if found is None else (found.position, to_ms(found.due_at))


def host_of(address: int) -> int:
    """Return the code of an address's mail host: about half are at one of the two big ones."""
    drawn = (address * 2654435761 >> 7) % 8
    return 1 if drawn < 3 else 2 if drawn < 5 else 0
