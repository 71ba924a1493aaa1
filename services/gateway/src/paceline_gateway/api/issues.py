"""Issues: what needs a person."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import Select, select

from paceline_common import ids
from paceline_gateway import paging, problems
from paceline_gateway.api.types import answers
from paceline_gateway.auth import Reader
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store.tables import Issue

router = APIRouter(prefix="/v1/issues", tags=["issues"])

Severity = Literal["info", "warning", "error"]


class IssueOut(BaseModel):
    """An issue about `subject` (a public id); repeats are counted, `detail` is the latest's."""

    id: str
    subject: str
    code: str
    severity: Severity
    detail: str
    source: str
    times: int
    first_at: datetime
    last_at: datetime


@router.get("", operation_id="listIssues", responses=answers(problems.CURSOR_INVALID))
async def list_issues(
    parts: PartsDep,
    caller: Reader,
    subject: Annotated[str | None, Query(max_length=100)] = None,
    severity: Annotated[Severity | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[IssueOut]:
    """List issues, newest first."""
    statement: Select[Any] = (
        select(Issue.__table__)
        .where(Issue.workspace_id == caller.workspace_id)
        .order_by(Issue.issue_id.desc())
        .limit(limit + 1)
    )
    if cursor:
        statement = statement.where(Issue.issue_id < paging.decode(cursor, 1)[0])
    if subject is not None:
        statement = statement.where(Issue.subject == subject)
    if severity is not None:
        statement = statement.where(Issue.severity == severity)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    found = [
        IssueOut(
            id=ids.encode("iss", row.issue_id),
            subject=row.subject,
            code=row.code,
            severity=row.severity,
            detail=row.detail,
            source=row.source,
            times=row.times,
            first_at=row.first_at,
            last_at=row.last_at,
        )
        for row in rows
    ]
    return paging.page(found, limit, [(row.issue_id,) for row in rows])
