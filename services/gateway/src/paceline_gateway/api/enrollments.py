"""Enrollments: where each lead stands in a campaign, and why."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import Select, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import paging, problems, trail
from paceline_gateway.api.types import CampaignId, EnrollmentId, MailboxId, answers, public
from paceline_gateway.auth import Reader, Writer
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign

router = APIRouter(prefix="/v1/enrollments", tags=["enrollments"])

STOPPED_BY_OPERATOR = "stopped_by_operator"

State = Literal[
    "active", "finished", "replied", "bounced", "unsubscribed", "suppressed", "stopped", "failed"
]


class JobOut(BaseModel):
    """The message that is next, or was last. `slot_at` is its time once it has one."""

    id: str
    state: str
    reason: str | None
    due_at: datetime | None
    slot_at: datetime | None


class EnrollmentOut(BaseModel):
    """A lead in a campaign: exactly one state, and the reason for it.

    Of an active one `reason` says what it waits for.
    """

    id: str
    campaign_id: str
    lead_id: str
    email: str | None
    state: State
    reason: str | None
    step: int
    mailbox_id: str | None
    job: JobOut | None
    enrolled_at: datetime
    updated_at: datetime


@router.get("", operation_id="listEnrollments", responses=answers(problems.CURSOR_INVALID))
async def list_enrollments(
    parts: PartsDep,
    caller: Reader,
    campaign_id: Annotated[CampaignId | None, Query()] = None,
    mailbox_id: Annotated[MailboxId | None, Query()] = None,
    state: Annotated[State | None, Query()] = None,
    reason: Annotated[str | None, Query(max_length=100)] = None,
    email: Annotated[str | None, Query(max_length=320)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[EnrollmentOut]:
    """List enrollments, newest first."""
    c = foreign.ENROLLMENT.c
    statement: Select[Any] = (
        select(foreign.ENROLLMENT).order_by(c.enrollment_id.desc()).limit(limit + 1)
    )
    if cursor:
        statement = statement.where(c.enrollment_id < paging.decode(cursor, 1)[0])
    if email is not None:
        statement = statement.where(c.email == email.strip().lower())
    for column, value in (
        (c.campaign_id, campaign_id), (c.mailbox_id, mailbox_id), (c.state, state),
        (c.reason, reason),
    ):  # fmt: skip
        if value is not None:
            statement = statement.where(column == value)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    return paging.page([_out(row) for row in rows], limit, [(row.enrollment_id,) for row in rows])


@router.get("/{enrollment_id}", operation_id="getEnrollment", responses=answers(problems.NOT_FOUND))
async def get_enrollment(
    enrollment_id: EnrollmentId, parts: PartsDep, caller: Reader
) -> EnrollmentOut:
    """Return one enrollment."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return await read_enrollment(tx, enrollment_id)


@router.post(
    "/{enrollment_id}/stop",
    operation_id="stopEnrollment",
    responses=answers(problems.NOT_FOUND, problems.ENROLLMENT_FINAL),
)
async def stop_enrollment(
    enrollment_id: EnrollmentId, parts: PartsDep, caller: Writer
) -> EnrollmentOut:
    """End one enrollment: nothing further is sent to this lead in this campaign."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        stopped = await foreign.stop_enrollment(
            tx, caller.workspace_id, enrollment_id, "stopped", STOPPED_BY_OPERATOR
        )
        found = await read_enrollment(tx, enrollment_id)
        if stopped:
            await trail.audit(parts, tx, caller, "enrollment.stopped", found.id)
        elif found.state != "stopped":
            raise Problem(problems.ENROLLMENT_FINAL, f"its state is {found.state}")
    return found


async def read_enrollment(tx: AsyncConnection, enrollment_id: int) -> EnrollmentOut:
    """Return one enrollment; raise `not_found` otherwise."""
    row = (
        await tx.execute(
            select(foreign.ENROLLMENT).where(foreign.ENROLLMENT.c.enrollment_id == enrollment_id)
        )
    ).one_or_none()
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such enrollment in this workspace")
    return _out(row)


def _out(row: Row[Any]) -> EnrollmentOut:
    return EnrollmentOut(
        id=ids.encode("enr", row.enrollment_id),
        campaign_id=ids.encode("cmp", row.campaign_id),
        lead_id=ids.encode("lead", row.lead_id),
        email=row.email,
        state=row.state,
        reason=row.reason,
        step=row.step,
        mailbox_id=public("mbx", row.mailbox_id),
        job=None
        if row.job_id is None
        else JobOut(
            id=ids.encode("job", row.job_id),
            state=row.job_state,
            reason=row.job_reason,
            due_at=row.due_at,
            slot_at=row.slot_at,
        ),
        enrolled_at=row.enrolled_at,
        updated_at=row.updated_at,
    )
