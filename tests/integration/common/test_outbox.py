"""The outbox and its relay on a real broker and a real Postgres."""

import asyncio
import contextlib
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from tests.integration.common.conftest import (
    WS,
    Parts,
    body,
    kill_kafka,
    new_topic,
    worker,
)
from tests.waiting import until

from paceline_common import events, ids, telemetry
from paceline_common.db import Database, Outbox, Outgoing
from paceline_common.db.outbox import Relay
from paceline_common.kafka.broker import Publisher
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic

KEYS = 12


@asynccontextmanager
async def relaying(
    settings: ServiceSettings, db: Database, outbox: Outbox, metrics: Metrics | None = None
) -> AsyncIterator[Relay]:
    publisher = Publisher(settings, "scratch")
    relay = Relay(db, outbox, publisher, metrics or Metrics(), "scratch")
    running = asyncio.create_task(relay.run())
    try:
        yield relay
    finally:
        running.cancel()
        await asyncio.wait([running])
        await publisher.close()


async def add(db: Database, outbox: Outbox, topic: Topic, key: int, number: int) -> None:
    """Add event `number` of an aggregate, its row locked first as every writer must."""
    async with db.transaction([WS]) as tx:
        await tx.execute(
            text(
                "INSERT INTO scratch.effect VALUES (:w, :k, 1)"
                " ON CONFLICT (workspace_id, job_id) DO UPDATE SET n = effect.n + 1"
            ),
            {"w": WS, "k": f"key-{key}"},
        )
        drawn = await tx.execute(
            text("SELECT n FROM scratch.effect WHERE job_id = :k"), {"k": f"key-{key}"}
        )
        one = body(f"{key}-{drawn.scalar_one()}")
        await outbox.add(tx, [Outgoing(topic=topic, key=f"key-{key}", body=one)])
        if number % 5 == 0:
            raise _RolledBack


class _RolledBack(Exception):
    pass


async def write(db: Database, outbox: Outbox, topic: Topic, rounds: int) -> None:
    """Write `rounds` events per key from many concurrent transactions, every fifth rolled back."""

    async def one(key: int, number: int) -> None:
        try:
            await add(db, outbox, topic, key, number)
        except _RolledBack:
            return

    work = [(key, number) for number in range(1, rounds + 1) for key in range(KEYS)]
    random.Random(1).shuffle(work)
    for start in range(0, len(work), 8):
        await asyncio.gather(*(one(*pair) for pair in work[start : start + 8]))


def waiting(parts: Parts) -> int:
    ((count,),) = parts.admin_sql("SELECT count(*) FROM scratch.outbox")
    return int(count)


def assert_exactly(parts: Parts, topic: Topic, per_key: int, *, repeats: bool) -> None:
    """Every committed event is there, in its key's order, and no other."""
    found = parts.read(topic.name, 10**6, timeout_s=5)
    order: dict[str, list[int]] = defaultdict(list)
    seen_ids: set[bytes] = set()
    for record in found:
        headers = dict(record.headers())
        if headers["ce_id"] in seen_ids:
            assert repeats, "published twice"
            continue
        seen_ids.add(headers["ce_id"])
        _, key, number = msgspec.json.decode(record.value())["job_id"].split("-")
        assert record.key() == f"key-{key}".encode()
        order[key].append(int(number))
    assert order == {str(key): list(range(1, per_key + 1)) for key in range(KEYS)}


async def test_committed_events_arrive_once_in_their_keys_order_and_no_others(
    clean: Parts, db: Database
) -> None:
    topic = new_topic(clean, partitions=3)
    outbox = Outbox(db)
    async with relaying(clean.settings, db, outbox):
        await write(db, outbox, topic, rounds=40)
        await until(lambda: waiting(clean) == 0, "all published")
    assert_exactly(clean, topic, 32, repeats=False)


async def test_two_replicas_share_the_lanes_and_keep_the_order(clean: Parts, db: Database) -> None:
    topic = new_topic(clean, partitions=3)
    outbox = Outbox(db)
    other = Database(clean.settings)
    async with AsyncExitStack() as stack:
        first = relaying(clean.settings, db, outbox)
        await first.__aenter__()
        await stack.enter_async_context(relaying(clean.settings, other, Outbox(other)))
        writing = asyncio.create_task(write(db, outbox, topic, rounds=40))
        await until(lambda: clean.admin_sql("SELECT 1 FROM scratch.effect WHERE n > 10") != [], "")
        # The first goes in the middle of it; the second takes its lanes.
        await first.__aexit__(None, None, None)
        await writing
        await until(lambda: waiting(clean) == 0, "all published")
    await other.close()
    assert_exactly(clean, topic, 32, repeats=True)


async def test_two_replicas_at_work_publish_nothing_twice(clean: Parts, db: Database) -> None:
    topic = new_topic(clean, partitions=3)
    outbox = Outbox(db)
    other = Database(clean.settings)
    async with (
        relaying(clean.settings, db, outbox),
        relaying(clean.settings, other, Outbox(other)),
    ):
        await write(db, outbox, topic, rounds=40)
        await until(lambda: waiting(clean) == 0, "all published")
    await other.close()
    assert_exactly(clean, topic, 32, repeats=False)


@pytest.mark.parametrize("place", ["before_publish", "after_publish", "after_delete"])
async def test_a_killed_relay_leaves_nothing_out_and_nothing_out_of_order(
    clean: Parts, db: Database, place: str
) -> None:
    topic = new_topic(clean, partitions=3)
    outbox = Outbox(db)
    writing = asyncio.create_task(write(db, outbox, topic, rounds=40))
    for nth in (2, 4, 3):
        async with worker(clean, failpoints=f"outbox.{place}=kill@{nth}") as process:
            # The dying rounds need something to publish.
            await until(
                lambda: process.returncode is not None or writing.done(), "killed", within_s=60
            )
    await writing
    async with relaying(clean.settings, db, outbox):
        await until(lambda: waiting(clean) == 0, "all published")
    assert_exactly(clean, topic, 32, repeats=place == "after_publish")


async def test_a_killed_broker_leaves_nothing_out_and_nothing_out_of_order(
    clean: Parts, db: Database
) -> None:
    topic = new_topic(clean, partitions=3)
    outbox = Outbox(db)
    metrics = Metrics()
    async with relaying(clean.settings, db, outbox, metrics):
        writing = asyncio.create_task(write(db, outbox, topic, rounds=40))
        await until(lambda: clean.admin_sql("SELECT 1 FROM scratch.effect WHERE n > 10") != [], "")
        await kill_kafka(clean)
        await writing
        age = "paceline_outbox_waiting"
        await until(lambda: (metrics.registry.get_sample_value(age) or 0) > 0, "seen waiting")
        # Nothing holds back vacuum while Kafka is away.
        assert not clean.admin_sql(
            "SELECT 1 FROM pg_stat_activity WHERE usename = 'scratch' AND state ~ 'transaction'"
        )
        await asyncio.to_thread(clean.start, "kafka")
        await until(lambda: waiting(clean) == 0, "all published", within_s=60)
    assert_exactly(clean, topic, 32, repeats=True)


async def test_a_topic_that_fails_does_not_hold_up_the_others(
    clean: Parts, db: Database, topic: Topic
) -> None:
    outbox = Outbox(db)
    metrics = Metrics()
    missing = Topic("no-such-topic", "x", (), (), topic.retention)
    async with db.transaction([WS]) as tx:
        await outbox.add(tx, [Outgoing(topic=missing, key="k", body=body(0))])
        await outbox.add(tx, [Outgoing(topic=topic, key="k", body=body(1))])
    async with relaying(clean.settings, db, outbox, metrics):
        await until(lambda: waiting(clean) == 1, "the other is published", within_s=5)
        value = metrics.registry.get_sample_value
        await until(lambda: (value("paceline_outbox_age_seconds") or 0) > 0.5, "its age shows")
        refused = {"topic": "no-such-topic"}
        await until(lambda: (value("paceline_outbox_failures_total", refused) or 0) >= 1, "counted")
        assert value("paceline_outbox_published_total", {"topic": topic.name}) == 1


async def test_the_envelope_says_what_the_row_says(
    clean: Parts, db: Database, topic: Topic
) -> None:
    outbox = Outbox(db)
    event_id = ids.new_event_id()
    traceparent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    async with db.transaction([WS]) as tx:
        await outbox.add(
            tx,
            [
                Outgoing(
                    topic=topic, key="enr_1", body=body(1), subject="job_1",
                    traceparent=traceparent, event_id=event_id,
                )
            ],
        )  # fmt: skip
        # As an owner's SQL function does it.
        await tx.execute(
            text(
                "INSERT INTO scratch.outbox (topic, key, type, body)"
                " VALUES (:topic, 'enr_1', 'paceline.x.v1', '{}')"
            ),
            {"topic": topic.name},
        )
    async with relaying(clean.settings, db, outbox):
        await until(lambda: waiting(clean) == 0, "published")
    first, second = clean.read(topic.name, 2)
    headers = dict(first.headers())
    assert headers.pop("ce_time").startswith(b"20")
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": event_id.encode(),
        "ce_type": events.event_type(topic).encode(),
        "ce_source": b"paceline/scratch",
        "ce_subject": b"job_1",
        "ce_workspaceid": ids.encode("ws", WS).encode(),
        "traceparent": traceparent.encode(),
        "content-type": b"application/json",
    }
    assert msgspec.json.decode(first.value(), type=events.SendInDoubt) == body(1)
    assert not {"ce_subject", "ce_workspaceid", "traceparent"} & dict(second.headers()).keys()


async def test_events_carry_the_trace_they_were_written_in(
    clean: Parts, db: Database, topic: Topic
) -> None:
    parent = f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    outbox = Outbox(db)
    with telemetry.span("request", traceparent=parent):
        async with db.transaction([WS]) as tx:
            await outbox.add(tx, [Outgoing(topic=topic, key="k", body=body(1))])
    ((written,),) = clean.admin_sql("SELECT traceparent FROM scratch.outbox")
    assert written.split("-")[1] == parent.split("-")[1]


async def test_a_commit_wakes_the_relay_and_a_rollback_does_not(
    clean: Parts, db: Database, topic: Topic
) -> None:
    outbox = Outbox(db)
    with contextlib.suppress(_RolledBack):
        async with db.transaction([WS]) as tx:
            await outbox.add(tx, [Outgoing(topic=topic, key="k", body=body(1))])
            assert not outbox.wake.is_set()
            raise _RolledBack
    assert not outbox.wake.is_set()
    async with db.transaction([WS]) as tx:
        pass
    assert not outbox.wake.is_set()
    async with db.transaction([WS]) as tx:
        await outbox.add(tx, [Outgoing(topic=topic, key="k", body=body(1))])
        assert not outbox.wake.is_set()
    assert outbox.wake.is_set()


async def test_a_large_backlog_goes_out_in_rounds(clean: Parts, db: Database, topic: Topic) -> None:
    outbox = Outbox(db)
    async with db.transaction([WS]) as tx:
        outgoing = [Outgoing(topic=topic, key="k", body=body(n)) for n in range(3_500)]
        await outbox.add(tx, outgoing)
    async with relaying(clean.settings, db, outbox) as relay:
        await relay.drained()
        assert waiting(clean) == 0
    numbers: list[Any] = [
        msgspec.json.decode(one.value())["job_id"] for one in clean.read(topic.name, 3_500)
    ]
    assert numbers == [f"job-{n}" for n in range(3_500)]
