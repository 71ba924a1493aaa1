"""What happens to campaigns: checks, state changes with their gates, the scheduled start."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, assert_never

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids, telemetry
from paceline_common.http import Problem
from paceline_gateway import problems, trail
from paceline_gateway.auth import Caller
from paceline_gateway.checks import check
from paceline_gateway.domain.campaign import Action, Move, Refused, Stay, apply
from paceline_gateway.parts import Parts
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import (
    Campaign,
    CampaignTier,
    Issue,
)

NOT_STARTED: Final = "not_started"
_AUDITED: Final = frozenset({"start", "pause", "resume", "stop"})

_log = telemetry.logger("campaigns")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who moves a campaign: an API key, or the gateway itself when a start is due."""

    workspace_id: int
    caller: Caller | None

    @property
    def name(self) -> str:
        return self.caller.actor if self.caller else "gateway"


async def lock(tx: AsyncConnection, workspace_id: int, campaign_id: int) -> Row[Any]:
    """Return the campaign's row, locked; the problem `not_found` otherwise."""
    held = (
        await tx.execute(
            select(Campaign.__table__)
            .where(Campaign.workspace_id == workspace_id, Campaign.campaign_id == campaign_id)
            .with_for_update()
        )
    ).one_or_none()
    if held is None:
        raise Problem(problems.NOT_FOUND, "there is no such campaign in this workspace")
    return held


async def act(
    parts: Parts,
    tx: AsyncConnection,
    actor: Actor,
    held: Row[Any],
    action: Action,
    *,
    start_at: datetime | None = None,
) -> bool:
    """Do `action` to a locked campaign, gate and events in the same transaction.

    Returns whether anything changed; raises `campaign_state`, or
    `campaign_not_ready` when a start is refused.
    """
    step = apply(action, held.status)
    match step:
        case Stay():
            return False
        case Refused():
            raise Problem(
                problems.CAMPAIGN_STATE,
                f"a campaign that is {held.status} cannot {action}",
                status_now=held.status,
                allowed=list(step.allowed),
            )
        case Move():
            pass
        case _:
            assert_never(step)
    if action in ("start", "schedule"):
        findings = await check(tx, actor.workspace_id, held.campaign_id)
        if errors := [one for one in findings if one.severity == "error"]:
            raise Problem(
                problems.CAMPAIGN_NOT_READY,
                "; ".join(f"{one.where}: {one.message}" for one in errors),
                findings=[asdict(one) for one in findings],
            )
    await _gate(tx, actor, held.campaign_id, action)
    now = parts.clock.now()
    values: dict[str, Any] = {"status": step.status}
    if action == "schedule":
        values["start_at"] = start_at
    elif action == "start":
        values["started_at"] = now
    version = await _bump(tx, actor.workspace_id, held.campaign_id, now, values)
    await trail.campaign_changed(
        parts, tx, actor.workspace_id, held.campaign_id, version, step.status
    )
    if action in _AUDITED:
        subject = ids.encode("cmp", held.campaign_id)
        if actor.caller:
            await trail.audit(parts, tx, actor.caller, f"campaign.{action}", subject)
        else:
            await trail.audit_system(parts, tx, actor.workspace_id, f"campaign.{action}", subject)
    return True


async def _gate(tx: AsyncConnection, actor: Actor, campaign_id: int, action: Action) -> None:
    gate = (tx, actor.workspace_id, "campaign", campaign_id)
    match action:
        case "start":
            await foreign.resume(*gate, NOT_STARTED, actor.name)
        case "pause":
            await foreign.suspend(*gate, "paused", actor.name)
        case "resume":
            await foreign.resume(*gate, "paused", actor.name)
        case "stop":
            await foreign.suspend(*gate, "stopped", actor.name)
        case "schedule" | "unschedule" | "archive":
            pass
        case _:
            assert_never(action)


async def touch(parts: Parts, tx: AsyncConnection, held: Row[Any]) -> None:
    """Give a locked campaign a new version, since its settings, steps or tiers changed."""
    version = await _bump(tx, held.workspace_id, held.campaign_id, parts.clock.now(), {})
    await trail.campaign_changed(
        parts, tx, held.workspace_id, held.campaign_id, version, held.status
    )


async def touch_campaigns_of_pools(
    parts: Parts, tx: AsyncConnection, workspace_id: int, pools: Sequence[int]
) -> None:
    """Give every campaign that sends from one of `pools` a new version."""
    if not pools:
        return
    users = (
        select(CampaignTier.campaign_id)
        .where(CampaignTier.workspace_id == workspace_id, CampaignTier.pool_id.in_(pools))
        .scalar_subquery()
    )
    for held in (
        await tx.execute(
            select(Campaign.__table__)
            .where(Campaign.workspace_id == workspace_id, Campaign.campaign_id.in_(users))
            .order_by(Campaign.campaign_id)
            .with_for_update()
        )
    ).all():
        await touch(parts, tx, held)


async def _bump(
    tx: AsyncConnection,
    workspace_id: int,
    campaign_id: int,
    now: datetime,
    values: dict[str, Any],
) -> int:
    version: int = (
        await tx.execute(
            update(Campaign)
            .where(Campaign.workspace_id == workspace_id, Campaign.campaign_id == campaign_id)
            .values({**values, "version": Campaign.version + 1, "updated_at": now})
            .returning(Campaign.version)
        )
    ).scalar_one()
    return version


async def start_when_due(parts: Parts) -> None:
    """Start scheduled campaigns at their time, for the life of the process.

    What was scheduled at shorter notice than `scheduled_start_every_s` may be late by that.
    """
    while True:
        await start_due(parts)
        async with parts.db.transaction(worker=True) as tx:
            next_at: datetime | None = (
                await tx.execute(
                    select(func.min(Campaign.start_at)).where(Campaign.status == "scheduled")
                )
            ).scalar_one()
        pause = parts.settings.scheduled_start_every_s
        if next_at is not None and (ahead := next_at - parts.clock.now()) > timedelta():
            pause = min(pause, ahead.total_seconds())
        await asyncio.sleep(pause)


async def start_due(parts: Parts) -> int:
    """Start every campaign that is scheduled and due; return how many started.

    One that can no longer start (its last mailbox is gone) goes back to draft
    with an issue that says why. Several replicas may run this at once.
    """
    now = parts.clock.now()
    async with parts.db.transaction(worker=True) as tx:
        due = (
            await tx.execute(
                select(Campaign.workspace_id, Campaign.campaign_id)
                .where(Campaign.status == "scheduled", Campaign.start_at <= now)
                .order_by(Campaign.start_at)
                .limit(100)
            )
        ).all()
    started = 0
    for workspace_id, campaign_id in due:
        actor = Actor(workspace_id, None)
        try:
            async with parts.db.transaction([workspace_id]) as tx:
                held = await lock(tx, workspace_id, campaign_id)
                if held.status == "scheduled" and held.start_at <= now:
                    started += await act(parts, tx, actor, held, "start")
        except Problem as refusal:
            _log.warning(
                "scheduled start refused",
                workspace=ids.encode("ws", workspace_id),
                campaign=ids.encode("cmp", campaign_id),
                reason_code=refusal.kind.code,
            )
            await _back_to_draft(
                parts, actor, campaign_id, refusal.detail or refusal.kind.title, now
            )
    return started


async def _back_to_draft(
    parts: Parts, actor: Actor, campaign_id: int, detail: str, now: datetime
) -> None:
    async with parts.db.transaction([actor.workspace_id]) as tx:
        held = await lock(tx, actor.workspace_id, campaign_id)
        if held.status != "scheduled":
            return
        await act(parts, tx, actor, held, "unschedule")
        row = insert(Issue).values(
            workspace_id=actor.workspace_id,
            subject=ids.encode("cmp", campaign_id),
            code="scheduled_start_refused",
            severity="error",
            detail=detail,
            source="gateway",
            first_at=now,
            last_at=now,
        )
        await tx.execute(
            row.on_conflict_do_update(
                index_elements=[Issue.workspace_id, Issue.subject, Issue.code],
                set_={"detail": detail, "last_at": now, "times": Issue.times + 1},
            )
        )
