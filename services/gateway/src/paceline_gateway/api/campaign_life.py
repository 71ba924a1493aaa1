"""The life of a campaign: check, start, pause, resume, stop, archive."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from paceline_gateway import lifecycle, problems
from paceline_gateway.api.campaigns import CampaignOut, read_campaign
from paceline_gateway.api.types import CampaignId, Instant, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.checks import check
from paceline_gateway.domain.campaign import Action, Finding
from paceline_gateway.parts import Parts, PartsDep

router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])


class StartIn(BaseModel):
    """When to start; without it at the campaign's `start_at`, and without that at once."""

    model_config = ConfigDict(extra="forbid")

    start_at: Instant | None = None


class FindingOut(BaseModel):
    """One finding of a check: an error forbids the start, a warning does not.

    `count` says how many it concerns (leads, mailboxes), `examples` names a few.
    """

    severity: Literal["error", "warning"]
    code: str
    where: str
    message: str
    count: int | None = None
    examples: list[str] = []


class CheckOut(BaseModel):
    """What a check found; `ok` if the campaign can start."""

    ok: bool
    findings: list[FindingOut]


class StartOut(BaseModel):
    """The campaign after its start, and the warnings there were."""

    campaign: CampaignOut
    warnings: list[FindingOut]


@router.post(
    "/{campaign_id}/check", operation_id="checkCampaign", responses=answers(problems.NOT_FOUND)
)
async def check_campaign(campaign_id: CampaignId, parts: PartsDep, caller: Reader) -> CheckOut:
    """Say what stands against starting the campaign, and what will go wrong if it is started."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await read_campaign(tx, caller, campaign_id)
        findings = await check(tx, caller.workspace_id, campaign_id)
    return CheckOut(
        ok=all(one.severity != "error" for one in findings),
        findings=[_finding(one) for one in findings],
    )


@router.post(
    "/{campaign_id}/start",
    operation_id="startCampaign",
    responses=answers(problems.NOT_FOUND, problems.CAMPAIGN_STATE, problems.CAMPAIGN_NOT_READY),
)
async def start_campaign(
    campaign_id: CampaignId, parts: PartsDep, caller: Writer, body: StartIn | None = None
) -> StartOut:
    """Start a campaign, or schedule its start; refused while the check finds errors."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await lifecycle.lock(tx, caller.workspace_id, campaign_id)
        start_at = (body.start_at if body else None) or held.start_at
        actor = lifecycle.Actor(caller.workspace_id, caller)
        if start_at is not None and start_at > parts.clock.now():
            await lifecycle.act(parts, tx, actor, held, "schedule", start_at=start_at)
        else:
            await lifecycle.act(parts, tx, actor, held, "start")
        findings = await check(tx, caller.workspace_id, campaign_id)
        campaign = await read_campaign(tx, caller, campaign_id)
    return StartOut(
        campaign=campaign,
        warnings=[_finding(one) for one in findings if one.severity == "warning"],
    )


@router.post(
    "/{campaign_id}/unschedule",
    operation_id="unscheduleCampaign",
    responses=answers(problems.NOT_FOUND, problems.CAMPAIGN_STATE),
)
async def unschedule_campaign(
    campaign_id: CampaignId, parts: PartsDep, caller: Writer
) -> CampaignOut:
    """Take back a start that is not due yet; the campaign is a draft again."""
    return await _act(parts, caller, campaign_id, "unschedule")


@router.post(
    "/{campaign_id}/pause",
    operation_id="pauseCampaign",
    responses=answers(problems.NOT_FOUND, problems.CAMPAIGN_STATE),
)
async def pause_campaign(campaign_id: CampaignId, parts: PartsDep, caller: Writer) -> CampaignOut:
    """Pause a campaign: once this has answered, no further submission starts."""
    return await _act(parts, caller, campaign_id, "pause")


@router.post(
    "/{campaign_id}/resume",
    operation_id="resumeCampaign",
    responses=answers(problems.NOT_FOUND, problems.CAMPAIGN_STATE),
)
async def resume_campaign(campaign_id: CampaignId, parts: PartsDep, caller: Writer) -> CampaignOut:
    """Resume a paused campaign where it stood; nothing is sent twice or left out."""
    return await _act(parts, caller, campaign_id, "resume")


@router.post(
    "/{campaign_id}/stop",
    operation_id="stopCampaign",
    responses=answers(problems.NOT_FOUND, problems.CAMPAIGN_STATE),
)
async def stop_campaign(campaign_id: CampaignId, parts: PartsDep, caller: Writer) -> CampaignOut:
    """End a campaign for good: its open enrollments become stopped."""
    return await _act(parts, caller, campaign_id, "stop")


@router.post(
    "/{campaign_id}/archive",
    operation_id="archiveCampaign",
    responses=answers(problems.NOT_FOUND, problems.CAMPAIGN_STATE),
)
async def archive_campaign(campaign_id: CampaignId, parts: PartsDep, caller: Writer) -> CampaignOut:
    """Put away a campaign that was stopped or never started."""
    return await _act(parts, caller, campaign_id, "archive")


async def _act(parts: Parts, caller: Caller, campaign_id: int, action: Action) -> CampaignOut:
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await lifecycle.lock(tx, caller.workspace_id, campaign_id)
        actor = lifecycle.Actor(caller.workspace_id, caller)
        await lifecycle.act(parts, tx, actor, held, action)
        return await read_campaign(tx, caller, campaign_id)


def _finding(one: Finding) -> FindingOut:
    return FindingOut.model_validate(one, from_attributes=True)
