"""What can go wrong between Redis, Postgres and the senders: no limit is passed."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from paceline_scheduler.pacing.base import MailboxRecord, Place
from paceline_scheduler.pacing.redis import RedisPacing
from tests.limits.house import MovedHouse, Resident
from tests.limits.judge import Box, Span
from tests.limits.scene import OVERDUE, PATIENCE_S, Scene, enlist, prepare
from tests.waiting import until

CAP: Final = 3
ABSENCE_S: Final = 60.0
TEN_MINUTES_S: Final = 600.0
DAILY: Final = Box(daily_cap=CAP)
HOURLY: Final = Box(hourly_cap=CAP)
ROLLING: Final = Box(ceiling=CAP)
PROPOSED: Final = "scheduler.after_proposal"
CLAIMED: Final = "sender.after_claim"
# Where a record of the store has them (`reserve_batch.lua`: KLASS and PLACES count from 1).
_CLASS: Final = 9
_PLACE: Final = 12

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True)
class Stage:
    """All scenes; and the scheduler that is stopped, since when on the monotonic clock.

    Its minute passes while the other scenes are prepared, and beside the first of them.
    """

    scenes: dict[str, Scene]
    absent: Resident
    since: float

    def __getitem__(self, name: str) -> Scene:
        return self.scenes[name]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(house: MovedHouse) -> AsyncIterator[Stage]:
    """All scenes, prepared at noon: no hour and no day ends while they run."""
    now = house.clock.now()
    noon = now.replace(hour=12, minute=0, second=0, microsecond=0)
    noon += timedelta(days=noon < now)
    house.clock.set(noon)
    # Ten minutes from now it is open, ten minutes ago the other was.
    early = Box(windows=[("12:09", "12:40")], open=[span(noon, 9, 40)])
    late = Box(windows=[("11:00", "12:00")], open=[span(noon, -60, 0)])
    closed = Box(windows=[("20:00", "21:00")], open=[span(noon, 480, 540)])
    cast = {
        "minute": {"daily": DAILY, "hourly": HOURLY},
        "lies": {"daily": DAILY, "closed": closed},
        "claims": {"daily": DAILY},
        "flushall": {"daily": DAILY, "rolling": ROLLING},
        "emptied": {"daily": DAILY, "hourly": HOURLY},
        "stale": {"daily": DAILY, "rolling": ROLLING},
        "clocks": {"daily": DAILY, "early": early, "late": late},
        "crashes": {"daily": Box(daily_cap=2 * CAP), "hourly": HOURLY},
    }
    scenes = {
        name: Scene(house, name, {"steady": Box(), **boxes}, leads=300 if name == "minute" else 80)
        for name, boxes in cast.items()
    }
    await enlist(scenes.values())
    minute, *others = scenes.values()
    await minute.prepare()
    await minute.start()
    absent = await stopped(house, minute)
    since = time.monotonic()
    try:
        await prepare(others)
        yield Stage(scenes, absent, since)
    finally:
        absent.send(signal.SIGCONT)
        absent.withdraw()


def span(noon: datetime, first: int, last: int) -> Span:
    """Return a span in minutes from noon."""
    return noon + timedelta(minutes=first), noon + timedelta(minutes=last)


async def stopped(house: MovedHouse, scene: Scene) -> Resident:
    """Stop one of the two schedulers, with slots in its hands that Redis has given away.

    It is the one through which no events leave: those would wait for it as well.
    """
    await scene.until_sent("daily", 1)
    one = next(one for one in house.those("scheduler") if not one.relays())
    one.order(PROPOSED, "stop")
    await until(lambda: one.obeyed(PROPOSED), "a scheduler is stopped", within_s=PATIENCE_S)
    return one


def assert_held(scene: Scene, spent: int = 0) -> None:
    """No limit was passed, and each cap was used: but for `spent` tries that sent nothing."""
    assert scene.breaches() == []
    for name, box in scene.boxes.items():
        if box.cap is not None:
            assert box.cap - spent <= scene.count(name) <= box.cap, name


async def test_counters_in_redis_lie(house: MovedHouse, stage: Stage) -> None:
    async with (
        stage["lies"].running() as scene,
        Redis.from_url(house.stack.redis.url()) as redis,
    ):
        await scene.until_sent("daily", 1)
        lies = 0

        async def lied_enough() -> bool:
            nonlocal lies
            lies += await lie(redis, scene)
            done = scene.count("daily") >= CAP and scene.count("steady") >= 3 * CAP
            return done and lies > CAP

        await until(lied_enough, "sent in spite of lies", within_s=PATIENCE_S, every_s=0.2)
        await scene.until_used_up()
    assert_held(scene)


async def lie(redis: Redis, scene: Scene) -> int:
    """Tell the store of each mailbox: open for ever, nothing used, no cadence. Return how many."""
    held: Any = await redis.hgetall(f"pace:{{{scene.workspace}}}:mailbox")
    # Class and places are those of any: all mailboxes are of one class and in one pool.
    for packed in held.values():
        values = msgspec.msgpack.decode(packed)
        klass, lane, pool = values[_CLASS], values[_PLACE], values[_PLACE + 1]
        lies = [
            MailboxRecord(
                mailbox_id=scene.number(name), eligible_ms=0, next_ms=0, cadence_ms=0,
                jitter_min_ms=0, jitter_max_ms=0, grace_ms=1200, lead_ms=750, open_from_ms=0,
                open_until_ms=2**43, left=999, klass=klass,
                places=(Place(lane, pool, "next_in_line"),),
            )
            for name in scene.boxes
        ]  # fmt: skip
        await RedisPacing(redis).set_mailboxes(scene.workspace, lies)
        return len(lies)
    return 0


async def test_a_sender_is_stopped_between_claim_and_mail_from(
    house: MovedHouse, stage: Stage
) -> None:
    senders = house.those("sender")
    async with stage["claims"].running() as scene:
        await scene.until_sent("daily", 1)
        for _ in range(3):
            for one in senders:
                one.order(CLAIMED, "stop")
            await until(
                lambda: any(one.obeyed(CLAIMED) for one in senders), "stopped", within_s=PATIENCE_S
            )
            await until(lambda: house.sql(OVERDUE), "overdue", within_s=PATIENCE_S)
            for one in senders:
                one.withdraw()
                one.send(signal.SIGCONT)
            await scene.goes_on()
        await scene.until_sent("daily", CAP - 1)
        await scene.goes_on()
    # Taken for dead, its try is spent: nobody gives capacity back on a guess.
    assert_held(scene, spent=3)


async def test_a_scheduler_is_stopped_for_a_minute_and_comes_back(
    house: MovedHouse, stage: Stage
) -> None:
    scene = stage["minute"]
    await until(
        lambda: time.monotonic() - stage.since >= ABSENCE_S, "a minute", within_s=ABSENCE_S + 10,
        every_s=0.5,
    )  # fmt: skip
    stage.absent.send(signal.SIGCONT)
    await until(stage.absent.ready, "it is back", within_s=PATIENCE_S, every_s=0.2)
    await scene.until_used_up()
    await scene.stop()
    assert_held(scene)


async def test_flushall_in_mid_run(house: MovedHouse, stage: Stage) -> None:
    async with stage["flushall"].running() as scene:
        for count in range(1, CAP):
            await scene.until_sent("daily", count)
            house.flush_redis()
        await scene.until_used_up()
        house.flush_redis()
        await scene.goes_on()
    assert_held(scene)


async def test_redis_restarts_with_nothing(house: MovedHouse, stage: Stage) -> None:
    async with stage["emptied"].running() as scene:
        await scene.until_sent("daily", 2)
        await asyncio.to_thread(house.empty_redis)
        await scene.until_used_up()
    assert_held(scene)


async def test_a_stale_replica_is_promoted(house: MovedHouse, stage: Stage) -> None:
    async with stage["stale"].running() as scene:
        await scene.until_sent("daily", 1)
        await asyncio.to_thread(house.replica.follow)
        await asyncio.to_thread(house.replica.cut_off)
        await scene.until_sent("daily", CAP)
        try:
            await asyncio.to_thread(house.replica.promote)
            await scene.until_used_up()
        finally:
            # The first one comes back with nothing, the replica goes.
            await asyncio.to_thread(house.start_empty_redis)
            await asyncio.to_thread(house.lead_redis_to, house.stack.ports["redis"])
            house.replica.stop()
        await scene.goes_on()
    assert_held(scene)


async def test_a_schedulers_clock_is_ten_minutes_fast_and_steps_back(
    house: MovedHouse, stage: Stage
) -> None:
    (one,) = (one for one in house.those("scheduler") if one is not stage.absent)
    async with stage["clocks"].running() as scene:
        try:
            for seconds in (TEN_MINUTES_S, -TEN_MINUTES_S, TEN_MINUTES_S, 0):
                one.skew(seconds)
                # What Redis is to hold, it works out anew.
                house.flush_redis()
                await scene.goes_on()
        finally:
            one.skew(0)
        await scene.until_used_up()
    assert_held(scene)


async def test_a_scheduler_dies_between_redis_and_postgres(house: MovedHouse, stage: Stage) -> None:
    schedulers = house.those("scheduler")
    async with stage["crashes"].running() as scene:
        await scene.until_sent("daily", 1)
        for point in (PROPOSED, "scheduler.before_lease_commit", "scheduler.after_lease_commit"):
            for one in schedulers:
                one.order(point, "kill")
            await until(partial(died, schedulers, point), point, within_s=PATIENCE_S)
            for one in schedulers:
                one.withdraw()
            await asyncio.to_thread(house.start_services)
        await scene.until_used_up()
    assert_held(scene)


def died(schedulers: Sequence[Resident], point: str) -> bool:
    """Tell whether one of them has died of an order."""
    return any(one.obeyed(point) and one.pid is None for one in schedulers)
