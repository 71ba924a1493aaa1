"""What the wrapper promises while processes, the broker and Postgres die."""

import asyncio
import signal
from collections.abc import Sequence

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.integration.common.conftest import (
    Parts,
    consuming,
    kill_kafka,
    new_topic,
    produce,
    record,
    worker,
)
from tests.integration.common.test_subscribe import count, effects, quarantined, subscription
from tests.waiting import until

from paceline_common import events
from paceline_common.db import Database
from paceline_common.kafka.subscribe import Delivery
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic


@pytest.mark.parametrize("place", ["before_effect_commit", "after_effect_commit"])
async def test_a_crash_around_the_commit_neither_loses_nor_repeats_an_effect(
    clean: Parts, db: Database, topic: Topic, place: str
) -> None:
    await produce(clean, topic.name, [record(topic, job) for job in range(300)])
    async with worker(clean, topic.name, failpoints=f"subscribe.{place}=kill@2") as process:
        await until(lambda: process.returncode is not None, "killed at the failpoint")
        assert process.returncode == -signal.SIGKILL
    before = len(effects(clean))
    assert 0 < before < 300
    async with consuming(clean.settings, db, subscription(topic)):
        await until(
            lambda: clean.committed(f"scratch.{topic.name}", topic.name) == 300, "all committed"
        )
    assert effects(clean) == {f"job-{job}": 1 for job in range(300)}
    assert not quarantined(clean)


async def test_a_rebalance_in_mid_batch_neither_loses_nor_repeats_an_effect(
    clean: Parts, db: Database
) -> None:
    topic = new_topic(clean, partitions=6)
    for partition in range(6):
        records = [record(topic, f"{partition}-{n}") for n in range(500)]
        await produce(clean, topic.name, records, partition)
    seen: dict[str, int] = {"first": 0, "second": 0}

    def slowly(name: str) -> object:
        async def handler(
            tx: AsyncConnection, deliveries: Sequence[Delivery[events.SendInDoubt]]
        ) -> None:
            await count(tx, deliveries)
            # Long enough that the group's rounds fall into it.
            await tx.execute(text("SELECT pg_sleep(0.15)"))
            seen[name] += len(deliveries)

        return handler

    first = subscription(topic, slowly("first"), max_records=60)
    second = subscription(topic, slowly("second"), max_records=60)
    other = Database(clean.settings)
    async with consuming(clean.settings, db, first):
        await until(lambda: len(effects(clean)) > 200, "the first is at work")
        async with consuming(clean.settings, other, second):
            await until(lambda: seen["second"] > 200, "the second has its share")
        # The second has left in the middle of its work.
        await until(lambda: len(effects(clean)) == 3000, "all applied", within_s=60)
    await other.close()
    assert set(effects(clean).values()) == {1}
    assert not quarantined(clean)


async def test_a_killed_broker_costs_nothing_but_time(clean: Parts, db: Database) -> None:
    topic = new_topic(clean, partitions=3)
    async with consuming(clean.settings, db, subscription(topic, max_records=20)):
        await produce(clean, topic.name, [record(topic, job) for job in range(500)])
        await until(lambda: len(effects(clean)) > 50, "at work")
        await kill_kafka(clean)
        await asyncio.to_thread(clean.start, "kafka")
        await produce(clean, topic.name, [record(topic, job) for job in range(500, 1000)])
        await until(lambda: len(effects(clean)) == 1000, "all applied", within_s=90)
    assert set(effects(clean).values()) == {1}
    assert not quarantined(clean)


async def test_while_postgres_is_away_it_waits_and_says_so(
    clean: Parts, db: Database, topic: Topic
) -> None:
    metrics = Metrics()
    lost = {"topic": topic.name}

    def waiting() -> float | None:
        return metrics.registry.get_sample_value("paceline_dependency_lost", lost)

    async with consuming(clean.settings, db, subscription(topic), metrics) as subscriber:
        await produce(clean, topic.name, [record(topic, job) for job in range(50)])
        await until(lambda: len(effects(clean)) == 50, "at work")
        await asyncio.to_thread(clean.stack.stop, "postgres")
        await produce(clean, topic.name, [record(topic, job) for job in range(50, 100)])
        await until(lambda: subscriber.state == "waiting", "waits")
        assert waiting() == 1
        retries = {"topic": topic.name, "cause": "dependency"}
        await until(
            lambda: (
                (metrics.registry.get_sample_value("paceline_event_retries_total", retries) or 0)
                > 4
            ),
            "more tries than an event of its own fault gets",
        )
        await asyncio.to_thread(clean.start, "postgres")
        await until(lambda: len(effects(clean)) == 100, "goes on by itself")
        await until(lambda: subscriber.state == "running", "says so")
        assert waiting() == 0
    assert set(effects(clean).values()) == {1}
    assert not quarantined(clean)


async def test_a_registered_lost_dependency_is_waited_for_too(
    clean: Parts, db: Database, topic: Topic
) -> None:
    away = True
    tries = 0

    async def handler(
        tx: AsyncConnection, deliveries: Sequence[Delivery[events.SendInDoubt]]
    ) -> None:
        nonlocal tries
        tries += 1
        if away:
            raise ConnectionRefusedError("the key service")
        await count(tx, deliveries)

    await produce(clean, topic.name, [record(topic, 1)])
    async with consuming(clean.settings, db, subscription(topic, handler)) as subscriber:
        await until(lambda: tries > 4, "tried more often than N")
        assert subscriber.state == "waiting"
        away = False
        await until(lambda: effects(clean) == {"job-1": 1}, "goes on")
    assert not quarantined(clean)


async def test_stopping_does_not_wait_for_a_lost_dependency(
    clean: Parts, db: Database, topic: Topic
) -> None:
    async def handler(_tx: AsyncConnection, _deliveries: object) -> None:
        raise ConnectionRefusedError("away")

    await produce(clean, topic.name, [record(topic, 1)])
    loop = asyncio.get_running_loop()
    async with consuming(clean.settings, db, subscription(topic, handler)) as subscriber:
        await until(lambda: subscriber.state == "waiting", "waits")
        subscriber._outages = 10  # the longest pause
        began = loop.time()
    assert loop.time() - began < 8


async def test_a_member_that_waits_for_anothers_inbox_rows_gives_way(
    clean: Parts, db: Database, topic: Topic
) -> None:
    await produce(clean, topic.name, [record(topic, 1), record(topic, 2)])
    async with db.engine.connect() as other, other.begin():
        await other.execute(
            text(
                "INSERT INTO scratch.inbox (consumer, topic, source, event_id, digest)"
                " VALUES (:c, :t, 'tests', 'id-2', '')"
            ),
            {"c": f"scratch.{topic.name}", "t": topic.name},
        )
        async with consuming(clean.settings, db, subscription(topic)) as subscriber:
            # Halved until the blocked record stands alone: the other gets through.
            await until(lambda: effects(clean) == {"job-1": 1}, "the free one applied")
            await until(lambda: subscriber.state == "waiting", "waits for the other")
            await other.rollback()
            await until(lambda: len(effects(clean)) == 2, "goes on")
    assert not quarantined(clean)
