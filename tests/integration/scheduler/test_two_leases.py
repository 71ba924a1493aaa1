"""Two leases of one pacer in flight at once: what the first takes, the second cannot have."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from redis.asyncio import Redis
from tests.waiting import until

from paceline_scheduler.pacing.base import Batch, Proposal
from paceline_scheduler.pacing.redis import RedisPacing

from .conftest import WS, House, World, furnish
from .test_guards import budget_domain, ready

# Far enough ahead for both leases to be decided before it.
AHEAD_MS = 4000


class ScriptedPacing(RedisPacing):
    """A store that first proposes what it was told to, and then nothing."""

    def __init__(self, client: Redis) -> None:
        super().__init__(client)
        self.script: list[Sequence[tuple[int, int]]] = []

    async def reserve(
        self, workspace_id: int, draws: Sequence[float], picks: Sequence[float]
    ) -> Batch | None:
        now_ms = await self.now_ms()
        pairs = self.script.pop(0) if self.script else ()
        slot_ms = now_ms + AHEAD_MS
        proposals = tuple(
            Proposal(mailbox, job, 5, 1, slot_ms, slot_ms + 50, False, 0, 0)
            for mailbox, job in pairs
        )
        return Batch(1, now_ms, now_ms, proposals, ())


@pytest.fixture
async def scripted(house: House) -> House:
    return furnish(house.db, house.redis, store=ScriptedPacing)


def waiting(world: World) -> int:
    """Return how many of the scheduler's backends wait for a lock."""
    count: int = world.one(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE usename = 'scheduler' AND wait_event_type = 'Lock'"
    )
    return count


async def test_second_lease_counts_what_the_first_has_taken(world: World, scripted: House) -> None:
    jobs = await ready(world, scripted, 14)
    world.sql("UPDATE mailbox_budget SET max_outstanding = 4 WHERE mailbox_id <> 1")
    world.sql("UPDATE mailbox_budget SET cadence_ms = 0, jitter_min_ms = 0, jitter_max_ms = 0")
    world.sql("UPDATE mailbox_budget SET cadence_ms = 60000 WHERE mailbox_id = 2")
    world.sql("UPDATE mailbox_budget SET day_cap = 1 WHERE mailbox_id = 3")
    world.sql("UPDATE mailbox_budget SET hour_cap = 1 WHERE mailbox_id = 4")
    # Shared by two mailboxes each: an account, a sending domain.
    world.sql("UPDATE mailbox_budget SET account_ref = 5, ceiling = 1 WHERE mailbox_id IN (5, 6)")
    world.sql(
        "INSERT INTO account_budget (account_ref, hour) VALUES (5, date_trunc('hour', now()))"
    )
    budget_domain(world, 1)
    world.sql("UPDATE domain_budget SET domain_ref = 7")
    world.sql("UPDATE mailbox_budget SET domain_ref = 7 WHERE mailbox_id IN (7, 8)")
    assert isinstance(scripted.store, ScriptedPacing)
    # Each with what the other wants as well; job 12 is wanted by two mailboxes.
    first = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (7, 5), (9, 12)]
    second = [(1, 6), (2, 7), (3, 8), (4, 9), (6, 10), (8, 11), (10, 12), (11, 13)]
    scripted.store.script = [[(box, jobs[n]) for box, n in pairs] for pairs in (first, second)]
    scripted.pacer._due[WS] = 0
    with psycopg.connect(world.stack.dsn()) as holder:
        holder.execute("SELECT FROM scheduler.mailbox_budget WHERE mailbox_id = 1 FOR UPDATE")
        leasing = asyncio.create_task(scripted.pacer.reserve_ready(float("inf")))
        await until(lambda: waiting(world) == 2, "both leases are under way")
        holder.rollback()
    await leasing
    taken = dict(world.sql("SELECT mailbox_id, count(*) FROM slot GROUP BY 1"))
    assert set(taken.values()) == {1}
    assert len(taken) == 8
    assert all(len(taken.keys() & pair) == 1 for pair in ({5, 6}, {7, 8}, {9, 10}))
    assert world.one("SELECT count(DISTINCT job_id) FROM slot") == len(taken)
    assert sorted(world.sql("SELECT reason FROM decision WHERE scope = 'job'")) == [
        ("cadence",), ("daily_cap",), ("domain_budget",), ("hourly_cap",), ("outstanding",),
        ("provider_ceiling",),
    ]  # fmt: skip
    used = "SELECT DISTINCT outstanding, day_used, hour_used FROM mailbox_budget WHERE day_used > 0"
    assert world.sql(used) == [(1, 1, 1)]
    assert world.one("SELECT hours[1] FROM account_budget WHERE account_ref = 5") == 1
    assert world.one("SELECT day_used FROM domain_budget") == 1
