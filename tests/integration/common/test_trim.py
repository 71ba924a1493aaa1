"""Personal data behind the committed offset leaves a real broker; nothing else does."""

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from datetime import timedelta

import pytest
from confluent_kafka import Consumer, TopicPartition
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.integration.common.conftest import Parts, consuming, produce, record
from tests.integration.common.test_subscribe import count, effects, subscription
from tests.waiting import until

from paceline_common import events, topics
from paceline_common.db import Database
from paceline_common.kafka.subscribe import Delivery
from paceline_common.kafka.trim import Trimmer
from paceline_common.service import Service
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic


def personal(parts: Parts, partitions: int = 1) -> Topic:
    made = Topic(
        f"personal-{secrets.token_hex(3)}", "lead", ("scratch",), ("scratch",),
        timedelta(days=1), personal_data=True,
    )  # fmt: skip
    parts.create_topic(made, partitions=partitions)
    return made


def held(parts: Parts, topic: str, partition: int = 0) -> tuple[int, int]:
    """Return the first offset that the broker still holds, and the next one to come."""
    consumer = Consumer({**parts.stack.kafka.client_config("stack"), "group.id": "watermarks"})
    try:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        return low, high
    finally:
        consumer.close()


def trimmer(settings: ServiceSettings, topic: Topic, metrics: Metrics | None = None) -> Trimmer:
    return Trimmer("scratch", topic, settings=settings, metrics=metrics or Metrics())


async def test_what_was_committed_goes_and_what_was_not_stays(clean: Parts, db: Database) -> None:
    topic = personal(clean)

    async def handler(
        tx: AsyncConnection, deliveries: Sequence[Delivery[events.SendInDoubt]]
    ) -> None:
        if any(one.body.job_id == "job-60" for one in deliveries):
            raise ConnectionRefusedError("away")
        await count(tx, deliveries)

    trim = trimmer(clean.settings, topic)
    await produce(clean, topic.name, [record(topic, job) for job in range(100)])
    async with consuming(
        clean.settings, db, subscription(topic, handler, max_records=1)
    ) as subscriber:
        await until(lambda: subscriber.state == "waiting", "stands before the sixtieth")
        group = f"scratch.{topic.name}"
        await until(lambda: clean.committed(group, topic.name) == 60, "the rest committed")
        assert held(clean, topic.name) == (0, 100)
        assert await trim.trim() == 1
        assert held(clean, topic.name) == (60, 100)
        assert await trim.trim() == 0  # nothing new
    # Who comes next reads all that was left.
    async with consuming(clean.settings, db, subscription(topic)):
        await until(lambda: len(effects(clean)) == 100, "all applied")
        await until(lambda: clean.committed(group, topic.name) == 100, "committed")
    # As another member, after this one's death.
    assert await trimmer(clean.settings, topic).trim() == 1
    assert held(clean, topic.name) == (100, 100)
    assert set(effects(clean).values()) == {1}


async def test_a_family_is_trimmed_without_its_dead_letters_or_the_plain_topic(
    clean: Parts, db: Database
) -> None:
    family = dataclasses.replace(
        topics.LEAD_ENROLLED_BY_PUBLISHER,
        name=f"fam{secrets.token_hex(3)}.",
        consumers=("scratch",),
    )
    names = [f"{family.name}{suffix}" for suffix in ("crm", "shop", "dlq")]
    plain = family.name.rstrip(".")
    for name in (*names, plain):
        clean.create_topic(family, name, partitions=1)
    # One group reads both, and committed on each; dead letters too, by mistake.
    consumer = Consumer(
        {
            **clean.stack.kafka.client_config("stack"),
            "group.id": topics.group("scratch", family),
            "enable.auto.commit": False,
        }
    )
    for name in (*names, plain):
        await produce(clean, name, [record(family, job) for job in range(3)])
    consumer.commit(
        offsets=[TopicPartition(name, 0, 2) for name in (*names, plain)], asynchronous=False
    )
    consumer.close()
    assert await trimmer(clean.settings, family).trim() == 2
    assert [held(clean, name) for name in names] == [(2, 3), (2, 3), (0, 3)]
    assert held(clean, plain) == (0, 3)


async def test_a_failure_is_counted_and_the_next_round_tries_again(clean: Parts) -> None:
    topic = personal(clean)
    await produce(clean, topic.name, [record(topic, job) for job in range(3)])
    consumer = Consumer(
        {**clean.stack.kafka.client_config("stack"), "group.id": f"scratch.{topic.name}"}
    )
    # Beyond the end: the broker refuses to delete what does not exist yet.
    consumer.commit(offsets=[TopicPartition(topic.name, 0, 5)], asynchronous=False)
    consumer.close()
    metrics = Metrics()
    settings = clean.settings.model_copy(update={"trim_personal_data_s": 0.05})
    made = trimmer(settings, topic, metrics)

    def failures() -> float:
        labels = {"topic": topic.name}
        return metrics.registry.get_sample_value("paceline_trim_failures_total", labels) or 0

    task = asyncio.create_task(made.run())
    try:
        await until(lambda: failures() >= 2, "two rounds failed")
        assert held(clean, topic.name) == (0, 3)
        await produce(clean, topic.name, [record(topic, job) for job in range(3, 6)])
        await until(lambda: held(clean, topic.name) == (5, 6), "trimmed at last")
        assert not task.done()
    finally:
        task.cancel()


def test_a_topic_with_another_consumer_is_not_trimmed(parts: Parts) -> None:
    shared = dataclasses.replace(topics.LEAD_ENROLLED, consumers=("scratch", "audit"))
    with pytest.raises(ValueError, match="not the only consumer"):
        trimmer(parts.settings, shared)


def test_a_service_trims_the_personal_data_that_it_reads(parts: Parts) -> None:
    service = Service("scheduler", parts.settings)
    service.subscribe(subscription(topics.LEAD_ENROLLED))
    service.subscribe(subscription(topics.SENT))
    assert [name for name, _, _ in service._tasks] == ["trim lead-enrolled"]
