"""Submissions in doubt: what is known about them, and a person's word that settles them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import ColumnElement, Select, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import paging, problems
from paceline_gateway.api.types import CampaignId, JobId, MailboxId, NoNul, answers, public
from paceline_gateway.auth import Reader, Writer
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.settling import SettleAs, Word
from paceline_gateway.store import foreign

router = APIRouter(prefix="/v1/jobs", tags=["in doubt"])

SettledAs = Literal["sent", "rejected", "unsent", "failed", "moot"]


class DoubtOut(BaseModel):
    """A submission whose outcome nobody knew, or still knows.

    `has_draft`: destroying its draft can prove it unsent. `next_look_at`: when Paceline looks
    for proof again; null before the first look and once settled. `settled_by`: `answer` (the
    provider's own, late), `sender` (proof), `scheduler`, or who settled it by name.
    """

    job_id: str
    enrollment_id: str | None
    campaign_id: str | None
    step: int | None
    mailbox_id: str
    provider: str
    message_id: str | None
    has_draft: bool
    since: datetime
    looks: int
    next_look_at: datetime | None
    settled_at: datetime | None
    settled_as: SettledAs | None
    settled_by: str | None
    why: str | None


class EvidenceOut(BaseModel):
    """One thing that was found out: where (`source`), what, and in whose words."""

    at: datetime
    source: str
    finding: str
    text: str | None


class DoubtDetail(DoubtOut):
    """A doubt with all that was found out about it, oldest first."""

    evidence: list[EvidenceOut]


class SettleIn(BaseModel):
    """Your word about a submission in doubt, and why.

    `sent`: it counts as sent, and the sequence goes on. `unsent`: it goes back to its queue and
    **is sent again**, so look first. `failed`: it is given up, and its enrollment ends.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    settle_as: SettleAs = Field(alias="as")
    why: Annotated[
        str,
        StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
        NoNul,
    ] = Field(description="For the audit trail: what you looked at.")


@router.get("/in-doubt", operation_id="listInDoubt", responses=answers(problems.CURSOR_INVALID))
async def list_in_doubt(
    parts: PartsDep,
    caller: Reader,
    campaign_id: Annotated[CampaignId | None, Query()] = None,
    mailbox_id: Annotated[MailboxId | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[DoubtOut]:
    """List submissions whose outcome nobody knows; none of them is sent again without proof."""
    c = foreign.DOUBT.c
    statement = _select(c.settled_at.is_(None)).order_by(c.job_id).limit(limit + 1)
    if cursor:
        statement = statement.where(c.job_id > paging.decode(cursor, 1)[0])
    for column, value in ((c.campaign_id, campaign_id), (c.mailbox_id, mailbox_id)):
        if value is not None:
            statement = statement.where(column == value)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    found = [DoubtOut(**_members(row)) for row in rows]
    return paging.page(found, limit, [(row.job_id,) for row in rows])


@router.get("/{job_id}/doubt", operation_id="getDoubt", responses=answers(problems.NOT_IN_DOUBT))
async def get_doubt(job_id: JobId, parts: PartsDep, caller: Reader) -> DoubtDetail:
    """Show what was found out about a submission that is, or was, in doubt."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return await _detail(tx, job_id)


@router.post(
    "/{job_id}/settle",
    operation_id="settleDoubt",
    responses=answers(problems.NOT_IN_DOUBT, problems.DOUBT_SETTLED, problems.SETTLING_UNAVAILABLE),
)
async def settle_doubt(
    job_id: JobId, body: SettleIn, parts: PartsDep, caller: Writer
) -> DoubtDetail:
    """Settle a submission in doubt by name; kept in the audit trail with your reason.

    Paceline sends nothing twice without proof. `unsent` overrides that: be sure.
    """
    word = Word(body.settle_as, body.why, caller.actor, caller.source_ip)
    await parts.settling.settle(caller.workspace_id, job_id, word)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return await _detail(tx, job_id)


def _select(where: ColumnElement[bool]) -> Select[Any]:
    return select(foreign.DOUBT).where(where)


async def _detail(tx: AsyncConnection, job_id: int) -> DoubtDetail:
    c = foreign.DOUBT.c
    # A job sent again may come into doubt again: the newest one speaks.
    newest = _select(c.job_id == job_id).order_by(c.fence_no.desc()).limit(1)
    row = (await tx.execute(newest)).one_or_none()
    if row is None:
        raise Problem(problems.NOT_IN_DOUBT)
    return DoubtDetail(**_members(row), evidence=[EvidenceOut(**one) for one in row.evidence])


def _members(row: Row[Any]) -> dict[str, Any]:
    return {
        "job_id": ids.encode("job", row.job_id),
        "enrollment_id": public("enr", row.enrollment_id),
        "campaign_id": public("cmp", row.campaign_id),
        "step": row.step,
        "mailbox_id": ids.encode("mbx", row.mailbox_id),
        "provider": row.provider,
        "message_id": row.message_id,
        "has_draft": row.has_draft,
        "since": row.since,
        "looks": row.looks,
        "next_look_at": row.next_look_at,
        "settled_at": row.settled_at,
        "settled_as": row.settled_as,
        "settled_by": row.settled_by,
        "why": row.why,
    }
