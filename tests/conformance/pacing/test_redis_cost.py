"""What the script may touch, and that its work grows with proposals alone."""

import re
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from tests.conformance.pacing.fleet import START, WS, Machine, job, mailbox, on_redis, pool, route

from paceline_common.redis import Script
from paceline_local.stack import Stack
from paceline_scheduler.pacing.base import Place

NAMES = {
    "META", "INCOMING", "READY", "FREE", "HELD", "MAILBOX", "DUE", "QUEUE", "TURN", "ROUTE",
}  # fmt: skip


@pytest.fixture
async def admin(redis_stack: Stack) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_stack.redis.url())
    yield client
    await client.aclose()


def test_every_key_of_the_script_is_declared() -> None:
    text = Script("paceline_scheduler", "pacing/reserve_batch.lua", bool).text
    code = re.sub(r"--.*", "", text)
    named = re.findall(r"^local ((?:[A-Z]+, )*[A-Z]+) = ((?:KEYS\[\d+\](?:, )?)+)", code, re.M)
    declared = [name for names, _ in named for name in names.split(", ")]
    numbers = [int(one) for _, keys in named for one in re.findall(r"\d+", keys)]
    assert set(declared) == NAMES
    assert numbers == list(range(1, len(NAMES) + 1))
    calls = re.findall(r"\b(call|many)\(\s*([^,()]+)(?:,\s*([^,()]+))?", code)
    # `many` hands on the key it was given; the last loop goes over two keys by name.
    others = [(command, key) for _, command, key in calls if key not in NAMES]
    assert set(others) == {("'TIME'", ""), ("command", "key"), ("'ZRANGE'", "key")}
    assert "for _, key in ipairs({ READY, DUE }) do" in code
    assert len(calls) > 40


async def used(admin: Redis) -> int:
    """Commands that scripts and clients gave since the last look, but for the looking."""
    stats = await admin.info("commandstats")
    await admin.config_resetstat()
    own = {"cmdstat_info", "cmdstat_config|resetstat"}
    return sum(one["calls"] for name, one in stats.items() if name not in own)


async def test_only_declared_keys_exist(redis: Redis, admin: Redis) -> None:
    machine = on_redis(redis)
    await busy(machine, 50, 5, 3)
    await machine.push(job(1, to=1), job(2, due=machine.now + 9000), job(3, 77, to=2))
    await machine.sent(3)
    keys = set(await admin.keys("*"))
    assert keys <= {f"pace:{{{WS}}}:{name.lower()}".encode() for name in NAMES}
    assert len(keys) >= 8


async def busy(machine: Machine, jobs: int, idle: int, closed: int) -> None:
    """Ten mailboxes with a backlog, idle ones of another pool, campaigns out of rotation."""
    await machine.ready(
        [mailbox(n, cadence_ms=0) for n in range(1, 11)]
        + [mailbox(n, Place(9, 9, "next_in_line")) for n in range(11, 11 + idle)],
        [route(5), route(6, pool(9))],
    )
    await machine.push(*(job(n) for n in range(jobs)))
    for campaign in range(100, 100 + closed):
        await machine.push(job(10**6 + campaign, campaign), job(10**7 + campaign, campaign, to=1))
    for _ in range(20):
        await machine.sent()
        machine.advance(1000)


async def test_work_grows_with_proposals_alone(redis: Redis, admin: Redis) -> None:
    costs = []
    for jobs, idle, closed in ((400, 0, 0), (40_000, 0, 0), (400, 900, 0), (400, 0, 400)):
        await admin.flushall()
        machine = on_redis(redis)
        await busy(machine, jobs, idle, closed)
        await used(admin)
        made = 0
        for _ in range(10):
            made += len(await machine.sent())
            machine.advance(1000)
        assert made == 100
        costs.append(await used(admin))
    assert max(costs) - min(costs) <= 10, costs


async def test_queued_jobs_and_mailboxes_are_small(redis: Redis, admin: Redis) -> None:
    machine = on_redis(redis)
    await machine.ready([])
    await machine.reserve()
    sizes = [(await admin.info("memory"))["used_memory"]]
    await machine.store.set_mailboxes(
        WS, [mailbox(10**7 + n, Place(1, 1, "next_in_line")) for n in range(5000)]
    )
    for _ in range(12):
        await machine.reserve(500)
    assert await redis.zcard(f"pace:{{{WS}}}:free") == 5000
    sizes.append((await admin.info("memory"))["used_memory"])
    await machine.store.set_mailboxes(WS, [])
    jobs = [job(10**6 + 3 * n, due=START - 10**8 + 100 * n, campaign=6) for n in range(100_000)]
    await machine.push(*jobs)
    while await redis.exists(f"pace:{{{WS}}}:incoming"):
        await machine.reserve()
    sizes.append((await admin.info("memory"))["used_memory"])
    assert (sizes[1] - sizes[0]) / 5000 <= 512
    assert (sizes[2] - sizes[1]) / 100_000 <= 16
