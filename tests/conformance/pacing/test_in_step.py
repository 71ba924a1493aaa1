"""Memory and Redis driven side by side through random histories: every answer is equal."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterator
from typing import ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis
from tests.conformance.pacing.fleet import WS, memory, on_redis

from paceline_local.stack import Stack
from paceline_scheduler.pacing.base import (
    CampaignRoute,
    JobList,
    MailboxRecord,
    Match,
    Mode,
    Place,
    PoolRoute,
    Proposal,
    QueuedJob,
    TierRoute,
)

T = TypeVar("T")

MODES: tuple[Mode, ...] = ("next_in_line", "round_robin", "random", "weighted", "priority")
MATCHES: tuple[Match, ...] = ("off", "prefer", "strict")
MAILBOXES = range(1, 25)
POOLS = range(1, 7)
CAMPAIGNS = range(1, 6)
HOSTS = range(3)

# What a rule draws besides its own arguments comes from a seed: evenly spread.
seeds = st.integers(0, 2**32).map(random.Random)


def lane(pool: int, klass: int) -> int:
    """The classes of mailboxes are told apart by their host."""
    return 3 * pool + klass


def _place(rng: random.Random, mode: Mode, mailbox: int, pool: int, klass: int) -> Place:
    keys = {
        "round_robin": 7 * mailbox % 101,
        "weighted": rng.choice([1, 2, 7, 1000]),
        "priority": rng.randrange(3),
    }
    return Place(lane(pool, klass), pool, mode, keys.get(mode, 0))


class InStep(RuleBasedStateMachine):
    runner: ClassVar[asyncio.Runner]
    client: ClassVar[Redis]
    seen: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.run(self.client.flushdb())
        self.ours, self.theirs = memory(), on_redis(self.client)
        self.modes: dict[int, Mode] = {}
        self.jobs = 0
        self.refused: list[Proposal] = []
        self.waiting: set[int] = set()

    def run(self, what: Awaitable[T]) -> T:
        async def wait() -> T:
            return await what

        return self.runner.run(wait())

    def both(self, name: str, *arguments: object) -> None:
        for one in (self.ours, self.theirs):
            self.run(getattr(one.store, name)(WS, *arguments))

    @initialize(rng=seeds)
    def begin(self, rng: random.Random) -> None:
        self.modes = {pool: rng.choice(MODES) for pool in POOLS}
        self.both("open", 1)
        self._set_mailboxes(rng, list(MAILBOXES))
        self._set_rotation(rng, list(CAMPAIGNS))
        self._push_some(rng, 60)

    @rule(rng=seeds, count=st.integers(1, 12))
    def set_mailboxes(self, rng: random.Random, count: int) -> None:
        self._set_mailboxes(rng, rng.sample(MAILBOXES, count))

    def _set_mailboxes(self, rng: random.Random, ids: list[int]) -> None:
        now = self.ours.now
        records = []
        for one in ids:
            klass = rng.choice(HOSTS)
            pools = rng.sample(POOLS, rng.choice([0, 1, 1, 1, 2, 2, 3]))
            records.append(
                MailboxRecord(
                    mailbox_id=one,
                    eligible_ms=now + rng.choice([0, 0, 0, 1, 400, 1200]),
                    next_ms=now + rng.choice([-5000, 0, 0, 700]),
                    cadence_ms=rng.choice([0, 200, 1000]),
                    jitter_min_ms=0,
                    jitter_max_ms=rng.choice([0, 300]),
                    grace_ms=50,
                    lead_ms=rng.choice([0, 500]),
                    open_from_ms=now + rng.choice([-1000, -1000, 0, 2000]),
                    open_until_ms=now + rng.choice([800, 5000, 30_000, 600_000]),
                    left=rng.choice([-1, -1, -1, 0, 1, 5]),
                    klass=klass,
                    places=tuple(_place(rng, self.modes[pool], one, pool, klass) for pool in pools),
                )
            )
        self.both("set_mailboxes", records)

    @rule(ids=st.lists(st.sampled_from(MAILBOXES), max_size=3))
    def drop_mailboxes(self, ids: list[int]) -> None:
        self.both("drop_mailboxes", ids)

    @rule(rng=seeds, ids=st.lists(st.sampled_from(CAMPAIGNS), max_size=5, unique=True))
    def set_rotation(self, rng: random.Random, ids: list[int]) -> None:
        self._set_rotation(rng, ids)

    @rule(rng=seeds)
    def rotate_all(self, rng: random.Random) -> None:
        self._set_rotation(rng, rng.sample(CAMPAIGNS, 5))

    def _set_rotation(self, rng: random.Random, ids: list[int]) -> None:
        routes = []
        for one in ids:
            tiers = []
            for _ in range(rng.choice([1, 1, 2, 3])):
                pools = tuple(
                    self._pool(rng, pool) for pool in rng.sample(POOLS, rng.choice([1, 2, 3]))
                )
                tiers.append(TierRoute(pools, rng.choice([None, 0, 1500, 2000, 7000])))
            classes = frozenset(rng.sample(HOSTS, rng.choice([1, 2, 3, 3])))
            routes.append(CampaignRoute(one, classes, tuple(tiers), rng.choice(MATCHES)))
        self.both("set_rotation", routes)

    def _pool(self, rng: random.Random, pool: int) -> PoolRoute:
        mode = self.modes[pool]
        lanes = tuple((lane(pool, n), n) for n in rng.sample(HOSTS, rng.choice([1, 2, 3, 3])))
        # Few of a rank, and now and then mailboxes of another pool.
        ranks = tuple(tuple(rng.sample(MAILBOXES, rng.randrange(3))) for _ in range(2))
        return PoolRoute(pool, mode, lanes, ranks if mode == "priority" else ())

    @rule(number=st.sampled_from(POOLS), mode=st.sampled_from(MODES))
    def change_mode(self, number: int, mode: Mode) -> None:
        # What is written from now on says so; the rest follows by and by.
        self.modes[number] = mode

    @rule(
        rng=seeds,
        count=st.sampled_from([1, 2, 9, 70, 520]),
        campaign=st.sampled_from(CAMPAIGNS),
        host=st.sampled_from(HOSTS),
        sticky=st.booleans(),
    )
    def push_list(
        self, rng: random.Random, count: int, campaign: int, host: int, sticky: bool
    ) -> None:
        due = self.ours.now - rng.choice([0, 1, 1600, 9000])
        self._push([(campaign, rng.choice(MAILBOXES) if sticky else None, due, host)] * count, rng)

    @rule(rng=seeds, count=st.integers(1, 30))
    def push_some(self, rng: random.Random, count: int) -> None:
        self._push_some(rng, count)

    def _push_some(self, rng: random.Random, count: int) -> None:
        now = self.ours.now
        self._push(
            [
                (
                    rng.choice(CAMPAIGNS),
                    rng.choice([None, rng.choice(MAILBOXES)]),
                    now + rng.choice([-9000, -1600, -1, 0, 1, 900, 900, 5000]),
                    rng.choice(HOSTS),
                )
                for _ in range(count)
            ],
            rng,
        )

    def _push(self, jobs: list[tuple[int, int | None, int, int]], rng: random.Random) -> None:
        made = []
        for campaign, to, due, host in jobs:
            # Far apart now and then: a list takes ids of any distance.
            self.jobs += 1 if self.jobs % 131 else 1 << 33
            made.append(QueuedJob(self.jobs, campaign, to, due, host))
        self.waiting |= {one.job_id for one in made}
        if rng.random() < 0.5:
            self.both("push", made, self.ours.now)
            return
        lists: dict[tuple[int, int | None, int], list[QueuedJob]] = defaultdict(list)
        for one in made:
            lists[one.campaign_id, one.mailbox_id, one.host].append(one)
        columns = [
            JobList(*name, [one.job_id for one in some], [one.due_ms for one in some])
            for name, some in lists.items()
        ]
        self.both("push_lists", columns, self.ours.now)

    @rule(ms=st.sampled_from([1, 40, 300, 999, 1500, 4000, 61_000, -700]))
    def pass_time(self, ms: int) -> None:
        self.ours.advance(ms)
        self.theirs.advance(ms)

    @precondition(lambda self: self.refused)
    @rule(rng=seeds)
    def put_back(self, rng: random.Random) -> None:
        some = [one for one in self.refused if rng.random() < 0.6]
        self.waiting |= {one.job_id for one in some}
        self.refused = []
        self.seen["put back"] += len(some)
        self.both("put_back", some)

    @rule(most=st.sampled_from([1, 3, 50]), rng=seeds, times=st.integers(1, 8))
    def reserve(self, most: int, rng: random.Random, times: int) -> None:
        for _ in range(times):
            self._reserve(most, rng)
            self.pass_time(rng.choice([0, 300, 1500]))

    def _reserve(self, most: int, rng: random.Random) -> None:
        draws = [rng.random() for _ in range(most)]
        picks = [rng.random() for _ in range(most)]
        ours, theirs = (
            self.run(one.store.reserve(WS, draws, picks)) for one in (self.ours, self.theirs)
        )
        assert ours == theirs
        assert ours is not None
        # A job is proposed once, a mailbox once in a call.
        jobs = [one.job_id for one in ours.proposals]
        assert len(set(jobs)) == len(jobs)
        assert self.waiting.issuperset(jobs)
        self.waiting -= set(jobs)
        mailboxes = [one.mailbox_id for one in ours.proposals]
        assert len(set(mailboxes)) == len(mailboxes)
        self.refused = list(ours.proposals)
        if ours.stale and rng.random() < 0.8:
            self._set_mailboxes(rng, list(ours.stale))
        self.seen["stale"] += len(ours.stale)
        self.seen.update(
            "sticky" if one.sticky else self.modes[one.pool_id] for one in ours.proposals
        )


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.mark.timeout(600)
def test_memory_and_redis_run_in_step(redis_stack: Stack, runner: asyncio.Runner) -> None:
    InStep.runner = runner
    InStep.client = Redis.from_url(redis_stack.redis.url())
    InStep.seen = Counter()
    try:
        run_state_machine_as_test(
            InStep,
            settings=settings(
                max_examples=300,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            ),
        )
    finally:
        runner.run(InStep.client.aclose())
    # The histories say something about each mode.
    assert min(InStep.seen[one] for one in (*MODES, "sticky", "stale", "put back")) > 100
