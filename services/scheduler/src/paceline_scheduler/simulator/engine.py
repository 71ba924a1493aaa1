"""A group of workspaces on a virtual clock, sending through everything that befalls them.

The production code decides (`domain`, `policy`, `pacing.memory.Shard`); this
module is the world around it: Postgres' guards (`budget`), the claim, senders,
hosts, people. What happens at one instant happens in this order: the world and
operators, submissions, answers, newly due follow-ups, decisions.
"""

import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from heapq import heappop, heappush
from typing import Any, Final, cast

from paceline_scheduler import policy
from paceline_scheduler.domain import sequence, stickiness
from paceline_scheduler.domain.rules import TYPES as TYPE_BITS
from paceline_scheduler.domain.rules import Rules
from paceline_scheduler.pacing.base import Match, Mode, Proposal, QueuedJob
from paceline_scheduler.simulator.budget import EPOCH, Account, Budget, to_datetime, to_ms
from paceline_scheduler.simulator.events import TYPES, EventList
from paceline_scheduler.simulator.fleet import (
    START,
    CampaignPlan,
    Happening,
    MailboxPlan,
    WorkspacePlan,
)
from paceline_scheduler.simulator.pacer import Campaign, Mailbox, Pacer

_MINUTE: Final = 60_000
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
# Jobs due later are not in the pacing store yet, as live.
_HORIZON: Final = 10 * _MINUTE

# Order of kinds at one instant.
_WORLD, _SUBMIT, _ANSWER, _DUE, _WAKE = range(5)

# States of an enrollment's job.
_NONE, _QUEUED, _STICKY, _RESERVED, _RESERVED_STICKY, _ENDED = range(6)

# What becomes of submissions: shares of all of them.
_UNSENT: Final = 0.002
_DEFERRED: Final = 0.006
_REJECTED: Final = 0.016
_REPLIES: Final = 0.025
_BOUNCES: Final = 0.033
_UNSUBSCRIBES: Final = 0.036

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class _Workspace:
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
class _Lease:
    workspace: _Workspace
    mailbox: Mailbox
    enrollment: int
    pool: int
    slot: int
    reserved: int


class Engine:
    """Runs the workspaces of one group from `fleet.START` for some days.

    Equal plans and seeds make equal event lists, on any machine.
    """

    def __init__(self, plans: Sequence[WorkspacePlan], seed: str) -> None:
        self.events = EventList()
        self._rng = random.Random(seed)  # noqa: S311 - drawn, not secret
        self._now = round(START.timestamp() * 1000)
        self._heap: list[tuple[int, int, int, Callable[..., None], Any]] = []
        self._sequence = 0
        self._gates: dict[tuple[str, int], int] = {}
        self._open: dict[tuple[str, int, str], int] = {}
        self._suspensions = 0
        self._accounts: dict[int, Account] = defaultdict(Account)
        leads = sum(one.leads for one in plans)
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
        self._held: dict[tuple[str, int], list[int]] = defaultdict(list)
        self._workspaces: list[_Workspace] = []
        base = 0
        for plan in plans:
            self._add(plan, base)
            base += plan.leads

    def run(self, days: float, progress: Progress | None = None) -> EventList:
        """Run to the end and return the event list. `progress` hears of instant and sends."""
        until = self._now + round(days * _DAY)
        heap = self._heap
        told = 0
        while heap and heap[0][0] < until:
            now, _, _, act, what = heappop(heap)
            self._now = now
            act(what)
            if progress is not None and now - told >= 2 * _HOUR:
                told = now
                progress(now, len(self.events))
        return self.events

    def enrollments(self) -> dict[str, int]:
        """Return how many enrollments are waiting, ended early, and done with every step."""
        counts = Counter(self._state)
        waiting = counts[_QUEUED] + counts[_STICKY] + counts[_RESERVED] + counts[_RESERVED_STICKY]
        return {
            "waiting": waiting,
            "ended": counts[_ENDED],
            "finished": sum(one.enrolled for one in self._workspaces) - waiting - counts[_ENDED],
        }

    def _at(self, at: int, order: int, act: Callable[..., None], what: Any) -> None:
        self._sequence += 1
        heappush(self._heap, (max(at, self._now), order, self._sequence, act, what))

    # Setting up.

    def _add(self, plan: WorkspacePlan, base: int) -> None:
        pools = cast("Mapping[int, Mode]", plan.pools)
        pacer = Pacer(plan.workspace_id, self._rng, pools, self._gates)
        ours = _Workspace(
            plan,
            pacer,
            {one.campaign_id: one for one in plan.campaigns},
            {},
            base,
        )
        self._workspaces.append(ours)
        for campaign in plan.campaigns:
            self.events.fact(
                self._now, "campaign", campaign=campaign.campaign_id,
                workspace=plan.workspace_id, type=campaign.type, min_health=campaign.min_health,
            )  # fmt: skip
            pacer.campaigns[campaign.campaign_id] = Campaign(
                campaign.campaign_id,
                TYPE_BITS[campaign.type],
                campaign.min_health,
                cast("Match", campaign.match),
                [{"pools": pools, "after_s": after} for pools, after in campaign.tiers],
            )
            for at, count in campaign.arrivals:
                self._at(at, _WORLD, self._enroll, (ours, campaign.campaign_id, count))
        for mailbox in plan.mailboxes:
            at = round(mailbox.connected_at.timestamp() * 1000)
            self._at(at, _WORLD, self._connect, (ours, mailbox))
        for happening in plan.happenings:
            self._at(happening.at, _WORLD, self._happen, (ours, happening))

    def _connect(self, what: tuple[_Workspace, MailboxPlan]) -> None:
        ours, plan = what
        ref = policy.account_ref(plan.provider, plan.email)
        budget = Budget(plan.workspace_id, plan.mailbox_id, _rules(plan), self._accounts[ref])
        budget.health, budget.stage = plan.health, plan.stage
        budget.admit()
        ours.plans[plan.mailbox_id] = plan
        ours.pacer.mailboxes[plan.mailbox_id] = Mailbox(
            budget, plan.domain, policy.host_code(plan.provider), plan.members
        )
        self.events.fact(self._now, "mailbox", **plan.plain())
        self.events.fact(self._now, "health", mailbox=plan.mailbox_id, score=plan.health)
        self.events.fact(self._now, "stage", mailbox=plan.mailbox_id, stage=plan.stage)
        self._changed(ours, plan.mailbox_id)

    def _enroll(self, what: tuple[_Workspace, int, int]) -> None:
        """Enroll new leads; some are known from another campaign already."""
        ours, campaign, count = what
        matches = ours.campaigns[campaign].match != "off"
        jobs = []
        draw = self._rng.random
        due = to_ms(sequence.first_due(to_datetime(self._now), None))
        for n in range(ours.base + ours.enrolled, ours.base + ours.enrolled + count):
            address = n
            if draw() < 0.15 and n > ours.base:
                address = self._address[ours.base + int(draw() * (n - ours.base))]
                self._namesakes.setdefault(address, [address]).append(n)
            self._address[n] = address
            self._campaign[n] = campaign
            self._due_at[n] = due
            if address in self._suppressed:
                self._state[n] = _ENDED
                continue
            self._state[n] = _QUEUED
            jobs.append(QueuedJob(n << 4, campaign, None, due, _host(address) if matches else 0))
        ours.enrolled += count
        ours.pacer.shard.push(jobs, self._now)
        self._wake(ours)

    # Deciding.

    def _wake(self, ours: _Workspace, at: int | None = None) -> None:
        at = self._now if at is None else at
        if ours.wake_at is None or at < ours.wake_at:
            ours.wake_at = at
            self._at(at, _WAKE, self._decide, ours)

    def _decide(self, ours: _Workspace) -> None:
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

    def _lease(self, ours: _Workspace, proposal: Proposal, spacing: int) -> str | None:
        """Lease a slot as `reserve_slots.sql` does, and tell the sender; else return why not."""
        now = self._now
        enrollment, step = proposal.job_id >> 4, (proposal.job_id & 15) + 1
        state = self._state[enrollment]
        sticky = state == _STICKY
        if (
            not (state == _QUEUED or sticky)
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
        self._state[enrollment] = _RESERVED_STICKY if sticky else _RESERVED
        # Anywhere within its grace.
        at = slot + int((not_after - slot) * self._rng.random())
        lease = _Lease(ours, mailbox, enrollment, pool, slot, now)
        self._at(at, _SUBMIT, self._submit, lease)
        return None

    def _suspended(
        self, ours: _Workspace, mailbox: Mailbox, enrollment: int, pool: int
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

    def _submit(self, lease: _Lease) -> None:
        """Claim, submit, and record what became of it."""
        now, enrollment, mailbox = self._now, lease.enrollment, lease.mailbox
        budget = mailbox.budget
        budget.outstanding -= 1
        draw = self._rng.random()
        state = self._state[enrollment]
        campaign = lease.workspace.pacer.campaigns[self._campaign[enrollment]]
        if (
            state == _ENDED
            or draw < _UNSENT
            or not budget.active
            or not budget.admits(campaign.type, campaign.min_health)
            or self._suspended(lease.workspace, mailbox, enrollment, lease.pool) is not None
        ):
            budget.give_back(lease.slot)
            lease.workspace.pacer.compile([budget.mailbox_id], now)
            if state != _ENDED:
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
            self._requeue(lease, now + round(_HOUR * (0.1 + draw / _DEFERRED)), _RESERVED_STICKY)
        elif draw < _REJECTED:
            self._suppress(lease.workspace, enrollment, "bounced")
        else:
            self._accepted(lease, step)

    def _accepted(self, lease: _Lease, step: int) -> None:
        now, enrollment, ours = self._now, lease.enrollment, lease.workspace
        following = _after(step, ours.campaigns[self._campaign[enrollment]].delays_s)
        if following is None:
            self._state[enrollment] = _NONE
        else:
            position, delay = following
            mailbox_id = lease.mailbox.budget.mailbox_id
            self._step[enrollment] = position
            self._state[enrollment] = _STICKY
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
            span = 20 * _MINUTE if state == "bounced" else 40 * _HOUR
            self._at(
                now + 1000 + int(span * self._rng.random()),
                _ANSWER, self._answer, (ours, enrollment, state),
            )  # fmt: skip

    def _answer(self, what: tuple[_Workspace, int, str]) -> None:
        ours, enrollment, state = what
        if state == "replied":
            self._end(enrollment, state)
        else:
            self._suppress(ours, enrollment, state)

    def _suppress(self, ours: _Workspace, enrollment: int, state: str) -> None:
        """Suppress the address of an enrollment, which ends in `state`, and all others of it."""
        address = self._address[enrollment]
        if address not in self._suppressed:
            self._suppressed.add(address)
            self.events.fact(
                self._now, "suppressed", workspace=ours.plan.workspace_id, address=address
            )
        self._end(enrollment, state)
        for one in self._namesakes.get(address, (address,)):
            if one != enrollment and self._state[one] not in (_NONE, _ENDED):
                self._end(one, "suppressed")

    def _end(self, enrollment: int, state: str) -> None:
        if self._state[enrollment] == _ENDED:
            return
        self._state[enrollment] = _ENDED
        self.events.fact(self._now, "ended", enrollment=enrollment, state=state)

    def _requeue(self, lease: _Lease, due: int, was: int) -> None:
        enrollment, ours = lease.enrollment, lease.workspace
        self._state[enrollment] = _STICKY if was == _RESERVED_STICKY else _QUEUED
        self._due_at[enrollment] = due
        if self._state[enrollment] == _STICKY:
            self._followers[self._mailbox[enrollment]].append(enrollment)
        self._push(ours, enrollment)

    def _push(self, ours: _Workspace, enrollment: int) -> None:
        """Tell the pacing store of a queued job."""
        sticky = self._state[enrollment] == _STICKY
        campaign = self._campaign[enrollment]
        matches = not sticky and ours.campaigns[campaign].match != "off"
        job = QueuedJob(
            enrollment << 4 | self._step[enrollment] - 1,
            campaign,
            self._mailbox[enrollment] if sticky else None,
            self._due_at[enrollment],
            _host(self._address[enrollment]) if matches else 0,
        )
        ours.pacer.shard.push([job], self._now)
        self._wake(ours, max(self._now, self._due_at[enrollment]))

    def _schedule(self, ours: _Workspace, enrollment: int, due: int) -> None:
        """Keep a follow-up until it comes within the horizon."""
        bucket = due // _HORIZON
        found = ours.buckets.get(bucket)
        if found is None:
            found = ours.buckets[bucket] = []
            self._at(bucket * _HORIZON, _DUE, self._load_due, (ours, bucket))
        found.append(enrollment)

    def _load_due(self, what: tuple[_Workspace, int]) -> None:
        ours, bucket = what
        for enrollment in ours.buckets.pop(bucket):
            if self._state[enrollment] == _STICKY:
                self._judge(ours, enrollment)
            if self._state[enrollment] in (_QUEUED, _STICKY):
                self._push(ours, enrollment)

    # Follow-ups whose mailbox is gone.

    def _note_gone(self, ours: _Workspace, mailbox: Mailbox) -> None:
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
                self._at(self._now + 1000 * after, _WORLD, self._lose, (ours, mailbox))

    def _lose(self, what: tuple[_Workspace, Mailbox]) -> None:
        ours, mailbox = what
        if mailbox.budget.gone_since is not None:
            self._each_follower(mailbox, lambda one: self._judge(ours, one, push=True))

    def _judge(self, ours: _Workspace, enrollment: int, *, push: bool = False) -> None:
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

    def _let_go(self, ours: _Workspace, enrollment: int, *, push: bool) -> None:
        """Let any mailbox of the campaign send a follow-up."""
        self._state[enrollment] = _QUEUED
        if push and self._due_at[enrollment] < (self._now // _HORIZON + 1) * _HORIZON:
            self._push(ours, enrollment)

    def _each_follower(self, mailbox: Mailbox, act: Callable[[int], None]) -> None:
        """Act on each queued follow-up that waits for the mailbox."""
        mailbox_id = mailbox.budget.mailbox_id
        waiting = [
            one
            for one in dict.fromkeys(self._followers[mailbox_id])
            if self._state[one] == _STICKY and self._mailbox[one] == mailbox_id
        ]
        for one in waiting:
            act(one)
        self._followers[mailbox_id] = [one for one in waiting if self._state[one] == _STICKY]

    # The world.

    def _happen(self, what: tuple[_Workspace, Happening]) -> None:
        ours, happening = what
        values = happening.values
        mailbox = ours.pacer.mailboxes.get(values.get("mailbox", 0))
        match happening.kind:
            case "suspend":
                self._suspend(
                    ours, values["scope"], values["ref"], values["reason"], values["until"]
                )
            case "resume":
                self._resume(ours, **values)
            case "hold_lead":
                until = self._now + 6 * _HOUR
                self._suspend(ours, "enrollment", ours.base + values["lead"] - 1, "operator", until)
            case "suppress":
                enrollment = ours.base + values["address"] - 1
                if self._state[enrollment] not in (_NONE, _ENDED):
                    self._suppress(ours, enrollment, "suppressed")
            case "health" if mailbox is not None:
                mailbox.budget.health = values["score"]
                self.events.fact(self._now, "health", **values)
                self._changed(ours, values["mailbox"])
            case "stage" if mailbox is not None:
                mailbox.budget.stage = values["stage"]
                mailbox.budget.admit()
                self.events.fact(self._now, "stage", **values)
                self._changed(ours, values["mailbox"])
            case "throttle" if mailbox is not None:
                mailbox.budget.throttled_until = values["until"]
                self.events.fact(self._now, "throttle", **values)
                self._changed(ours, values["mailbox"])
                self._at(values["until"], _WORLD, self._unthrottle, (ours, values["mailbox"]))
            case "settings" if mailbox is not None:
                self._configure(ours, mailbox, values["change"])

    def _configure(self, ours: _Workspace, mailbox: Mailbox, change: Mapping[str, Any]) -> None:
        plan = ours.plans[mailbox.budget.mailbox_id]
        ours_columns = {"is_active", "timezone"}
        plan.policy = plan.policy | {
            name: value for name, value in change.items() if name not in ours_columns
        }
        plan.timezone = change.get("timezone", plan.timezone)
        plan.is_active = mailbox.budget.active = change.get("is_active", plan.is_active)
        mailbox.budget.set_rules(_rules(plan))
        self.events.fact(self._now, "mailbox", **plan.plain())
        self._note_gone(ours, mailbox)
        self._changed(ours, plan.mailbox_id)

    def _changed(self, ours: _Workspace, mailbox_id: int) -> None:
        """Bring the pacing store in line after a change of one mailbox."""
        ours.pacer.route(self._now)
        ours.pacer.compile([mailbox_id], self._now)
        self._wake(ours)

    def _unthrottle(self, what: tuple[_Workspace, int]) -> None:
        ours, mailbox_id = what
        ours.pacer.compile([mailbox_id], self._now)
        self._wake(ours)

    def _suspend(
        self, ours: _Workspace, scope: str, ref: int, reason: str, until: int | None
    ) -> None:
        key = (scope, ref, reason)
        if key in self._open or (until is not None and until <= self._now):
            return
        self._suspensions += 1
        self._open[key] = self._suspensions
        self._gates[scope, ref] = self._gates.get((scope, ref), 0) + 1
        self.events.fact(
            self._now, "suspended", suspension=self._suspensions,
            workspace=ours.plan.workspace_id, scope=scope, ref=ref, reason=reason, until=until,
        )  # fmt: skip
        if until is not None:
            self._at(until, _WORLD, self._expire, (ours, key))
        self._gate_moved(ours, scope, ref)
        mailbox = ours.pacer.mailboxes.get(ref) if reason == "node_failed" else None
        if mailbox is not None and ours.plans[ref].policy.get("reroute", True):
            self._each_follower(mailbox, lambda one: self._let_go(ours, one, push=True))

    def _resume(self, ours: _Workspace, scope: str, ref: int, reason: str) -> None:
        suspension = self._open.get((scope, ref, reason))
        if suspension is not None:
            self.events.fact(self._now, "resumed", suspension=suspension)
            self._expire((ours, (scope, ref, reason)))

    def _expire(self, what: tuple[_Workspace, tuple[str, int, str]]) -> None:
        ours, (scope, ref, reason) = what
        if self._open.pop((scope, ref, reason), None) is None:
            return
        self._gates[scope, ref] -= 1
        if self._gates[scope, ref] == 0:
            del self._gates[scope, ref]
            self._gate_moved(ours, scope, ref)

    def _gate_moved(self, ours: _Workspace, scope: str, ref: int) -> None:
        """Bring the pacing store in line after a gate closed or opened."""
        pacer = ours.pacer
        if scope == "enrollment":
            pass
        elif scope in ("campaign", "pool"):
            pacer.route(self._now)
        else:
            moved = [
                mailbox_id
                for mailbox_id, one in pacer.mailboxes.items()
                if {"mailbox": mailbox_id, "domain": one.domain}.get(scope, ref) == ref
            ]
            for mailbox_id in moved:
                mailbox = pacer.mailboxes[mailbox_id]
                self._note_gone(ours, mailbox)
                if (scope, ref) not in self._gates:
                    mailbox.reopened_at = to_datetime(self._now)
            pacer.compile(moved, self._now)
        if (scope, ref) not in self._gates:
            for enrollment in self._held.pop((scope, ref), ()):
                if self._state[enrollment] in (_QUEUED, _STICKY):
                    self._push(ours, enrollment)
        self._wake(ours)


_TYPE_OF: Final = {bit: TYPES.index(name) for name, bit in TYPE_BITS.items()}


def _rules(plan: MailboxPlan) -> Rules:
    return policy.read(
        {
            "policy": plan.policy,
            "timezone": plan.timezone,
            "provider": plan.provider,
            "country": plan.country,
            "region": plan.region,
            "connected_at": plan.connected_at,
        }
    )


@cache
def _after(step: int, delays_s: tuple[int, ...]) -> tuple[int, int] | None:
    """Return position and delay (ms) of the step after `step`."""
    delays = {n + 1: timedelta(seconds=delay) for n, delay in enumerate(delays_s)}
    found = sequence.after(step, EPOCH, delays)
    return None if found is None else (found.position, to_ms(found.due_at))


def _host(address: int) -> int:
    """Return the code of an address's mail host: about half are at one of the two big ones."""
    drawn = (address * 2654435761 >> 7) % 8
    return 1 if drawn < 3 else 2 if drawn < 5 else 0
