"""What the pacing store holds, derived from Postgres: mailboxes, routes and queues.

All of it can be written anew at any time; `rebuild` does it from nothing, in a
new epoch, so that proposals made of older state are refused.
"""

import asyncio
import json
import math
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, telemetry
from paceline_common.db import Database, Queries
from paceline_common.db.sql import number_array, text_array
from paceline_scheduler import policy
from paceline_scheduler.budgets import Budgets, opening_of, stretch_of
from paceline_scheduler.campaigns import Campaigns
from paceline_scheduler.domain.eligibility import Stretch
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.ledger import Ledger, Noted, of_mailbox
from paceline_scheduler.mailboxes import Mailboxes
from paceline_scheduler.pacing.base import (
    JobList,
    MailboxRecord,
    PacingStore,
    Place,
    Proposal,
    QueuedJob,
)
from paceline_scheduler.routes import Lanes, Members

# Jobs due later stay in Postgres alone: Redis holds what may soon be sent.
HORIZON: Final = timedelta(minutes=10)
_LIST: Final = 500
_LISTS: Final = 100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Ten million jobs are sorted before the first comes.
_READ_ALL: Final = text(
    "SELECT set_config('work_mem', '128MB', true), set_config('statement_timeout', '5min', true)"
)

_log = telemetry.logger("scheduler.rebuild")


class PacingState:
    """Writes the pacing store from Postgres, for one workspace at a time.

    Whoever writes mailboxes or routes holds the workspace's shard meanwhile, so
    that what was read last is written last, whichever scheduler it is.
    """

    def __init__(
        self,
        db: Database,
        queries: Queries,
        store: PacingStore,
        ledger: Ledger,
        rng: random.Random,
    ) -> None:
        self._db = db
        self._queries = queries
        self._store = store
        self._mailboxes = Mailboxes(queries)
        self._campaigns = Campaigns(queries)
        self._budgets = Budgets(queries)
        self._ledger = ledger
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
            # It waits for the others, however long they take.
            await lock.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            await lock.execute(
                text("SELECT pg_advisory_xact_lock(hashtext('scheduler.rebuild'), hashint8(:ws))"),
                {"ws": workspace_id},
            )
            await self.refresh(workspace_id)
            # Committed before the queue is read: what an older proposal takes
            # later is refused, what it took before is no longer queued.
            async with self._db.transaction([workspace_id]) as tx:
                epoch: int = (
                    await tx.execute(self._queries["next_epoch"], {"workspace": workspace_id})
                ).scalar_one()
            failpoints.hit("scheduler.after_epoch_commit")
            await self._store.clear(workspace_id)
            self._loaded.pop(workspace_id, None)
            # Postgres sorts the queue while the stretches are compiled here.
            loading = asyncio.create_task(self.load_due(workspace_id))
            try:
                await self.compile(workspace_id, None)
                await self.route(workspace_id)
            finally:
                jobs = await loading
            failpoints.hit("scheduler.before_store_opened")
            await self._store.open(workspace_id, epoch)
        _log.info("pacing state rebuilt", workspace_id=workspace_id, count=jobs)

    async def refresh(self, workspace_id: int) -> None:
        """Read all settings of a workspace: campaigns, mailboxes, domains."""
        async with self._db.transaction([workspace_id]) as tx:
            await self._campaigns.refresh(tx, None)
            await self._mailboxes.refresh(tx, None)
            await self._budgets.refresh(tx)

    async def load_due(self, workspace_id: int) -> int:
        """Push the jobs that came within the horizon since the last time; return how many."""
        pushed = 0
        now_ms = await self._store.now_ms()
        # The worker's policy needs no look at each of a million rows' tenant.
        async with self._db.transaction(worker=True) as tx:
            await tx.execute(_READ_ALL)
            now: datetime = (await tx.execute(text("SELECT clock_timestamp()"))).scalar_one()
            after = self._loaded.get(workspace_id)
            until = now + HORIZON
            arguments = {
                "workspace": workspace_id,
                "after": "-infinity" if after is None else after.isoformat(),
                "until": until,
                "most": _LIST,
            }
            lists: list[JobList] = []
            async with aclosing(_streamed(tx, self._queries["load_queue"], arguments)) as rows:
                async for row in rows:
                    lists.append(JobList(*row))
                    pushed += len(row[-1])
                    if len(lists) == _LISTS:
                        await self._store.push_lists(workspace_id, lists, now_ms)
                        lists.clear()
            await self._store.push_lists(workspace_id, lists, now_ms)
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
        by_workspace: dict[int, list[Row[Any]]] = defaultdict(list)
        for row in rows:
            by_workspace[row.workspace_id].append(row)
        for workspace, found in by_workspace.items():
            now_ms = await self._store.now_ms()
            horizon = self._loaded.get(workspace)
            limit = math.inf if horizon is None else _ms(horizon - _EPOCH)
            earliest = now_ms + delay_ms if delay_ms else 0
            # Who had their turn before keeps their place: in front, not behind the others.
            front = [
                _at_front(row)
                for row in found
                if row.had_turn and max(row.due_ms, earliest) <= now_ms
            ]
            await self._store.put_back(workspace, front)
            kept = {one.job_id for one in front}
            chosen = [
                QueuedJob(
                    row.job_id, row.campaign_id, row.mailbox_id, max(row.due_ms, earliest), row.host
                )
                for row in found
                if row.due_ms <= limit and row.job_id not in kept
            ]
            await self._store.push(workspace, chosen, now_ms)

    async def push_released(self, workspace_id: int, scope: str, refs: Sequence[int]) -> None:
        """Push the jobs that a gate (pool, enrollment) had held out of the store, if it is open."""
        async with self._db.transaction([workspace_id]) as tx:
            arguments = {"workspace": workspace_id, "scope": scope, "refs": refs}
            jobs = (await tx.execute(self._queries["load_released_jobs"], arguments)).scalars()
            released = list(jobs)
        if released:
            await self.push_jobs({workspace_id: released})

    async def route(self, workspace_id: int) -> None:
        """Write which campaigns are in rotation, and through which lanes each reaches mailboxes."""
        async with self._db.transaction([workspace_id]) as tx:
            lanes = await self._lock(tx, workspace_id)
            await self._write_routes(tx, workspace_id, lanes)

    async def compile(
        self,
        workspace_id: int,
        mailboxes: Sequence[int] | None,
        waits_ms: Mapping[int, int] | None = None,
    ) -> None:
        """Compile the next open stretch of some mailboxes, or of all, and write their records.

        One that may not send (inactive, a closed gate, no time ever) leaves
        rotation. `waits_ms` postpones the next look at single mailboxes, by Postgres's clock.
        """
        records: list[MailboxRecord] = []
        dropped: list[int] = []
        notes: list[Noted] = []
        stretches: list[tuple[Row[Any], Stretch]] = []
        async with self._db.transaction([workspace_id]) as tx:
            lanes = await self._lock(tx, workspace_id)
            members = await self._members(tx, workspace_id, mailboxes, lanes)
            arguments = {"workspace": workspace_id, "mailboxes": mailboxes}
            rows = (await tx.execute(self._queries["load_budgets"], arguments)).all()
            for row in rows:
                found = stretch_of(row)
                notes.append(of_mailbox(row, found))
                klass = members.classes.get(row.mailbox_id)
                if isinstance(found, Hold):
                    dropped.append(row.mailbox_id)
                    continue
                stretches.append((row, found))
                if klass is None:
                    # In no pool: it has no follow-ups either that could tell its class.
                    dropped.append(row.mailbox_id)
                    continue
                wait = (waits_ms or {}).get(row.mailbox_id, 0)
                records.append(
                    self._record(row, found, klass, members.places[row.mailbox_id], wait)
                )
            if stretches:
                await tx.execute(
                    self._queries["set_stretches"],
                    {
                        "workspace": workspace_id,
                        "mailboxes": number_array([row.mailbox_id for row, _ in stretches]),
                        "revisions": number_array([row.revision for row, _ in stretches]),
                        "open_froms": text_array([one.start.isoformat() for _, one in stretches]),
                        "open_untils": text_array([one.end.isoformat() for _, one in stretches]),
                        "day_caps": number_array([one.day_cap for _, one in stretches]),
                    },
                )
            await self._ledger.note(tx, workspace_id, notes)
            if lanes.has_grown:
                await self._write_routes(tx, workspace_id, lanes)
            known = {row.mailbox_id for row in rows}
            dropped += [one for one in mailboxes or () if one not in known]
            await self._store.drop_mailboxes(workspace_id, dropped)
            await self._store.set_mailboxes(workspace_id, records)
            if stretches:
                failpoints.hit("scheduler.before_stretches_commit")

    async def _lock(self, tx: AsyncConnection, workspace_id: int) -> Lanes:
        arguments = {"workspace": workspace_id}
        listed = (await tx.execute(self._queries["lock_shard"], arguments)).scalar_one_or_none()
        return Lanes(listed or ())

    async def _members(
        self,
        tx: AsyncConnection,
        workspace_id: int,
        mailboxes: Sequence[int] | None,
        lanes: Lanes,
    ) -> Members:
        arguments: dict[str, Any] = {"workspace": workspace_id}
        floors = list((await tx.execute(self._queries["load_floors"], arguments)).scalars())
        arguments["mailboxes"] = mailboxes
        rows = (await tx.execute(self._queries["load_pools"], arguments)).all()
        return Members.of(rows, floors, lanes)

    async def _write_routes(self, tx: AsyncConnection, workspace_id: int, lanes: Lanes) -> None:
        arguments = {"workspace": workspace_id}
        members = await self._members(tx, workspace_id, None, lanes)
        campaigns = (await tx.execute(self._queries["load_routes"], arguments)).all()
        if lanes.has_grown:
            listed = {"lanes": json.dumps(lanes.listed())}
            await tx.execute(self._queries["set_lanes"], {**arguments, **listed})
        await self._store.set_rotation(workspace_id, members.routes(campaigns, lanes))

    def _record(
        self,
        row: Row[Any],
        stretch: Stretch,
        klass: int,
        places: tuple[Place, ...],
        wait_ms: int,
    ) -> MailboxRecord:
        cadence = policy.cadence(row.cadence_ms, row.jitter_min_ms, row.jitter_max_ms, row.grace_ms)
        next_at = max(stretch.start, row.next_at or _EPOCH)
        opening = opening_of(row, stretch, cadence.every)
        if opening is not None:
            # Never a burst at an opening: the first slot lies within one cadence of it.
            next_at = max(next_at, cadence.first_after(opening, self._rng.random()))
        lead_ms = _ms(cadence.lead)
        earliest_ms = _ms(row.db_now - _EPOCH) + wait_ms if wait_ms else 0
        next_ms = _ms(next_at - _EPOCH)
        return MailboxRecord(
            mailbox_id=row.mailbox_id,
            eligible_ms=max(next_ms - lead_ms, earliest_ms),
            next_ms=next_ms,
            cadence_ms=row.cadence_ms,
            jitter_min_ms=row.jitter_min_ms,
            jitter_max_ms=row.jitter_max_ms,
            grace_ms=row.grace_ms,
            lead_ms=lead_ms,
            open_from_ms=_ms(stretch.start - _EPOCH),
            open_until_ms=math.floor((stretch.end - _EPOCH) / timedelta(milliseconds=1)),
            left=stretch.left,
            klass=klass,
            places=places,
        )


async def _streamed(
    tx: AsyncConnection, query: TextClause, arguments: Mapping[str, Any]
) -> AsyncGenerator[tuple[Any, ...], None]:
    """Yield the rows of a query as they come, whatever their number.

    Not through a cursor of the server's, for which nothing is planned in parallel.
    """
    compiled = query.compile(dialect=tx.dialect)
    driver: Any = (await tx.get_raw_connection()).driver_connection
    async with driver.cursor() as cursor:
        async for row in cursor.stream(compiled.string, compiled.construct_params(arguments)):
            yield row


def _at_front(row: Row[Any]) -> Proposal:
    """Return a queued job, a row of `load_jobs.sql`, as if a slot had just been refused to it."""
    sticky = row.mailbox_id is not None
    return Proposal(
        mailbox_id=row.mailbox_id or 0,
        job_id=row.job_id,
        campaign_id=row.campaign_id,
        pool_id=0,
        slot_ms=0,
        not_after_ms=0,
        sticky=sticky,
        host=0 if sticky else row.host,
        due_ms=row.due_ms,
    )


def _ms(span: timedelta) -> int:
    return math.ceil(span / timedelta(milliseconds=1))
