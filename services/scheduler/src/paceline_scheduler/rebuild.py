"""What the pacing store holds, derived from Postgres: mailboxes, rotation and queues.

All of it can be written anew at any time; `rebuild` does it from nothing, in a
new epoch, so that proposals made of older state are refused.
"""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import telemetry
from paceline_common.db import Database, Queries
from paceline_scheduler import policy
from paceline_scheduler.domain import stickiness
from paceline_scheduler.domain.caps import DayCount
from paceline_scheduler.domain.eligibility import Hold, Stretch, compile_stretch
from paceline_scheduler.mailboxes import Mailboxes
from paceline_scheduler.pacing.base import MailboxRecord, PacingStore, QueuedJob

# Jobs due later stay in Postgres alone: Redis holds what may soon be sent.
HORIZON: Final = timedelta(minutes=10)
_ROWS: Final = 5_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_log = telemetry.logger("scheduler.rebuild")


class PacingState:
    """Writes the pacing store from Postgres, for one workspace at a time."""

    def __init__(
        self,
        db: Database,
        queries: Queries,
        store: PacingStore,
        mailboxes: Mailboxes,
        rng: random.Random,
    ) -> None:
        self._db = db
        self._queries = queries
        self._store = store
        self._mailboxes = mailboxes
        self._rng = rng
        # Until when each workspace's jobs have been loaded, by their due time.
        self._loaded: dict[int, datetime] = {}

    async def workspaces(self) -> list[int]:
        """Return every workspace that paces anything."""
        async with self._db.transaction(worker=True) as tx:
            return list((await tx.execute(self._queries["load_workspaces"])).scalars())

    async def rebuild(self, workspace_id: int) -> None:
        """Write the store anew for one workspace, in a new epoch. One scheduler at a time."""
        async with self._db.transaction(worker=True) as lock:
            await lock.execute(
                text("SELECT pg_advisory_xact_lock(hashtext('scheduler.rebuild'), hashint8(:ws))"),
                {"ws": workspace_id},
            )
            async with self._db.transaction([workspace_id]) as tx:
                await self._mailboxes.refresh(tx, None)
            # Committed before the queue is read: what an older proposal takes
            # later is refused, what it took before is no longer queued.
            async with self._db.transaction([workspace_id]) as tx:
                epoch: int = (
                    await tx.execute(self._queries["next_epoch"], {"workspace": workspace_id})
                ).scalar_one()
            await self._store.clear(workspace_id)
            await self.route(workspace_id)
            await self.compile(workspace_id, None)
            self._loaded.pop(workspace_id, None)
            jobs = await self.load_due(workspace_id)
            await self._store.open(workspace_id, epoch)
        _log.info("pacing state rebuilt", workspace_id=workspace_id, count=jobs)

    async def load_due(self, workspace_id: int) -> int:
        """Push the jobs that came within the horizon since the last time; return how many."""
        pushed = 0
        async with self._db.transaction([workspace_id]) as tx:
            now: datetime = (await tx.execute(text("SELECT clock_timestamp()"))).scalar_one()
            after = self._loaded.get(workspace_id)
            until = now + HORIZON
            result = await tx.stream(
                self._queries["load_queue"],
                {
                    "workspace": workspace_id,
                    "after": "-infinity" if after is None else after.isoformat(),
                    "until": until,
                },
            )
            async for rows in result.partitions(_ROWS):
                await self._push(rows)
                pushed += len(rows)
        self._loaded[workspace_id] = until
        return pushed

    async def push_jobs(self, jobs: Mapping[int, Sequence[int]], delay_ms: int = 0) -> None:
        """Push jobs, by workspace, that are (still) queued; those beyond the horizon come later.

        With `delay_ms` they are looked at no sooner than that from now.
        """
        pairs = [(workspace, job) for workspace, ids in jobs.items() for job in ids]
        async with self._db.transaction(jobs) as tx:
            rows = (
                await tx.execute(
                    self._queries["load_jobs"],
                    {"workspaces": [one for one, _ in pairs], "jobs": [one for _, one in pairs]},
                )
            ).all()
        await self._push(rows, delay_ms)

    async def push_released(self, workspace_id: int, scope: str, refs: Sequence[int]) -> None:
        """Push the jobs that a gate, if it is open now, had held out of the store."""
        until = self._loaded.get(workspace_id, _EPOCH)
        async with self._db.transaction([workspace_id]) as tx:
            if scope == "enrollment":
                arguments: dict[str, Any] = {"workspace": workspace_id, "enrollments": refs}
                rows = (await tx.execute(self._queries["load_enrollment_jobs"], arguments)).all()
                await self._push(rows)
                return
            for ref in refs:
                arguments = {"workspace": workspace_id, "scope": scope, "ref": ref, "until": until}
                rows = (await tx.execute(self._queries["load_released_jobs"], arguments)).all()
                await self._push(rows)

    async def route(self, workspace_id: int) -> None:
        """Write which campaigns are in rotation and the pools that serve each."""
        async with self._db.transaction([workspace_id]) as tx:
            rows = (
                await tx.execute(self._queries["load_routes"], {"workspace": workspace_id})
            ).all()
        await self._store.set_rotation(
            workspace_id,
            {
                row.campaign_id: pools
                for row in rows
                if row.is_open and (pools := stickiness.serving_pools(row.tiers))
            },
        )

    async def compile(
        self,
        workspace_id: int,
        mailboxes: Sequence[int] | None,
        not_before_ms: Mapping[int, int] | None = None,
    ) -> None:
        """Compile the next open stretch of some mailboxes, or of all, and write their records.

        One that may not send (inactive, a closed gate, no time ever) leaves
        rotation. `not_before_ms` postpones the next look at single mailboxes.
        """
        records: list[MailboxRecord] = []
        dropped: list[int] = []
        async with self._db.transaction([workspace_id]) as tx:
            pools = await self._pools(tx, workspace_id)
            rows = (
                await tx.execute(
                    self._queries["load_budgets"],
                    {"workspace": workspace_id, "mailboxes": mailboxes},
                )
            ).all()
            stretches: list[tuple[int, int, Stretch]] = []
            for row in rows:
                found = stretch_of(row)
                if isinstance(found, Hold) or not row.is_active or row.is_suspended:
                    dropped.append(row.mailbox_id)
                    continue
                stretches.append((row.mailbox_id, row.version, found))
                wait = (not_before_ms or {}).get(row.mailbox_id, 0)
                records.append(self._record(row, found, tuple(pools.get(row.mailbox_id, ())), wait))
            if stretches:
                await tx.execute(
                    self._queries["set_stretches"],
                    {
                        "workspace": workspace_id,
                        "mailboxes": [one for one, _, _ in stretches],
                        "versions": [version for _, version, _ in stretches],
                        "open_froms": [stretch.start for _, _, stretch in stretches],
                        "open_untils": [stretch.end for _, _, stretch in stretches],
                    },
                )
        known = {row.mailbox_id for row in rows}
        dropped += [one for one in mailboxes or () if one not in known]
        await self._store.drop_mailboxes(workspace_id, dropped)
        await self._store.set_mailboxes(workspace_id, records)

    def _record(
        self, row: Row[Any], stretch: Stretch, pools: tuple[int, ...], not_before_ms: int
    ) -> MailboxRecord:
        cadence = policy.cadence(row.cadence_ms, row.jitter_min_ms, row.jitter_max_ms, row.grace_ms)
        next_at = max(stretch.start, row.next_at or _EPOCH)
        if stretch.fresh and next_at == stretch.start:
            # Never a burst at an opening: the first slot lies within one cadence of it.
            next_at = cadence.first_after(stretch.start, self._rng.random())
        lead_ms = _ms(cadence.lead)
        next_ms = _ms(next_at - _EPOCH)
        full_ms = 0 if row.hour_full_until is None else _ms(row.hour_full_until - _EPOCH)
        return MailboxRecord(
            mailbox_id=row.mailbox_id,
            eligible_ms=max(next_ms - lead_ms, not_before_ms, full_ms - lead_ms),
            next_ms=max(next_ms, full_ms),
            cadence_ms=row.cadence_ms,
            jitter_min_ms=row.jitter_min_ms,
            jitter_max_ms=row.jitter_max_ms,
            grace_ms=row.grace_ms,
            lead_ms=lead_ms,
            open_from_ms=_ms(stretch.start - _EPOCH),
            open_until_ms=math.floor((stretch.end - _EPOCH) / timedelta(milliseconds=1)),
            left=stretch.left,
            pools=pools,
        )

    async def _pools(self, tx: AsyncConnection, workspace_id: int) -> dict[int, list[int]]:
        pools: dict[int, list[int]] = defaultdict(list)
        rows = await tx.execute(self._queries["load_pools"], {"workspace": workspace_id})
        for row in rows:
            pools[row.mailbox_id].append(row.pool_id)
        return pools

    async def _push(self, rows: Sequence[Row[Any]], delay_ms: int = 0) -> None:
        by_workspace: dict[int, list[QueuedJob]] = defaultdict(list)
        for row in rows:
            by_workspace[row.workspace_id].append(
                QueuedJob(row.job_id, row.campaign_id, row.mailbox_id, row.due_ms)
            )
        for workspace, jobs in by_workspace.items():
            now_ms = await self._store.now_ms()
            horizon = self._loaded.get(workspace)
            limit = math.inf if horizon is None else _ms(horizon - _EPOCH)
            chosen = [
                job
                if delay_ms == 0
                else QueuedJob(
                    job.job_id, job.campaign_id, job.mailbox_id, max(job.due_ms, now_ms + delay_ms)
                )
                for job in jobs
                if job.due_ms <= limit
            ]
            await self._store.push(workspace, chosen, now_ms)


def stretch_of(row: Row[Any]) -> Stretch | Hold:
    """Return the open stretch of the earliest slot that a row of `load_budgets.sql` allows."""
    cadence = policy.cadence(row.cadence_ms, row.jitter_min_ms, row.jitter_max_ms, row.grace_ms)
    earliest = row.db_now + cadence.lead
    return compile_stretch(
        policy.window(row.windows, row.tz),
        row.day_cap,
        DayCount(row.day or date.min, row.day_used),
        earliest if row.next_at is None else max(earliest, row.next_at),
    )


def _ms(span: timedelta) -> int:
    return math.ceil(span / timedelta(milliseconds=1))
