"""Limits of a whole OAuth app: all its mailboxes are held at once, in every workspace.

Otherwise each would find out by itself, and each try of theirs counts against the app again.
"""

from datetime import datetime, timedelta
from typing import Final

from paceline_common import ids, telemetry
from paceline_common.clock import Clock
from paceline_common.db.outbox import Outbox
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_sender.domain.outcome import App
from paceline_sender.facts import issue
from paceline_sender.job import HoldRequest, Job

# Several messages get the same answer, each with a wish a little later than the last.
_SAME: Final = timedelta(seconds=30)

log = telemetry.logger("sender.apps")


class AppHolds:
    """Holds the mailboxes of an app; one per process."""

    def __init__(self, db: Database, outbox: Outbox, clock: Clock) -> None:
        self._db = db
        self._outbox = outbox
        self._clock = clock
        self._queries = Queries("paceline_sender")
        self._held: dict[App, datetime] = {}

    async def hold(self, job: Job, hold: HoldRequest) -> None:
        """Hold every mailbox of `hold.app`, and say so once per workspace.

        The job's own mailbox is held already. What fails here is logged: the other
        mailboxes find out by themselves.
        """
        assert hold.app is not None
        assert hold.until is not None
        known = self._held.get(hold.app)
        if known is not None and hold.until <= known + _SAME:
            return
        self._held[hold.app] = hold.until
        try:
            count = await self._spread(job, hold, hold.app)
        except Exception as error:  # noqa: BLE001 - the outcome that told of it is recorded
            self._held.pop(hold.app, None)
            log.warning("app not held", job=job.public_id, **telemetry.describe_error(error))
        else:
            log.warning("app held", reason_code=hold.reason, count=count)

    async def _spread(self, job: Job, hold: HoldRequest, app: App) -> int:
        async with self._db.transaction(worker=True) as tx:
            found = await tx.execute(self._queries["list_app_workspaces"])
            workspaces = {job.workspace_id, *found.scalars()}
        async with self._db.transaction(workspaces) as tx:
            result = await tx.execute(
                self._queries["suspend_app"],
                {
                    "provider": app.provider, "client": app.client_id, "tenant": app.tenant,
                    "reason": hold.reason, "until": hold.until, "detail": hold.detail,
                },
            )  # fmt: skip
            rows = result.all()
            now = self._clock.now()
            others = {row.workspace_id for row in rows} - {job.workspace_id}
            await self._outbox.add(
                tx, [issue(ids.encode("ws", one), "", hold, now) for one in sorted(others)]
            )
        return len(rows)
