"""A fleet on a virtual clock, and everything that befalls it: settings, gates, health, failures."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from paceline_scheduler import policy
from paceline_scheduler.domain import sequence
from paceline_scheduler.domain.rules import TYPES as TYPE_BITS
from paceline_scheduler.domain.rules import Rules
from paceline_scheduler.pacing.base import Match, Mode, QueuedJob
from paceline_scheduler.simulator.budget import Account, Budget, to_datetime, to_ms
from paceline_scheduler.simulator.pacer import Campaign, Mailbox, Pacer
from paceline_scheduler.simulator.plans import Happening, MailboxPlan, WorkspacePlan
from paceline_scheduler.simulator.sending import (
    ENDED,
    HOUR,
    NONE,
    QUEUED,
    STICKY,
    WORLD,
    Sending,
    Workspace,
    host_of,
)


class Engine(Sending):
    """Runs the workspaces of one group from `plans.START` for some days.

    Equal plans and seeds make equal event lists, on any machine.
    """

    def __init__(self, plans: Sequence[WorkspacePlan], seed: str) -> None:
        super().__init__(sum(one.leads for one in plans), seed)
        self._open: dict[tuple[str, int, str], int] = {}
        self._suspensions = 0
        self._accounts: dict[int, Account] = defaultdict(Account)
        base = 0
        for plan in plans:
            self._add(plan, base)
            base += plan.leads

    # Setting up.

    def _add(self, plan: WorkspacePlan, base: int) -> None:
        pools = cast("Mapping[int, Mode]", plan.pools)
        pacer = Pacer(plan.workspace_id, self._rng, pools, self._gates)
        ours = Workspace(
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
                self._at(at, WORLD, self._enroll, (ours, campaign.campaign_id, count))
        for mailbox in plan.mailboxes:
            at = round(mailbox.connected_at.timestamp() * 1000)
            self._at(at, WORLD, self._connect, (ours, mailbox))
        for happening in plan.happenings:
            self._at(happening.at, WORLD, self._happen, (ours, happening))

    def _connect(self, what: tuple[Workspace, MailboxPlan]) -> None:
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

    def _enroll(self, what: tuple[Workspace, int, int]) -> None:
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
                self._state[n] = ENDED
                continue
            self._state[n] = QUEUED
            jobs.append(QueuedJob(n << 4, campaign, None, due, host_of(address) if matches else 0))
        ours.enrolled += count
        ours.pacer.shard.push(jobs, self._now)
        self._wake(ours)

    # The world.

    def _happen(self, what: tuple[Workspace, Happening]) -> None:
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
                until = self._now + 6 * HOUR
                self._suspend(ours, "enrollment", ours.base + values["lead"] - 1, "operator", until)
            case "suppress":
                enrollment = ours.base + values["address"] - 1
                if self._state[enrollment] not in (NONE, ENDED):
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
                self._at(values["until"], WORLD, self._unthrottle, (ours, values["mailbox"]))
            case "settings" if mailbox is not None:
                self._configure(ours, mailbox, values["change"])

    def _configure(self, ours: Workspace, mailbox: Mailbox, change: Mapping[str, Any]) -> None:
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

    def _changed(self, ours: Workspace, mailbox_id: int) -> None:
        """Bring the pacing store in line after a change of one mailbox."""
        ours.pacer.route(self._now)
        ours.pacer.compile([mailbox_id], self._now)
        self._wake(ours)

    def _unthrottle(self, what: tuple[Workspace, int]) -> None:
        ours, mailbox_id = what
        ours.pacer.compile([mailbox_id], self._now)
        self._wake(ours)

    def _suspend(
        self, ours: Workspace, scope: str, ref: int, reason: str, until: int | None
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
            self._at(until, WORLD, self._expire, (ours, key))
        self._gate_moved(ours, scope, ref)
        mailbox = ours.pacer.mailboxes.get(ref) if reason == "node_failed" else None
        if mailbox is not None and ours.plans[ref].policy.get("reroute", True):
            self._each_follower(mailbox, lambda one: self._let_go(ours, one, push=True))

    def _resume(self, ours: Workspace, scope: str, ref: int, reason: str) -> None:
        suspension = self._open.get((scope, ref, reason))
        if suspension is not None:
            self.events.fact(self._now, "resumed", suspension=suspension)
            self._expire((ours, (scope, ref, reason)))

    def _expire(self, what: tuple[Workspace, tuple[str, int, str]]) -> None:
        ours, (scope, ref, reason) = what
        if self._open.pop((scope, ref, reason), None) is None:
            return
        self._gates[scope, ref] -= 1
        if self._gates[scope, ref] == 0:
            del self._gates[scope, ref]
            self._gate_moved(ours, scope, ref)

    def _gate_moved(self, ours: Workspace, scope: str, ref: int) -> None:
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
                if self._state[enrollment] in (QUEUED, STICKY):
                    self._push(ours, enrollment)
        self._wake(ours)


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
