"""Contact pressure: what is known of leads, who waits for another campaign, the company stop."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, telemetry
from paceline_common.db import Database, Queries
from paceline_common.db.session import after_commit
from paceline_scheduler.domain.company import is_company
from paceline_scheduler.domain.contact import Pressure, Sibling, must_wait, not_before

_BATCH: Final = 500
# Who is not told of at once: what other services end, and what was locked when its turn came.
_SWEEP_S: Final = 60.0
_GATHER_S: Final = 0.05

_log = telemetry.logger("scheduler.contact")

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Known:
    """A lead (None: there is none), its enrollments, and when which campaign wrote to it last."""

    lead_id: int | None = None
    siblings: tuple[Sibling, ...] = ()
    contacted_at: datetime | None = None
    contacted_campaign_id: int | None = None


def pressure(row: Row[Any]) -> Pressure:
    """Return what holds for a campaign, a row of `load_campaigns.sql`."""
    return Pressure(row.parallel, timedelta(days=row.min_days))


async def load_known(
    tx: AsyncConnection, queries: Queries, addresses: Collection[Key]
) -> dict[Key, Known]:
    """Return the known among leads, by (workspace, address); the caller holds the addresses."""
    rows = await tx.execute(
        queries["load_siblings"],
        {
            "workspaces": [workspace for workspace, _ in addresses],
            "addresses": [address for _, address in addresses],
        },
    )
    return {
        (row.workspace_id, row.address_id): Known(
            row.lead_id,
            tuple(
                Sibling(enrollment, campaign, active, alone, waits)
                for enrollment, campaign, active, alone, waits in zip(
                    row.enrollments, row.campaigns, row.actives, row.alones, row.waits, strict=True
                )
            ),
            row.contacted_at,
            row.contacted_campaign_id,
        )
        for row in rows
    }


async def add_first_jobs(
    tx: AsyncConnection,
    queries: Queries,
    enrollments: Sequence[tuple[Row[Any], Pressure]],
    known: dict[Key, Known],
) -> int:
    """Make first jobs for enrollments (workspace_id, enrollment_id, campaign_id, address_id) that
    are locked and have none; those of campaigns without steps get none. Returns how many."""
    dues = []
    for row, rules in enrollments:
        lead = known.get((row.workspace_id, row.address_id), Known())
        dues.append(
            not_before(row.campaign_id, rules, lead.contacted_at, lead.contacted_campaign_id)
        )
    made: int = (
        await tx.execute(
            queries["add_first_jobs"],
            {
                "workspaces": [row.workspace_id for row, _ in enrollments],
                "enrollments": [row.enrollment_id for row, _ in enrollments],
                "not_befores": dues,
            },
        )
    ).scalar_one()
    return made


class Holds:
    """Lets enrollments go on once no other campaign has their lead any more.

    What is held is decided from the rows, under the lock of the lead's address,
    which enrollment takes as well: nobody is forgotten, and at most one goes on.
    """

    def __init__(self, db: Database, queries: Queries) -> None:
        self._db = db
        self._queries = queries
        self._leads: dict[int, set[int]] = defaultdict(set)
        self._all: set[int] = set()
        self._wake = asyncio.Event()

    async def ended(self, tx: AsyncConnection, enrollments: Sequence[Key]) -> None:
        """Have leads looked at once `tx` commits, of which it ends these enrollments."""
        rows = (
            await tx.execute(
                self._queries["load_waiting_leads"],
                {
                    "workspaces": [workspace for workspace, _ in enrollments],
                    "enrollments": [enrollment for _, enrollment in enrollments],
                },
            )
        ).all()
        if rows:
            after_commit(tx, "holds", lambda: self._add(rows))

    def look(self, workspaces: Iterable[int]) -> None:
        """Have everybody looked at who waits in these workspaces: their rules may have changed."""
        self._all |= set(workspaces)
        self._wake.set()

    def _add(self, rows: Iterable[Row[Any]]) -> None:
        for row in rows:
            self._leads[row.workspace_id].add(row.lead_id)
        self._wake.set()

    async def run(self) -> None:
        """Release until cancelled: named leads soon, all others every minute."""
        loop = asyncio.get_running_loop()
        swept = -_SWEEP_S
        while True:
            if loop.time() - swept >= _SWEEP_S:
                swept = loop.time()
                await self.sweep()
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_S - (loop.time() - swept)):
                    await self._wake.wait()
                    await asyncio.sleep(_GATHER_S)
            self._wake.clear()
            waiting, self._leads = self._leads, defaultdict(set)
            if workspaces := sorted(self._all):
                self._all.clear()
                await self.release(workspaces, None)
            for workspace, leads in waiting.items():
                await self.release([workspace], sorted(leads))

    async def sweep(self) -> int:
        """Look at everybody who waits, in all workspaces; return how many go on."""
        async with self._db.transaction(worker=True) as tx:
            workspaces = list((await tx.execute(self._queries["load_held_workspaces"])).scalars())
        return await self.release(workspaces, None) if workspaces else 0

    async def release(self, workspaces: Sequence[int], leads: Sequence[int] | None) -> int:
        """Let those go on that need wait no longer, of some leads or of all; return how many."""
        released = 0
        while True:
            async with self._db.transaction(workspaces) as tx:
                found = (
                    await tx.execute(self._queries["load_held"], {"leads": leads, "most": _BATCH})
                ).all()
                freed = await self._release(tx, found) if found else 0
            if freed:
                failpoints.hit("scheduler.after_holds_released")
            released += freed
            if len(found) < _BATCH or not freed:
                break
        if released:
            _log.info("enrollments go on", count=released)
        return released

    async def _release(self, tx: AsyncConnection, found: Sequence[Row[Any]]) -> int:
        # Enrollments before addresses: the order of the house.
        held = (
            await tx.execute(
                self._queries["lock_held"],
                {
                    "workspaces": [row.workspace_id for row in found],
                    "enrollments": [row.enrollment_id for row in found],
                },
            )
        ).all()
        if not held:
            return 0
        keys = sorted({(row.workspace_id, row.address_id) for row in held})
        await tx.execute(
            self._queries["lock_recipients"],
            {
                "workspaces": [workspace for workspace, _ in keys],
                "addresses": [address for _, address in keys],
            },
        )
        known = await load_known(tx, self._queries, keys)
        rules = await load_pressures(
            tx, self._queries, {(row.workspace_id, row.campaign_id) for row in held}
        )
        free = [
            (row, rules[row.workspace_id, row.campaign_id])
            for row in held
            if not must_wait(
                row.campaign_id,
                rules[row.workspace_id, row.campaign_id],
                known[row.workspace_id, row.address_id].siblings,
                row.enrollment_id,
            )
        ]
        if not free:
            return 0
        await tx.execute(
            self._queries["release_held"],
            {
                "workspaces": [row.workspace_id for row, _ in free],
                "enrollments": [row.enrollment_id for row, _ in free],
            },
        )
        await add_first_jobs(tx, self._queries, free, known)
        return len(free)


async def load_pressures(
    tx: AsyncConnection, queries: Queries, campaigns: Collection[Key]
) -> dict[Key, Pressure]:
    """Return what holds for campaigns, by (workspace, campaign)."""
    rows = await tx.execute(
        queries["load_pressures"],
        {
            "workspaces": [workspace for workspace, _ in campaigns],
            "campaigns": [campaign for _, campaign in campaigns],
        },
    )
    return {(row.workspace_id, row.campaign_id): pressure(row) for row in rows}


async def load_colleagues(
    tx: AsyncConnection,
    queries: Queries,
    free_mail: Container[str],
    enrollments: Sequence[Key],
) -> list[Key]:
    """Return the other active enrollments that end because these were answered: those of leads of
    the same company, where the workspace wants that."""
    rows = await tx.execute(
        queries["load_companies"],
        {
            "workspaces": [workspace for workspace, _ in enrollments],
            "enrollments": [enrollment for _, enrollment in enrollments],
        },
    )
    companies = sorted(
        (row.workspace_id, row.domain_id) for row in rows if is_company(row.domain, free_mail)
    )
    if not companies:
        return []
    found = await tx.execute(
        queries["load_colleagues"],
        {
            "workspaces": [workspace for workspace, _ in companies],
            "domains": [domain for _, domain in companies],
        },
    )
    answered = set(enrollments)
    return [key for row in found if (key := (row.workspace_id, row.enrollment_id)) not in answered]
