"""`/internal`: when a mailbox sends next, and what is left of its limits."""

from datetime import date, datetime
from typing import Final

from fastapi import APIRouter
from pydantic import BaseModel

from paceline_common import ids
from paceline_common.db import Database, Queries
from paceline_common.http import Problem, ProblemType
from paceline_scheduler import policy
from paceline_scheduler.domain.caps import DayCount, day_of, left_on
from paceline_scheduler.domain.eligibility import Hold, Stretch, earliest_slot
from paceline_scheduler.rebuild import stretch_of

UNKNOWN_MAILBOX: Final = ProblemType(
    "unknown_mailbox",
    404,
    "There is no such mailbox",
    "Check the workspace and the mailbox id; a new mailbox is known a moment after it is saved.",
)


class Schedule(BaseModel):
    """The next slot (`next_at`) if a job waits, or why there is none (`hold`, until `hold_until`).

    `day` is the mailbox's local date, `day_left` null without a cap.
    """

    mailbox_id: str
    next_at: datetime | None
    hold: str | None
    hold_until: datetime | None
    day: date
    day_used: int
    day_cap: int | None
    day_left: int | None
    cadence_ms: int
    timezone: str
    is_active: bool
    is_suspended: bool


def router(db: Database, queries: Queries) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.get("/schedule/{workspace_id}/{mailbox_id}")
    async def schedule(workspace_id: str, mailbox_id: str) -> Schedule:
        try:
            workspace, mailbox = ids.decode("ws", workspace_id), ids.decode("mbx", mailbox_id)
        except ids.InvalidIdError:
            raise Problem(UNKNOWN_MAILBOX) from None
        async with db.transaction([workspace]) as tx:
            row = (
                await tx.execute(
                    queries["load_budgets"], {"workspace": workspace, "mailboxes": [mailbox]}
                )
            ).one_or_none()
        if row is None:
            raise Problem(UNKNOWN_MAILBOX)
        cadence = policy.cadence(row.cadence_ms, row.jitter_min_ms, row.jitter_max_ms, row.grace_ms)
        today = day_of(row.db_now, policy.zone(row.tz))
        count = DayCount(row.day or date.min, row.day_used)
        found = stretch_of(row)
        if isinstance(found, Stretch):
            slot = earliest_slot(found, cadence, row.next_at or found.start, row.db_now)
        else:
            slot = found
        if not row.is_active or row.is_suspended:
            slot = Hold("suspended" if row.is_suspended else "inactive", None)
        return Schedule(
            mailbox_id=mailbox_id,
            next_at=None if isinstance(slot, Hold) else slot.slot_at,
            hold=slot.reason if isinstance(slot, Hold) else None,
            hold_until=slot.until if isinstance(slot, Hold) else None,
            day=today,
            day_used=row.day_used if row.day == today else 0,
            day_cap=row.day_cap,
            day_left=left_on(today, row.day_cap, count),
            cadence_ms=row.cadence_ms,
            timezone=row.tz,
            is_active=row.is_active,
            is_suspended=row.is_suspended,
        )

    return routes
