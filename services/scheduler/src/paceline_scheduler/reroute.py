"""Follow-ups whose mailbox is gone: wait, go from another one, or end."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Row

from paceline_common import failpoints, telemetry
from paceline_common.db import Database, Outbox, Queries
from paceline_common.db.session import after_commit
from paceline_scheduler.contact import Holds
from paceline_scheduler.domain import stickiness
from paceline_scheduler.domain.stickiness import Reassign, Stop

_LOOK_S: Final = 30.0
_BATCH: Final = 1_000

_log = telemetry.logger("scheduler.reroute")


class Rerouter:
    """Looks every 30 s at the mailboxes that are gone and at what waits for them."""

    def __init__(
        self,
        db: Database,
        queries: Queries,
        outbox: Outbox,
        holds: Holds,
        wake: Callable[[], None],
    ) -> None:
        self._db = db
        self._queries = queries
        self._outbox = outbox
        self._holds = holds
        self._wake = wake

    async def run(self) -> None:
        """Reroute until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Decide on everything that waits for a mailbox that is gone."""
        async with self._db.transaction(worker=True) as tx:
            gone = (await tx.execute(self._queries["load_gone_senders"])).all()
        for row in gone:
            verdict = stickiness.decide(
                row.stickiness, timedelta(seconds=row.reassign_after_s), row.gone_since, row.db_now
            )
            match verdict:
                case Reassign():
                    await self._unstick(row, first_only=False)
                case Stop():
                    await self._stop(row)
                case _ if row.reroute:
                    # A first message that greylisting keeps there has no conversation to go on.
                    await self._unstick(row, first_only=True)

    async def _unstick(self, row: Row[Any], *, first_only: bool) -> None:
        freed = 0
        while True:
            async with self._db.transaction(worker=True) as tx:
                batch = await self._next(tx, row, first_only=first_only)
                if batch:
                    await tx.execute(self._queries["unstick_jobs"], _keys(batch))
                    after_commit(tx, "pacer", self._wake)
            if batch:
                failpoints.hit("scheduler.after_unstuck")
            freed += len(batch)
            if len(batch) < _BATCH:
                break
        if freed:
            _log.info(
                "follow-ups go from another mailbox", count=freed, mailbox_id=row.mailbox_id,
                campaign_id=row.campaign_id,
            )  # fmt: skip

    async def _stop(self, row: Row[Any]) -> None:
        while True:
            async with self._db.transaction(worker=True) as tx:
                batch = await self._next(tx, row, first_only=False)
                if batch:
                    enrollments = [(one.workspace_id, one.enrollment_id) for one in batch]
                    await tx.execute(
                        self._queries["finish_enrollments"],
                        {
                            "workspaces": [workspace for workspace, _ in enrollments],
                            "enrollments": [enrollment for _, enrollment in enrollments],
                            "states": ["stopped"] * len(batch),
                            "reasons": ["sender_gone"] * len(batch),
                        },
                    )
                    after_commit(tx, "outbox", self._outbox.wake.set)
                    await self._holds.ended(tx, enrollments)
            if batch:
                failpoints.hit("scheduler.after_sender_gone")
            if len(batch) < _BATCH:
                break

    async def _next(self, tx: Any, row: Row[Any], *, first_only: bool) -> Sequence[Row[Any]]:
        found: Sequence[Row[Any]] = (
            await tx.execute(
                self._queries["lock_sticky_jobs"],
                {
                    "workspace": row.workspace_id,
                    "mailbox": row.mailbox_id,
                    "campaign": row.campaign_id,
                    "first_only": first_only,
                    "most": _BATCH,
                },
            )
        ).all()
        return found


def _keys(batch: Sequence[Row[Any]]) -> dict[str, list[int]]:
    return {
        "workspaces": [one.workspace_id for one in batch],
        "enrollments": [one.enrollment_id for one in batch],
        "jobs": [one.job_id for one in batch],
    }
