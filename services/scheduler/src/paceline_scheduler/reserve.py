"""The pacing loop: the store proposes slots, Postgres leases them or says why not."""

import asyncio
import random
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text

from paceline_common import failpoints, telemetry
from paceline_common.db import Database, Outbox, Queries
from paceline_common.db.sql import number_array
from paceline_common.telemetry import Metrics
from paceline_scheduler.ledger import Ledger, Noted
from paceline_scheduler.pacing.base import Batch, PacingStore, Proposal
from paceline_scheduler.rebuild import PacingState
from paceline_scheduler.shaping import Shaper

BATCH: Final = 500
# How often to look for changes that others wrote; what this process writes wakes the loop.
_POLL_S: Final = 0.1
_IDLE_POLL_S: Final = 0.5
_IDLE_LOOKS: Final = 20
_SWEEP_S: Final = 1.0
_GATHER_S: Final = 0.05
# Each keeps a backend of Postgres busy.
_LEASES_AT_ONCE: Final = 2
_HORIZON_S: Final = 120.0
_CHANGES: Final = 500
# A sender that claims at the last moment has committed long before.
_LEASE_MARGIN: Final = timedelta(seconds=2)
_AGAIN_MS: Final = 200
_BUSY_FIRST_MS: Final = 50
_BUSY_CAP_MS: Final = 1000

_log = telemetry.logger("scheduler.reserve")


# Refusals that speak of the store's state, not of any rule.
_STALE: Final = frozenset({"job", "epoch", "clock", "stretch", "rollover", "campaign"})
_SHAPED: Final = frozenset({"recipient_spacing", "recipient_daily_max"})
# Refusals that a route made of what is known now would not have proposed.
_MISROUTED: Final = frozenset({"campaign", "type_restricted", "health_below_floor"})


# A workspace, its epoch, a proposal, and the draw that made its jitter.
_Proposed = tuple[int, int, Proposal, float]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A proposal that Postgres did not lease, with `reserve_slots.sql`'s reason and numbers."""

    proposal: Proposal
    reason: str
    used: int | None = None
    limit: int | None = None
    until: datetime | None = None

    def noted(self) -> Noted | None:
        """Return what the ledger says of the job, None where no rule refused it."""
        if self.reason in _STALE:
            return None
        scope = self.reason.removeprefix("suspended:")
        reason = self.reason if scope == self.reason else f"{scope}_suspended"
        inputs = {"mailbox": self.proposal.mailbox_id, "used": self.used, "limit": self.limit}
        return Noted("job", self.proposal.job_id, reason, self.until, inputs)


class Pacer:
    """Runs the loop for all workspaces of the installation; several pacers may run at once.

    `wake` is set by whoever has written changes that the loop should look at now.
    """

    def __init__(
        self,
        db: Database,
        queries: Queries,
        store: PacingStore,
        state: PacingState,
        outbox: Outbox,
        ledger: Ledger,
        shaper: Shaper,
        metrics: Metrics,
        rng: random.Random,
        *,
        wake: asyncio.Event,
    ) -> None:
        self._db = db
        self._queries = queries
        self._store = store
        self._state = state
        self._outbox = outbox
        self._ledger = ledger
        self._shaper = shaper
        self._rng = rng
        self._leased = metrics.counter("paceline_slots_leased_total")
        self._refused = metrics.counter("paceline_slots_refused_total")
        self._expired = metrics.counter("paceline_leases_expired_total")
        self._rebuilt = metrics.counter("paceline_pacing_rebuilds_total")
        self.wake = wake
        # When to call the store next, by workspace, in the loop's seconds.
        self._due: dict[int, float] = {}
        self._busy: dict[tuple[int, int], int] = {}

    async def run(self) -> None:
        """Pace until cancelled. Begins by writing the store anew: whatever another run left of a
        batch is queued again. Raises what the database or the store raises."""
        loop = asyncio.get_running_loop()
        for workspace in await self._state.workspaces():
            await self._rebuild(workspace)
        swept = loaded = loop.time()
        idle = 0
        task = asyncio.current_task()
        # redis-py 8.1 can lose a cancellation that meets one of its calls.
        while task is None or not task.cancelling():
            self.wake.clear()
            told = await self.tell_changes()
            more = told == _CHANGES
            idle = 0 if told else idle + 1
            now = loop.time()
            if now - swept >= _SWEEP_S:
                swept = now
                await self.sweep()
            if now - loaded >= _HORIZON_S:
                loaded = now
                for workspace in list(self._due):
                    await self._state.load_due(workspace)
                    self._due[workspace] = now
            await self.reserve_ready(now)
            if more:
                continue
            pause = min((due - loop.time() for due in self._due.values()), default=_IDLE_POLL_S)
            poll = _POLL_S if idle < _IDLE_LOOKS else _IDLE_POLL_S
            with suppress(TimeoutError):
                async with asyncio.timeout(min(max(pause, 0.001), poll)):
                    await self.wake.wait()
                    idle = 0
            if pause > 0:
                # What falls due within moments is decided, loaded and claimed together. Slots
                # are counted from the decision on, so that no lead gets shorter.
                await asyncio.sleep(_GATHER_S)

    async def tell_changes(self) -> int:
        """Tell the store what changed in Postgres; return how many changes it took."""
        async with self._db.transaction(worker=True) as tx:
            rows = (await tx.execute(self._queries["take_changes"], {"most": _CHANGES})).all()
            if not rows:
                return 0
            jobs: dict[int, list[int]] = defaultdict(list)
            gates: dict[int, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
            for row in rows:
                if row.jobs is not None:
                    jobs[row.workspace_id] += row.jobs
                else:
                    gates[row.workspace_id][row.scope].add(row.ref)
            now = asyncio.get_running_loop().time()
            for workspace in {*jobs, *gates}:
                if workspace not in self._due:
                    # As long as that takes, nothing is said here.
                    await tx.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
                    await self._rebuild(workspace)
                self._due[workspace] = now
            # Gates first: the jobs meet the rotation as it is now.
            for workspace, scopes in gates.items():
                await self._apply_gates(workspace, scopes)
            if jobs:
                await self._shaper.enter(jobs)
                await self._state.push_jobs(jobs)
            # The rows go with the commit: told at least once.
            failpoints.hit("scheduler.before_changes_commit")
        failpoints.hit("scheduler.after_changes_commit")
        return len(rows)

    async def _apply_gates(self, workspace: int, scopes: dict[str, set[int]]) -> None:
        # A mailbox of another class, or none, changes routes as well.
        if scopes.keys() & {"workspace", "campaign", "pool", "mailbox"}:
            await self._state.route(workspace)
        if scopes.keys() & {"workspace", "pool", "domain"}:
            await self._state.compile(workspace, None)
        elif mailboxes := scopes.get("mailbox", set()) | scopes.get("capacity", set()):
            await self._state.compile(workspace, sorted(mailboxes))
        for scope in ("pool", "enrollment"):
            if scope in scopes:
                await self._state.push_released(workspace, scope, sorted(scopes[scope]))

    async def sweep(self) -> None:
        """Take back leases nobody claimed; close suspensions whose time is over."""
        async with self._db.transaction(worker=True) as tx:
            await tx.execute(text("SET LOCAL lock_timeout = '1s'"))
            arguments = {"margin": _LEASE_MARGIN, "most": BATCH}
            expired: int = (
                await tx.execute(self._queries["requeue_expired"], arguments)
            ).scalar_one()
            ended: int = (await tx.execute(self._queries["close_expired_suspensions"])).scalar_one()
        if ended:
            failpoints.hit("scheduler.after_suspensions_ended")
        if expired:
            failpoints.hit("scheduler.after_leases_expired")
            self._expired.inc(expired)
            _log.warning("leases expired unclaimed", count=expired)

    async def reserve_ready(self, now: float) -> None:
        """Call the store for each workspace whose time has come, and lease what it proposes.

        Goes on while there is more, for a moment at most. The store proposes the next batch while
        Postgres leases those before; after refusals it is corrected before it proposes again.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + _POLL_S
        lost: list[int] = []
        refused: dict[int, list[Refusal]] = defaultdict(list)
        leases: deque[asyncio.Task[None]] = deque()
        try:
            while ready := [one for one, due in self._due.items() if due <= now]:
                stale, proposals, lost = await self._propose(ready)
                # What is stale is compiled of what is used with the batches before.
                while leases and (stale or len(leases) == _LEASES_AT_ONCE):
                    await leases.popleft()
                for workspace, mailboxes in stale.items():
                    await self._state.compile(workspace, mailboxes)
                    self._due[workspace] = loop.time()
                leases.append(asyncio.create_task(self._lease(proposals, refused)))
                now = loop.time()
                if lost or refused or now >= end:
                    break
        finally:
            # All come to their end before one's failure is told.
            for ended in await asyncio.gather(*leases, return_exceptions=True):
                if ended is not None:
                    raise ended
        for workspace, refusals in refused.items():
            await self._correct(workspace, refusals)
        for workspace in lost:
            _log.warning("pacing state lost", workspace_id=workspace)
            await self._rebuild(workspace)

    async def _propose(
        self, workspaces: Sequence[int]
    ) -> tuple[dict[int, list[int]], list[_Proposed], list[int]]:
        """Return stale mailboxes by workspace, proposals, and workspaces whose state is gone."""
        loop = asyncio.get_running_loop()
        stale: dict[int, list[int]] = {}
        proposals: list[_Proposed] = []
        lost: list[int] = []
        for workspace in workspaces:
            draws = [self._rng.random() for _ in range(BATCH)]
            picks = [self._rng.random() for _ in range(BATCH)]
            batch = await self._store.reserve(workspace, draws, picks)
            if batch is None:
                lost.append(workspace)
                continue
            if batch.proposals:
                failpoints.hit("scheduler.after_proposal")
            self._due[workspace] = loop.time() + _wait_s(batch)
            if batch.stale:
                stale[workspace] = list(batch.stale)
            proposals += [
                (workspace, batch.epoch, one, draw)
                for one, draw in zip(batch.proposals, draws, strict=False)
            ]
        return stale, proposals, lost

    async def _lease(
        self, proposals: Sequence[_Proposed], refused: dict[int, list[Refusal]]
    ) -> None:
        """Lease the proposed slots, a batch per transaction; add what Postgres refuses."""
        for n in range(0, len(proposals), BATCH):
            batch = proposals[n : n + BATCH]
            refusals = await self._lease_batch(batch)
            for workspace, refusal in refusals:
                refused[workspace].append(refusal)
            leased = len(batch) - len(refusals)
            if leased:
                self._outbox.wake.set()
                self._leased.inc(leased)

    async def _lease_batch(self, proposed: Sequence[_Proposed]) -> list[tuple[int, Refusal]]:
        async with self._db.transaction(worker=True) as tx:
            rows = (
                await tx.execute(
                    self._queries["reserve_slots"],
                    {
                        "workspaces": number_array([workspace for workspace, _, _, _ in proposed]),
                        "epochs": number_array([epoch for _, epoch, _, _ in proposed]),
                        "mailboxes": number_array([one.mailbox_id for _, _, one, _ in proposed]),
                        "jobs": number_array([one.job_id for _, _, one, _ in proposed]),
                        "pools": number_array([one.pool_id for _, _, one, _ in proposed]),
                        "slots": number_array([one.slot_ms for _, _, one, _ in proposed]),
                        "not_afters": number_array([one.not_after_ms for _, _, one, _ in proposed]),
                        "draws": number_array([draw for _, _, _, draw in proposed]),
                    },
                )
            ).all()
            refusals: list[tuple[int, Refusal]] = []
            for row in rows:
                workspace, _, proposal, _ = proposed[row.n - 1]
                refusal = Refusal(proposal, row.reason, row.used, row.cap, row.until)
                refusals.append((workspace, refusal))
            notes: dict[int, list[Noted]] = defaultdict(list)
            for workspace, refusal in refusals:
                if note := refusal.noted():
                    notes[workspace].append(note)
            for workspace in sorted(notes):
                await self._ledger.note(tx, workspace, notes[workspace])
            failpoints.hit("scheduler.before_lease_commit")
        failpoints.hit("scheduler.after_lease_commit")
        if self._busy:
            held = {(workspace, one.proposal.mailbox_id) for workspace, one in refusals}
            for workspace, _, proposal, _ in proposed:
                key = (workspace, proposal.mailbox_id)
                if key not in held:
                    self._busy.pop(key, None)
        return refusals

    async def _correct(self, workspace: int, refused: Sequence[Refusal]) -> None:
        """Bring the store back in line with Postgres after refusals."""
        loop = asyncio.get_running_loop()
        for one in refused:
            self._refused.labels(one.reason).inc()
        self._due[workspace] = loop.time()
        reasons = {one.reason for one in refused}
        if "epoch" in reasons:
            await self._rebuild(workspace)
            return
        await self._store.put_back(workspace, [one.proposal for one in refused if _goes_back(one)])
        if "campaign" in reasons:
            await self._state.refresh(workspace)
        if reasons & _MISROUTED or any(one.startswith("suspended:") for one in reasons):
            await self._state.route(workspace)
        waits = {one.proposal.mailbox_id: self._backoff_ms(workspace, one) for one in refused}
        await self._state.compile(workspace, sorted(waits), waits)
        shaped = [one.proposal.job_id for one in refused if one.reason in _SHAPED]
        if shaped:
            await self._shaper.again(workspace, shaped)
            await self._state.push_jobs({workspace: shaped})
        gone = [one.proposal.job_id for one in refused if one.reason == "job"]
        if gone:
            # Cancelled, not due, another mailbox's, or locked just now: those still queued are
            # looked at again soon.
            await self._state.push_jobs({workspace: gone}, delay_ms=_AGAIN_MS)

    def _backoff_ms(self, workspace: int, refusal: Refusal) -> int:
        """Return how long to leave the mailbox alone: longer each time until it leases again."""
        match refusal.reason:
            case "clock":
                return _BUSY_CAP_MS
            case "job" | "recipient_spacing" | "recipient_daily_max":
                return 0
        key = (workspace, refusal.proposal.mailbox_id)
        wait = self._busy.get(key, _BUSY_FIRST_MS if refusal.reason == "outstanding" else 0)
        self._busy[key] = min(max(2 * wait, _BUSY_FIRST_MS), _BUSY_CAP_MS)
        return wait

    async def _rebuild(self, workspace: int) -> None:
        self._rebuilt.inc()
        await self._state.rebuild(workspace)
        self._due[workspace] = asyncio.get_running_loop().time()


def _goes_back(refusal: Refusal) -> bool:
    """Tell whether the job goes back to the front of its list.

    Not those that are gone, those that wait for their recipient's domain, and
    those that a closed gate of the enrollment, or of a follow-up's pool, holds:
    its opening brings them back.
    """
    match refusal.reason:
        case "job" | "suspended:enrollment" | "recipient_spacing" | "recipient_daily_max":
            return False
        case "suspended:pool":
            return not refusal.proposal.sticky
        case _:
            return True


def _wait_s(batch: Batch) -> float:
    if batch.proposals and len(batch.proposals) >= BATCH:
        return 0.0
    if batch.wake_ms is None:
        return 60.0
    return max(0, batch.wake_ms - batch.now_ms) / 1000
