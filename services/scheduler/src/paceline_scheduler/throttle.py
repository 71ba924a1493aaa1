"""Running campaigns that send less than they could because mailboxes of theirs are out: throttled,
with the commonest cause, not failed."""

import asyncio
from collections import defaultdict
from typing import Final

from paceline_common import failpoints, telemetry
from paceline_common.db import Database, Outbox, Queries
from paceline_common.db.session import after_commit
from paceline_scheduler.ledger import Ledger, Noted

_LOOK_S: Final = 10.0
# What the ledger says of a campaign that is throttled no more.
OVER: Final = "open"

_log = telemetry.logger("scheduler.throttle")


class Throttler:
    """Looks every 10 s at who is out: by health, cooldown, failure or throttle."""

    def __init__(self, db: Database, queries: Queries, outbox: Outbox, ledger: Ledger) -> None:
        self._db = db
        self._queries = queries
        self._outbox = outbox
        self._ledger = ledger

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> int:
        """Mark and unmark campaigns; return how many changed."""
        async with self._db.transaction(worker=True) as tx:
            workspaces = list((await tx.execute(self._queries["load_workspaces"])).scalars())
        if not workspaces:
            return 0
        async with self._db.transaction(workspaces) as tx:
            rows = (await tx.execute(self._queries["mark_throttled"])).all()
            noted: dict[int, list[Noted]] = defaultdict(list)
            for row in rows:
                inputs = {"mailboxes_out": row.out} if row.cause else {}
                noted[row.workspace_id].append(
                    Noted("campaign", row.campaign_id, row.cause or OVER, None, inputs)
                )
            for workspace, decisions in noted.items():
                await self._ledger.note(tx, workspace, decisions)
            if rows:
                after_commit(tx, "outbox", self._outbox.wake.set)
        if rows:
            failpoints.hit("scheduler.after_throttled")
            _log.info("campaigns throttled or no more", count=len(rows))
        return len(rows)
