"""Shaping of recipient domains: rules become budgets, and waiting jobs are spread over time.

`reserve_slots.sql` enforces spacing and daily maximum; what is spread here only
keeps the pacing store from looking at jobs that could not be sent yet.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, telemetry
from paceline_common.address import AddressHasher
from paceline_common.db import Database, Queries
from paceline_common.db.session import after_commit

Why = Literal["enter", "again", "anew"]

_HOSTS: Final[Mapping[str, int]] = {"host:google": 1, "host:microsoft": 2}
_EVERYBODY: Final = "*"
# A follow-up that is due later takes its place when it is due.
_HORIZON: Final = timedelta(minutes=1)
_BATCH: Final = 2_000
_DOMAINS: Final = 100
_LOOK_S: Final = 5.0

_log = telemetry.logger("scheduler.shaping")


class Shaper:
    """Keeps the budgets of recipient domains, and spreads their jobs.

    `wake` is called when jobs were moved that the pacer must hear of.
    """

    def __init__(
        self,
        db: Database,
        queries: Queries,
        hasher: Callable[[], Awaitable[AddressHasher]],
        wake: Callable[[], None],
    ) -> None:
        self._db = db
        self._queries = queries
        self._hasher = hasher
        self._wake = wake
        self._changed = asyncio.Event()

    async def meet(self, tx: AsyncConnection, domains: Iterable[tuple[int, int]]) -> None:
        """Give domains, as (workspace, domain), their budgets where rules ask for some."""
        keys = sorted(set(domains))
        await self._shape(tx, sorted({workspace for workspace, _ in keys}), keys, stale=False)

    async def refresh(
        self,
        tx: AsyncConnection,
        workspaces: Sequence[int],
        domains: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """Bring the budgets of some domains, or of all, in line with the rules; their waiting jobs
        are spread anew in the background."""
        await self._shape(tx, workspaces, domains, stale=True)
        after_commit(tx, "shaper", self._changed.set)

    async def enter(self, jobs: Mapping[int, Sequence[int]]) -> None:
        """Give jobs that are new in the queue, by workspace, their places."""
        async with self._db.transaction(worker=True) as tx:
            shaped = (
                await tx.execute(self._queries["load_shaped"], {"workspaces": list(jobs)})
            ).scalars()
            pairs = [(workspace, job) for workspace in shaped for job in jobs[workspace]]
            for n in range(0, len(pairs), _BATCH):
                await self._spread(tx, pairs[n : n + _BATCH], "enter")

    async def again(self, workspace_id: int, jobs: Sequence[int]) -> None:
        """Give jobs that were refused a slot for their recipient's domain another place."""
        async with self._db.transaction(worker=True) as tx:
            await self._spread(tx, [(workspace_id, job) for job in jobs], "again")

    async def run(self) -> None:
        """Spread anew what older rules have spread, until cancelled."""
        while True:
            self._changed.clear()
            if await self.respread() == _DOMAINS:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()

    async def respread(self) -> int:
        """Spread the waiting jobs of some domains whose rule has changed; return how many domains
        there were."""
        async with self._db.transaction(worker=True) as tx:
            stale = (
                await tx.execute(self._queries["load_stale_domains"], {"most": _DOMAINS})
            ).all()
        for row in stale:
            key = {"workspace": row.workspace_id, "domain": row.domain_id}
            async with self._db.transaction(worker=True) as tx:
                jobs = list((await tx.execute(self._queries["load_domain_jobs"], key)).scalars())
            for n in range(0, len(jobs), _BATCH):
                async with self._db.transaction(worker=True) as tx:
                    batch = [(row.workspace_id, job) for job in jobs[n : n + _BATCH]]
                    await self._spread(tx, batch, "anew")
                failpoints.hit("scheduler.after_spread")
            async with self._db.transaction(worker=True) as tx:
                await tx.execute(
                    self._queries["settle_domain"],
                    {**key, "spacing_ms": row.spacing_ms, "day_cap": row.day_cap},
                )
            if jobs:
                _log.info("recipients spread anew", count=len(jobs))
                self._wake()
        return len(stale)

    async def _spread(self, tx: AsyncConnection, jobs: Sequence[tuple[int, int]], why: Why) -> None:
        await tx.execute(
            self._queries["spread_jobs"],
            {
                "workspaces": [workspace for workspace, _ in jobs],
                "jobs": [job for _, job in jobs],
                "why": why,
                "horizon": _HORIZON,
            },
        )

    async def _shape(
        self,
        tx: AsyncConnection,
        workspaces: Sequence[int],
        domains: Sequence[tuple[int, int]] | None,
        *,
        stale: bool,
    ) -> None:
        rules = (
            await tx.execute(self._queries["load_shaping_rules"], {"workspaces": list(workspaces)})
        ).all()
        if not rules and not stale:
            return
        hasher = await self._hasher()
        await tx.execute(
            self._queries["shape_domains"],
            {
                "named": list(workspaces),
                "workspaces": [row.workspace_id for row in rules],
                "hashes": [
                    None
                    if row.pattern in _HOSTS or row.pattern == _EVERYBODY
                    else hasher.domain(row.pattern)
                    for row in rules
                ],
                "hosts": [_HOSTS.get(row.pattern) for row in rules],
                "spacings": [row.spacing_ms for row in rules],
                "caps": [row.daily_max for row in rules],
                "domain_workspaces": None if domains is None else [one for one, _ in domains],
                "domains": None if domains is None else [one for _, one in domains],
                "stale": stale,
            },
        )
