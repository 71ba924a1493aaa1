"""Receipts: what became of a lead that was handed in, by the id of its event."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel
from sqlalchemy import select

from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.api.types import answers, public
from paceline_gateway.auth import Enroller
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign

router = APIRouter(prefix="/v1/receipts", tags=["receipts"])


class ReceiptOut(BaseModel):
    """The scheduler's answer to one `lead-enrolled`; `reason` says why it was not enrolled."""

    event_id: str
    outcome: Literal["enrolled", "duplicate", "suppressed", "refused"]
    reason: str | None
    enrollment_id: str | None
    import_id: str | None
    row: int | None
    at: datetime


@router.get("/{event_id}", operation_id="getReceipt", responses=answers(problems.RECEIPT_PENDING))
async def get_receipt(
    event_id: Annotated[str, Path(max_length=200)], parts: PartsDep, caller: Enroller
) -> ReceiptOut:
    """Return the receipt of an event that the API, an import or a publisher sent."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        row = (
            await tx.execute(
                select(foreign.RECEIPT)
                .where(foreign.RECEIPT.c.event_id == event_id)
                .order_by(foreign.RECEIPT.c.at.desc())
                .limit(1)
            )
        ).one_or_none()
    if row is None:
        raise Problem(problems.RECEIPT_PENDING)
    return ReceiptOut(
        event_id=row.event_id,
        outcome=row.outcome,
        reason=row.reason,
        enrollment_id=public("enr", row.enrollment_id),
        import_id=public("imp", row.import_id),
        row=row.row_number,
        at=row.at,
    )
