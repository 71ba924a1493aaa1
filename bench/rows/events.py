"""Row 9: consuming, publishing and recording results, each against the bare library call.

Consuming adds to the bare loop what a promise costs: the envelope read without trust, a digest, and
a transaction per batch before the offsets; the effect itself is nothing. Publishing is the relay's
publisher alone, without the outbox around it.

The limit of the third figure is no like for like: it is one new row per result in a table with one
index. A result of ours changes the job, its mailbox's budget, the attempt and the message, writes
the event, and looks up the slot, in one transaction across two services' schemas. The ratio says
how far that is from the least that could be durable.
"""

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from bench import house
from bench.measure import Result, interleave
from bench.rows.pacing import POLICY, Decider
from paceline_common import events, ids, topics
from paceline_common.clock import SystemClock
from paceline_common.db import Database, Outbox
from paceline_common.db.outbox import Record
from paceline_common.kafka.broker import Publisher, consuming_broker
from paceline_common.kafka.subscribe import Delivery, Subscriber, Subscription
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_scheduler.metrics import METRICS as SCHEDULER_METRICS
from paceline_sender.job import Job, Report
from paceline_sender.metrics import METRICS
from paceline_sender.submit import Submitter

EVENTS: Final = 20_000
RESULTS: Final = 10_000
BATCH: Final = 500
# Room for all of a call in one partition.
BATCH_BYTES: Final = 512 * 1024
PATIENCE_S: Final = 120.0
_INSTANCE: Final = "00000000-0000-4000-8000-000000000001"


class Kafka:
    """Events of the topic `sent`, published and consumed in our way and in the bare one."""

    def __init__(self, made: house.Servers) -> None:
        self._made = made
        self._records = [_record(n) for n in range(EVENTS)]

    def _settings(self, principal: str) -> ServiceSettings:
        password = self._made.stack.passwords.get(principal, "paceline_kafka_password")
        return self._made.settings(principal).model_copy(
            update={
                "kafka_bootstrap": self._made.stack.kafka.bootstrap(),
                "kafka_password": SecretStr(password),
            }
        )

    async def ready(self) -> None:
        """Wait until the broker knows its grants: it learns them a moment after they are made."""
        end = time.monotonic() + PATIENCE_S
        while True:
            publisher = Publisher(self._settings("sender"), "sender")
            try:
                await publisher.publish(topics.SENT.name, self._records[:1])
            except KafkaError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.5)
            else:
                return
            finally:
                await publisher.close()

    # ---- publishing

    async def publish(self) -> float:
        """Return events per second by the relay's publisher, 500 a call as the relay has them."""
        publisher = Publisher(self._settings("sender"), "sender")
        await publisher.publish(topics.SENT.name, self._records[:1])
        start = time.perf_counter()
        for n in range(0, EVENTS, BATCH):
            await publisher.publish(topics.SENT.name, self._records[n : n + BATCH])
        rate = EVENTS / (time.perf_counter() - start)
        await publisher.close()
        return rate

    async def publish_bare(self) -> float:
        """Return events per second by aiokafka's batches, filled by hand, as many in flight."""
        settings = self._settings("sender")
        producer = AIOKafkaProducer(
            **_login(settings), acks="all", enable_idempotence=True, max_batch_size=BATCH_BYTES
        )
        await producer.start()
        partitions = sorted(await producer.partitions_for(topics.SENT.name))
        start = time.perf_counter()
        for n in range(0, EVENTS, BATCH):
            batches = [producer.create_batch() for _ in partitions]
            for m, one in enumerate(self._records[n : n + BATCH]):
                room = batches[m % len(batches)].append(
                    key=one.key, value=one.value, headers=one.headers, timestamp=None
                )
                if room is None:
                    raise RuntimeError("a batch was full and would have lost an event")
            sent = [
                await producer.send_batch(batch, topics.SENT.name, partition=partition)
                for batch, partition in zip(batches, partitions, strict=True)
            ]
            await asyncio.gather(*sent)
        rate = EVENTS / (time.perf_counter() - start)
        await producer.stop()
        return rate

    # ---- consuming

    async def consume(self) -> float:
        """Return events per second through the wrapper: envelope, decoding, a transaction and a
        commit of offsets per batch; the effect itself is nothing."""
        settings = self._settings("scheduler")
        db, done = Database(settings), asyncio.Event()
        seen = 0
        began = ended = 0.0

        async def handle(_tx: AsyncConnection, batch: Sequence[Delivery[events.Sent]]) -> None:
            nonlocal seen, began, ended
            began = began or time.perf_counter()
            seen += len(batch)
            if seen >= EVENTS:
                ended = time.perf_counter()
                done.set()

        subscription = Subscription(topic=topics.SENT, handler=handle, dedupe=False)
        broker = consuming_broker(settings, "scheduler")
        subscriber = Subscriber(
            "scheduler", subscription, settings=settings, db=db,
            metrics=Metrics(SCHEDULER_METRICS),
        )  # fmt: skip
        subscriber.attach(broker)
        await self._behind()
        await broker.start()
        await asyncio.wait_for(done.wait(), PATIENCE_S)
        subscriber.stopping()
        await broker.stop()
        await db.close()
        return seen / (ended - began)

    async def consume_bare(self) -> float:
        """Return events per second by `getmany` and msgspec."""
        consumer = AIOKafkaConsumer(
            topics.SENT.name, **_login(self._settings("scheduler")), enable_auto_commit=False,
            group_id=topics.group("scheduler", topics.SENT), auto_offset_reset="earliest",
        )  # fmt: skip
        await self._behind()
        await consumer.start()
        decoder = msgspec.json.Decoder(events.Sent)
        seen, began = 0, 0.0
        while seen < EVENTS:
            got = await consumer.getmany(timeout_ms=1000, max_records=BATCH)
            began = began or time.perf_counter()
            for records in got.values():
                for one in records:
                    decoder.decode(one.value)
                seen += len(records)
            await consumer.commit()
        rate = seen / (time.perf_counter() - began)
        await consumer.stop()
        return rate

    async def _behind(self) -> None:
        """Have `EVENTS` events wait for the group."""
        publisher = Publisher(self._settings("sender"), "sender")
        await publisher.publish(topics.SENT.name, self._records)
        await publisher.close()


class Results:
    """Outcomes of claimed jobs, recorded as the sender does, and as bare rows."""

    def __init__(self, made: house.Servers) -> None:
        self._made = made
        self.syncs = 0.0

    async def record(self) -> float:
        """Return results per second: attempt, message, the scheduler's verdict and the event."""
        self._made.sql("TRUNCATE sender.attempt, sender.message, sender.outbox")
        # The decider frees what is reserved.
        self._made.sql("UPDATE scheduler.send_job SET state = 'reserved' WHERE state = 'sent'")
        async with self._made.scheduler() as (db, queries, redis):
            pacer, leased = await house.paced(self._made, db, queries, redis)
            await Decider(self._made, pacer, redis, leased).run(time.perf_counter)
        reports = self._claimed()
        db = Database(self._made.settings("sender"))
        submitter = Submitter(
            db, Outbox(db), SystemClock(), Metrics(METRICS), random.Random(7),
            stopping=asyncio.Event(), instance_id=_INSTANCE, jobs_per_batch=BATCH,
        )  # fmt: skip
        before = self._synced()
        start = time.perf_counter()
        await asyncio.gather(*(submitter.report(one) for one in reports))
        rate = len(reports) / (time.perf_counter() - start)
        await db.close()
        self.syncs = (self._synced() - before) / len(reports)
        ((left,),) = self._made.sql("SELECT count(*) FROM sender.attempt WHERE outcome IS NULL")
        if left:
            raise RuntimeError(f"{left} results were not recorded")
        return rate

    async def bare(self) -> float:
        """Return results per second as rows of one table, 500 of an unnest per commit."""
        self._made.sql("DROP TABLE IF EXISTS sender.bench_result")
        self._made.sql(
            "CREATE TABLE sender.bench_result (workspace_id bigint, job_id bigint, fence integer,"
            " outcome text, code integer, text text, at timestamptz,"
            " PRIMARY KEY (workspace_id, job_id, fence))"
        )
        start = time.perf_counter()
        for n in range(0, RESULTS, BATCH):
            self._made.sql(
                "INSERT INTO sender.bench_result SELECT %s, u.job, 1, 'accepted', 250, u.told,"
                " clock_timestamp() FROM unnest(%s::bigint[], %s::text[]) AS u(job, told)",
                house.WS, list(range(n, n + BATCH)), [f"2.0.0 Ok: queued as {n:X}"] * BATCH,
            )  # fmt: skip
        return RESULTS / (time.perf_counter() - start)

    def _claimed(self) -> list[Report]:
        """Write the claims of all that is reserved; return their outcomes."""
        self._made.sql("UPDATE scheduler.send_job SET state = 'sending' WHERE state = 'reserved'")
        self._made.sql(
            "INSERT INTO sender.attempt (workspace_id, job_id, fence, attempt_no, enrollment_id,"
            " campaign_id, step, mailbox_id, provider, message_id, instance_id, claimed_at,"
            " not_after) SELECT workspace_id, job_id, fence, 1, enrollment_id, campaign_id, step,"
            " mailbox_id, 'smtp', '<' || job_id || '@bench.test>', %s::uuid, clock_timestamp(),"
            " not_after FROM scheduler.send_job WHERE state = 'sending'",
            _INSTANCE,
        )
        self._made.sql(
            "INSERT INTO sender.message (workspace_id, job_id, enrollment_id, campaign_id, step,"
            " mailbox_id, message_id, subject, references_) SELECT workspace_id, job_id,"
            " enrollment_id, campaign_id, step, mailbox_id, message_id, 's', '{}'"
            " FROM sender.attempt"
        )
        # As autovacuum does within a minute: without statistics plans are guesses.
        self._made.sql("ANALYZE sender.attempt, sender.message, scheduler.send_job, scheduler.slot")
        rows = self._made.sql(
            "SELECT job_id, fence, mailbox_id, slot_at, not_after, enrollment_id"
            " FROM scheduler.send_job WHERE state = 'sending' ORDER BY job_id"
        )
        return [
            Report(
                Job(house.WS, job, fence, mailbox, "campaign", slot_at, not_after, enrollment,
                    house.CAMPAIGN, 1),
                "accepted", "accepted", True, "smtp", f"<{job}@bench.test>", code=250,
                text="2.0.0 Ok: queued as 4cX", at=datetime.now(UTC),
            )
            for job, fence, mailbox, slot_at, not_after, enrollment in rows
        ]  # fmt: skip

    def _synced(self) -> float:
        # A backend tells its counters when it is idle for a second.
        time.sleep(1.5)
        ((syncs,),) = self._made.sql("SELECT wal_sync FROM pg_stat_wal")
        return float(syncs)


def measure(repeats: int) -> list[Result]:
    """Row 9."""
    with house.everything() as made:
        kafka = Kafka(made)
        asyncio.run(kafka.ready())
        # As a service does once it is up: what it imported is not collected again and again.
        gc.collect()
        gc.freeze()
        consumed, raw_consumed = interleave(
            lambda: asyncio.run(kafka.consume()), lambda: asyncio.run(kafka.consume_bare()), repeats
        )
        published, raw_published = interleave(
            lambda: asyncio.run(kafka.publish()), lambda: asyncio.run(kafka.publish_bare()), repeats
        )
        house.campaign(made, mailboxes=RESULTS, policy=POLICY)
        house.jobs(made, RESULTS * 2)
        results = Results(made)
        recorded, raw_recorded = interleave(
            lambda: asyncio.run(results.record()), lambda: asyncio.run(results.bare()), repeats
        )
    return [
        Result(9, "consume and decode, against getmany and msgspec", "per s", consumed,
               raw_consumed, 0.5, "higher"),
        Result(9, "publish, against aiokafka's own batches", "per s", published, raw_published,
               0.8, "higher"),
        Result(9, "durable results, against an unnest of 500 into one table", "per s", recorded,
               raw_recorded, 0.7, "higher"),
        Result(9, "fsync per result, against 0.01", "", results.syncs, 0.01, 1, "lower"),
    ]  # fmt: skip


def _record(n: int) -> Record:
    body = events.Sent(
        workspace_id=ids.encode("ws", house.WS),
        job_id=ids.encode("job", n + 1),
        mailbox_id=ids.encode("mbx", 1 + n % 1000),
        enrollment_id=ids.encode("enr", n + 1),
        campaign_id=ids.encode("cmp", house.CAMPAIGN),
        step=1,
        message_id=f"<{n}@bench.test>",
        provider="smtp",
        sent_at=datetime.now(UTC),
        provider_message_id=None,
    )
    headers = {
        "ce_specversion": "1.0",
        "ce_id": ids.new_event_id(),
        "ce_type": events.event_type(topics.SENT),
        "ce_source": "paceline/sender",
        "ce_time": datetime.now(UTC).isoformat(),
        "ce_workspaceid": ids.encode("ws", house.WS),
        "content-type": "application/json",
    }
    return Record(
        ids.encode("enr", n + 1).encode(),
        msgspec.json.encode(body),
        [(name, value.encode()) for name, value in headers.items()],
    )


def _login(settings: ServiceSettings) -> dict[str, str]:
    return {
        "bootstrap_servers": settings.kafka_bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": settings.kafka_user,
        "sasl_plain_password": settings.kafka_password.get_secret_value(),
    }
