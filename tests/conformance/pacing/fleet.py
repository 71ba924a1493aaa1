"""Mailboxes, routes and jobs to drive a pacing store with, on a clock the test moves."""

from collections.abc import Sequence
from dataclasses import replace

from redis.asyncio import Redis

from paceline_scheduler.pacing.base import (
    Batch,
    CampaignRoute,
    MailboxRecord,
    Match,
    Mode,
    PacingStore,
    Place,
    PoolRoute,
    Proposal,
    QueuedJob,
    TierRoute,
)
from paceline_scheduler.pacing.memory import MemoryPacing
from paceline_scheduler.pacing.redis import RedisPacing

START = 1_800_000_000_000
WS = 7
DAY_MS = 86_400_000


class Machine:
    """A store whose clock the test moves."""

    def __init__(self, store: PacingStore, clock: list[int]) -> None:
        self.store = store
        self._clock = clock

    @property
    def now(self) -> int:
        return self._clock[0]

    def advance(self, ms: int) -> None:
        self._clock[0] += ms
        if isinstance(self.store, RedisPacing):
            self.store.clock_ms = self._clock[0]

    async def reserve(self, most: int = 100, pick: float = 0.5) -> Batch:
        batch = await self.store.reserve(WS, [0.5] * most, [pick] * most)
        assert batch is not None
        return batch

    async def sent(self, most: int = 100, pick: float = 0.5) -> list[Proposal]:
        return list((await self.reserve(most, pick)).proposals)

    async def push(self, *jobs: QueuedJob) -> None:
        await self.store.push(WS, jobs, self.now)

    async def ready(
        self, records: Sequence[MailboxRecord], routes: Sequence[CampaignRoute] | None = None
    ) -> None:
        await self.store.open(WS, 3)
        await self.store.set_mailboxes(WS, records)
        await self.store.set_rotation(WS, [route(5)] if routes is None else routes)


def memory() -> Machine:
    clock = [START]
    return Machine(MemoryPacing(lambda: clock[0]), clock)


def on_redis(client: Redis) -> Machine:
    store = RedisPacing(client)
    store.clock_ms = START
    return Machine(store, [START])


def mailbox(mailbox_id: int, *places: Place, **changes: object) -> MailboxRecord:
    """A mailbox of pool 1 unless told otherwise, open for a day, a second between its slots."""
    record = MailboxRecord(
        mailbox_id=mailbox_id,
        eligible_ms=0,
        next_ms=0,
        cadence_ms=1000,
        jitter_min_ms=100,
        jitter_max_ms=300,
        grace_ms=50,
        lead_ms=500,
        open_from_ms=0,
        open_until_ms=START + DAY_MS,
        left=-1,
        klass=0,
        places=places or (Place(1, 1, "next_in_line"),),
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def pool(
    pool_id: int = 1,
    mode: Mode = "next_in_line",
    lanes: tuple[tuple[int, int], ...] = (),
    ranks: tuple[tuple[int, ...], ...] = (),
) -> PoolRoute:
    return PoolRoute(pool_id, mode, lanes or ((pool_id, 0),), ranks)


def route(
    campaign: int, *pools: PoolRoute, match: Match = "off", classes: Sequence[int] = (0,)
) -> CampaignRoute:
    """A campaign of one tier, pool 1 unless told otherwise."""
    return CampaignRoute(campaign, frozenset(classes), (TierRoute(pools or (pool(),)),), match)


def job(
    job_id: int, campaign: int = 5, to: int | None = None, due: int = 0, host: int = 0
) -> QueuedJob:
    return QueuedJob(job_id, campaign, to, due, host)
