"""Budget rows: what the domain reads in them, and the daily maxima of sending domains."""

from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Queries
from paceline_scheduler import policy
from paceline_scheduler.domain.caps import (
    NO_DAY,
    NO_HOUR,
    NO_ROLLING,
    DayCount,
    HourCount,
    RollingCount,
)
from paceline_scheduler.domain.eligibility import Stretch, compile_stretch
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.rules import Rules, State

# Suspensions that say themselves what is wrong; the others are named by their scope.
_CAUSES: Final = frozenset(
    {"cooldown", "node_failed", "grant_revoked", "app_refused", "app_limited"}
)


class Budgets:
    """Keeps `domain_budget` in line with `gateway.v_domain_budget`."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def refresh(self, tx: AsyncConnection) -> None:
        """Read the maxima of the workspaces that `tx` names.

        The mailboxes of domains whose maximum changed lease nothing until they are
        compiled anew: the caller tells the pacer of their workspaces.
        """
        await tx.execute(self._queries["hold_budgeted"])
        await tx.execute(self._queries["upsert_domain_budgets"])


def rules_of(row: Row[Any]) -> Rules:
    """Return the rules of a row of `load_budgets.sql`."""
    return policy.read(row._asdict())


def state_of(row: Row[Any]) -> State:
    """Return what is used and known of a mailbox, by its row of `load_budgets.sql`."""
    rolling = NO_ROLLING
    if row.rolling_hour is not None:
        sent = zip(row.rolling, row.rolling_foreign, strict=True)
        rolling = RollingCount(row.rolling_hour, tuple(own + other for own, other in sent))
    return State(
        next_at=row.next_at,
        day=NO_DAY if row.day is None else DayCount(row.day, row.day_used),
        hour=NO_HOUR if row.hour is None else HourCount(row.hour, row.hour_used),
        rolling=rolling,
        health=row.health,
        stage=row.stage,
        throttled=row.throttled_until is not None and row.throttled_until > row.db_now,
        throttled_until=row.throttled_until,
        domain_cap=row.domain_cap,
        domain_day=NO_DAY if row.domain_day is None else DayCount(row.domain_day, row.domain_used),
        domain_tz=None if row.domain_tz is None else ZoneInfo(row.domain_tz),
    )


def stretch_of(row: Row[Any]) -> Stretch | Hold:
    """Return the open stretch of the earliest slot that a row of `load_budgets.sql` allows, or
    what holds the mailbox: it is inactive, or a gate is closed, or by its rules."""
    if not row.is_active:
        return Hold("mailbox_inactive", None)
    if row.is_suspended:
        named = row.suspended_reason in _CAUSES
        reason = row.suspended_reason if named else f"{row.suspended_scope}_suspended"
        return Hold(reason, row.suspended_until)
    return compile_stretch(rules_of(row), state_of(row), row.db_now)


def opening_of(row: Row[Any], stretch: Stretch, every: timedelta) -> datetime | None:
    """Return the opening over which the first slot of a stretch is to be spread, None without one.

    It is the stretch's own, or the end of a suspension no longer than one
    cadence (`every`) ago, in which nothing could be sent.
    """
    opening = stretch.start if stretch.fresh else None
    ended: datetime | None = row.reopened_at
    if ended is not None and ended + every > row.db_now and (opening is None or opening < ended):
        opening = ended
    if opening is None or (row.next_at is not None and row.next_at > opening):
        return None
    return opening
