"""Kafka under chaos: records delivered again and out of order, records nobody can read."""

import json
import random
import time
from collections import deque
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, Final

from confluent_kafka import Consumer, Message, Producer

from paceline_common import events, ids, topics
from tests.chaos.house import House

# One topic per consumer, whose bad record stops nobody.
POISONED: Final = {
    "gateway": topics.ISSUE_RAISED,
    "scheduler": topics.MAILBOX_PROBED,
    "sender": topics.SEND_SCHEDULED,
    "bounce": topics.SEND_REJECTED,
    "reply": topics.MAILBOX_CHANGED,
    "audit": topics.AUDIT_RECORDED,
}
_KEPT: Final = 1000
_FLUSH_S: Final = 20


class Traffic:
    """Reads every topic without personal data as it fills, and writes to it what it likes."""

    def __init__(self, house: House, rng: random.Random) -> None:
        self._house = house
        self._rng = rng
        self._seen: deque[Message] = deque(maxlen=_KEPT)
        self._stop = Event()
        self._reader = Thread(target=self._read, name="chaos-traffic", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def stop(self) -> None:
        """End reading."""
        self._stop.set()
        self._reader.join(10)

    def again(self, count: int) -> int:
        """Publish some of the last records once more, shuffled; return how many."""
        seen = list(self._seen)
        chosen = self._rng.sample(seen, min(count, len(seen)))
        producer = self._producer("stack")
        for record in chosen:
            topic = record.topic()
            assert topic is not None
            producer.produce(
                topic, key=record.key(), value=record.value(), headers=record.headers()
            )
        producer.flush(_FLUSH_S)
        return len(chosen)

    def poison(self, service: str) -> None:
        """Publish a record that `service` can read but not understand."""
        topic = POISONED[service]
        producer = self._producer("stack")
        producer.produce(
            topic.name, key=b"mbx_0", value=b'{"cut": "off',
            headers=_envelope(topic, "/chaos", self._house.workspace),
        )  # fmt: skip
        producer.flush(_FLUSH_S)

    def enroll(self, publisher: str, campaign: str, emails: list[str]) -> None:
        """Enroll leads as an external publisher; return when Kafka has them."""
        producer = Producer(
            self._house.stack.kafka.client_config(f"publisher-{publisher}")
            | {"enable.idempotence": True}
        )
        workspace = self._house.workspace
        for email in emails:
            body = {
                "workspace_id": workspace, "campaign_id": campaign, "email": email,
                "first_name": email.partition("@")[0], "fields": {},
            }  # fmt: skip
            producer.produce(
                topics.publisher_topic(publisher), key=email.encode(),
                value=json.dumps(body).encode(),
                headers=_envelope(topics.LEAD_ENROLLED_BY_PUBLISHER, f"/{publisher}", workspace),
            )  # fmt: skip
        left = producer.flush(_FLUSH_S * 3)
        if left:
            raise TimeoutError(f"{left} events were not acknowledged")

    def _producer(self, principal: str) -> Producer:
        return Producer(self._house.stack.kafka.client_config(principal))

    def _read(self) -> None:
        consumer = Consumer(
            self._house.stack.kafka.client_config("stack")
            | {"group.id": f"chaos-{time.time()}", "auto.offset.reset": "latest",
               "enable.auto.commit": False}
        )  # fmt: skip
        consumer.subscribe([one.name for one in topics.ALL if not one.personal_data])
        while not self._stop.is_set():
            record = consumer.poll(0.5)
            if record is not None and record.error() is None:
                self._seen.append(record)
        consumer.close()


def _envelope(topic: topics.Topic, source: str, workspace: str) -> list[tuple[str, Any]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", ids.new_event_id().encode()),
        ("ce_type", events.event_type(topic).encode()),
        ("ce_source", source.encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("ce_workspaceid", workspace.encode()),
        ("content-type", b"application/json"),
    ]
