"""Campaigns: steps, tiers of pools, and their life from draft to archive."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, status
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import lifecycle, paging, problems
from paceline_gateway.api.steps import MAX_DELAY_S, StepOut, Steps, read_steps, set_steps
from paceline_gateway.api.suspensions import SuspensionOut, open_suspensions
from paceline_gateway.api.types import CampaignId, Instant, Name, PoolId, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.domain.campaign import ENDED, UNSTARTED, Status
from paceline_gateway.domain.routing import EspMatch, Stickiness
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Campaign, CampaignTier, Pool

router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])

Type = Literal["cold", "nurture", "transactional"]
# Columns that are set by the name they have in a request.
_COLUMNS = {
    "name", "type", "stickiness", "reassign_after_s", "min_health", "esp_match", "allow_parallel",
    "track_opens", "track_clicks", "start_at",
}  # fmt: skip


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


Pools = Annotated[list[PoolId], Field(min_length=1, max_length=100)]


class TierIn(_In):
    """Pools that serve a campaign alike.

    A job that has waited `after_s` past its due time may leave for the next tier; null: never.
    """

    pools: Pools
    after_s: int | None = Field(default=None, ge=0, le=MAX_DELAY_S)


def _tier(given: object) -> object:
    return {"pools": given} if isinstance(given, list) else given


# A plain list of pools is a tier that is never left.
Tiers = Annotated[list[Annotated[TierIn, BeforeValidator(_tier)]], Field(max_length=10)]
MinHealth = Annotated[int, Field(ge=0, le=100)]
ReassignAfter = Annotated[int, Field(ge=0, le=MAX_DELAY_S)]


class CampaignIn(_In):
    """A campaign, made as a draft. `tiers` are ordered, best first; a list of pools is one too."""

    name: Name
    type: Type = "cold"
    stickiness: Stickiness = Field(
        default="reassign", description="What follow-ups do when the mailbox of step 1 is gone."
    )
    reassign_after_s: ReassignAfter = Field(
        default=2 * 86_400, description="How long they wait for it before they are reassigned."
    )
    min_health: MinHealth = Field(
        default=70, description="Mailboxes of known lower health do not send for this campaign."
    )
    esp_match: EspMatch = Field(
        default="off",
        description="Whether recipients at Google and Microsoft are written to from there.",
    )
    allow_parallel: bool = Field(
        default=False, description="Whether leads may be in another active campaign at once."
    )
    track_opens: bool = Field(
        default=False,
        description="Put a pixel into the HTML. Needs a tracking domain at every mailbox.",
    )
    track_clicks: bool = Field(
        default=False,
        description="Lead links of the HTML over the mailbox's tracking domain, likewise.",
    )
    steps: Steps = Field(default_factory=list)
    tiers: Tiers = Field(default_factory=list)
    start_at: Instant | None = Field(
        default=None, description="When a start takes effect; at once if left out."
    )


class CampaignPatch(_In):
    """What to change; `steps` and `tiers` replace the old ones as a whole.

    Steps keep their place: the n-th replaces the n-th. A started campaign
    cannot lose steps. What is queued already goes out as it then reads.
    """

    name: Name | None = None
    type: Type | None = None
    stickiness: Stickiness | None = None
    reassign_after_s: ReassignAfter | None = None
    min_health: MinHealth | None = None
    esp_match: EspMatch | None = None
    allow_parallel: bool | None = None
    track_opens: bool | None = None
    track_clicks: bool | None = None
    steps: Steps | None = None
    tiers: Tiers | None = None
    start_at: Instant | None = None


class TierOut(BaseModel):
    """A tier, as it was set."""

    pools: list[str]
    after_s: int | None


class ThrottleOut(BaseModel):
    """Why a campaign sends less than it could (a reason code), and since when."""

    cause: str
    since: datetime


class CampaignOut(BaseModel):
    """A campaign; `suspensions` say why it does not send now.

    `throttled`: it goes on, with less than it could send, for the cause in
    `throttle`; its jobs wait, none fails. What it can send a day:
    `GET /v1/campaigns/{campaign_id}/capacity`.
    """

    id: str
    name: str
    type: Type
    status: Status
    stickiness: Stickiness
    reassign_after_s: int
    min_health: int
    esp_match: EspMatch
    allow_parallel: bool
    track_opens: bool
    track_clicks: bool
    throttled: bool
    throttle: ThrottleOut | None
    start_at: datetime | None
    started_at: datetime | None
    steps: list[StepOut]
    tiers: list[TierOut]
    suspensions: list[SuspensionOut]
    version: int
    created_at: datetime
    updated_at: datetime


@router.get("", operation_id="listCampaigns", responses=answers(problems.CURSOR_INVALID))
async def list_campaigns(
    parts: PartsDep,
    caller: Reader,
    status_is: Annotated[Status | None, Query(alias="status")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[CampaignOut]:
    """List campaigns, newest first."""
    statement = (
        select(Campaign.campaign_id)
        .where(Campaign.workspace_id == caller.workspace_id)
        .order_by(Campaign.campaign_id.desc())
        .limit(limit + 1)
    )
    if cursor:
        statement = statement.where(Campaign.campaign_id < paging.decode(cursor, 1)[0])
    if status_is is not None:
        statement = statement.where(Campaign.status == status_is)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        numbers = list((await tx.execute(statement)).scalars())
        found = await _read(tx, caller, numbers)
    return paging.page(found, limit, [(ids.decode("cmp", one.id),) for one in found])


@router.post(
    "",
    operation_id="createCampaign",
    status_code=status.HTTP_201_CREATED,
    responses=answers(problems.TEMPLATE_INVALID, problems.STEPS_INVALID, problems.NOT_FOUND),
)
async def create_campaign(body: CampaignIn, parts: PartsDep, caller: Writer) -> CampaignOut:
    """Make a campaign as a draft; nothing is sent before it is started."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        campaign_id = (
            await tx.execute(
                insert(Campaign)
                .values(workspace_id=caller.workspace_id, **body.model_dump(include=_COLUMNS))
                .returning(Campaign.campaign_id)
            )
        ).scalar_one()
        # The gate is shut from the first moment: leads may come before the start.
        await foreign.suspend(
            tx, caller.workspace_id, "campaign", campaign_id, lifecycle.NOT_STARTED, caller.actor
        )
        await set_steps(parts, tx, caller, campaign_id, body.steps, may_shrink=True)
        await _set_tiers(tx, caller, campaign_id, body.tiers)
        await lifecycle.touch(parts, tx, await lifecycle.lock(tx, caller.workspace_id, campaign_id))
        return await read_campaign(tx, caller, campaign_id)


@router.get("/{campaign_id}", operation_id="getCampaign", responses=answers(problems.NOT_FOUND))
async def get_campaign(campaign_id: CampaignId, parts: PartsDep, caller: Reader) -> CampaignOut:
    """Return one campaign."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return await read_campaign(tx, caller, campaign_id)


@router.patch(
    "/{campaign_id}",
    operation_id="changeCampaign",
    responses=answers(
        problems.NOT_FOUND, problems.CAMPAIGN_STATE, problems.STEPS_IN_USE,
        problems.TEMPLATE_INVALID, problems.STEPS_INVALID,
    ),
)  # fmt: skip
async def change_campaign(
    campaign_id: CampaignId, body: CampaignPatch, parts: PartsDep, caller: Writer
) -> CampaignOut:
    """Change a campaign that has not ended."""
    values = body.model_dump(exclude_unset=True, include=_COLUMNS)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await lifecycle.lock(tx, caller.workspace_id, campaign_id)
        if held.status in ENDED:
            raise _wrong_state(held.status, "be changed")
        if "start_at" in values and held.status not in UNSTARTED:
            raise _wrong_state(held.status, "get another start_at")
        if held.status == "scheduled" and values.get("start_at", held.start_at) is None:
            raise _wrong_state(held.status, "lose its start_at; unschedule it first")
        values = {name: value for name, value in values.items() if value is not None} | (
            {"start_at": None} if values.get("start_at", held) is None else {}
        )
        if values:
            await tx.execute(
                update(Campaign)
                .where(
                    Campaign.workspace_id == caller.workspace_id,
                    Campaign.campaign_id == campaign_id,
                )
                .values(values)
            )
        if body.steps is not None:
            await set_steps(
                parts, tx, caller, campaign_id, body.steps, may_shrink=held.status in UNSTARTED
            )
        if body.tiers is not None:
            await _set_tiers(tx, caller, campaign_id, body.tiers)
        await lifecycle.touch(parts, tx, held)
        return await read_campaign(tx, caller, campaign_id)


async def _set_tiers(
    tx: AsyncConnection, caller: Caller, campaign_id: int, tiers: Sequence[TierIn]
) -> None:
    wanted = sorted({pool for tier in tiers for pool in tier.pools})
    # Shared with whoever deletes the pool: it then finds this campaign in it.
    known = set(
        (
            await tx.execute(
                select(Pool.pool_id)
                .where(Pool.workspace_id == caller.workspace_id, Pool.pool_id.in_(wanted))
                .order_by(Pool.pool_id)
                .with_for_update(read=True)
            )
        ).scalars()
    )
    if unknown := [ids.encode("pool", number) for number in wanted if number not in known]:
        raise Problem(
            problems.NOT_FOUND,
            f"no such pools in this workspace: {', '.join(unknown)}",
            pools=unknown,
        )
    await tx.execute(
        delete(CampaignTier).where(
            CampaignTier.workspace_id == caller.workspace_id,
            CampaignTier.campaign_id == campaign_id,
        )
    )
    rows = [
        {
            "workspace_id": caller.workspace_id,
            "campaign_id": campaign_id,
            "tier": tier,
            "pool_id": pool,
            "position": position,
        }
        for tier, given in enumerate(tiers, 1)
        for position, pool in enumerate(dict.fromkeys(given.pools), 1)
    ]
    await tx.execute(
        update(Campaign)
        .where(Campaign.workspace_id == caller.workspace_id, Campaign.campaign_id == campaign_id)
        .values(tier_after_s=[given.after_s for given in tiers])
    )
    if rows:
        await tx.execute(insert(CampaignTier), rows)


async def read_campaign(tx: AsyncConnection, caller: Caller, campaign_id: int) -> CampaignOut:
    """Return one campaign; raise `not_found` otherwise."""
    found = await _read(tx, caller, [campaign_id])
    if not found:
        raise Problem(problems.NOT_FOUND, "there is no such campaign in this workspace")
    return found[0]


async def _read(tx: AsyncConnection, caller: Caller, numbers: Sequence[int]) -> list[CampaignOut]:
    steps = await read_steps(tx, caller.workspace_id, numbers)
    tiers: dict[int, dict[int, list[str]]] = {}
    for row in await tx.execute(
        select(CampaignTier.campaign_id, CampaignTier.tier, CampaignTier.pool_id)
        .where(
            CampaignTier.workspace_id == caller.workspace_id,
            CampaignTier.campaign_id.in_(numbers),
        )
        .order_by(CampaignTier.campaign_id, CampaignTier.tier, CampaignTier.position)
    ):
        pools = tiers.setdefault(row.campaign_id, {}).setdefault(row.tier, [])
        pools.append(ids.encode("pool", row.pool_id))
    held = await open_suspensions(tx, "campaign", numbers)
    c = foreign.CAMPAIGN_THROTTLE.c
    throttled = {
        row.campaign_id: ThrottleOut(cause=row.cause, since=row.since)
        for row in await tx.execute(
            select(c.campaign_id, c.cause, c.since).where(c.campaign_id.in_(numbers))
        )
    }
    rows = await tx.execute(
        select(Campaign.__table__)
        .where(Campaign.workspace_id == caller.workspace_id, Campaign.campaign_id.in_(numbers))
        .order_by(Campaign.campaign_id.desc())
    )
    return [
        CampaignOut(
            id=ids.encode("cmp", row.campaign_id),
            name=row.name,
            type=row.type,
            status=row.status,
            stickiness=row.stickiness,
            reassign_after_s=row.reassign_after_s,
            min_health=row.min_health,
            esp_match=row.esp_match,
            allow_parallel=row.allow_parallel,
            track_opens=row.track_opens,
            track_clicks=row.track_clicks,
            throttled=row.campaign_id in throttled,
            throttle=throttled.get(row.campaign_id),
            start_at=row.start_at,
            started_at=row.started_at,
            steps=steps.get(row.campaign_id, []),
            tiers=[
                # Tiers from before there was a deadline have no entry.
                TierOut(pools=pools, after_s=(row.tier_after_s[tier - 1 : tier] or [None])[0])
                for tier, pools in tiers.get(row.campaign_id, {}).items()
            ],
            suspensions=held.get(row.campaign_id, []),
            version=row.version,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )
        for row in rows
    ]


def _wrong_state(state: str, wish: str) -> Problem:
    return Problem(
        problems.CAMPAIGN_STATE, f"a campaign that is {state} cannot {wish}", status_now=state
    )
