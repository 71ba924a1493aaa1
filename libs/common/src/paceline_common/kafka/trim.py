"""Personal data leaves Kafka once it was read.

Topics with `personal_data` keep no record behind the committed offset of their
consumer: what it stood for is in Postgres by then, or in quarantine.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from paceline_common import telemetry, topics
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic

_CALL_MS: Final = 5_000


class Trimmer:
    """Deletes the records of one topic, or family, behind its group's committed offsets.

    The offsets are those that the broker holds for the group: what a member
    committed before it died is trimmed by the next one, and what nobody
    committed stays. Any member may trim, and several at once.

    Raises `ValueError` for a topic with another consumer, which would lose
    what it has not read yet.
    """

    def __init__(
        self, service: str, topic: Topic, *, settings: ServiceSettings, metrics: Metrics
    ) -> None:
        if topic.consumers != (service,):
            raise ValueError(f"{service} is not the only consumer of {topic.name}")
        self._group = topics.group(service, topic)
        self._names = re.compile(
            topics.family_pattern(topic) if topic.pattern else re.escape(topic.name)
        )
        self._every_s = settings.trim_personal_data_s
        self._connection: dict[str, Any] = {
            "bootstrap_servers": settings.kafka_bootstrap.split(","),
            "client_id": f"paceline-{service}-trim",
            "request_timeout_ms": _CALL_MS,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": settings.kafka_user,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
        self._failures = metrics.counter("paceline_trim_failures_total").labels(topic.name)
        self._log = telemetry.logger("trim").bind(topic=topic.name, group=self._group)
        self._trimmed: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Trim every `trim_personal_data_s`; what fails is logged, counted and tried again."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                count = await self.trim()
            except Exception as error:  # noqa: BLE001 - reading must go on whatever happens here
                self._failures.inc()
                self._log.warning("not trimmed", **telemetry.describe_error(error))
            else:
                if count:
                    self._log.info("trimmed", count=count)

    async def trim(self) -> int:
        """Delete what lies behind the committed offsets now; return how many partitions changed.

        Raises one of Kafka's errors once all partitions were tried.
        """
        admin = AIOKafkaAdminClient()
        # Its constructor drops SASL arguments (aiokafka 0.14).
        admin._client = AIOKafkaClient(**self._connection)
        try:
            await admin.start()
            return await self._delete(admin, await self._committed(admin))
        finally:
            await admin.close()

    async def _committed(self, admin: AIOKafkaAdminClient) -> dict[TopicPartition, int]:
        found = await admin.list_consumer_group_offsets(self._group)
        # Never a negative offset: Kafka takes -1 for "all there is".
        return {
            partition: held.offset
            for partition, held in found.items()
            if self._names.fullmatch(partition.topic) and held.offset > 0
        }

    async def _delete(
        self, admin: AIOKafkaAdminClient, committed: Mapping[TopicPartition, int]
    ) -> int:
        failure: KafkaError | None = None
        trimmed = 0
        for partition, offset in committed.items():
            if self._trimmed.get(partition) == offset:
                continue
            try:
                await admin.delete_records({partition: RecordsToDelete(offset)}, _CALL_MS)
            except KafkaError as error:
                # One publisher's topic must not keep those of the others.
                failure = error
            else:
                self._trimmed[partition] = offset
                trimmed += 1
        if failure is not None:
            raise failure
        return trimmed
