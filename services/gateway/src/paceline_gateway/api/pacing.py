"""Why, when and how much: what the scheduler knows of enrollments, mailboxes and campaigns."""

from datetime import UTC
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.api import enrollments, pools
from paceline_gateway.api.campaigns import read_campaign
from paceline_gateway.api.types import (
    CampaignId,
    EnrollmentId,
    Instant,
    MailboxId,
    PoolId,
    answers,
)
from paceline_gateway.auth import Caller, Reader
from paceline_gateway.domain import mailbox_policy
from paceline_gateway.pacing import Capacity, Explanation, Forecast, GroupCapacity, Schedule
from paceline_gateway.parts import PartsDep
from paceline_gateway.places import places
from paceline_gateway.store.tables import Mailbox

router = APIRouter(prefix="/v1", tags=["pacing"])

_ASKED = (problems.NOT_FOUND, problems.PACING_PENDING, problems.PACING_UNAVAILABLE)
EVERY = "*"


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class WhatIf(_In):
    """What to change for the forecast alone; nothing is saved.

    `caps` maps a mailbox's id, or `*` for all, to settings of its policy.
    """

    add_mailboxes: int | None = Field(
        default=None, ge=1, le=10_000, description="More mailboxes, like those that are there."
    )
    caps: dict[str, dict[str, Any]] | None = Field(default=None, max_length=5000)
    leads: int | None = Field(
        default=None, ge=1, le=5_000_000,
        description="As if so many leads were enrolled now: for a campaign not yet started.",
    )  # fmt: skip


class ForecastIn(_In):
    """How often to run it, and what to change first."""

    seeds: int = Field(default=20, ge=1, le=100, description="Runs; the finish is told over them.")
    what_if: WhatIf | None = None


@router.get(
    "/enrollments/{enrollment_id}/explain", operation_id="explainEnrollment",
    responses=answers(*_ASKED, problems.PACING_QUESTION_INVALID),
)  # fmt: skip
async def explain_enrollment(
    enrollment_id: EnrollmentId,
    parts: PartsDep,
    caller: Reader,
    at: Annotated[
        Instant | None, Query(description="A time in the past, with its offset; now if left out.")
    ] = None,
) -> Explanation:
    """Say why the next message waits: what binds, until when, what would release it."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await enrollments.read_enrollment(tx, enrollment_id)
    when = None if at is None else at.astimezone(UTC)
    return await parts.pacing.explain(caller.workspace_id, enrollment_id, when)


@router.get(
    "/mailboxes/{mailbox_id}/schedule", operation_id="getMailboxSchedule",
    responses=answers(*_ASKED),
)  # fmt: skip
async def get_mailbox_schedule(mailbox_id: MailboxId, parts: PartsDep, caller: Reader) -> Schedule:
    """Return a mailbox's next possible slots, and what is used and left of each limit."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _require_mailbox(tx, caller, mailbox_id)
    return await parts.pacing.schedule(caller.workspace_id, mailbox_id)


@router.get(
    "/mailboxes/{mailbox_id}/capacity", operation_id="getMailboxCapacity",
    responses=answers(*_ASKED),
)  # fmt: skip
async def get_mailbox_capacity(mailbox_id: MailboxId, parts: PartsDep, caller: Reader) -> Capacity:
    """Return how much a mailbox can send today, however high its caps, and what binds it."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _require_mailbox(tx, caller, mailbox_id)
    return (await parts.pacing.schedule(caller.workspace_id, mailbox_id)).effective_capacity


@router.get("/pools/{pool_id}/capacity", operation_id="getPoolCapacity", responses=answers(*_ASKED))
async def get_pool_capacity(pool_id: PoolId, parts: PartsDep, caller: Reader) -> GroupCapacity:
    """Return how much the mailboxes of a pool can send today, together and each."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await pools.require(tx, caller, pool_id)
    return await parts.pacing.pool_capacity(caller.workspace_id, pool_id)


@router.get(
    "/campaigns/{campaign_id}/capacity", operation_id="getCampaignCapacity",
    responses=answers(*_ASKED),
)  # fmt: skip
async def get_campaign_capacity(
    campaign_id: CampaignId, parts: PartsDep, caller: Reader
) -> GroupCapacity:
    """Return how much the mailboxes of a campaign's tiers can send today, together and each."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await read_campaign(tx, caller, campaign_id)
    return await parts.pacing.campaign_capacity(caller.workspace_id, campaign_id)


@router.post(
    "/campaigns/{campaign_id}/forecast", operation_id="forecastCampaign",
    responses=answers(*_ASKED, problems.POLICY_INVALID, problems.PACING_QUESTION_INVALID),
)  # fmt: skip
async def forecast_campaign(
    campaign_id: CampaignId, parts: PartsDep, caller: Reader, body: ForecastIn | None = None
) -> Forecast:
    """Run a campaign ahead of time, started or not: finish, messages per day, the bottleneck."""
    asked = body or ForecastIn()
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await read_campaign(tx, caller, campaign_id)
        if asked.what_if and asked.what_if.caps:
            await _check_caps(tx, caller, asked.what_if.caps)
    question = {
        "campaign_id": ids.encode("cmp", campaign_id),
        **asked.model_dump(exclude_none=True),
    }
    return await parts.pacing.forecast(caller.workspace_id, question)


async def _require_mailbox(tx: AsyncConnection, caller: Caller, mailbox_id: int) -> None:
    await _policies(tx, caller, {ids.encode("mbx", mailbox_id)})


async def _check_caps(tx: AsyncConnection, caller: Caller, caps: dict[str, dict[str, Any]]) -> None:
    """Hold each wished policy against the rules, on top of the mailbox's own."""
    held = await _policies(tx, caller, set(caps) - {EVERY})
    for name, patch in caps.items():
        try:
            own, provider = held.get(name, ({}, "smtp"))
            mailbox_policy.check({**own, **patch}, provider, places())
        except mailbox_policy.InvalidPolicy as error:
            raise Problem(
                problems.POLICY_INVALID,
                f"{name}: {error}",
                errors=[
                    {"mailbox": name, "setting": setting, "why": why}
                    for setting, why in error.faults.items()
                ],
            ) from None


async def _policies(
    tx: AsyncConnection, caller: Caller, mailboxes: set[str]
) -> dict[str, tuple[dict[str, Any], str]]:
    """Return policy and provider of these mailboxes; raise `not_found` if one is not here."""
    try:
        numbers = {ids.decode("mbx", name): name for name in mailboxes}
    except ids.InvalidIdError as error:
        raise Problem(problems.NOT_FOUND, str(error)) from None
    found = {
        numbers[row.mailbox_id]: (row.policy, row.provider_set or row.provider_found)
        for row in await tx.execute(
            select(
                Mailbox.mailbox_id, Mailbox.policy, Mailbox.provider_found, Mailbox.provider_set
            ).where(Mailbox.workspace_id == caller.workspace_id, Mailbox.mailbox_id.in_(numbers))
        )
    }
    if missing := sorted(mailboxes - set(found)):
        raise Problem(
            problems.NOT_FOUND, f"not in this workspace: {', '.join(missing)}", mailboxes=missing
        )
    return found
