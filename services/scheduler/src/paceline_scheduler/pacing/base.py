"""What a pacing store is: it proposes who sends next; Postgres decides.

One workspace is one shard. A store may forget, lag or lie: that delays
sending, never more. Values are absolute and can be written anew at any time.
Instants are milliseconds since the epoch, on the store's own clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class MailboxRecord:
    """What the store needs of one mailbox: its rules compiled, its next instant, its pools.

    A slot lies in `open_from_ms`..`open_until_ms`, not before `next_ms`;
    `left` slots remain there (-1: any number). `eligible_ms` is when to look
    at it first.
    """

    mailbox_id: int
    eligible_ms: int
    next_ms: int
    cadence_ms: int
    jitter_min_ms: int
    jitter_max_ms: int
    grace_ms: int
    lead_ms: int
    open_from_ms: int
    open_until_ms: int
    left: int
    pools: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A queued job: `mailbox_id` is set when only that mailbox may send it."""

    job_id: int
    campaign_id: int
    mailbox_id: int | None
    due_ms: int

    @property
    def queue(self) -> str:
        """Name of the list it waits in: `m<mailbox>` or `c<campaign>`."""
        return f"c{self.campaign_id}" if self.mailbox_id is None else f"m{self.mailbox_id}"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A job for a mailbox at `slot_ms`; `pool_id` 0 where the job itself knows its pool."""

    mailbox_id: int
    job_id: int
    campaign_id: int
    pool_id: int
    slot_ms: int
    not_after_ms: int

    @property
    def queue(self) -> str:
        """Name of the list it was taken from."""
        return f"c{self.campaign_id}" if self.campaign_id else f"m{self.mailbox_id}"


@dataclass(frozen=True, slots=True)
class Batch:
    """The answer to one call. `stale` mailboxes need their next open stretch.

    `wake_ms` is when to call again, None when nothing waits.
    """

    epoch: int
    now_ms: int
    wake_ms: int | None
    proposals: tuple[Proposal, ...]
    stale: tuple[int, ...]


class PacingStore(Protocol):
    """The operations; each names its workspace. Lost state answers None to `reserve`."""

    async def reserve(self, workspace_id: int, draws: Sequence[float]) -> Batch | None:
        """Propose at most `len(draws)` slots, the draws in [0, 1) for their jitter.

        A proposed job has left its list and the mailbox's next instant has
        moved. None: the state is gone and must be rebuilt.
        """
        ...

    async def push(self, workspace_id: int, jobs: Sequence[QueuedJob], now_ms: int) -> None:
        """Queue jobs behind the others of their list; those due after `now_ms` when they are."""
        ...

    async def put_back(self, workspace_id: int, refused: Sequence[Proposal]) -> None:
        """Put jobs of refused proposals back in front of their lists, in their order."""
        ...

    async def set_mailboxes(self, workspace_id: int, records: Sequence[MailboxRecord]) -> None:
        """Write the mailboxes; each is looked at from `eligible_ms` on."""
        ...

    async def drop_mailboxes(self, workspace_id: int, mailbox_ids: Sequence[int]) -> None:
        """Take mailboxes out of rotation; their own lists stay."""
        ...

    async def set_rotation(self, workspace_id: int, campaigns: Mapping[int, Sequence[int]]) -> None:
        """Name all campaigns in rotation with the pools that serve them; lists stay."""
        ...

    async def clear(self, workspace_id: int) -> None:
        """Forget everything; `reserve` answers None until `open`."""
        ...

    async def open(self, workspace_id: int, epoch: int) -> None:
        """Let `reserve` work again, in this epoch."""
        ...

    async def now_ms(self) -> int:
        """Return the store's clock."""
        ...
