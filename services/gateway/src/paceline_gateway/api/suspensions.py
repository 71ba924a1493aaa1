"""Why something may not send now: the scheduler's open suspensions."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_gateway.store import foreign


class SuspensionOut(BaseModel):
    """One open suspension; without `until` it stays until somebody closes it."""

    reason: str
    detail: str | None
    until: datetime | None
    opened_by: str
    opened_at: datetime


async def open_suspensions(
    tx: AsyncConnection, scope: str, refs: Sequence[int]
) -> dict[int, list[SuspensionOut]]:
    """Return what holds each of `refs` back now, oldest first."""
    c = foreign.SUSPENSION.c
    found: dict[int, list[SuspensionOut]] = {}
    for row in await tx.execute(
        select(c.ref, c.reason, c.detail, c.until, c.opened_by, c.opened_at)
        .where(c.scope == scope, c.ref.in_(refs), c.closed_at.is_(None))
        .order_by(c.suspension_id)
    ):
        found.setdefault(row.ref, []).append(
            SuspensionOut(
                reason=row.reason, detail=row.detail, until=row.until, opened_by=row.opened_by,
                opened_at=row.opened_at,
            )
        )  # fmt: skip
    return found
