"""Connections to Kafka: FastStream's broker for consuming, one idempotent producer."""

import asyncio
import logging
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from faststream.kafka import KafkaBroker
from faststream.security import SASLScram512

from paceline_common.db.outbox import Record
from paceline_common.settings import ServiceSettings

# Below the broker's message.max.bytes (1 MiB); one larger record goes alone and is refused there.
_BATCH_BYTES: Final = 256 * 1024
_METADATA_AGE_MS: Final = 60_000
# A new publisher's topic is found at the next refresh.
_FAMILY_METADATA_AGE_MS: Final = 3_000
_CLOSE_S: Final = 5.0
# How long a topic may be unknown to the cluster before its events count as refused.
_TOPIC_S: Final = 5.0
_TOPICS_OWN: Final = (
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    MessageSizeTooLargeError,
    InvalidTopicError,
)


def consuming_broker(
    settings: ServiceSettings, service: str, *, families: bool = False
) -> KafkaBroker:
    """Return the broker that `kafka.subscribe` hangs its subscribers on; it publishes nothing.

    With `families` it looks for new topics every few seconds.
    """
    return KafkaBroker(
        settings.kafka_bootstrap.split(","),
        client_id=f"paceline-{service}",
        security=SASLScram512(
            username=settings.kafka_user, password=settings.kafka_password.get_secret_value()
        ),
        # Producing has its own client (`Publisher`): FastStream's sets headers
        # of its own and has one future per record.
        consumer_only=True,
        apply_types=False,
        enable_idempotence=True,
        acks="all",
        allow_auto_create_topics=False,
        metadata_max_age_ms=_FAMILY_METADATA_AGE_MS if families else _METADATA_AGE_MS,
        graceful_timeout=settings.drain_grace_s,
        # Its own logger writes past ours; what it says of each batch is not wanted.
        logger=logging.getLogger("consuming"),
        log_level=logging.DEBUG,
    )


class Publisher:
    """Publishes in order: idempotent, acknowledged by all in-sync replicas."""

    def __init__(self, settings: ServiceSettings, service: str) -> None:
        self._arguments: dict[str, Any] = {
            "bootstrap_servers": settings.kafka_bootstrap.split(","),
            "client_id": f"paceline-{service}-outbox",
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": settings.kafka_user,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
            "enable_idempotence": True,
            "acks": "all",
            "max_batch_size": _BATCH_BYTES,
            "metadata_max_age_ms": _METADATA_AGE_MS,
        }
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def publish(self, topic: str, records: Sequence[Record]) -> None:
        """Publish `records` to `topic`, in order per key; return when all are acknowledged.

        While Kafka is away it waits. It raises `KafkaError` or `TimeoutError`
        for a topic that refuses them; then some may have been written, and all
        are to be published again, in order. One call at a time per topic.
        """
        producer = await self._connected()
        # aiokafka asks for a topic by name only once it misses it; a first
        # missing topic would make it forget all others, batches under way included.
        producer.client.add_topic(topic)
        try:
            async with asyncio.timeout(_TOPIC_S):
                found = await producer.partitions_for(topic)
            await self._publish(producer, topic, sorted(found), records)
        except _TOPICS_OWN:
            raise
        except KafkaError:
            # A sequence broken once stays broken in that producer.
            self._retire(producer)
            raise

    async def _publish(
        self,
        producer: AIOKafkaProducer,
        topic: str,
        partitions: list[int],
        records: Sequence[Record],
    ) -> None:
        batches: dict[int, list[BatchBuilder]] = defaultdict(lambda: [producer.create_batch()])
        count = len(partitions)
        for one in records:
            key, value, headers = one.key, one.value, one.headers
            # librdkafka's way to choose (`consistent`); aiokafka's own murmur2 is written in Python
            # and costs more than all the rest of a record.
            its_batches = batches[zlib.crc32(key or b"") % count]
            last = its_batches[-1]
            if last.append(key=key, value=value, headers=headers, timestamp=None) is None:
                last = producer.create_batch()
                its_batches.append(last)
                last.append(key=key, value=value, headers=headers, timestamp=None)
        results = await asyncio.gather(
            *(
                self._publish_partition(producer, topic, partitions[n], its_batches)
                for n, its_batches in batches.items()
            ),
            # All come to an end before the topic counts as failed: none of this
            # round may still be under way when the next one begins.
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _publish_partition(
        self,
        producer: AIOKafkaProducer,
        topic: str,
        partition: int,
        batches: Sequence[BatchBuilder],
    ) -> None:
        # One after the other: a later one must not overtake one that failed.
        for batch in batches:
            await (await producer.send_batch(batch, topic, partition=partition))

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                producer = AIOKafkaProducer(**self._arguments)
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    def _retire(self, producer: AIOKafkaProducer) -> None:
        if self._producer is producer:
            self._producer = None
            closing = asyncio.create_task(_close(producer))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the connection; the next `publish` opens another."""
        if self._producer is not None:
            self._retire(self._producer)
        if self._closing:
            await asyncio.wait(self._closing)


async def _close(producer: AIOKafkaProducer) -> None:
    # What it still holds is in the outbox and is published again.
    with suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await producer.stop()
