"""Previews: exactly the message that a lead will get, or would get."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_common.preview import Preview
from paceline_gateway import problems
from paceline_gateway.api.types import CampaignId, EnrollmentId, LeadId, MailboxId, answers
from paceline_gateway.auth import Reader
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import CampaignTier, Mailbox, PoolMember

router = APIRouter(prefix="/v1", tags=["preview"])


class PreviewIn(BaseModel):
    """A step for somebody: `lead_id`, or values of `lead`; both: the values go on top.

    Without a `mailbox_id` the first one of the campaign stands in. `variant`
    names one; otherwise one is drawn, another perhaps for another `draw`.
    """

    model_config = ConfigDict(extra="forbid")

    step: int = Field(default=1, ge=1, le=50)
    mailbox_id: MailboxId | None = None
    lead_id: LeadId | None = None
    lead: dict[str, Any] = Field(
        default_factory=dict, description="email, first_name, last_name, company, own fields."
    )
    variant: str | None = Field(default=None, max_length=60)
    draw: int = Field(default=0, ge=0, le=2**31)
    raw: bool = Field(default=False, description="With the whole message, in base64.")


class PreviewOut(Preview):
    """A message as it leaves, and from which mailbox.

    `mailbox_is`: `assigned` to the job, `asked` for, or an `example`: one of the
    campaign's, for the scheduler has not chosen yet.
    """

    mailbox_id: str
    mailbox_is: str


_ANSWERS = answers(problems.NOT_FOUND, problems.PREVIEW_FAILED, problems.PREVIEW_UNAVAILABLE)


@router.get(
    "/enrollments/{enrollment_id}/preview",
    operation_id="previewEnrollment",
    responses=_ANSWERS,
)
async def preview_enrollment(
    enrollment_id: EnrollmentId,
    parts: PartsDep,
    caller: Reader,
    mailbox_id: Annotated[MailboxId | None, Query()] = None,
    variant: Annotated[str | None, Query(max_length=60)] = None,
    raw: Annotated[bool, Query(description="With the whole message, in base64.")] = False,
) -> PreviewOut:
    """Show the message that is next for this lead (or was last), octet for octet as it leaves.

    Its Date is its slot's, or now where it has none yet.
    """
    async with parts.db.transaction([caller.workspace_id]) as tx:
        row = (
            await tx.execute(
                select(foreign.ENROLLMENT).where(
                    foreign.ENROLLMENT.c.enrollment_id == enrollment_id
                )
            )
        ).one_or_none()
        if row is None:
            raise Problem(problems.NOT_FOUND, "there is no such enrollment in this workspace")
        if row.job_id is None:
            raise Problem(problems.NOT_FOUND, "the enrollment has no message: no steps yet?")
        number, how = mailbox_id, "asked"
        if number is None:
            number, how = row.mailbox_id, "assigned"
        if number is None:
            number, how = await _example(tx, caller.workspace_id, row.campaign_id), "example"
    shown = await parts.previewer.job(
        {
            "workspace_id": caller.workspace,
            "job_id": ids.encode("job", row.job_id),
            "mailbox_id": ids.encode("mbx", number),
            "at": row.slot_at.isoformat() if row.slot_at else None,
            "variant": variant,
            "raw": raw,
        }
    )
    return _out(shown, number, how)


@router.post(
    "/campaigns/{campaign_id}/preview",
    operation_id="previewCampaign",
    responses=_ANSWERS,
)
async def preview_campaign(
    campaign_id: CampaignId, body: PreviewIn, parts: PartsDep, caller: Reader
) -> PreviewOut:
    """Show what a step would be for a lead, or for values that are given."""
    lead: dict[str, Any] = {}
    async with parts.db.transaction([caller.workspace_id]) as tx:
        number, how = body.mailbox_id, "asked"
        if number is None:
            number, how = await _example(tx, caller.workspace_id, campaign_id), "example"
        if body.lead_id is not None:
            lead = await _lead(tx, body.lead_id)
    shown = await parts.previewer.step(
        {
            "workspace_id": caller.workspace,
            "campaign_id": ids.encode("cmp", campaign_id),
            "step": body.step,
            "mailbox_id": ids.encode("mbx", number),
            "lead": lead | body.lead,
            "variant": body.variant,
            "draw": body.draw,
            "raw": body.raw,
        }
    )
    return _out(shown, number, how)


async def _example(tx: AsyncConnection, workspace_id: int, campaign_id: int) -> int:
    """Return the mailbox that stands first in a campaign's tiers, active ones before others."""
    found: int | None = (
        await tx.execute(
            select(Mailbox.mailbox_id)
            .join(
                PoolMember,
                (PoolMember.workspace_id == Mailbox.workspace_id)
                & (PoolMember.mailbox_id == Mailbox.mailbox_id),
            )
            .join(
                CampaignTier,
                (CampaignTier.workspace_id == PoolMember.workspace_id)
                & (CampaignTier.pool_id == PoolMember.pool_id),
            )
            .where(Mailbox.workspace_id == workspace_id, CampaignTier.campaign_id == campaign_id)
            .order_by(
                Mailbox.is_active.desc(), CampaignTier.tier, CampaignTier.position,
                PoolMember.position,
            )
            .limit(1)
        )
    ).scalar_one_or_none()  # fmt: skip
    if found is None:
        raise Problem(problems.NOT_FOUND, "the campaign has no mailbox: name one with mailbox_id")
    return found


async def _lead(tx: AsyncConnection, lead_id: int) -> dict[str, Any]:
    row = (
        await tx.execute(select(foreign.LEAD).where(foreign.LEAD.c.lead_id == lead_id))
    ).one_or_none()
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such lead in this workspace")
    standard = {
        name: getattr(row, name) for name in ("email", "first_name", "last_name", "company")
    }
    return {**(row.fields or {}), **standard}


def _out(shown: Preview, mailbox_id: int, how: str) -> PreviewOut:
    return PreviewOut(
        **shown.model_dump(), mailbox_id=ids.encode("mbx", mailbox_id), mailbox_is=how
    )
