"""What becomes of a campaign from here on: the simulator's pacer run ahead over several seeds.

Jobs are counts, not rows. Where there are more than can be decided one by one
in the time allowed, a mailbox takes several of them per decision, one spacing
apart, as far as its stretch and its limits go: days and limits stay exact, only
the order in which mailboxes take their share is coarser.

Assumed: every message is accepted, nobody answers, no setting or health
changes, open-ended suspensions stay, those with an end are over then. Shaping of
recipient domains and contact pressure are left out.
"""

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from heapq import heappop, heappush
from typing import Final

from paceline_scheduler import policy
from paceline_scheduler.domain import sequence
from paceline_scheduler.domain.capacity import effective
from paceline_scheduler.domain.caps import used_on
from paceline_scheduler.domain.eligibility import admits, compile_stretch
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.rules import CampaignRules, Rules
from paceline_scheduler.pacing.base import Proposal, QueuedJob
from paceline_scheduler.simulator.budget import (
    Account,
    Budget,
    DomainCount,
    to_datetime,
    to_ms,
)
from paceline_scheduler.simulator.pacer import Mailbox, Pacer
from paceline_scheduler.simulator.snapshot import CampaignNow, MailboxNow, Snapshot, Waiting

# Decisions that the time allowed is good for, over all seeds; fewer seeds than this say little.
_DECISIONS: Final = 30_000
_LEAST_SEEDS: Final = 3
# Nothing is foretold further than this.
_HORIZON: Final = timedelta(days=400)
# A node without a rate still waits for its host's answers.
_NODE_SPACING_MS: Final = 250
# A scheduled start is late by up to this: the gateway is on time, the pacing loop looks for opened
# gates every tenth of a second.
_START_LATE_MS: Final = 100
# How late the pacing loop is with a slot, at most, from a machine at rest to one with no core to
# spare; on average half of it. Nobody knows which it will be, so the runs are spread over them.
# tests/e2e/test_forecast.py measures, on average and two cores: 4 ms at a load of 3, 10 ms at 5,
# 30 to 45 ms at 9, 65 ms at 12.
_LATENESS_MS: Final = (1, 500)
# Multiples of it, modulo 1, are spread evenly however many there are.
_GOLDEN: Final = (5**0.5 - 1) / 2
_JUDGED_DAYS: Final = 60
# Mailboxes whose capacity stands for that of all when the time is over.
_SAMPLED: Final = 100
_UNLIMITED: Final = 86_400_000 // _NODE_SPACING_MS
_CLOSED: Final = ("outside_window", "holiday", "blackout")


@dataclass(frozen=True, slots=True)
class Outlook:
    """`finishes`, ascending, of the `seeds` that were run; empty where it never finishes.

    `days` has the mean count by the mailbox's local date and mailbox; ids below
    0 are those of added mailboxes. `bottleneck`: the reason that bound most
    mailbox days until the middle finish. `is_cut`: the time allowed was over
    and the rest goes by the capacity of the days to come.
    """

    finishes: tuple[datetime, ...]
    days: Mapping[tuple[date, int], float]
    bottleneck: str
    seeds: int
    is_cut: bool


def quantile(finishes: Sequence[datetime], share: float) -> datetime:
    """Return the instant by which a share of ascending finishes lies, between two if need be."""
    at = share * (len(finishes) - 1)
    low = int(at)
    high = min(low + 1, len(finishes) - 1)
    return finishes[low] + (finishes[high] - finishes[low]) * (at - low)


def foretell(snapshot: Snapshot, campaign_id: int, seeds: int, allowed_s: float = 5.0) -> Outlook:
    """Run the snapshot ahead until the campaign is done, over at most `seeds` seeds, in about
    `allowed_s` seconds. Raises `LookupError` for a campaign that is not in it."""
    campaign = next(one for one in snapshot.campaigns if one.route.campaign_id == campaign_id)
    work = sum(
        waiting.count * sum(step >= waiting.step for step in one.delays)
        for one in snapshot.campaigns
        for waiting in one.waiting
    )
    rules = {one.mailbox_id: policy.read(one.settings) for one in snapshot.mailboxes}
    seeds = max(min(seeds, _LEAST_SEEDS), min(seeds, _DECISIONS // max(1, work)))
    bundle = max(1, -(-work * seeds // _DECISIONS))
    begun = time.monotonic()
    runs: list[_Run] = []
    for seed in range(seeds):
        took = time.monotonic() - begun
        if runs and took + took / len(runs) > allowed_s:
            break
        run = _Run(snapshot, campaign, rules, bundle, seed)
        runs.append(run.go(begun + allowed_s))
    days: Counter[tuple[date, int]] = Counter()
    for one in runs:
        for key, count in one.days.items():
            days[key] += count
    finishes = sorted(one.finish for one in runs if one.finish is not None)
    never = len(finishes) < len(runs)
    return Outlook(
        () if never else tuple(finishes),
        {key: count / len(runs) for key, count in sorted(days.items())},
        runs[0].bottleneck(),
        len(runs),
        any(one.is_cut for one in runs),
    )


@dataclass(slots=True)
class _Token:
    """Jobs that wait alike, under one number in the shard."""

    campaign: CampaignNow
    step: int
    count: int
    due: int
    mailbox_id: int | None
    host: int


class _Run:
    """One seed."""

    def __init__(
        self,
        snapshot: Snapshot,
        campaign: CampaignNow,
        rules: Mapping[int, Rules],
        bundle: int,
        seed: int,
    ) -> None:
        self._snapshot = snapshot
        self._campaign = campaign
        self._bundle = bundle
        self._rng = random.Random(f"{snapshot.workspace_id}/{seed}")  # noqa: S311 - drawn
        self._now = to_ms(snapshot.now)
        self._last = self._now
        least, most = _LATENESS_MS
        self._late = least * (most / least) ** ((0.5 + seed * _GOLDEN) % 1)
        self._gates: dict[tuple[str, int], int] = {}
        self._ends: list[tuple[int, int]] = []
        self._pacer = Pacer(snapshot.workspace_id, self._rng, snapshot.pools, self._gates)
        self._tokens: dict[int, _Token] = {}
        self._numbers = 0
        self._unsent: Counter[int] = Counter()
        self._used: Counter[tuple[date, int]] = Counter()
        self.days: Counter[tuple[date, int]] = Counter()
        self.finish: datetime | None = None
        self.is_cut = False
        self._set_up(rules)

    def _set_up(self, rules: Mapping[int, Rules]) -> None:
        snapshot = self._snapshot
        accounts: dict[int, Account] = {}
        domains: dict[int, DomainCount] = {}
        for one in snapshot.mailboxes:
            account = accounts.get(one.account)
            if account is None:
                account = accounts[one.account] = Account()
                account.resume(one.state.rolling)
            budget = Budget(snapshot.workspace_id, one.mailbox_id, rules[one.mailbox_id], account)
            budget.resume(one.state)
            if one.throttled_until is not None:
                budget.throttled_until = to_ms(one.throttled_until)
            if one.state.domain_cap is not None:
                budget.domain = domains.setdefault(
                    one.domain,
                    DomainCount(
                        one.state.domain_cap,
                        one.state.domain_tz or budget.rules.tz,
                        one.state.domain_day,
                    ),
                )
            self._pacer.mailboxes[one.mailbox_id] = Mailbox(
                budget, one.domain, one.host, one.members
            )
            if one.held_by is not None:
                self._gates["mailbox", one.mailbox_id] = 1
                if one.held_until is not None:
                    heappush(self._ends, (to_ms(one.held_until), one.mailbox_id))
        for campaign in snapshot.campaigns:
            self._pacer.campaigns[campaign.route.campaign_id] = campaign.route
            opens = self._opening(campaign)
            for waiting in campaign.waiting:
                self._take_in(campaign, waiting, opens)
        self._pacer.route(self._now)
        self._pacer.compile(self._pacer.mailboxes, self._now)

    def _opening(self, campaign: CampaignNow) -> int:
        """Return the instant (ms) before which nothing of a campaign is sent, 0 if it runs."""
        if campaign.starts_at is None:
            return 0
        return to_ms(campaign.starts_at) + int(_START_LATE_MS * self._rng.random())

    def _take_in(self, campaign: CampaignNow, waiting: Waiting, opens: int) -> None:
        due = max(to_ms(waiting.due_at), opens)
        if waiting.is_sent:
            self._follow(campaign, waiting.step, waiting.count, waiting.mailbox_id, due)
            return
        left = waiting.count
        while left > 0:
            count = min(self._bundle, left)
            left -= count
            self._push(_Token(campaign, waiting.step, count, due, waiting.mailbox_id, waiting.host))

    def _push(self, token: _Token) -> None:
        self._numbers += 1
        self._tokens[self._numbers] = token
        campaign_id = token.campaign.route.campaign_id
        self._unsent[campaign_id] += token.count
        job = QueuedJob(self._numbers, campaign_id, token.mailbox_id, token.due, token.host)
        self._pacer.shard.push([job], self._now)

    def _follow(
        self, campaign: CampaignNow, step: int, count: int, mailbox_id: int | None, sent: int
    ) -> None:
        """Queue the follow-ups of messages of a step, sent at an instant (ms)."""
        following = sequence.after(step, to_datetime(sent), campaign.delays)
        if following is not None:
            due = to_ms(following.due_at)
            self._push(_Token(campaign, following.position, count, due, mailbox_id, 0))

    def go(self, ends: float) -> "_Run":
        """Run until the campaign is done, or nothing can be sent any more, or the clock shows
        `ends` (monotonic seconds)."""
        ours = self._campaign.route.campaign_id
        horizon = self._now + _HORIZON // timedelta(milliseconds=1)
        looked = 0
        while self._unsent[ours] > 0:
            wake = self._step()
            if wake is None or wake > horizon:
                return self
            self._now = wake
            looked += 1
            if looked % 64 == 0 and time.monotonic() > ends:
                self._draw_out()
                return self
        self.finish = to_datetime(self._last)
        return self

    def _draw_out(self) -> None:
        """Guess the finish from the capacity of the days to come and our share of it so far."""
        self.is_cut = True
        left: float = sum(
            token.count * sum(step >= token.step for step in self._campaign.delays)
            for token in self._tokens.values()
            if token.campaign is self._campaign
        )
        ours = self._snapshot.pools_of(self._campaign.route.campaign_id)
        asked = CampaignRules(self._campaign.route.type, self._campaign.route.min_health)
        serving = [
            (self._pacer.mailboxes[one.mailbox_id].budget.rules, one.state)
            for one in self._snapshot.mailboxes
            if ours & one.members.keys() and one.held_by is None
        ]
        serving = [one for one in serving if admits(*one, asked) is None]
        every = -(-len(serving) // _SAMPLED) or 1
        share = every * sum(self.days.values()) / max(1, sum(self._used.values()))
        at = to_datetime(self._last)
        for _ in range(_HORIZON.days):
            at += timedelta(days=1)
            per_day = share * sum(
                _UNLIMITED if (found := effective(*one, at.date()).per_day) is None else found
                for one in serving[::every]
            )
            if per_day >= left > 0:
                self.finish = at - timedelta(days=1 - left / per_day)
                return
            left -= per_day

    def _step(self) -> int | None:
        """Decide what can be decided now; return when to look again."""
        now, pacer = self._now, self._pacer
        while self._ends and self._ends[0][0] <= now:
            mailbox_id = heappop(self._ends)[1]
            del self._gates["mailbox", mailbox_id]
            pacer.mailboxes[mailbox_id].reopened_at = to_datetime(now)
            pacer.compile([mailbox_id], now)
        proposed, wake = pacer.propose(now)
        for proposal, spacing in proposed:
            reason = self._lease(proposal, spacing)
            if reason is not None:
                pacer.refuse(proposal, reason, now)
            if reason is not None or self._bundle > 1:
                wake = now
        if self._ends:
            wake = min(self._ends[0][0], self._ends[0][0] if wake is None else wake)
        return None if wake is None else max(wake, now + 1) + int(self._late * self._rng.random())

    def _lease(self, proposal: Proposal, spacing: int) -> str | None:
        now = self._now
        token = self._tokens[proposal.job_id]
        campaign_id = token.campaign.route.campaign_id
        mailbox = self._pacer.mailboxes[proposal.mailbox_id]
        budget = mailbox.budget
        slot = proposal.slot_ms
        reason = budget.lease(slot, proposal.not_after_ms, spacing or _NODE_SPACING_MS, now)
        if reason is not None:
            return reason
        # It is sent at once: the sender keeps up.
        budget.outstanding -= 1
        count = 1
        if token.count > 1:
            mean = budget.spacing[0] + budget.spacing[1] // 2 or _NODE_SPACING_MS
            fair = -(-self._unsent[campaign_id] // len(self._pacer.mailboxes))
            count += budget.extend(min(token.count, fair) - 1, mean + round(self._late / 2))
        last = slot if count == 1 else (budget.next_ms or slot) - spacing
        self._unsent[campaign_id] -= count
        local = to_datetime(slot).astimezone(budget.rules.tz).date()
        self._used[local, proposal.mailbox_id] += count
        if token.campaign is self._campaign:
            self.days[local, proposal.mailbox_id] += count
            self._last = max(self._last, last)
        self._follow(token.campaign, token.step, count, proposal.mailbox_id, (slot + last) // 2)
        if count < token.count:
            token.count -= count
            self._pacer.shard.put_back([proposal])
        else:
            del self._tokens[proposal.job_id]
        if self._bundle > 1:
            self._pacer.compile([proposal.mailbox_id], now)
        return None

    def bottleneck(self) -> str:
        """Return the reason that bound most days of the campaign's mailboxes.

        A day counts for the rule that sets its capacity where the mailbox used
        nearly all of it; `waiting_for_due` where it did not.
        """
        campaign = self._campaign.route
        pools = self._snapshot.pools_of(campaign.campaign_id)
        asked = CampaignRules(campaign.type, campaign.min_health)
        until = to_datetime(self._last)
        bound: Counter[str] = Counter()
        closed: Counter[str] = Counter()
        for one in self._snapshot.mailboxes:
            if not pools & one.members.keys():
                continue
            budget = self._pacer.mailboxes[one.mailbox_id].budget
            first = self._snapshot.now.astimezone(budget.rules.tz).date()
            count = (until.astimezone(budget.rules.tz).date() - first).days + 1
            refused = admits(budget.rules, one.state, asked)
            if ("mailbox", one.mailbox_id) in self._gates:
                bound[one.held_by or "mailbox_suspended"] += count
            elif refused is not None:
                bound[refused.reason] += count
            elif isinstance(never := compile_stretch(budget.rules, one.state, until), Hold):
                bound[never.reason] += count
            else:
                days = [first + timedelta(days=n) for n in range(min(count, _JUDGED_DAYS))]
                self._judge_days(one, budget, days, bound, closed)
        for counts in (bound, closed):
            if counts:
                return max(sorted(counts), key=lambda reason: counts[reason])
        return "no_mailbox"

    def _judge_days(
        self,
        mailbox: MailboxNow,
        budget: Budget,
        days: Sequence[date],
        bound: Counter[str],
        closed: Counter[str],
    ) -> None:
        for day in days:
            capacity = effective(budget.rules, mailbox.state, day)
            if capacity.bound_by in _CLOSED:
                closed[capacity.bound_by] += 1
                continue
            used = self._used[day, mailbox.mailbox_id]
            caps = {one: cap for one, cap in capacity.parts.items() if one != "cadence"}
            tightest = min(caps, key=lambda one: caps[one], default=None)
            if not used:
                reason = "waiting_for_due"
            elif tightest is not None and (
                10 * (used + used_on(day, mailbox.state.day)) >= 9 * caps[tightest]
            ):
                reason = tightest
            elif day in (days[0], days[-1]) or 10 * used >= 9 * capacity.parts.get("cadence", used):
                # Neither the first nor the last day need be whole.
                reason = "cadence"
            else:
                reason = "waiting_for_due"
            bound[reason] += 1
