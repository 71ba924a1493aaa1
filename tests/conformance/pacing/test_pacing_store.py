"""What every pacing store does with slots, lists and lost state, on memory and on Redis."""

import pytest
from redis.asyncio import Redis
from tests.conformance.pacing.fleet import (
    WS,
    Machine,
    job,
    mailbox,
    memory,
    on_redis,
    pool,
    route,
)

from paceline_scheduler.pacing.base import Place

A_MINUTE = 60_000


async def test_lost_state_answers_none_until_opened(redis: Redis) -> None:
    for made in (memory(), on_redis(redis)):
        assert await made.store.reserve(WS, [0.5], [0.5]) is None
        await made.store.open(WS, 4)
        assert (await made.reserve()).epoch == 4
        await made.store.clear(WS)
        assert await made.store.reserve(WS, [0.5], [0.5]) is None


@pytest.mark.parametrize("part", ["meta", "mailbox", "queue", "route"])
async def test_state_lost_in_part_answers_none(redis: Redis, part: str) -> None:
    machine = on_redis(redis)
    await machine.ready([mailbox(1), mailbox(2)])
    await machine.push(job(10), job(11), job(12))
    await machine.reserve(most=1)
    await redis.delete(f"pace:{{{WS}}}:{part}")
    assert await machine.store.reserve(WS, [0.5], [0.5]) is None
    assert await machine.store.reserve(WS, [0.5], [0.5]) is None


async def test_a_full_counter_answers_none_until_all_is_written_anew(redis: Redis) -> None:
    machine = on_redis(redis)
    await machine.ready([mailbox(1)])
    await machine.push(job(10), job(11))
    await redis.hset(f"pace:{{{WS}}}:meta", "served", str(2**32 - 2))
    assert len(await machine.sent()) == 1
    assert await machine.store.reserve(WS, [0.5], [0.5]) is None
    await machine.store.clear(WS)
    await machine.ready([mailbox(1)])
    await machine.push(job(11))
    assert len(await machine.sent()) == 1


async def test_one_slot_a_lead_time_ahead_then_a_cadence_and_jitter_apart(
    machine: Machine,
) -> None:
    await machine.ready([mailbox(1)])
    await machine.push(job(10), job(11), job(12))
    (first,) = await machine.sent()
    assert (first.mailbox_id, first.job_id, first.campaign_id, first.pool_id) == (1, 10, 5, 1)
    assert first.slot_ms == machine.now + 500
    assert first.not_after_ms == first.slot_ms + 50
    batch = await machine.reserve()
    assert batch.proposals == ()
    assert batch.wake_ms == first.slot_ms + 1000 + 200 - 500
    machine.advance(batch.wake_ms - machine.now)
    (second,) = await machine.sent()
    assert second.job_id == 11
    assert second.slot_ms == first.slot_ms + 1200


async def test_mailbox_without_work_is_left_alone_until_its_stretch_ends(
    machine: Machine,
) -> None:
    end = machine.now + 5000
    await machine.ready(
        [mailbox(1, open_until_ms=end), mailbox(2, Place(9, 9, "next_in_line"), open_until_ms=end)]
    )
    batch = await machine.reserve()
    assert (batch.proposals, batch.stale, batch.wake_ms) == ((), (), end - 500)
    await machine.push(job(10))
    assert [one.mailbox_id for one in await machine.sent()] == [1]
    machine.advance(4500)
    assert (await machine.reserve()).stale == (1, 2)


async def test_follow_up_goes_from_its_own_mailbox_only_and_first(machine: Machine) -> None:
    await machine.ready([mailbox(1), mailbox(2)])
    await machine.push(job(10), job(11), job(12, to=2))
    proposals = await machine.sent()
    assert {one.mailbox_id: one.job_id for one in proposals} == {1: 10, 2: 12}
    assert {one.job_id: (one.campaign_id, one.pool_id, one.sticky) for one in proposals} == {
        10: (5, 1, False),
        12: (5, 0, True),
    }


async def test_follow_up_wakes_its_free_mailbox(machine: Machine) -> None:
    await machine.ready([mailbox(1), mailbox(2, Place(9, 9, "random"))])
    await machine.reserve()
    await machine.push(job(10, to=2))
    assert [(one.mailbox_id, one.job_id) for one in await machine.sent()] == [(2, 10)]


async def test_follow_up_does_not_hurry_a_mailbox_that_waits(machine: Machine) -> None:
    await machine.ready([mailbox(1, eligible_ms=machine.now + 3000)])
    await machine.push(job(10, to=1))
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), machine.now + 3000)


async def test_campaigns_take_turns_with_a_mailboxs_follow_ups(machine: Machine) -> None:
    await machine.ready([mailbox(1)], [route(5), route(6)])
    await machine.push(*(job(n, 5, to=1) for n in (1, 2, 3)), job(9, 6, to=1))
    served = []
    for _ in range(4):
        served += [one.job_id for one in await machine.sent()]
        machine.advance(1200)
    assert served == [1, 9, 2, 3]


async def test_follow_ups_of_a_paused_campaign_stay_and_come_back_in_order(
    machine: Machine,
) -> None:
    await machine.ready([mailbox(1)], [route(5), route(6)])
    await machine.push(*(job(n, 5, to=1) for n in range(1, 6)), job(50, 6, to=1))
    served = []
    for _ in range(2):
        served += [one.job_id for one in await machine.sent()]
        machine.advance(1200)
    await machine.store.set_rotation(WS, [route(6)])
    assert await machine.sent() == []
    await machine.push(*(job(n, 5, to=1) for n in range(6, 8)))
    machine.advance(A_MINUTE)
    assert await machine.sent() == []
    await machine.store.set_rotation(WS, [route(5), route(6)])
    for _ in range(8):
        served += [one.job_id for one in await machine.sent()]
        machine.advance(1200)
    assert served == [1, 50, 2, 3, 4, 5, 6, 7]


async def test_only_admitted_classes_send_a_campaigns_follow_ups(machine: Machine) -> None:
    await machine.ready(
        [mailbox(1, klass=3), mailbox(2, klass=4)], [route(5, classes=(4,)), route(6, classes=(3,))]
    )
    await machine.push(job(10, 5, to=1), job(11, 5, to=2), job(12, 6, to=1))
    assert {one.mailbox_id: one.job_id for one in await machine.sent()} == {1: 12, 2: 11}
    machine.advance(1200)
    assert await machine.sent() == []
    await machine.store.set_rotation(WS, [route(5, classes=(3, 4))])
    assert [one.job_id for one in await machine.sent()] == [10]


async def test_mailbox_of_another_class_sends_what_that_class_may(machine: Machine) -> None:
    await machine.ready([mailbox(1, klass=3)], [route(5, classes=(4,))])
    await machine.push(job(10, to=1), job(11, 6, to=1))
    assert await machine.sent() == []
    await machine.store.set_mailboxes(WS, [mailbox(1, klass=4)])
    assert [one.job_id for one in await machine.sent()] == [10]


async def test_jobs_pushed_behind_parked_follow_ups_keep_their_order(machine: Machine) -> None:
    await machine.ready([mailbox(1)], [])
    await machine.push(job(10, to=1))
    assert await machine.sent() == []
    await machine.push(job(11, to=1))
    await machine.store.set_rotation(WS, [route(5)])
    served = [one.job_id for one in await machine.sent()]
    machine.advance(1200)
    assert served + [one.job_id for one in await machine.sent()] == [10, 11]


async def test_job_waits_until_it_is_due(machine: Machine) -> None:
    await machine.ready([mailbox(1)])
    await machine.push(job(10, due=machine.now + 5000))
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), machine.now + 5000)
    machine.advance(4999)
    assert await machine.sent() == []
    machine.advance(1)
    (found,) = await machine.sent()
    assert (found.job_id, found.due_ms) == (10, machine.now)


async def test_campaign_out_of_rotation_is_not_served_and_keeps_its_place(
    machine: Machine,
) -> None:
    await machine.ready([mailbox(1)])
    await machine.push(job(10), job(11))
    await machine.store.set_rotation(WS, [])
    assert await machine.sent() == []
    await machine.push(job(12))
    await machine.store.set_rotation(WS, [route(5)])
    served = []
    for _ in range(3):
        served += [one.job_id for one in await machine.sent()]
        machine.advance(1200)
    assert served == [10, 11, 12]


async def test_stretch_that_ended_or_is_used_up_is_stale(machine: Machine) -> None:
    await machine.ready(
        [mailbox(1, open_until_ms=machine.now + 400), mailbox(2, left=1), mailbox(3, left=0)]
    )
    await machine.push(*(job(n) for n in range(9)))
    batch = await machine.reserve()
    assert batch.stale == (1, 3)
    assert [one.mailbox_id for one in batch.proposals] == [2]
    assert (await machine.reserve()).stale == ()
    machine.advance(1200)
    assert (await machine.reserve()).stale == (1, 3, 2)


async def test_free_mailbox_whose_stretch_ended_is_not_chosen(machine: Machine) -> None:
    # More look for a slot than one call takes up: the clock has passed this one's end.
    await machine.ready([mailbox(1, open_until_ms=machine.now + 2000), mailbox(2)])
    await machine.reserve()
    machine.advance(1600)
    await machine.store.set_mailboxes(WS, [mailbox(n, left=0) for n in range(10, 12)])
    await machine.push(job(1))
    batch = await machine.reserve(most=2)
    assert batch.stale == (10, 11, 1)
    assert [one.mailbox_id for one in batch.proposals] == [2]


async def test_submission_ends_with_the_stretch(machine: Machine) -> None:
    await machine.ready([mailbox(1, open_until_ms=machine.now + 520)])
    await machine.push(job(10))
    (found,) = await machine.sent()
    assert found.not_after_ms == machine.now + 520


async def test_opening_in_the_future_is_waited_for(machine: Machine) -> None:
    await machine.ready([mailbox(1, open_from_ms=machine.now + 10_000)])
    await machine.push(job(10))
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), machine.now + 9500)
    machine.advance(9500)
    (found,) = await machine.sent()
    assert found.slot_ms == machine.now + 500


async def test_free_mailbox_waits_when_the_clock_steps_back(machine: Machine) -> None:
    await machine.ready([mailbox(1, next_ms=machine.now + 500)])
    await machine.reserve()
    machine.advance(-A_MINUTE)
    await machine.push(job(10))
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), machine.now + A_MINUTE)


async def test_refused_job_returns_to_the_front(machine: Machine) -> None:
    await machine.ready([mailbox(1), mailbox(2)])
    await machine.push(*(job(n) for n in range(10, 14)), job(20, to=1), job(21, to=1))
    refused = await machine.sent()
    assert sorted(one.job_id for one in refused) == [10, 20]
    await machine.store.put_back(WS, refused)
    await machine.store.set_mailboxes(WS, [mailbox(1), mailbox(2)])
    again = await machine.sent()
    assert sorted(one.job_id for one in again) == [10, 20]
    assert {one.job_id: one.due_ms for one in again} == {one.job_id: one.due_ms for one in refused}


async def test_dropped_mailbox_sends_nothing_and_its_follow_ups_wait(machine: Machine) -> None:
    await machine.ready([mailbox(1)])
    await machine.reserve()
    await machine.push(job(10, to=1), job(11))
    await machine.store.drop_mailboxes(WS, [1])
    assert await machine.sent() == []
    await machine.store.set_mailboxes(WS, [mailbox(1)])
    (found,) = await machine.sent()
    assert found.job_id == 10


async def test_mailbox_written_anew_leaves_the_lanes_it_had(machine: Machine) -> None:
    await machine.ready([mailbox(1)], [route(5), route(6, pool(2))])
    await machine.reserve()
    await machine.store.set_mailboxes(WS, [mailbox(1, Place(2, 2, "next_in_line"))])
    await machine.push(job(10, 5))
    assert await machine.sent() == []
    await machine.push(job(11, 6))
    assert [one.job_id for one in await machine.sent()] == [11]


async def test_mailbox_written_anew_leaves_all_its_lanes(machine: Machine) -> None:
    both = (Place(1, 1, "next_in_line"), Place(2, 2, "round_robin", 4))
    await machine.ready([mailbox(1, *both)], [route(5), route(6, pool(2, "round_robin"))])
    await machine.reserve()
    await machine.store.set_mailboxes(WS, [mailbox(1, Place(3, 3, "random"))])
    await machine.push(job(10, 5), job(11, 6))
    assert await machine.sent() == []


async def test_mailbox_of_several_pools_serves_one_job_at_a_time(machine: Machine) -> None:
    both = (Place(1, 1, "next_in_line"), Place(2, 2, "round_robin", 4))
    await machine.ready([mailbox(1, *both)], [route(5), route(6, pool(2, "round_robin"))])
    await machine.push(job(10, 5), job(11, 6))
    assert len(await machine.sent()) == 1
    machine.advance(1200)
    await machine.push(job(12, 5), job(13, 6))
    assert len(await machine.sent()) == 1


async def test_workspaces_do_not_see_each_other(machine: Machine) -> None:
    await machine.ready([mailbox(1)])
    await machine.store.open(8, 1)
    await machine.store.push(8, [job(10)], machine.now)
    assert await machine.sent() == []


async def test_batch_is_no_larger_than_asked_for_and_calls_for_the_rest(machine: Machine) -> None:
    await machine.ready([mailbox(n) for n in range(1, 30)])
    await machine.push(*(job(n) for n in range(100)))
    batch = await machine.reserve(7)
    assert (len(batch.proposals), batch.wake_ms) == (7, machine.now)
    assert len(await machine.sent()) == 22


async def test_long_queue_keeps_its_order_across_chunks(machine: Machine) -> None:
    await machine.ready([mailbox(n, cadence_ms=0, lead_ms=0) for n in range(1, 101)])
    await machine.push(*(job(n) for n in range(1, 701)))
    for n in range(701, 1001):
        await machine.push(job(n))
    served: list[int] = []
    returned = 0
    while len(served) < 1000:
        proposals = await machine.sent()
        if len(served) in (300, 550) and returned < 2:
            returned += 1
            # Half of it stays out: the rest goes back before a chunk already begun.
            await machine.store.put_back(WS, proposals[50:])
            proposals = proposals[:50]
        served += [one.job_id for one in proposals]
        assert served == list(range(1, len(served) + 1))
        machine.advance(1000)
    assert returned == 2


async def test_ids_and_instants_far_apart_share_a_list(machine: Machine) -> None:
    ids = [1, 2**31, 5, 2**50, 2**50 + 1, 2**32, 7]
    await machine.ready([mailbox(1, cadence_ms=0)])
    await machine.push(*(job(one) for one in ids))
    for one in reversed(ids):
        await machine.push(job(one + 1, due=machine.now - 1))
    served = []
    for _ in range(2 * len(ids)):
        served += [one.job_id for one in await machine.sent()]
        machine.advance(1000)
    assert served == ids + [one + 1 for one in reversed(ids)]
