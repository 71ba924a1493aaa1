"""What was tracked: opens and followed links, where a campaign asked for it."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import Select, select, tuple_

from paceline_common import ids
from paceline_gateway import paging, problems
from paceline_gateway.api.types import CampaignId, EnrollmentId, answers, public
from paceline_gateway.auth import Reader
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store.tables import Tracked

router = APIRouter(prefix="/v1/tracking", tags=["tracking"])

Kind = Literal["open", "click"]


class TrackedOut(BaseModel):
    """That a message was opened, or its n-th link followed, and how often.

    `reliable` is false for opens: mail clients load pixels ahead, or not at all.
    """

    job_id: str
    kind: Kind
    link: int
    url: str | None
    enrollment_id: str | None
    campaign_id: str | None
    step: int | None
    times: int
    first_at: datetime
    last_at: datetime
    reliable: bool


@router.get("", operation_id="listTracking", responses=answers(problems.CURSOR_INVALID))
async def list_tracking(
    parts: PartsDep,
    caller: Reader,
    campaign_id: Annotated[CampaignId | None, Query()] = None,
    enrollment_id: Annotated[EnrollmentId | None, Query()] = None,
    kind: Annotated[Kind | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[TrackedOut]:
    """List opens and clicks, newest job first, a job's clicks by the place of the link."""
    # A job has one open (link 0) and clicks from 1 on: the two numbers name a row.
    statement: Select[Any] = (
        select(Tracked.__table__)
        .where(Tracked.workspace_id == caller.workspace_id)
        .order_by(Tracked.job_id.desc(), Tracked.link.desc())
        .limit(limit + 1)
    )
    if cursor:
        statement = statement.where(tuple_(Tracked.job_id, Tracked.link) < paging.decode(cursor, 2))
    for column, value in (
        (Tracked.campaign_id, campaign_id), (Tracked.enrollment_id, enrollment_id),
        (Tracked.kind, kind),
    ):  # fmt: skip
        if value is not None:
            statement = statement.where(column == value)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    found = [
        TrackedOut(
            job_id=ids.encode("job", row.job_id),
            kind=row.kind,
            link=row.link,
            url=row.url,
            enrollment_id=public("enr", row.enrollment_id),
            campaign_id=public("cmp", row.campaign_id),
            step=row.step,
            times=row.times,
            first_at=row.first_at,
            last_at=row.last_at,
            reliable=row.kind == "click",
        )
        for row in rows
    ]
    return paging.page(found, limit, [(row.job_id, row.link) for row in rows])
