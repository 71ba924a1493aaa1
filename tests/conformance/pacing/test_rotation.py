"""What each rotation mode, the tiers and the matching of hosts promise, on every store."""

from collections import Counter

import pytest
from tests.conformance.pacing.fleet import WS, Machine, job, mailbox, pool, route

from paceline_scheduler.pacing.base import CampaignRoute, Mode, Place, PoolRoute, TierRoute

# Longer than any mailbox here takes between two slots.
LATER = 2000
MODES: tuple[Mode, ...] = ("next_in_line", "round_robin", "random", "weighted", "priority")


def place(mode: Mode, key: int = 0) -> Place:
    return Place(1, 1, mode, key)


async def one_by_one(machine: Machine, count: int, campaign: int = 5) -> list[int]:
    """Queue job after job, all mailboxes being ready each time; return who served them."""
    served = []
    for n in range(count):
        await machine.push(job(machine.now + n, campaign))
        (found,) = await machine.sent()
        served.append(found.mailbox_id)
        machine.advance(LATER)
    return served


async def test_next_in_line_is_the_least_recently_served(machine: Machine) -> None:
    await machine.ready([mailbox(n) for n in range(1, 6)])
    assert await one_by_one(machine, 10) == [1, 2, 3, 4, 5] * 2
    # A follow-up is a send of its mailbox, too.
    await machine.push(job(1, to=1))
    await machine.sent()
    machine.advance(LATER)
    assert await one_by_one(machine, 5) == [2, 3, 4, 5, 1]


async def test_how_much_a_mailbox_served_outlives_its_rewriting(machine: Machine) -> None:
    records = [mailbox(n) for n in range(1, 4)]
    await machine.ready(records)
    assert await one_by_one(machine, 4) == [1, 2, 3, 1]
    await machine.store.set_mailboxes(WS, records)
    assert await one_by_one(machine, 3) == [2, 3, 1]


@pytest.mark.parametrize("mode", MODES)
async def test_one_slow_mailbox_never_starves_its_pool(machine: Machine, mode: Mode) -> None:
    # The slow one would come first in every mode.
    first = 1000 if mode == "weighted" else 0
    records = [mailbox(1, place(mode, first), cadence_ms=3_600_000)]
    records += [mailbox(n, place(mode, 1 if mode == "weighted" else n)) for n in range(2, 5)]
    await machine.ready(records, [route(5, pool(1, mode))])
    await machine.push(*(job(n) for n in range(1000)))
    served: Counter[int] = Counter()
    for _ in range(30):
        served += Counter(one.mailbox_id for one in await machine.sent())
        machine.advance(LATER)
    assert served == {1: 1, 2: 30, 3: 30, 4: 30}


async def test_round_robin_goes_by_position_and_skips_no_ready_mailbox(machine: Machine) -> None:
    positions = {4: 10, 2: 20, 9: 30, 1: 40}
    records = {n: mailbox(n, place("round_robin", at)) for n, at in positions.items()}
    await machine.ready(list(records.values()), [route(5, pool(1, "round_robin"))])
    assert await one_by_one(machine, 5) == [4, 2, 9, 1, 4]
    # One that is not ready loses its turn, not its place.
    await machine.store.set_mailboxes(WS, [mailbox(2, place("round_robin", 20), left=0)])
    assert await one_by_one(machine, 2) == [9, 1]
    await machine.store.set_mailboxes(WS, [records[2]])
    assert await one_by_one(machine, 4) == [4, 2, 9, 1]


async def test_round_robin_skips_none_within_a_batch(machine: Machine) -> None:
    records = [mailbox(n, place("round_robin", n)) for n in range(1, 8)]
    await machine.ready(records, [route(5, pool(1, "round_robin"))])
    # Freed in the same call, or standing free since before.
    for begin in (0, 3, 6, 2, 5):
        await machine.push(*(job(machine.now + n) for n in range(3)))
        found = [one.mailbox_id for one in await machine.sent()]
        assert found == [(begin + n) % 7 + 1 for n in range(3)]
        machine.advance(LATER)


async def test_round_robin_keeps_a_cursor_per_campaign(machine: Machine) -> None:
    records = [mailbox(n, place("round_robin", n)) for n in range(1, 5)]
    routes = [route(5, pool(1, "round_robin")), route(6, pool(1, "round_robin"))]
    await machine.ready(records, routes)
    assert await one_by_one(machine, 3, campaign=5) == [1, 2, 3]
    assert await one_by_one(machine, 2, campaign=6) == [1, 2]
    # Out of rotation and back, it goes on where it was.
    await machine.store.set_rotation(WS, routes[1:])
    await machine.store.set_rotation(WS, routes)
    assert await one_by_one(machine, 2, campaign=5) == [4, 1]


async def test_random_takes_the_one_at_the_pick(machine: Machine) -> None:
    records = [mailbox(n, place("random")) for n in range(1, 5)]
    await machine.ready(records, [route(5, pool(1, "random"))])
    for pick, mailbox_id in ((0.0, 1), (0.24, 1), (0.26, 2), (0.74, 3), (0.999, 4)):
        await machine.push(job(machine.now))
        assert [one.mailbox_id for one in await machine.sent(pick=pick)] == [mailbox_id]
        machine.advance(LATER)
    # Those taken in the same batch are no longer chosen from: 3 of 4, 2 of 3, 1 of 2.
    await machine.push(*(job(machine.now + n) for n in range(4)))
    assert [one.mailbox_id for one in await machine.sent(pick=0.5)] == [3, 2, 4, 1]


async def test_weighted_converges_to_the_weights(machine: Machine) -> None:
    weights = {1: 1, 2: 2, 3: 5}
    records = [mailbox(n, place("weighted", weight)) for n, weight in weights.items()]
    await machine.ready(records, [route(5, pool(1, "weighted"))])
    served: Counter[int] = Counter()
    for n, one in enumerate(await one_by_one(machine, 160), 1):
        served[one] += 1
        assert all(
            abs(served[mailbox] - n * weight / 8) <= 2 for mailbox, weight in weights.items()
        )
    assert served == {1: 20, 2: 40, 3: 100}


async def test_weighted_gives_no_credit_for_time_not_free(machine: Machine) -> None:
    records = [mailbox(n, place("weighted", 10)) for n in (1, 2)]
    await machine.ready(records, [route(5, pool(1, "weighted"))])
    await machine.store.drop_mailboxes(WS, [2])
    assert await one_by_one(machine, 50) == [1] * 50
    await machine.store.set_mailboxes(WS, [records[1]])
    served = Counter(await one_by_one(machine, 20))
    assert abs(served[1] - served[2]) <= 2


async def test_what_a_mailbox_sent_by_another_mode_counts_in_its_weight(machine: Machine) -> None:
    # The routes learn of a pool's new mode before its mailboxes do.
    await machine.ready(
        [mailbox(n, place("weighted", 1)) for n in (1, 2)], [route(5, pool(1, "weighted"))]
    )
    assert await one_by_one(machine, 2) == [1, 2]
    await machine.store.set_rotation(WS, [route(5, pool(1, "random"))])
    await machine.push(job(1))
    assert [one.mailbox_id for one in await machine.sent(pick=0.0)] == [1]
    machine.advance(LATER)
    await machine.store.set_rotation(WS, [route(5, pool(1, "weighted"))])
    assert await one_by_one(machine, 1) == [2]


class TestPriority:
    RANKS = ((1, 2), (3,), (4,))

    async def start(self, machine: Machine) -> None:
        ranks = {one: rank for rank, members in enumerate(self.RANKS) for one in members}
        self.records = {n: mailbox(n, place("priority", rank)) for n, rank in ranks.items()}
        await machine.ready(
            list(self.records.values()), [route(5, pool(1, "priority", ranks=self.RANKS))]
        )

    async def close(self, machine: Machine, mailbox_id: int, how: str) -> None:
        places = self.records[mailbox_id].places
        if how == "dropped":
            await machine.store.drop_mailboxes(WS, [mailbox_id])
            return
        changes = {
            "used up": {"left": 0},
            "over": {"open_until_ms": machine.now},
            "not begun": {"open_from_ms": machine.now + 10**7},
        }[how]
        await machine.store.set_mailboxes(WS, [mailbox(mailbox_id, *places, **changes)])

    async def test_primaries_serve_least_recently_served_first(self, machine: Machine) -> None:
        await self.start(machine)
        assert await one_by_one(machine, 4) == [1, 2, 1, 2]

    async def test_backup_waits_while_a_primary_is_open_though_busy(self, machine: Machine) -> None:
        await self.start(machine)
        await machine.push(*(job(n) for n in range(9)))
        assert [one.mailbox_id for one in await machine.sent()] == [1, 2]
        batch = await machine.reserve()
        assert (batch.proposals, batch.wake_ms) == ((), machine.now + 1200)
        await self.close(machine, 1, "dropped")
        assert await machine.sent() == []

    @pytest.mark.parametrize("how", ["dropped", "used up", "over", "not begun"])
    async def test_backup_serves_while_no_better_rank_is_open(
        self, machine: Machine, how: str
    ) -> None:
        await self.start(machine)
        for one in (1, 2):
            await self.close(machine, one, how)
        assert await one_by_one(machine, 2) == [3, 3]
        await self.close(machine, 3, how)
        assert await one_by_one(machine, 1) == [4]
        await machine.store.set_mailboxes(WS, [self.records[2]])
        assert await one_by_one(machine, 2) == [2, 2]

    async def test_cap_used_up_by_the_last_send_brings_the_backup(self, machine: Machine) -> None:
        await self.start(machine)
        last = mailbox(1, place("priority", 0), left=1)
        await machine.store.drop_mailboxes(WS, [2])
        await machine.store.set_mailboxes(WS, [last])
        await machine.push(job(1), job(2))
        served = [one.mailbox_id for one in await machine.sent()]
        served += [one.mailbox_id for one in await machine.sent()]
        assert served == [1, 3]


def tiered(*tiers: tuple[PoolRoute | tuple[PoolRoute, ...], int | None]) -> CampaignRoute:
    return CampaignRoute(
        5,
        frozenset([0]),
        tuple(
            TierRoute(pools if isinstance(pools, tuple) else (pools,), after)
            for pools, after in tiers
        ),
    )


async def test_tier_is_left_only_after_its_deadline(machine: Machine) -> None:
    busy = mailbox(1, Place(1, 1, "next_in_line"), next_ms=machine.now + 60_000)
    second = mailbox(2, Place(2, 2, "next_in_line"))
    third = mailbox(3, Place(3, 3, "next_in_line"))
    routes = [tiered((pool(1), 5000), (pool(2), 9000), (pool(3), None))]
    await machine.ready([busy, second, third], routes)
    await machine.push(job(10, due=machine.now - 1), job(11), job(12, due=machine.now))
    # Job 10 stands first; its due instant counts as the next second.
    due = machine.now
    batch = await machine.reserve()
    assert (batch.proposals, batch.wake_ms) == ((), due + 5000)
    machine.advance(4999)
    assert await machine.sent() == []
    machine.advance(1)
    # Job 11, next, is long past every deadline.
    served = [(one.job_id, one.mailbox_id, one.pool_id) for one in await machine.sent()]
    assert served == [(10, 2, 2), (11, 3, 3)]
    machine.advance(1200)
    assert [(one.job_id, one.mailbox_id) for one in await machine.sent()] == [(12, 2)]


async def test_tier_without_deadline_is_never_left(machine: Machine) -> None:
    busy = mailbox(1, Place(1, 1, "next_in_line"), next_ms=machine.now + 60_000)
    second = mailbox(2, Place(2, 2, "next_in_line"))
    await machine.ready([busy, second], [tiered((pool(1), None), (pool(2), None))])
    await machine.push(job(10))
    machine.advance(50_000)
    assert await machine.sent() == []
    machine.advance(9500)
    assert [one.mailbox_id for one in await machine.sent()] == [1]


async def test_earlier_tier_comes_first_past_its_deadline_too(machine: Machine) -> None:
    await machine.ready(
        [mailbox(n, Place(n, n, "next_in_line")) for n in (1, 2)],
        [tiered((pool(2), 0), (pool(1), None))],
    )
    await machine.push(job(10))
    assert [one.mailbox_id for one in await machine.sent()] == [2]


async def test_pools_of_a_tier_take_turns(machine: Machine) -> None:
    await machine.ready(
        [mailbox(n, Place(n % 3 + 1, n % 3 + 1, "next_in_line")) for n in range(12)],
        [route(5, pool(1), pool(2), pool(3))],
    )
    await machine.push(*(job(n) for n in range(8)))
    assert [one.pool_id for one in await machine.sent()] == [1, 2, 3, 1, 2, 3, 1, 2]
    machine.advance(LATER)
    await machine.push(job(20))
    assert [one.pool_id for one in await machine.sent()] == [3]


class TestMatching:
    """Lane 1 is of host 0, lane 2 of host 1, lane 3 of host 2; one pool."""

    def lanes(self) -> PoolRoute:
        return PoolRoute(1, "next_in_line", ((1, 0), (2, 1), (3, 2)))

    async def start(self, machine: Machine, match: str, *mailboxes: tuple[int, int]) -> None:
        await machine.ready(
            [mailbox(n, Place(lane, 1, "next_in_line")) for n, lane in mailboxes],
            [route(5, self.lanes(), match=match)],  # type: ignore[arg-type]
        )

    async def test_strict_takes_the_same_host_only(self, machine: Machine) -> None:
        await self.start(machine, "strict", (1, 1), (2, 2), (3, 3), (4, 3))
        await machine.push(job(10, host=2), job(11, host=1), job(12, host=1))
        served = {one.job_id: one.mailbox_id for one in await machine.sent()}
        assert served == {10: 3, 11: 2}

    async def test_prefer_takes_the_same_host_first_then_any(self, machine: Machine) -> None:
        await self.start(machine, "prefer", (1, 1), (2, 2), (3, 3))
        await machine.push(job(10, host=2), job(11, host=2), job(12, host=1))
        served = [(one.job_id, one.mailbox_id) for one in await machine.sent()]
        assert served == [(10, 3), (11, 1), (12, 2)]

    async def test_off_takes_any(self, machine: Machine) -> None:
        await self.start(machine, "off", (1, 3))
        await machine.push(job(10, host=1))
        assert [one.mailbox_id for one in await machine.sent()] == [1]

    @pytest.mark.parametrize("match", ["off", "prefer", "strict"])
    async def test_unknown_host_never_blocks(self, machine: Machine, match: str) -> None:
        await self.start(machine, match, (1, 2), (2, 3))
        await machine.push(job(10, host=0), job(11, host=0))
        assert [one.mailbox_id for one in await machine.sent()] == [1, 2]

    async def test_a_host_nobody_serves_holds_back_no_other(self, machine: Machine) -> None:
        await self.start(machine, "strict", (1, 1), (2, 2))
        await machine.push(job(10, host=2), job(11, host=1), job(12))
        served = [one.job_id for one in await machine.sent()]
        assert served == [11, 12]

    async def test_the_older_head_goes_first(self, machine: Machine) -> None:
        await self.start(machine, "off", (1, 1))
        now = machine.now
        await machine.push(job(10, due=now - 1000), job(11, due=now - 9000, host=2))
        assert [one.job_id for one in await machine.sent()] == [11]


async def test_small_campaign_is_not_starved_by_a_large_one(machine: Machine) -> None:
    await machine.ready([mailbox(1)], [route(5), route(6)])
    await machine.push(*(job(n, campaign=5) for n in range(100, 400)), job(1, campaign=6))
    served = []
    for _ in range(3):
        served += [one.campaign_id for one in await machine.sent()]
        machine.advance(LATER)
    assert 6 in served[:2]


async def test_campaigns_share_evenly_whatever_their_size(machine: Machine) -> None:
    sizes = {5: 300, 6: 40, 7: 40, 8: 3}
    await machine.ready([mailbox(n) for n in range(1, 5)], [route(one) for one in sizes])
    for campaign, size in sizes.items():
        await machine.push(*(job(1000 * campaign + n, campaign) for n in range(size)))
    served: Counter[int] = Counter()
    for _ in range(20):
        served += Counter(one.campaign_id for one in await machine.sent())
        machine.advance(LATER)
    assert served[8] == 3
    assert max(served[n] for n in (5, 6, 7)) - min(served[n] for n in (5, 6, 7)) <= 1


async def test_pool_decides_who_serves_a_campaign(machine: Machine) -> None:
    two = mailbox(2, Place(2, 2, "next_in_line"), Place(3, 3, "next_in_line"))
    await machine.ready([mailbox(1), two], [route(5, pool(3)), route(6)])
    await machine.push(job(10, campaign=5), job(11, campaign=6))
    assert {one.mailbox_id: (one.job_id, one.pool_id) for one in await machine.sent()} == {
        1: (11, 1),
        2: (10, 3),
    }


async def test_pool_whose_lanes_hold_nobody_falls_to_the_next_of_the_tier(
    machine: Machine,
) -> None:
    await machine.ready([mailbox(1)], [route(5, pool(8), pool(1))])
    await machine.push(*(job(n) for n in range(2)))
    assert [one.mailbox_id for one in await machine.sent()] == [1]
