"""Drafts that may stand with a provider and that nobody has written down.

A draft is made ahead of its slot and written down with the claim. In between it is known only
to the process that made it: one that dies there, or that loses the answer, would leave it in
its owner's Drafts for ever. So the intent is committed first, and once its lease is over the
mailbox's drafts are looked through for what came of it.

Such a draft was never claimed, and a lease that is over cannot be: nobody sends it. Destroying
it is tidying up; that it was there to be destroyed proves once more that it was not sent.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from sqlalchemy import Row

from paceline_common import failpoints, ids, telemetry
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_providers.base import Fence
from paceline_providers.proof import Destroyed, Gone, Prover, Unavailable
from paceline_sender.accounts import Accounts
from paceline_sender.batch import Batcher
from paceline_sender.domain import message
from paceline_sender.drafts import Provers
from paceline_sender.drafts import prover as prover_of
from paceline_sender.job import Job

_LINGER_S: Final = 0.002
_AT_ONCE: Final = 500
_LEASE_S: Final = 900.0
# What a provider could not be asked is asked again, for a week.
_AGAIN: Final = timedelta(hours=1)
_KEPT: Final = timedelta(days=7)
# Clocks of providers differ from ours.
_EARLIER: Final = timedelta(minutes=10)

log = telemetry.logger("sender.intents")


class Keys(Protocol):
    """Makes the MACs of jobs' tokens."""

    async def mac(self, messages: Sequence[bytes]) -> list[str]: ...


class Intents:
    """Notes drafts before they are made, and finds those that nobody wrote down.

    `late_by`: by kind of mailbox, how long after a lease's end the request that makes its
    draft may still be under way.
    """

    def __init__(
        self,
        db: Database,
        accounts: Accounts,
        transport: Provers,
        keys: Keys,
        *,
        first_look: timedelta,
        late_by: Mapping[str, timedelta],
        every_s: float,
        jobs_per_batch: int,
    ) -> None:
        self._db = db
        self._accounts = accounts
        self._transport = transport
        self._keys = keys
        self._first_look = first_look
        self._late_by = late_by
        self._every_s = every_s
        self._queries = Queries("paceline_sender")
        self._notes = Batcher(self._note, linger_s=_LINGER_S, limit=jobs_per_batch, lanes=2)

    async def note(self, job: Job, provider: str) -> None:
        """Return when it is committed that a draft of this lease may be made."""
        await self._notes.put((job, provider))
        failpoints.hit("sender.draft_intended")

    async def _note(self, batch: Sequence[tuple[Job, str]]) -> list[None]:
        jobs = [job for job, _ in batch]
        async with self._db.transaction(job.workspace_id for job in jobs) as tx:
            await tx.execute(
                self._queries["intend_drafts"],
                {
                    "workspaces": [job.workspace_id for job in jobs],
                    "jobs": [job.job_id for job in jobs],
                    "fences": [job.fence for job in jobs],
                    "mailboxes": [job.mailbox_id for job in jobs],
                    "providers": [provider for _, provider in batch],
                    "not_afters": [job.not_after for job in jobs],
                    "first_look_s": self._first_look.total_seconds(),
                },
            )
        return [None] * len(batch)

    async def run(self) -> None:
        """Look from time to time until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            while await self.sweep() == _AT_ONCE:
                pass

    async def sweep(self) -> int:
        """Look for what is due; return how many intents that were."""
        async with self._db.transaction(worker=True) as tx:
            result = await tx.execute(
                self._queries["take_intents"], {"most": _AT_ONCE, "lease_s": _LEASE_S}
            )
            rows = result.all()
        by_mailbox: dict[tuple[int, int], list[Row[Any]]] = defaultdict(list)
        for row in rows:
            by_mailbox[row.workspace_id, row.mailbox_id].append(row)
        for mailbox, mine in by_mailbox.items():
            await self._look(*mailbox, mine)
        return len(rows)

    async def _look(self, workspace_id: int, mailbox_id: int, rows: Sequence[Row[Any]]) -> None:
        prover = await prover_of(self._accounts, self._transport, workspace_id, mailbox_id)
        found: Mapping[str, tuple[Fence, ...]] | Unavailable
        tokens = await self._tokens(rows)
        if isinstance(prover, Unavailable):
            found = prover
        else:
            since = min(row.created_at for row in rows) - _EARLIER
            found = await prover.find_drafts(frozenset(tokens.values()), since)
        for row in rows:
            if isinstance(found, Unavailable):
                # Without the mailbox, or drafts in its grant, it can never be asked.
                never = found.outcome_class is None or row.db_now - row.created_at > _KEPT
                await self._settle(row, None if never else row.db_now + _AGAIN)
            else:
                assert not isinstance(prover, Unavailable)
                drafts = found.get(tokens[row.job_id, row.fence], ())
                await self._settle(row, await self._tidied(prover, row, drafts))

    async def _tidied(
        self, prover: Prover, row: Row[Any], drafts: Sequence[Fence]
    ) -> datetime | None:
        """Destroy the intent's own among the job's drafts; return when to look again, if at all."""
        now: datetime = row.db_now
        if drafts:
            async with self._db.transaction([row.workspace_id]) as tx:
                named = {
                    "workspace": row.workspace_id, "job": row.job_id, "fence": row.fence,
                    "mailbox": row.mailbox_id,
                }  # fmt: skip
                other = (await tx.execute(self._queries["find_other_drafts"], named)).one()
            if other.is_again:
                # Which of them the later lease is about to send, nobody can tell yet.
                return now + self._first_look
            for fence in drafts:
                if fence.draft_id in other.known:
                    continue
                match await prover.destroy(fence):
                    case Destroyed() | Gone():
                        failpoints.hit("sender.draft_destroyed")
                        job = ids.encode("job", row.job_id)
                        log.warning("draft that nobody knew destroyed", job=job, fence=row.fence)
                    case Unavailable():
                        return now + _AGAIN
        over: datetime = row.not_after + self._late_by.get(row.provider, timedelta(0))
        return over if now < over else None

    async def _tokens(self, rows: Sequence[Row[Any]]) -> dict[tuple[int, int], str]:
        """Return each job's token, by job and fence."""
        names = [(ids.encode("ws", r.workspace_id), ids.encode("job", r.job_id)) for r in rows]
        macs = await self._keys.mac([message.job_mac_input(*name) for name in names])
        return {
            (row.job_id, row.fence): message.job_token(*name, mac)
            for row, name, mac in zip(rows, names, macs, strict=True)
        }

    async def _settle(self, row: Row[Any], look_at: datetime | None) -> None:
        async with self._db.transaction([row.workspace_id]) as tx:
            await tx.execute(
                self._queries["settle_intent"],
                {
                    "workspace": row.workspace_id, "job": row.job_id, "fence": row.fence,
                    "look_at": look_at,
                },
            )  # fmt: skip
