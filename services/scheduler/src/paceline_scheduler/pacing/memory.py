"""The pacing store in this process's memory: for tests, and for a virtual clock."""

from collections.abc import Callable, Sequence

from paceline_scheduler.pacing.base import (
    Batch,
    CampaignRoute,
    JobList,
    MailboxRecord,
    Proposal,
    QueuedJob,
)
from paceline_scheduler.pacing.shard import Shard


class MemoryPacing:
    """The semantics of `reserve_batch.lua`, on a clock passed in (ms since the epoch)."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._shards: dict[int, Shard] = {}

    async def reserve(
        self, workspace_id: int, draws: Sequence[float], picks: Sequence[float]
    ) -> Batch | None:
        return self._shard(workspace_id).reserve(self._clock(), draws, picks)

    async def push(self, workspace_id: int, jobs: Sequence[QueuedJob], now_ms: int) -> None:
        self._shard(workspace_id).push(jobs, now_ms)

    async def push_lists(self, workspace_id: int, lists: Sequence[JobList], now_ms: int) -> None:
        self._shard(workspace_id).push_lists(lists, now_ms)

    async def put_back(self, workspace_id: int, refused: Sequence[Proposal]) -> None:
        self._shard(workspace_id).put_back(refused)

    async def set_mailboxes(self, workspace_id: int, records: Sequence[MailboxRecord]) -> None:
        self._shard(workspace_id).set_mailboxes(records)

    async def drop_mailboxes(self, workspace_id: int, mailbox_ids: Sequence[int]) -> None:
        self._shard(workspace_id).drop_mailboxes(mailbox_ids)

    async def set_rotation(self, workspace_id: int, campaigns: Sequence[CampaignRoute]) -> None:
        self._shard(workspace_id).set_rotation(campaigns)

    async def clear(self, workspace_id: int) -> None:
        self._shards.pop(workspace_id, None)

    async def open(self, workspace_id: int, epoch: int) -> None:
        self._shard(workspace_id).open(epoch)

    async def now_ms(self) -> int:
        return self._clock()

    def _shard(self, workspace_id: int) -> Shard:
        return self._shards.setdefault(workspace_id, Shard())
