"""What a pacing store is: it proposes who sends next; Postgres decides.

One workspace is one shard. A store may forget, lag or lie: that delays
sending, never more. Values are absolute and can be written anew at any time.
Instants are milliseconds since the epoch, on the store's own clock.

A mailbox that may send now is *free* until a job takes it: it stands in the
*lanes* of its pools, one per pool and class of mailboxes that every campaign
treats alike. Jobs are offered to free mailboxes, so neither queued jobs nor
waiting mailboxes cost anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from paceline_scheduler.domain.rotation import Mode as Mode

Match = Literal["off", "prefer", "strict"]

MAX_LANES: Final = 4096
MAX_RANK: Final = 511


def seconds(ms: int) -> int:
    """Return the due instant that lists keep: up, so that no job leaves its tier early."""
    return -(-ms // 1000)


class Place(NamedTuple):
    """A mailbox's place in one of its pools; at most one per pool.

    `lane` (0..4095) is the pool's lane for the mailbox's class. `key` is, by
    the pool's mode: round_robin its position (no two of a pool alike), weighted
    its weight (1..1000), priority its rank (0..511, 0 serves first), else 0.
    """

    lane: int
    pool_id: int
    mode: Mode
    key: int = 0


@dataclass(frozen=True, slots=True)
class MailboxRecord:
    """What the store needs of one mailbox: its rules compiled, its next instant, its places.

    A slot lies in `open_from_ms`..`open_until_ms`, not before `next_ms`;
    `left` slots remain there (-1: any number). `eligible_ms` is when to look
    at it first. `klass` is the class that campaigns name.
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
    klass: int
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class PoolRoute:
    """The part of a pool that one campaign may use.

    `lanes`: (lane, host code of its mailboxes). `ranks`, in priority mode only:
    the mailboxes by rank; a rank serves only while no mailbox of a better one
    is open, so list there those alone whose being open shall hold backups off.
    """

    pool_id: int
    mode: Mode
    lanes: tuple[tuple[int, int], ...]
    ranks: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class TierRoute:
    """Pools that take turns. A job may go on to the next tier once it is `after_ms` past due.

    None: never. Both `after_ms` of two tiers count from the same due instant.
    """

    pools: tuple[PoolRoute, ...]
    after_ms: int | None = None


@dataclass(frozen=True, slots=True)
class CampaignRoute:
    """A campaign in rotation: its tiers, in order, and who may send its follow-ups.

    `classes` are the `klass` values of mailboxes that may. `match` compares the
    host of a job with that of a lane: strict takes no other lane, prefer takes
    another when none of the same host in the tier is free; host 0 of a job
    matches every lane.
    """

    campaign_id: int
    classes: frozenset[int]
    tiers: tuple[TierRoute, ...]
    match: Match = "off"


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A queued job: `mailbox_id` is set when only that mailbox may send it.

    `host` is the code of the recipient's mail host, 0 unknown (0..255).
    """

    job_id: int
    campaign_id: int
    mailbox_id: int | None
    due_ms: int
    host: int = 0


class JobList(NamedTuple):
    """Queued jobs of one campaign, host and, if set, mailbox: `QueuedJob`s by columns.

    `due_ms[n]` is when job n is due; both are as long, and not empty.
    """

    campaign_id: int
    mailbox_id: int | None
    host: int
    job_ids: Sequence[int]
    due_ms: Sequence[int]


class Proposal(NamedTuple):
    """A job for a mailbox at `slot_ms`; `pool_id` 0 where the job itself knows its pool.

    `sticky`: the mailbox's own follow-up, its `host` is given as 0. `due_ms` is
    rounded up to the second.
    """

    mailbox_id: int
    job_id: int
    campaign_id: int
    pool_id: int
    slot_ms: int
    not_after_ms: int
    sticky: bool
    host: int
    due_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """The answer to one call. `stale` mailboxes need their next open stretch.

    `wake_ms` is when to call again (not after `now_ms`: at once), None when
    nothing waits.
    """

    epoch: int
    now_ms: int
    wake_ms: int | None
    proposals: tuple[Proposal, ...]
    stale: tuple[int, ...]


class PacingStore(Protocol):
    """The operations; each names its workspace. Lost state answers None to `reserve`."""

    async def reserve(
        self, workspace_id: int, draws: Sequence[float], picks: Sequence[float]
    ) -> Batch | None:
        """Propose at most `len(draws)` slots, and one at most per mailbox.

        `draws[i]` in [0, 1) makes the jitter of proposal i, `picks[i]` in [0, 1)
        its random choice; both are as long. A proposed job has left its list and
        the mailbox's next instant has moved. None: the state is gone, or its
        counters are full, and it must be rebuilt.
        """
        ...

    async def push(self, workspace_id: int, jobs: Sequence[QueuedJob], now_ms: int) -> None:
        """Queue jobs behind the others of their list; those due after `now_ms` when they are."""
        ...

    async def push_lists(self, workspace_id: int, lists: Sequence[JobList], now_ms: int) -> None:
        """Do as `push` does with the jobs of the lists in their order, a million in seconds."""
        ...

    async def put_back(self, workspace_id: int, refused: Sequence[Proposal]) -> None:
        """Put jobs of refused proposals back in front of their lists, in their order."""
        ...

    async def set_mailboxes(self, workspace_id: int, records: Sequence[MailboxRecord]) -> None:
        """Write the mailboxes; each is looked at from `eligible_ms` on.

        How much each has served is kept.
        """
        ...

    async def drop_mailboxes(self, workspace_id: int, mailbox_ids: Sequence[int]) -> None:
        """Take mailboxes out of rotation; their own lists stay."""
        ...

    async def set_rotation(self, workspace_id: int, campaigns: Sequence[CampaignRoute]) -> None:
        """Name all campaigns in rotation; the lists of others stay, untouched and unseen."""
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
