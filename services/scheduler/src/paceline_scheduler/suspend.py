"""Changes of workspaces, mailboxes and campaigns: budgets, gates, rotation, campaigns that end."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, ids, telemetry, topics
from paceline_common.db import Database, Outbox, Queries
from paceline_common.db.outbox import Outgoing
from paceline_common.db.session import after_commit
from paceline_common.events import (
    CampaignChanged,
    IssueRaised,
    MailboxChanged,
    MailboxHealthChanged,
    MailboxProbed,
    WorkspaceChanged,
)
from paceline_common.kafka.subscribe import Delivery
from paceline_scheduler.budgets import Budgets
from paceline_scheduler.campaigns import Campaigns
from paceline_scheduler.contact import Holds, add_first_jobs, load_known, load_pressures
from paceline_scheduler.mailboxes import Health, Mailboxes
from paceline_scheduler.shaping import Shaper

STOPPED: Final = "stopped"
_BATCH: Final = 1000

_log = telemetry.logger("scheduler.suspend")


class Changes:
    """Handlers of `workspace-changed`, `mailbox-changed`, `mailbox-probed`,
    `mailbox-health-changed` and `campaign-changed`."""

    def __init__(
        self,
        queries: Queries,
        outbox: Outbox,
        mailboxes: Mailboxes,
        campaigns: Campaigns,
        budgets: Budgets,
        shaper: Shaper,
        holds: Holds,
        settler: "CampaignSettler",
        wake: Callable[[], None],
    ) -> None:
        self._queries = queries
        self._outbox = outbox
        self._mailboxes = mailboxes
        self._campaigns = campaigns
        self._budgets = budgets
        self._shaper = shaper
        self._holds = holds
        self._settler = settler
        self._wake = wake

    async def workspace_changed(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[WorkspaceChanged]]
    ) -> None:
        """Renew all that rests on a workspace's settings, shaping rules and domain budgets."""
        workspaces = sorted({one.workspace_id for one in deliveries})
        await self._mailboxes.refresh(tx, None)
        await self._budgets.refresh(tx)
        await self._shaper.refresh(tx, workspaces)
        await self._tell(tx, [(workspace, "workspace", workspace) for workspace in workspaces])
        after_commit(tx, "holds", lambda: self._holds.look(workspaces))

    async def mailbox_changed(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[MailboxChanged]]
    ) -> None:
        """Bring budgets and gates in line with the settings; deleted mailboxes send no more."""
        named = {
            (one.workspace_id, ids.decode("mbx", one.body.mailbox_id)): one.body.deleted
            for one in deliveries
        }
        mailboxes = [mailbox for _, mailbox in named]
        known = await self._mailboxes.refresh(tx, mailboxes)
        gone = [key for key, deleted in named.items() if deleted or key[1] not in known]
        await self._mailboxes.deactivate(tx, gone)
        pools = await tx.execute(self._queries["load_mailbox_pools"], {"mailboxes": mailboxes})
        await self._add_gates(tx, [(row.workspace_id, "pool", row.pool_id) for row in pools])
        await self._tell(tx, [(workspace, "mailbox", mailbox) for workspace, mailbox in named])

    async def mailbox_probed(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[MailboxProbed]]
    ) -> None:
        """A leg that fails its test holds the mailbox until the same leg passes.

        One that cannot be read is held too: its replies and bounces would not be
        seen. One that is held for a fault of its own already stays as it is.
        """
        for one in deliveries:
            gate = {
                "workspace": one.workspace_id,
                "scope": "mailbox",
                "ref": ids.decode("mbx", one.body.mailbox_id),
                "reason": f"probe_{one.body.leg}_failed",
            }
            if one.body.ok:
                await tx.execute(self._queries["resume"], {**gate, "closed_by": "scheduler"})
                continue
            words = one.body.detail or one.body.code or "the test failed"
            if await tx.scalar(self._queries["has_node_failure"], gate):
                continue
            detail = {
                "until": None,
                "opened_by": "scheduler",
                "detail": f"{one.body.code or 'failed'}: {words}",
            }
            await tx.execute(self._queries["suspend"], {**gate, **detail})
            await self._outbox.add(
                tx,
                [
                    Outgoing(
                        topic=topics.ISSUE_RAISED,
                        key=one.body.mailbox_id,
                        subject=one.body.mailbox_id,
                        body=IssueRaised(
                            workspace_id=one.body.workspace_id,
                            subject=one.body.mailbox_id,
                            code=str(gate["reason"]),
                            severity="error",
                            detail=words,
                            raised_at=one.body.probed_at,
                        ),
                    )
                ],
            )
        after_commit(tx, "pacer", self._wake)

    async def health_changed(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[MailboxHealthChanged]]
    ) -> None:
        """Let decisions rest on what bounce knows now; an older version changes nothing."""
        newest: dict[tuple[int, int], Health] = {}
        for one in deliveries:
            key = (one.workspace_id, ids.decode("mbx", one.body.mailbox_id))
            known = newest.get(key)
            if known is None or known.version < one.body.version:
                newest[key] = Health(*key, one.body.version, one.body.score, one.body.stage)
        await self._mailboxes.apply_health(tx, list(newest.values()))
        after_commit(tx, "pacer", self._wake)

    async def campaign_changed(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[CampaignChanged]]
    ) -> None:
        """Renew policy, gates, rotation; a stopped campaign's enrollments end in the background."""
        named = sorted(
            {(one.workspace_id, ids.decode("cmp", one.body.campaign_id)) for one in deliveries}
        )
        stopped = {
            (one.workspace_id, ids.decode("cmp", one.body.campaign_id))
            for one in deliveries
            if one.body.status == STOPPED
        }
        for workspace, campaign in sorted(stopped):
            await self._suspend(tx, workspace, campaign, STOPPED, None)
        await self._campaigns.refresh(tx, [campaign for _, campaign in named])
        pools = (
            await tx.execute(
                self._queries["load_tier_pools"],
                {
                    "workspaces": [workspace for workspace, _ in named],
                    "campaigns": [campaign for _, campaign in named],
                },
            )
        ).all()
        await self._add_gates(
            tx,
            [
                *((workspace, "workspace", workspace) for workspace, _ in named),
                *((workspace, "campaign", campaign) for workspace, campaign in named),
                *((row.workspace_id, "pool", row.pool_id) for row in pools),
            ],
        )
        # Pools may have other members now.
        await self._tell(
            tx,
            [
                *((workspace, "workspace", workspace) for workspace, _ in named),
                *((workspace, "campaign", campaign) for workspace, campaign in named),
            ],
        )
        after_commit(tx, "settler", lambda: self._settler.add(named))

    async def suspend_unhandled(self, tx: AsyncConnection, delivery: Delivery[Any]) -> None:
        """Hold a campaign whose change cannot be handled. `InvalidIdError`: it names none."""
        campaign = ids.decode("cmp", delivery.key)
        await self._suspend(
            tx, delivery.workspace_id, campaign, "unhandled_campaign-changed",
            "a change of this campaign is in quarantine",
        )  # fmt: skip

    async def _suspend(
        self, tx: AsyncConnection, workspace: int, campaign: int, reason: str, detail: str | None
    ) -> None:
        await tx.execute(
            self._queries["suspend"],
            {
                "workspace": workspace,
                "scope": "campaign",
                "ref": campaign,
                "reason": reason,
                "until": None,
                "opened_by": "scheduler",
                "detail": detail,
            },
        )

    async def _add_gates(self, tx: AsyncConnection, gates: Sequence[tuple[int, str, int]]) -> None:
        await tx.execute(self._queries["add_gates"], _columns(gates))

    async def _tell(self, tx: AsyncConnection, gates: Sequence[tuple[int, str, int]]) -> None:
        await tx.execute(self._queries["add_changes"], _columns(gates))
        after_commit(tx, "pacer", self._wake)


class CampaignSettler:
    """Carries a campaign's change to all its enrollments, in batches, outside of the consumer.

    Stopped: they end. Steps where there were none: those that waited get their first job. Allowed
    beside others: those that waited for another campaign go on.
    """

    def __init__(self, db: Database, queries: Queries, outbox: Outbox, holds: Holds) -> None:
        self._db = db
        self._queries = queries
        self._outbox = outbox
        self._holds = holds
        self._waiting: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def add(self, campaigns: Sequence[tuple[int, int]]) -> None:
        """Have campaigns, as (workspace, campaign), looked at soon."""
        for one in campaigns:
            self._waiting.put_nowait(one)

    async def run(self) -> None:
        """Settle until cancelled; begins with what an earlier process left undone."""
        async with self._db.transaction(worker=True) as tx:
            rows = (await tx.execute(self._queries["load_stopped_campaigns"])).all()
        self.add([(row.workspace_id, row.campaign_id) for row in rows])
        while True:
            workspace, campaign = await self._waiting.get()
            try:
                await self.settle(workspace, campaign)
            except BaseException:
                self._waiting.put_nowait((workspace, campaign))
                raise

    async def settle(self, workspace: int, campaign: int) -> None:
        """End the enrollments of a stopped campaign; give first jobs where they are missing."""
        key = {"workspace": workspace, "campaign": campaign, "most": _BATCH}
        async with self._db.transaction([workspace]) as tx:
            found = await tx.execute(
                self._queries["load_campaigns"],
                {"workspaces": [workspace], "campaigns": [campaign]},
            )
            row = found.one_or_none()
        if row is None:
            return
        after = 0
        while row.status == STOPPED:
            async with self._db.transaction([workspace]) as tx:
                batch = list(
                    (
                        await tx.execute(
                            self._queries["stopped_enrollments"], {**key, "after": after}
                        )
                    ).scalars()
                )
                if not batch:
                    break
                await tx.execute(
                    self._queries["finish_enrollments"],
                    {
                        "workspaces": [workspace] * len(batch),
                        "enrollments": batch,
                        "states": ["stopped"] * len(batch),
                        "reasons": ["campaign_stopped"] * len(batch),
                    },
                )
                after_commit(tx, "outbox", self._outbox.wake.set)
                await self._holds.ended(tx, [(workspace, one) for one in batch])
            failpoints.hit("scheduler.after_enrollments_stopped")
            after = batch[-1]
        while row.status != STOPPED and row.first_step is not None:
            async with self._db.transaction([workspace]) as tx:
                waiting = (await tx.execute(self._queries["load_jobless"], key)).all()
                rules = await load_pressures(tx, self._queries, [(workspace, campaign)])
                known = await load_known(
                    tx, self._queries, {(workspace, one.address_id) for one in waiting}
                )
                made = await add_first_jobs(
                    tx, self._queries, [(one, rules[workspace, campaign]) for one in waiting], known
                )
            if made:
                failpoints.hit("scheduler.after_first_jobs")
            if made < _BATCH:
                break
        self._holds.look([workspace])


def _columns(gates: Sequence[tuple[int, str, int]]) -> dict[str, list[Any]]:
    return {
        "workspaces": [workspace for workspace, _, _ in gates],
        "scopes": [scope for _, scope, _ in gates],
        "refs": [ref for _, _, ref in gates],
    }
