"""Whatever breaks, no mailbox passes a limit: checked from the slots alone."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from zoneinfo import ZoneInfo, available_timezones

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError
from tests.waiting import until

from paceline_local.layout import REPOSITORY
from paceline_scheduler.domain.caps import day_of
from paceline_scheduler.pacing.redis import RedisPacing

from .conftest import WS, House, World, furnish
from .test_guards import propose, ready
from .test_pacing import Sender, leads, lie, mailboxes, running, sending

CADENCE_S = 0.3
CAP = 4
BOXES = (1, 2, 3)
QUICK = {"cadence_s": CADENCE_S, "jitter_s": [0.05, 0.1], "daily_cap": CAP, "ceiling_24h": CAP}
KEPT = "SELECT count(*) FROM slot WHERE returned_at IS NULL"


async def scene(world: World, house: House) -> None:
    """Three mailboxes of four messages a day, and more leads than they can serve."""
    await mailboxes(world, house, *BOXES, **QUICK)
    world.campaign()
    await house.enroll(*leads(world, 30))


def assert_nothing_passed(world: World) -> None:
    """Recompute cadence, day and rolling count of each mailbox, and one message per job."""
    kept = defaultdict(list)
    for mailbox, slot_at, not_after in world.sql(
        "SELECT mailbox_id, slot_at, not_after FROM slot WHERE returned_at IS NULL"
        " ORDER BY mailbox_id, slot_at"
    ):
        kept[mailbox].append((slot_at, not_after))
    for slots in kept.values():
        assert len(slots) <= CAP
        for (_, end), (begin, _) in itertools.pairwise(slots):
            assert begin - end >= timedelta(seconds=CADENCE_S)
    assert world.sql(
        "SELECT job_id FROM slot WHERE returned_at IS NULL GROUP BY job_id HAVING count(*) > 1"
    ) == []  # fmt: skip
    assert world.one("SELECT max(day_used) FROM mailbox_budget") <= CAP
    assert world.one("SELECT coalesce(max(hours[1] + hours[2]), 0) FROM account_budget") <= CAP


def kept_at_least(world: World, count: int) -> bool:
    return int(world.one(KEPT)) >= count


async def all_used(world: World) -> None:
    """Wait until every mailbox has sent its day's messages."""
    await until(
        lambda: world.one("SELECT count(*) FROM send_job WHERE state = 'sent'") == CAP * len(BOXES),
        within_s=60,
    )


@asynccontextmanager
async def restarting(house: House) -> AsyncIterator[None]:
    """Run the pacer; begin again when Redis or Postgres fails it, as the service does."""

    async def run() -> None:
        while True:
            with suppress(RedisError, OSError, OperationalError):
                await house.pacer.run()
                return
            await asyncio.sleep(0.05)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_flushall_in_mid_run(world: World, house: House) -> None:
    await scene(world, house)
    async with running(house), sending(Sender(world, house)):
        for count in (2, 5, 8):
            await until(partial(kept_at_least, world, count), within_s=30)
            async with Redis.from_url(world.stack.redis.url()) as admin:
                await admin.flushall()
        await all_used(world)
    assert_nothing_passed(world)


async def test_redis_restart_without_persistence(world: World, house: House) -> None:
    await scene(world, house)
    async with restarting(house), sending(Sender(world, house)):
        await until(lambda: world.one(KEPT) >= 4, within_s=30)
        async with Redis.from_url(world.stack.redis.url()) as admin:
            with suppress(RedisError, OSError):
                await admin.shutdown(nosave=True, now=True)
        await asyncio.to_thread(world.stack.stop, "redis")
        await asyncio.to_thread(world.stack.start, "redis")
        await all_used(world)
    assert_nothing_passed(world)


async def test_stale_replica_promoted(world: World, house: House) -> None:
    await scene(world, house)
    async with (
        Redis.from_url(world.stack.redis.url()) as admin,
        running(house),
        sending(Sender(world, house)),
    ):
        await until(lambda: world.one(KEPT) >= 2, within_s=30)
        old = {key: await admin.dump(key) for key in await admin.keys("pace:*")}
        await until(lambda: world.one(KEPT) >= 8, within_s=30)
        async with admin.pipeline(transaction=True) as pipe:
            pipe.flushall()
            for key, blob in old.items():
                if blob is not None:
                    pipe.restore(key, 0, blob)
            await pipe.execute()
        await all_used(world)
    assert_nothing_passed(world)


async def test_counters_in_redis_edited_to_lie(world: World, house: House) -> None:
    await scene(world, house)
    async with running(house), sending(Sender(world, house)):
        await until(lambda: world.one(KEPT) >= 1, within_s=30)
        for _ in range(30):
            await house.store.set_mailboxes(WS, [lie(world, mailbox) for mailbox in BOXES])
            house.pacer._due[WS] = 0
            house.pacer.wake.set()
            await asyncio.sleep(0.05)
        await all_used(world)
    assert_nothing_passed(world)


async def test_two_schedulers_one_of_them_stopped_and_back(world: World, house: House) -> None:
    await scene(world, house)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.scheduler.other_scheduler",
        str(world.stack.layout.run), cwd=REPOSITORY,
    )  # fmt: skip
    try:
        async with restarting(house), sending(Sender(world, house)):
            await until(lambda: world.one("SELECT epoch FROM shard") >= 2, within_s=30)
            for _ in range(3):
                os.kill(process.pid, signal.SIGSTOP)
                # Scaled down from a minute: longer than a lease, a cadence and a lock's timeout.
                count = world.one(KEPT)
                with suppress(AssertionError):
                    await until(partial(kept_at_least, world, count + 2), within_s=4)
                os.kill(process.pid, signal.SIGCONT)
                await asyncio.sleep(0.3)
            await all_used(world)
    finally:
        process.kill()
        await process.wait()
    assert_nothing_passed(world)


class SkewedPacing(RedisPacing):
    """A store whose clock is off by `skew_ms`."""

    skew_ms = 0

    @property
    def clock_ms(self) -> int | None:
        return time.time_ns() // 1_000_000 + self.skew_ms

    @clock_ms.setter
    def clock_ms(self, _value: int | None) -> None:
        """The clock is not to be set."""


async def test_clock_of_one_scheduler_ten_minutes_fast_and_stepping_back(
    world: World, house: House
) -> None:
    await scene(world, house)
    skewed = furnish(house.db, house.redis, seed=3, store=SkewedPacing)
    assert isinstance(skewed.store, SkewedPacing)
    async with running(house), running(skewed), sending(Sender(world, house)):
        await until(lambda: world.one(KEPT) >= 2, within_s=30)
        for skew_s in (600, -600, 600, 0):
            skewed.store.skew_ms = skew_s * 1000
            for mailbox in BOXES:
                await skewed.state.compile(WS, [mailbox])
            skewed.pacer._due[WS] = 0
            skewed.pacer.wake.set()
            await asyncio.sleep(0.5)
        await house.state.compile(WS, None)
        await all_used(world)
    assert_nothing_passed(world)
    assert world.one("SELECT max(slot_at - reserved_at) < interval '6 s' FROM slot") is True


async def test_sender_stopped_between_claim_and_mail_from(world: World, house: House) -> None:
    (job,) = await ready(world, house, 1, daily_cap=1)
    await house.state.compile(WS, None)
    assert await propose(house, [(1, job)]) == [None]
    with world.login("sender") as sender:
        until = datetime.now(UTC) + timedelta(seconds=10)
        while True:
            claimed, reason = sender.execute(
                "SELECT claimed, reason FROM scheduler.claim_send(%s, %s, %s)", ([WS], [job], [1])
            ).fetchone() or (False, None)
            if claimed or reason != "too_early":
                break
            assert datetime.now(UTC) < until
        assert claimed
        # It is stopped here; nobody takes the lease away, nor its capacity.
        world.sql("UPDATE send_job SET slot_at = slot_at - interval '9 s',"
                  " not_after = not_after - interval '9 s'")  # fmt: skip
        await house.pacer.sweep()
        assert world.one("SELECT state FROM send_job") == "sending"
        assert world.one("SELECT outstanding, day_used FROM mailbox_budget") == (1, 1)
        # Back, past its not-after, with nothing sent: handed back, once.
        for _ in range(2):
            sender.execute(
                "SELECT scheduler.finish_send(%s, %s, %s, %s, %s, %s)",
                ([WS], [job], [1], ["unsent"], [None], [None]),
            )
    assert world.one("SELECT state, fence FROM send_job") == ("queued", 2)
    assert world.one("SELECT outstanding, day_used FROM mailbox_budget") == (0, 0)


def test_days_around_dst_changes_are_the_same_here_and_in_postgres(world: World) -> None:
    zones = sorted(
        zone
        for (zone,) in world.sql("SELECT name FROM pg_timezone_names")
        # The old names without a place are defined differently from release to release.
        if zone in available_timezones() and "/" in zone and not zone.startswith("Etc/")
    )
    # Every change of 2026 of Berlin, New York, Santiago, Lord Howe, Cairo, Beirut and Casablanca,
    # each hour two days around it, in every zone.
    days = ["2026-03-29", "2026-03-08", "2026-04-05", "2026-09-06", "2026-10-04", "2026-10-25",
            "2026-11-01", "2026-04-24", "2026-10-30", "2026-02-15", "2026-03-22"]  # fmt: skip
    for day in days:
        rows = world.sql(
            "SELECT z, i, (i AT TIME ZONE z)::date FROM unnest(%s::text[]) AS z,"
            " generate_series(%s::timestamptz - interval '1 d', %s::timestamptz + interval '2 d',"
            " interval '3 h') AS i",
            zones, day, day,
        )  # fmt: skip
        wrong = [
            (zone, at, there) for zone, at, there in rows if day_of(at, ZoneInfo(zone)) != there
        ]
        assert wrong == []


async def test_crash_between_redis_and_postgres_uses_no_capacity_twice(
    world: World, house: House
) -> None:
    await scene(world, house)
    for _ in range(5):
        await house.state.rebuild(WS)
        batch = await house.store.reserve(WS, [0.5] * 9, [0.5] * 9)
        # Crash: what Redis has proposed reaches no transaction.
        assert batch is not None
    assert world.one("SELECT count(*) FROM slot") == 0
    # Crash after the commit, before Redis hears of it: the lease runs out and goes back once.
    await house.state.rebuild(WS)
    end = asyncio.get_running_loop().time() + 20
    while not world.one(KEPT):
        house.pacer._due[WS] = 0
        await house.pacer.reserve_ready(float("inf"))
        assert asyncio.get_running_loop().time() < end
    async with Redis.from_url(world.stack.redis.url()) as admin:
        await admin.flushall()
    async with running(house), sending(Sender(world, house)):
        await all_used(world)
    assert_nothing_passed(world)
    assert world.one("SELECT sum(day_used) FROM mailbox_budget") == CAP * len(BOXES)


async def test_give_back_across_midnight(world: World, house: House) -> None:
    first, second = await ready(world, house, 2)
    assert await propose(house, [(1, first), (2, second)]) == [None, None]
    # Midnight of the first mailbox passes, and it has sent since.
    world.sql("UPDATE mailbox_budget SET day = day + 1, day_used = 3 WHERE mailbox_id = 1")
    with world.login("gateway") as gateway:
        gateway.execute(
            "SELECT scheduler.suspend(%s, 'campaign', 5, 'paused', NULL, 'tests', NULL)", (WS,)
        )
    assert world.sql("SELECT outstanding, day_used FROM mailbox_budget ORDER BY mailbox_id") == [
        (0, 3), (0, 0),
    ]  # fmt: skip
    await house.pacer.sweep()
    assert world.one("SELECT count(*) FROM slot WHERE returned_at IS NOT NULL") == 2
