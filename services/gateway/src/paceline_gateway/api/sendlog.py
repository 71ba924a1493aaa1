"""The send log: every try of every message, with the provider's own answer."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import Select, select, tuple_

from paceline_common import ids
from paceline_gateway import paging, problems
from paceline_gateway.api.types import CampaignId, EnrollmentId, MailboxId, answers, public
from paceline_gateway.auth import Reader
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign

router = APIRouter(prefix="/v1/sends", tags=["send log"])


class SendOut(BaseModel):
    """One try. `outcome` is null while it is under way; `code` and `status` are the SMTP reply
    and enhanced code (RFC 3463), `text` the server's own words."""

    job_id: str
    enrollment_id: str | None
    campaign_id: str | None
    step: int | None
    mailbox_id: str
    attempt: int
    provider: str | None
    outcome: str | None
    outcome_class: str | None
    code: int | None
    status: str | None
    text: str | None
    message_id: str | None
    variant: str | None
    started_at: datetime
    finished_at: datetime | None


@router.get("", operation_id="listSends", responses=answers(problems.CURSOR_INVALID))
async def list_sends(
    parts: PartsDep,
    caller: Reader,
    campaign_id: Annotated[CampaignId | None, Query()] = None,
    mailbox_id: Annotated[MailboxId | None, Query()] = None,
    enrollment_id: Annotated[EnrollmentId | None, Query()] = None,
    outcome: Annotated[str | None, Query(max_length=40)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[SendOut]:
    """List tries, newest job first, a job's tries from the last to the first."""
    c = foreign.SEND_LOG.c
    statement: Select[Any] = (
        select(foreign.SEND_LOG).order_by(c.job_id.desc(), c.attempt_no.desc()).limit(limit + 1)
    )
    if cursor:
        statement = statement.where(tuple_(c.job_id, c.attempt_no) < paging.decode(cursor, 2))
    for column, value in (
        (c.campaign_id, campaign_id), (c.mailbox_id, mailbox_id),
        (c.enrollment_id, enrollment_id), (c.outcome, outcome),
    ):  # fmt: skip
        if value is not None:
            statement = statement.where(column == value)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    found = [
        SendOut(
            job_id=ids.encode("job", row.job_id),
            enrollment_id=public("enr", row.enrollment_id),
            campaign_id=public("cmp", row.campaign_id),
            step=row.step,
            mailbox_id=ids.encode("mbx", row.mailbox_id),
            attempt=row.attempt_no,
            provider=row.provider,
            outcome=row.outcome,
            outcome_class=row.outcome_class,
            code=row.code,
            status=row.status,
            text=row.text,
            message_id=row.message_id,
            variant=row.variant,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
        for row in rows
    ]
    return paging.page(found, limit, [(row.job_id, row.attempt_no) for row in rows])
