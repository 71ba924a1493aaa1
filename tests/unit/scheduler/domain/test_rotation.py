"""Each rotation mode keeps its promise, whoever is busy and however often."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline_scheduler.domain.rotation import (
    MODES,
    Draw,
    Free,
    Mode,
    choose,
    loaded,
    rejoined,
)
from paceline_scheduler.pacing.base import (
    CampaignRoute,
    MailboxRecord,
    Place,
    PoolRoute,
    QueuedJob,
    TierRoute,
)
from paceline_scheduler.pacing.shard import Shard

# Who is free at each of some moments, of mailboxes 0..5.
schedules = st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=80)


class Pool:
    """A pool of mailboxes that keeps the counts a choice needs."""

    def __init__(self, mode: Mode, keys: dict[int, int]) -> None:
        self.mode, self.keys = mode, keys
        self.turn = 0
        self.turns: dict[int, int] = defaultdict(int)
        self.loads: dict[int, int] = defaultdict(int)
        self.floor = 0
        self.free: set[int] = set()
        self.cursors: dict[int, int] = defaultdict(lambda: -1)

    def join(self, free: set[int]) -> None:
        """Say who is free now."""
        for one in free - self.free:
            self.loads[one] = rejoined(self.loads[one], self.floor)
        self.free = set(free)

    def serve(
        self, free: set[int], campaign: int = 1, pick: float = 0.0, best_open: int | None = None
    ) -> int | None:
        self.join(free)
        found = choose(
            self.mode,
            [Free(one, self.keys[one], self.turns[one], self.loads[one]) for one in free],
            Draw(self.cursors[campaign], pick, best_open),
        )
        if found is None:
            return None
        one = found.mailbox_id
        # Busy again from now on.
        self.free.discard(one)
        self.turn += 1
        self.turns[one] = self.turn
        self.cursors[campaign] = found.key
        if self.mode == "weighted":
            self.floor = self.loads[one]
            self.loads[one] = loaded(self.loads[one], self.keys[one])
        return one


@pytest.mark.parametrize("mode", MODES)
def test_somebody_free_serves_and_nobody_else(mode: Mode) -> None:
    pool = Pool(mode, {3: 1, 5: 2, 7: 3})
    for pick in (0.0, 0.4, 0.999):
        assert pool.serve({5, 7}, pick=pick) in {5, 7}
    assert pool.serve(set()) is None


@given(schedules)
def test_next_in_line_is_the_one_served_longest_ago(schedule: list[set[int]]) -> None:
    pool, last = Pool("next_in_line", dict.fromkeys(range(6), 0)), dict.fromkeys(range(6), -1)
    for n, free in enumerate(schedule):
        found = pool.serve(free)
        assert found is not None
        assert last[found] == min(last[one] for one in free)
        last[found] = n


@pytest.mark.parametrize("mode", ["next_in_line", "round_robin", "weighted", "priority"])
@given(st.lists(st.sets(st.integers(1, 5)), min_size=30, max_size=60))
@settings(max_examples=60)
def test_one_that_stays_free_is_never_starved(mode: Mode, others: list[set[int]]) -> None:
    keys = {one: one for one in range(6)} if mode == "round_robin" else dict.fromkeys(range(6), 1)
    pool, waited = Pool(mode, keys), 0
    for busy in others:
        found = pool.serve({0, *busy})
        waited = 0 if found == 0 else waited + 1
        assert waited <= 5


@given(schedules, st.lists(st.integers(1, 3), min_size=80, max_size=80))
def test_round_robin_never_skips_a_ready_mailbox(
    schedule: list[set[int]], campaigns: list[int]
) -> None:
    # Positions are not the ids' order; every campaign has its own cursor.
    position = {one: (one * 5 + 3) % 6 for one in range(6)}
    pool, cursors = Pool("round_robin", position), dict.fromkeys((1, 2, 3), -1)
    for free, campaign in zip(schedule, campaigns, strict=False):
        found = pool.serve(free, campaign)
        assert found is not None
        cursor = cursors[campaign]
        between = (
            range(cursor + 1, position[found])
            if position[found] > cursor
            else [*range(cursor + 1, 6), *range(position[found])]
        )
        assert not any(position[one] in between for one in free)
        cursors[campaign] = position[found]


def test_round_robin_of_mailboxes_always_free_takes_each_once_a_round() -> None:
    pool = Pool("round_robin", {10: 2, 11: 0, 12: 7})
    assert [pool.serve({10, 11, 12}) for _ in range(6)] == [11, 10, 12, 11, 10, 12]


def test_random_gives_each_an_equal_share_of_the_draws() -> None:
    pool = Pool("random", dict.fromkeys(range(4), 0))
    found = Counter(pool.serve({0, 1, 2, 3}, pick=n / 400) for n in range(400))
    assert found == Counter({0: 100, 1: 100, 2: 100, 3: 100})


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.integers(1, 3000))
@settings(max_examples=60)
def test_weighted_counts_stay_within_one_turn_each_of_the_weights(
    weights: list[int], turns: int
) -> None:
    pool = Pool("weighted", dict(enumerate(weights)))
    served = Counter(pool.serve(set(range(len(weights)))) for _ in range(turns))
    for one, weight in enumerate(weights):
        share = turns * weight / sum(weights)
        assert abs(served[one] - share) <= len(weights)
    for one, other in ((a, b) for a in range(len(weights)) for b in range(len(weights))):
        # Stride's own bound: no pair is apart by more than a turn of each.
        apart = served[one] / weights[one] - served[other] / weights[other]
        assert apart <= (1 / weights[one]) * 1.01 + 1e-3


def test_weighted_gives_no_credit_for_time_away() -> None:
    pool = Pool("weighted", {1: 1, 2: 1})
    for _ in range(100):
        assert pool.serve({1}) == 1
    served = Counter(pool.serve({1, 2}) for _ in range(20))
    assert abs(served[1] - served[2]) <= 1


def test_weighted_takes_no_debt_over_either() -> None:
    pool = Pool("weighted", {1: 1, 2: 3})
    for _ in range(50):
        pool.serve({1, 2})
    pool.serve({2})
    served = Counter(pool.serve({1, 2}) for _ in range(40))
    assert abs(served[2] - 30) <= 2


@given(schedules, st.lists(st.integers(0, 2), min_size=6, max_size=6), st.data())
def test_backup_serves_only_while_no_better_rank_is_open(
    schedule: list[set[int]], ranks: list[int], data: st.DataObject
) -> None:
    pool = Pool("priority", dict(enumerate(ranks)))
    for free in schedule:
        # Open ones are the free and some that are busy within their cadence.
        open_ = free | data.draw(st.sets(st.integers(0, 5)))
        best = min(ranks[one] for one in open_)
        found = pool.serve(free, best_open=best)
        if all(ranks[one] > best for one in free):
            assert found is None
        else:
            assert found is not None
            assert ranks[found] == best


def test_within_a_rank_the_one_served_longest_ago_goes_first() -> None:
    pool = Pool("priority", {1: 0, 2: 0, 3: 1})
    assert [pool.serve({1, 2, 3}, best_open=0) for _ in range(4)] == [1, 2, 1, 2]


# --- the pacing store, whose lanes answer the same without looking at everybody

STEP_MS = 1000


def record(mailbox: int, mode: Mode, key: int, busy_ms: int) -> MailboxRecord:
    """A mailbox of pool 1, open for ever, `busy_ms` from one slot to its next."""
    return MailboxRecord(
        mailbox, 0, 0, busy_ms, 0, 0, 0, 0, 0, 1 << 50, -1, 0, (Place(0, 1, mode, key),)
    )


@pytest.mark.parametrize("mode", MODES)
@given(
    st.lists(st.integers(1, 5), min_size=5, max_size=5),
    st.lists(st.integers(1, 4), min_size=5, max_size=5),
    st.lists(st.integers(0, 4), min_size=5, max_size=40),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=60, deadline=None)
def test_pacing_store_chooses_as_the_rule_does(
    mode: Mode, keys: list[int], busy: list[int], jobs: list[int], pick: float
) -> None:
    if mode == "round_robin":
        keys = [3, 1, 5, 2, 4]
    ranks = [[n for n in range(5) if keys[n] == rank] for rank in range(6)]
    shard, pool = Shard(), Pool(mode, dict(enumerate(keys, 1)))
    shard.open(1)
    shard.set_mailboxes(
        [record(n + 1, mode, keys[n], busy[n] * STEP_MS) for n in range(5)],
    )
    members = tuple(tuple(n + 1 for n in rank) for rank in ranks) if mode == "priority" else ()
    tiers = (TierRoute((PoolRoute(1, mode, ((0, 0),), members),)),)
    shard.set_rotation([CampaignRoute(7, frozenset({0}), tiers)])
    next_at, job = dict.fromkeys(range(1, 6), 0), 0
    for step, count in enumerate(jobs):
        now = 1_800_000_000_000 + step * STEP_MS
        free = {one for one, at in next_at.items() if at <= now}
        # A batch never finds fewer jobs than it may serve: none waits for the next step.
        open_ranks = min(keys) if mode == "priority" else None
        count = min(count, sum(open_ranks is None or keys[one - 1] == open_ranks for one in free))
        shard.push([QueuedJob(job + n, 7, None, now) for n in range(count)], now)
        job += count
        batch = shard.reserve(now, [0.0] * 8, [pick] * 8)
        assert batch is not None
        served = [proposal.mailbox_id for proposal in batch.proposals]
        pool.join(free)
        expected = []
        for _ in range(count):
            found = pool.serve(free, 1, pick, open_ranks)
            assert found is not None
            expected.append(found)
            free.discard(found)
            next_at[found] = now + busy[found - 1] * STEP_MS
        assert served == expected
