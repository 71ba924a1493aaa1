"""What every pacing store does, shown on memory and on Redis, and the two in step."""

import random
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from paceline_scheduler.pacing.base import Batch, MailboxRecord, PacingStore, Proposal, QueuedJob
from paceline_scheduler.pacing.memory import MemoryPacing
from paceline_scheduler.pacing.redis import RedisPacing

START = 1_800_000_000_000
WS = 7
HALF = [0.5] * 100


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

    async def reserve(self, most: int = 100) -> Batch:
        batch = await self.store.reserve(WS, HALF[:most])
        assert batch is not None
        return batch

    async def push(self, *jobs: QueuedJob) -> None:
        await self.store.push(WS, jobs, self.now)


def memory() -> Machine:
    clock = [START]
    return Machine(MemoryPacing(lambda: clock[0]), clock)


def on_redis(client: Redis) -> Machine:
    store = RedisPacing(client)
    store.clock_ms = START
    return Machine(store, [START])


@pytest.fixture(params=["memory", "redis"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return memory() if request.param == "memory" else on_redis(request.getfixturevalue("redis"))


def mailbox(mailbox_id: int, **changes: object) -> MailboxRecord:
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
        open_until_ms=START + 86_400_000,
        left=-1,
        pools=(1,),
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def job(job_id: int, campaign: int = 5, to: int | None = None, due: int = 0) -> QueuedJob:
    return QueuedJob(job_id, campaign, to, due)


async def ready(machine: Machine, *records: MailboxRecord, **campaigns: tuple[int, ...]) -> None:
    await machine.store.open(WS, 3)
    await machine.store.set_mailboxes(WS, records)
    routes = {int(name[1:]): pools for name, pools in campaigns.items()} or {5: (1,)}
    await machine.store.set_rotation(WS, routes)


async def test_lost_state_answers_none_until_opened(redis: Redis) -> None:
    for made in (memory(), on_redis(redis)):
        assert await made.store.reserve(WS, HALF) is None
        await made.store.open(WS, 4)
        assert (await made.reserve()).epoch == 4
        await made.store.clear(WS)
        assert await made.store.reserve(WS, HALF) is None


async def test_one_slot_a_lead_time_ahead_then_a_cadence_and_jitter_apart(
    machine: Machine,
) -> None:
    await ready(machine, mailbox(1))
    await machine.push(job(10), job(11), job(12))
    (first,) = (await machine.reserve()).proposals
    assert (first.mailbox_id, first.job_id, first.campaign_id, first.pool_id) == (1, 10, 5, 1)
    assert first.slot_ms == machine.now + 500
    assert first.not_after_ms == first.slot_ms + 50
    batch = await machine.reserve()
    assert batch.proposals == ()
    assert batch.wake_ms == first.slot_ms + 1000 + 200 - 500
    machine.advance(batch.wake_ms - machine.now)
    (second,) = (await machine.reserve()).proposals
    assert second.job_id == 11
    assert second.slot_ms == first.slot_ms + 1200


async def test_mailbox_without_work_costs_nothing_until_work_arrives(machine: Machine) -> None:
    await ready(machine, mailbox(1), mailbox(2, pools=(9,)))
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), None)
    await machine.push(job(10))
    batch = await machine.reserve()
    assert [one.mailbox_id for one in batch.proposals] == [1]


async def test_follow_up_goes_from_its_own_mailbox_only_and_first(machine: Machine) -> None:
    await ready(machine, mailbox(1), mailbox(2))
    await machine.push(job(10), job(11), job(12, to=2))
    proposals = (await machine.reserve()).proposals
    assert {one.mailbox_id: one.job_id for one in proposals} == {1: 10, 2: 12}
    assert {one.job_id: one.campaign_id for one in proposals} == {10: 5, 12: 0}


async def test_job_waits_until_it_is_due(machine: Machine) -> None:
    await ready(machine, mailbox(1))
    await machine.push(job(10, due=machine.now + 5000))
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), machine.now + 5000)
    machine.advance(4999)
    assert (await machine.reserve()).proposals == ()
    machine.advance(1)
    (found,) = (await machine.reserve()).proposals
    assert found.job_id == 10


async def test_campaign_out_of_rotation_is_not_served_and_keeps_its_place(
    machine: Machine,
) -> None:
    await ready(machine, mailbox(1))
    await machine.push(job(10), job(11))
    await machine.store.set_rotation(WS, {})
    assert (await machine.reserve()).proposals == ()
    await machine.store.set_rotation(WS, {5: (1,)})
    (found,) = (await machine.reserve()).proposals
    assert found.job_id == 10


async def test_small_campaign_is_not_starved_by_a_large_one(machine: Machine) -> None:
    await ready(machine, mailbox(1), c5=(1,), c6=(1,))
    await machine.push(*(job(n, campaign=5) for n in range(100, 400)), job(1, campaign=6))
    served = []
    for _ in range(3):
        batch = await machine.reserve()
        served += [one.campaign_id for one in batch.proposals]
        machine.advance(1300)
    assert 6 in served[:2]


async def test_least_recently_used_mailbox_is_next_in_line(machine: Machine) -> None:
    await ready(machine, *(mailbox(n, eligible_ms=n) for n in range(1, 6)))
    for n in range(10):
        await machine.push(job(n))
        (found,) = (await machine.reserve()).proposals
        assert found.mailbox_id == n % 5 + 1
        machine.advance(400)


async def test_pool_decides_who_serves_a_campaign(machine: Machine) -> None:
    await ready(machine, mailbox(1, pools=(1,)), mailbox(2, pools=(2, 3)), c5=(3,), c6=(1,))
    await machine.push(job(10, campaign=5), job(11, campaign=6))
    proposals = (await machine.reserve()).proposals
    assert {one.mailbox_id: (one.job_id, one.pool_id) for one in proposals} == {
        1: (11, 1),
        2: (10, 3),
    }


async def test_stretch_that_ended_or_is_used_up_is_stale(machine: Machine) -> None:
    await ready(
        machine,
        mailbox(1, open_until_ms=machine.now + 400),
        mailbox(2, left=1),
        mailbox(3, left=0),
    )
    await machine.push(*(job(n) for n in range(9)))
    batch = await machine.reserve()
    assert set(batch.stale) == {1, 3}
    assert [one.mailbox_id for one in batch.proposals] == [2]
    machine.advance(1200)
    assert 2 in (await machine.reserve()).stale


async def test_submission_ends_with_the_stretch(machine: Machine) -> None:
    await ready(machine, mailbox(1, open_until_ms=machine.now + 520))
    await machine.push(job(10))
    (found,) = (await machine.reserve()).proposals
    assert found.not_after_ms == machine.now + 520


async def test_opening_in_the_future_is_waited_for(machine: Machine) -> None:
    await ready(machine, mailbox(1, open_from_ms=machine.now + 10_000))
    await machine.push(job(10))
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), machine.now + 9500)
    machine.advance(9500)
    (found,) = (await machine.reserve()).proposals
    assert found.slot_ms == machine.now + 500


async def test_refused_job_returns_to_the_front(machine: Machine) -> None:
    await ready(machine, mailbox(1), mailbox(2))
    await machine.push(*(job(n) for n in range(10, 14)))
    refused = (await machine.reserve()).proposals
    assert sorted(one.job_id for one in refused) == [10, 11]
    await machine.store.put_back(WS, sorted(refused, key=lambda one: one.job_id))
    await machine.store.set_mailboxes(WS, [mailbox(1), mailbox(2)])
    again = (await machine.reserve()).proposals
    assert sorted(one.job_id for one in again) == [10, 11]


async def test_dropped_mailbox_sends_nothing_and_its_follow_ups_wait(machine: Machine) -> None:
    await ready(machine, mailbox(1))
    await machine.push(job(10, to=1))
    await machine.store.drop_mailboxes(WS, [1])
    assert (await machine.reserve()).proposals == ()
    await machine.store.set_mailboxes(WS, [mailbox(1)])
    (found,) = (await machine.reserve()).proposals
    assert found.job_id == 10


async def test_workspaces_do_not_see_each_other(machine: Machine) -> None:
    await ready(machine, mailbox(1))
    await machine.store.open(8, 1)
    await machine.store.push(8, [job(10)], machine.now)
    assert (await machine.reserve()).proposals == ()


async def test_batch_is_no_larger_than_asked_for(machine: Machine) -> None:
    await ready(machine, *(mailbox(n) for n in range(1, 30)))
    await machine.push(*(job(n) for n in range(100)))
    assert len((await machine.reserve(7)).proposals) == 7


async def test_long_queue_keeps_its_order_across_chunks(machine: Machine) -> None:
    await ready(machine, *(mailbox(n, cadence_ms=0, lead_ms=0) for n in range(1, 101)))
    await machine.push(*(job(n) for n in range(1, 1001)))
    served: list[int] = []
    returned = 0
    while len(served) < 1000:
        proposals = (await machine.reserve()).proposals
        if len(served) in (300, 500) and returned < 2:
            returned += 1
            ordered = sorted(proposals, key=lambda one: one.job_id)
            # Half of it stays out: the rest goes back before a chunk already begun.
            await machine.store.put_back(WS, ordered[50:])
            proposals = tuple(ordered[:50])
            served += [one.job_id for one in proposals]
            assert sorted(served) == list(range(1, len(served) + 1))
        else:
            served += [one.job_id for one in proposals]
            assert sorted(served) == list(range(1, len(served) + 1))
        machine.advance(1000)
    assert returned


@pytest.mark.parametrize("seed", range(12))
async def test_memory_and_redis_run_in_step(redis: Redis, seed: int) -> None:
    rng = random.Random(seed)
    machines = [memory(), on_redis(redis)]
    for one in machines:
        await one.store.open(WS, 1)
    jobs = 0
    refused: list[Proposal] = []
    for _ in range(120):
        action = rng.choice(["reserve"] * 4 + ["push", "push", "rotate", "mailbox", "drop", "back"])
        step = rng.choice([0, 1, 40, 300, 1500])
        draws = [rng.random() for _ in range(rng.randint(1, 12))]
        pushed = [
            job(
                jobs + n,
                rng.randint(1, 4),
                rng.choice([None, rng.randint(1, 8)]),
                machines[0].now + rng.choice([0, 0, 900, 5000]),
            )
            for n in range(rng.randint(1, 9))
        ]
        routes = {
            c: tuple(rng.sample(range(1, 4), rng.randint(1, 2)))
            for c in rng.sample(range(1, 5), rng.randint(0, 4))
        }
        now = machines[0].now
        record = mailbox(
            rng.randint(1, 8),
            eligible_ms=now + rng.choice([0, 200]),
            next_ms=now + rng.choice([0, 700]),
            cadence_ms=rng.choice([200, 1000]),
            open_from_ms=now + rng.choice([0, 2000]),
            open_until_ms=now + rng.choice([800, 60_000]),
            left=rng.choice([-1, 0, 1, 5]),
            pools=tuple(rng.sample(range(1, 4), rng.randint(0, 2))),
        )
        victim = rng.randint(1, 8)
        answers = []
        for one in machines:
            if action == "reserve":
                answers.append(await one.store.reserve(WS, draws))
            elif action == "push":
                await one.store.push(WS, sorted(pushed, key=lambda j: j.queue), one.now)
            elif action == "rotate":
                await one.store.set_rotation(WS, routes)
            elif action == "mailbox":
                await one.store.set_mailboxes(WS, [record])
            elif action == "drop":
                await one.store.drop_mailboxes(WS, [victim])
            elif refused:
                await one.store.put_back(WS, refused)
            if action != "reserve":
                # Redis takes in what it was told at the next call.
                answers.append(await one.store.reserve(WS, draws[:1]))
            one.advance(step)
        ours, theirs = answers
        assert ours is not None
        assert theirs is not None
        assert (ours.proposals, ours.stale) == (theirs.proposals, theirs.stale)
        assert ours.wake_ms == theirs.wake_ms
        jobs += len(pushed)
        refused = sorted(ours.proposals, key=lambda one: one.queue) if rng.random() < 0.5 else []
