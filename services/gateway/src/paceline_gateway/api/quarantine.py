"""Quarantined events of this workspace, and the replay of repaired leads."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import case
from sqlalchemy.engine import Row

from paceline_common import ids
from paceline_gateway import paging, problems, quarantine, trail
from paceline_gateway.api.types import QuarantineId, answers
from paceline_gateway.auth import Reader, Writer
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store.foreign import QUARANTINE_SERVICES

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])

Service = Literal["gateway", "scheduler", "sender", "bounce", "reply"]
ServiceQuery = Annotated[Service, Query(description="Whose entry it is: ids count per service.")]


class QuarantineOut(BaseModel):
    """An event that could not be handled. `body` is what came, as text; `replayable` if a
    repaired lead can be sent in its place."""

    id: str
    service: Service
    topic: str
    event_id: str | None
    source: str | None
    type: str | None
    body: str | None
    reason_code: str
    reason: str
    attempts: int
    replayable: bool
    created_at: datetime
    settled_at: datetime | None
    settled_by: str | None


class ReplayIn(BaseModel):
    """The repaired lead, whole, as `lead-enrolled` has it; left out, the event as it came."""

    model_config = ConfigDict(extra="forbid")

    lead: dict[str, Any] | None = Field(
        default=None,
        description="campaign_id, email, first_name, last_name, company, timezone, fields.",
    )


class ReplayOut(BaseModel):
    """The event that replays it; ask `/v1/receipts/{event_id}` what became of it."""

    event_id: str


@router.get("", operation_id="listQuarantine", responses=answers(problems.CURSOR_INVALID))
async def list_quarantine(
    parts: PartsDep,
    caller: Reader,
    settled: Annotated[bool | None, Query(description="Only settled ones, or only open.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[QuarantineOut]:
    """List quarantined events of this workspace, service by service, newest first."""
    statement = quarantine.every()
    c = statement.selected_columns
    if cursor:
        at, number = paging.decode(cursor, 2)
        if at >= len(QUARANTINE_SERVICES):
            at, number = len(QUARANTINE_SERVICES), 0
        later = QUARANTINE_SERVICES[at + 1 :]
        here = QUARANTINE_SERVICES[at] if at < len(QUARANTINE_SERVICES) else None
        statement = statement.where(
            c.service.in_(later) | ((c.service == here) & (c.quarantine_id < number))
        )
    if settled is not None:
        statement = statement.where(
            c.settled_at.is_not(None) if settled else c.settled_at.is_(None)
        )
    order = case({name: at for at, name in enumerate(QUARANTINE_SERVICES)}, value=c.service)
    statement = statement.order_by(order, c.quarantine_id.desc()).limit(limit + 1)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    keys = [(QUARANTINE_SERVICES.index(row.service), row.quarantine_id) for row in rows]
    return paging.page([_out(row) for row in rows], limit, keys)


@router.get("/{quarantine_id}", operation_id="getQuarantine", responses=answers(problems.NOT_FOUND))
async def get_quarantine(
    quarantine_id: QuarantineId,
    parts: PartsDep,
    caller: Reader,
    service: ServiceQuery = "scheduler",
) -> QuarantineOut:
    """Return one quarantined event."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return _out(await quarantine.find(tx, service, quarantine_id))


@router.post(
    "/{quarantine_id}/replay",
    operation_id="replayQuarantine",
    status_code=status.HTTP_202_ACCEPTED,
    responses=answers(
        problems.NOT_FOUND, problems.QUARANTINE_SETTLED, problems.QUARANTINE_NOT_REPLAYABLE,
        problems.QUARANTINE_BODY_INVALID,
    ),
)  # fmt: skip
async def replay_quarantine(
    quarantine_id: QuarantineId, parts: PartsDep, caller: Writer, body: ReplayIn | None = None
) -> ReplayOut:
    """Enroll a repaired lead in place of a quarantined one; the entry settles when it is taken."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await quarantine.find(tx, quarantine.OWNER, quarantine_id)
        event = quarantine.repaired(caller.workspace_id, held, body.lead if body else None)
        await parts.outbox.add(tx, [event])
        await trail.audit(
            parts, tx, caller, "quarantine.replayed", ids.encode("qua", quarantine_id)
        )
    assert event.event_id is not None, "repaired names its event"
    return ReplayOut(event_id=event.event_id)


def _out(row: Row[Any]) -> QuarantineOut:
    return QuarantineOut(
        id=ids.encode("qua", row.quarantine_id),
        service=row.service,
        topic=row.topic,
        event_id=row.event_id,
        source=row.source,
        type=row.type,
        body=None if row.body is None else bytes(row.body).decode("utf-8", "replace"),
        reason_code=row.reason_code,
        reason=row.reason,
        attempts=row.attempts,
        replayable=row.service == quarantine.OWNER
        and row.settled_at is None
        and quarantine.is_replayable(row.topic),
        created_at=row.created_at,
        settled_at=row.settled_at,
        settled_by=row.settled_by,
    )
