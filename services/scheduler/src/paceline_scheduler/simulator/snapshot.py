"""The present of a workspace, from which forecasts run ahead, and changes made to it for one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from paceline_scheduler.domain.rules import State
from paceline_scheduler.pacing.base import Mode
from paceline_scheduler.simulator.pacer import Campaign


@dataclass(frozen=True, slots=True)
class MailboxNow:
    """A mailbox as it stands. `settings` is what `policy.read` takes; `members` maps its pools to
    position, weight and rank. `held_by`: why a gate of it is closed, and until when."""

    mailbox_id: int
    settings: Mapping[str, Any]
    state: State
    account: int
    members: Mapping[int, tuple[int, int, int]]
    host: int = 0
    domain: int = 0
    throttled_until: datetime | None = None
    held_by: str | None = None
    held_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs that wait alike: `mailbox_id` set where only that mailbox may send them. `is_sent`:
    the message is leaving just now, its follow-up counts."""

    step: int
    due_at: datetime
    count: int
    mailbox_id: int | None = None
    host: int = 0
    is_sent: bool = False


@dataclass(frozen=True, slots=True)
class CampaignNow:
    """A campaign in rotation, with what waits in it; `delays` by position of its steps.

    `starts_at`: it is to start then, and nothing of it is sent before.
    """

    route: Campaign
    delays: Mapping[int, timedelta]
    waiting: Sequence[Waiting] = ()
    starts_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The present of a workspace: everything that competes for the mailboxes of a campaign."""

    workspace_id: int
    now: datetime
    pools: Mapping[int, Mode]
    mailboxes: Sequence[MailboxNow]
    campaigns: Sequence[CampaignNow]

    def pools_of(self, campaign_id: int) -> set[int]:
        """Return the pools of all tiers of a campaign."""
        return {
            pool
            for one in self.campaigns
            if one.route.campaign_id == campaign_id
            for tier in one.route.tiers
            for pool in tier["pools"]
        }


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Changes for the forecast alone: more mailboxes like those that serve the campaign (their
    ramps begin now), patches of policies by mailbox (0: all), leads as if enrolled now."""

    add_mailboxes: int = 0
    caps: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    leads: int = 0


def change(snapshot: Snapshot, campaign_id: int, what_if: WhatIf, due_at: datetime) -> Snapshot:
    """Return the snapshot with the changes made; `due_at` is when added leads are due."""
    mailboxes = [replace(one, settings=_patched(one, what_if.caps)) for one in snapshot.mailboxes]
    campaigns = list(snapshot.campaigns)
    for n, one in enumerate(campaigns):
        if one.route.campaign_id == campaign_id and what_if.leads and one.delays:
            more = Waiting(min(one.delays), due_at, what_if.leads)
            campaigns[n] = replace(one, waiting=(*one.waiting, more))
    pools = snapshot.pools_of(campaign_id)
    models = [one for one in mailboxes if pools & one.members.keys() and one.held_by is None]
    for n in range(what_if.add_mailboxes if models else 0):
        model = models[n % len(models)]
        chosen = {
            name: value for name, value in model.settings["policy"].items() if name != "ramp_from"
        }
        highest = max(position for one in mailboxes for position, _, _ in one.members.values())
        mailboxes.append(
            MailboxNow(
                -1 - n,
                {**model.settings, "policy": chosen, "connected_at": snapshot.now},
                State(health=model.state.health, stage=model.state.stage),
                # An account of its own, unlike any real one's number.
                (1 << 64) + n,
                {
                    pool: (highest + 1, weight, rank)
                    for pool, (_, weight, rank) in model.members.items()
                },
                model.host,
            )
        )
    return replace(snapshot, mailboxes=mailboxes, campaigns=campaigns)


def _patched(mailbox: MailboxNow, caps: Mapping[int, Mapping[str, Any]]) -> Mapping[str, Any]:
    patch = {**caps.get(0, {}), **caps.get(mailbox.mailbox_id, {})}
    if not patch:
        return mailbox.settings
    return {**mailbox.settings, "policy": {**mailbox.settings["policy"], **patch}}
