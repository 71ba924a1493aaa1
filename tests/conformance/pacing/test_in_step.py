"""Memory and Redis driven side by side through random histories: every answer is equal."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

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
    Batch,
    CampaignRoute,
    MailboxRecord,
    Mode,
    Place,
    PoolRoute,
    Proposal,
    QueuedJob,
    TierRoute,
)

MODES: tuple[Mode, ...] = ("next_in_line", "round_robin", "random", "weighted", "priority")
MAILBOXES = range(1, 10)
POOLS = range(1, 6)
CAMPAIGNS = range(1, 5)
HOSTS = range(3)

instants = st.sampled_from([0, 0, 1, 400, 1200, 2500, 60_000])
campaigns = st.sampled_from(CAMPAIGNS)
after = st.sampled_from([None, 0, 1500, 2000, 7000])


def lane(pool: int, klass: int) -> int:
    """Class 1 and 2 are of hosts 1 and 2; the rest of host 0."""
    return 3 * pool + klass


def key(mode: Mode, mailbox: int, drawn: int) -> int:
    match mode:
        case "round_robin":
            return (7 * mailbox) % 10
        case "weighted":
            return (1, 2, 7, 1000)[drawn]
        case "priority":
            return drawn
        case _:
            return 0


@st.composite
def places(draw: Any, mailbox: int, klass: int, modes: dict[int, Mode]) -> tuple[Place, ...]:
    chosen = draw(st.lists(st.sampled_from(POOLS), max_size=3, unique=True))
    return tuple(
        Place(
            lane(pool, klass), pool, modes[pool], key(modes[pool], mailbox, draw(st.integers(0, 3)))
        )
        for pool in chosen
    )


class InStep(RuleBasedStateMachine):
    runner: asyncio.Runner
    client: Redis

    def __init__(self) -> None:
        super().__init__()
        self.run(self.client.flushdb())
        self.ours, self.theirs = memory(), on_redis(self.client)
        self.modes: dict[int, Mode] = {}
        self.jobs = 0
        self.refused: list[Proposal] = []
        self.waiting: set[int] = set()

    def run(self, what: Any) -> Any:
        return self.runner.run(what)

    def both(self, name: str, *arguments: Any) -> None:
        for one in (self.ours, self.theirs):
            self.run(getattr(one.store, name)(WS, *arguments))

    @initialize(modes=st.lists(st.sampled_from(MODES), min_size=5, max_size=5))
    def begin(self, modes: list[Mode]) -> None:
        self.modes = dict(zip(POOLS, modes, strict=True))
        self.both("open", 1)

    @rule(
        data=st.data(),
        ids=st.lists(st.sampled_from(MAILBOXES), min_size=1, max_size=9, unique=True),
    )
    def set_mailboxes(self, data: st.DataObject, ids: list[int]) -> None:
        now = self.ours.now
        records = []
        for one in ids:
            klass = data.draw(st.integers(0, 2))
            records.append(
                MailboxRecord(
                    mailbox_id=one,
                    eligible_ms=now + data.draw(instants),
                    next_ms=now + data.draw(st.sampled_from([-5000, 0, 700])),
                    cadence_ms=data.draw(st.sampled_from([0, 200, 1000])),
                    jitter_min_ms=0,
                    jitter_max_ms=data.draw(st.sampled_from([0, 300])),
                    grace_ms=50,
                    lead_ms=data.draw(st.sampled_from([0, 500])),
                    open_from_ms=now + data.draw(st.sampled_from([-1000, 0, 2000])),
                    open_until_ms=now + data.draw(st.sampled_from([300, 800, 5000, 600_000])),
                    left=data.draw(st.sampled_from([-1, -1, 0, 1, 5])),
                    klass=klass,
                    places=data.draw(places(one, klass, self.modes)),
                )
            )
        self.both("set_mailboxes", records)

    @rule(ids=st.lists(st.sampled_from(MAILBOXES), max_size=3))
    def drop_mailboxes(self, ids: list[int]) -> None:
        self.both("drop_mailboxes", ids)

    @rule(data=st.data(), ids=st.lists(campaigns, max_size=4, unique=True))
    def set_rotation(self, data: st.DataObject, ids: list[int]) -> None:
        routes = []
        for one in ids:
            tiers = []
            for _ in range(data.draw(st.integers(1, 3))):
                pools = []
                for number in data.draw(st.lists(st.sampled_from(POOLS), max_size=3, unique=True)):
                    klasses = data.draw(st.lists(st.sampled_from(HOSTS), max_size=3, unique=True))
                    # Now and then a rank lists mailboxes that belong to another.
                    ranks = data.draw(
                        st.lists(st.lists(st.sampled_from(MAILBOXES), max_size=3), max_size=3)
                    )
                    pools.append(
                        PoolRoute(
                            number,
                            self.modes[number],
                            tuple((lane(number, klass), klass) for klass in klasses),
                            tuple(map(tuple, ranks)) if self.modes[number] == "priority" else (),
                        )
                    )
                tiers.append(TierRoute(tuple(pools), data.draw(after)))
            classes = data.draw(st.frozensets(st.sampled_from(HOSTS)))
            match = data.draw(st.sampled_from(["off", "prefer", "strict"]))
            routes.append(CampaignRoute(one, classes, tuple(tiers), match))
        self.both("set_rotation", routes)

    @rule(number=st.integers(1, 5), mode=st.sampled_from(MODES))
    def change_mode(self, number: int, mode: Mode) -> None:
        self.modes[number] = mode

    @rule(
        data=st.data(),
        count=st.sampled_from([1, 2, 5, 9, 70, 520]),
        campaign=campaigns,
        to=st.one_of(st.none(), st.sampled_from(MAILBOXES)),
        host=st.sampled_from(HOSTS),
    )
    def push_list(
        self, data: st.DataObject, count: int, campaign: int, to: int | None, host: int
    ) -> None:
        due = self.ours.now - data.draw(st.sampled_from([0, 1, 1600, 9000]))
        self._push([(campaign, to, due, host)] * count)

    @rule(
        jobs=st.lists(
            st.tuples(
                campaigns,
                st.one_of(st.none(), st.sampled_from(MAILBOXES)),
                st.sampled_from([-9000, -1600, -1, 0, 1, 900, 900, 5000]),
                st.sampled_from(HOSTS),
            ),
            min_size=1,
            max_size=9,
        )
    )
    def push_some(self, jobs: list[tuple[int, int | None, int, int]]) -> None:
        now = self.ours.now
        self._push([(campaign, to, now + due, host) for campaign, to, due, host in jobs])

    def _push(self, jobs: list[tuple[int, int | None, int, int]]) -> None:
        made = []
        for campaign, to, due, host in jobs:
            # Far apart now and then: a list takes ids of any distance.
            self.jobs += 1 if self.jobs % 131 else 1 << 33
            made.append(QueuedJob(self.jobs, campaign, to, due, host))
        self.waiting |= {one.job_id for one in made}
        self.both("push", made, self.ours.now)

    @rule(ms=st.sampled_from([1, 40, 300, 999, 1500, 4000, 61_000, -700]))
    def pass_time(self, ms: int) -> None:
        self.ours.advance(ms)
        self.theirs.advance(ms)

    @precondition(lambda self: self.refused)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        some = [one for one in self.refused if data.draw(st.booleans())]
        self.waiting |= {one.job_id for one in some}
        self.refused = []
        self.both("put_back", some)

    @rule(
        most=st.sampled_from([1, 2, 3, 50]),
        seed=st.integers(0, 1000),
        ms=st.sampled_from([0, 0, 300, 1500]),
    )
    def reserve(self, most: int, seed: int, ms: int) -> None:
        rng = random.Random(seed)
        draws = [rng.random() for _ in range(most)]
        picks = [rng.random() for _ in range(most)]
        ours: Batch
        theirs: Batch
        ours, theirs = (
            self.run(one.store.reserve(WS, draws, picks)) for one in (self.ours, self.theirs)
        )
        assert ours == theirs
        # A job is proposed once, a mailbox once in a call.
        jobs = [one.job_id for one in ours.proposals]
        assert len(set(jobs)) == len(jobs)
        assert self.waiting.issuperset(jobs)
        self.waiting -= set(jobs)
        mailboxes = [one.mailbox_id for one in ours.proposals]
        assert len(set(mailboxes)) == len(mailboxes)
        self.refused = list(ours.proposals)
        self.pass_time(ms)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as made:
        yield made


@pytest.mark.timeout(600)
def test_memory_and_redis_run_in_step(redis_stack: Stack, runner: asyncio.Runner) -> None:
    InStep.runner = runner
    InStep.client = Redis.from_url(redis_stack.redis.url())
    try:
        run_state_machine_as_test(
            InStep,
            settings=settings(
                max_examples=150,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                derandomize=True,
                database=None,
            ),
        )
    finally:
        runner.run(InStep.client.aclose())
