"""The pacing store in this process's memory: for tests, and for a virtual clock."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from paceline_scheduler.pacing.base import Batch, MailboxRecord, Proposal, QueuedJob

_STALE_MS: Final = 1000


@dataclass(slots=True)
class _Shard:
    epoch: int | None = None
    turn: int = 0
    ready: dict[int, int] = field(default_factory=dict)
    idle: dict[int, int] = field(default_factory=dict)
    mailboxes: dict[int, MailboxRecord] = field(default_factory=dict)
    due: dict[tuple[str, int], int] = field(default_factory=dict)
    queues: dict[str, deque[int]] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    route: dict[int, tuple[int, ...]] = field(default_factory=dict)


class MemoryPacing:
    """The semantics of `reserve_batch.lua`, on a clock passed in (ms since the epoch)."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._shards: dict[int, _Shard] = {}

    async def reserve(self, workspace_id: int, draws: Sequence[float]) -> Batch | None:
        shard = self._shard(workspace_id)
        if shard.epoch is None:
            return None
        now = self._clock()
        for (queue, job), due_ms in sorted(shard.due.items(), key=lambda item: item[1]):
            if due_ms <= now:
                del shard.due[queue, job]
                self._queue(shard, queue).append(job)
                self._wake(shard, queue)
        proposals: list[Proposal] = []
        stale: list[int] = []
        eligible = sorted((at, str(mailbox)) for mailbox, at in shard.ready.items() if at <= now)
        for at, name in eligible[: len(draws)]:
            mailbox = int(name)
            record = shard.mailboxes.get(mailbox)
            if record is None:
                del shard.ready[mailbox]
                continue
            slot = max(now + record.lead_ms, record.next_ms, record.open_from_ms)
            if slot >= record.open_until_ms or record.left == 0:
                stale.append(mailbox)
                shard.ready[mailbox] = now + _STALE_MS
            elif slot - record.lead_ms > now:
                shard.ready[mailbox] = slot - record.lead_ms
            elif (found := self._next_job(shard, record)) is None:
                del shard.ready[mailbox]
                shard.idle[mailbox] = at
            else:
                job, campaign, pool = found
                spread = record.jitter_max_ms - record.jitter_min_ms
                jitter = record.jitter_min_ms + int(spread * draws[len(proposals)])
                record = replace(
                    record,
                    next_ms=slot + record.cadence_ms + jitter,
                    left=record.left - (record.left > 0),
                )
                shard.mailboxes[mailbox] = record
                shard.ready[mailbox] = record.next_ms - record.lead_ms
                not_after = min(slot + record.grace_ms, record.open_until_ms)
                proposals.append(Proposal(mailbox, job, campaign, pool, slot, not_after))
        wake = min((*shard.ready.values(), *shard.due.values()), default=None)
        return Batch(shard.epoch, now, wake, tuple(proposals), tuple(stale))

    async def push(self, workspace_id: int, jobs: Sequence[QueuedJob], now_ms: int) -> None:
        shard = self._shard(workspace_id)
        for job in jobs:
            if job.due_ms > now_ms:
                shard.due[job.queue, job.job_id] = job.due_ms
            else:
                self._queue(shard, job.queue).append(job.job_id)
                self._wake(shard, job.queue)

    async def put_back(self, workspace_id: int, refused: Sequence[Proposal]) -> None:
        shard = self._shard(workspace_id)
        for one in reversed(refused):
            self._queue(shard, one.queue).appendleft(one.job_id)
            self._wake(shard, one.queue)

    async def set_mailboxes(self, workspace_id: int, records: Sequence[MailboxRecord]) -> None:
        shard = self._shard(workspace_id)
        for one in records:
            shard.mailboxes[one.mailbox_id] = one
            shard.idle.pop(one.mailbox_id, None)
            shard.ready[one.mailbox_id] = one.eligible_ms

    async def drop_mailboxes(self, workspace_id: int, mailbox_ids: Sequence[int]) -> None:
        shard = self._shard(workspace_id)
        for mailbox in mailbox_ids:
            for table in (shard.mailboxes, shard.ready, shard.idle):
                table.pop(mailbox, None)

    async def set_rotation(self, workspace_id: int, campaigns: Mapping[int, Sequence[int]]) -> None:
        shard = self._shard(workspace_id)
        shard.route = {one: tuple(pools) for one, pools in campaigns.items()}
        shard.turns = {one: shard.turns.get(one, 0) for one in campaigns}
        self._wake(shard, "c")

    async def clear(self, workspace_id: int) -> None:
        self._shards.pop(workspace_id, None)

    async def open(self, workspace_id: int, epoch: int) -> None:
        self._shard(workspace_id).epoch = epoch

    async def now_ms(self) -> int:
        return self._clock()

    def _next_job(self, shard: _Shard, record: MailboxRecord) -> tuple[int, int, int] | None:
        own = shard.queues.get(f"m{record.mailbox_id}")
        if own:
            return own.popleft(), 0, 0
        # Ties as in a sorted set: by the text of the member.
        for campaign in sorted(shard.turns, key=lambda one: (shard.turns[one], str(one))):
            pool = next((one for one in record.pools if one in shard.route[campaign]), None)
            waiting = shard.queues.get(f"c{campaign}")
            if pool is not None and waiting:
                shard.turn += 1
                shard.turns[campaign] = shard.turn
                return waiting.popleft(), campaign, pool
        return None

    def _shard(self, workspace_id: int) -> _Shard:
        return self._shards.setdefault(workspace_id, _Shard())

    @staticmethod
    def _queue(shard: _Shard, name: str) -> deque[int]:
        return shard.queues.setdefault(name, deque())

    @staticmethod
    def _wake(shard: _Shard, queue: str) -> None:
        if queue.startswith("m"):
            mailbox = int(queue[1:])
            if mailbox in shard.idle:
                shard.ready[mailbox] = shard.idle.pop(mailbox)
        else:
            shard.ready |= shard.idle
            shard.idle.clear()
