"""Another team's service: it publishes leads on its own topic, as its own principal.

It runs as a process of its own (`python -m paceline_demo.publisher`), knows
nothing of Paceline but the public contract (docs/events), and takes what it is
told as one JSON object on standard input.
"""

import asyncio
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from paceline_common import events, ids, topics

_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Order:
    """What to publish: (workspace id of the envelope, body) in order, and the way in."""

    bootstrap: str
    user: str
    password: str
    publisher: str
    bodies: list[tuple[str, str]]


class PublishingFailed(Exception):
    """The publisher's process ended without having published all."""


def publish_from_outside(order: Order) -> None:
    """Run the publisher as a process of its own; raise `PublishingFailed` with its last words."""
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asdict(order)),
        text=True,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    if done.returncode:
        raise PublishingFailed("; ".join(done.stderr.strip().splitlines()[-3:]))


async def publish(order: Order) -> None:
    """Publish in order; return when Kafka has acknowledged every record."""
    topic = topics.publisher_topic(order.publisher)
    producer = AIOKafkaProducer(
        bootstrap_servers=order.bootstrap,
        client_id=f"{order.publisher}-demo",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=order.user,
        sasl_plain_password=order.password,
        enable_idempotence=True,
    )
    await producer.start()
    try:
        acknowledged = [
            await producer.send(
                topic,
                body.encode(),
                key=f"contact-{number}".encode(),
                headers=_envelope(order.publisher, number, workspace_id),
            )
            for number, (workspace_id, body) in enumerate(order.bodies)
        ]
        await asyncio.gather(*acknowledged)
    finally:
        await producer.stop()


def _envelope(publisher: str, number: int, workspace_id: str) -> list[tuple[str, bytes]]:
    """Return the headers of CloudEvents 1.0 in Kafka's binary mode."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": ids.new_event_id(),
        "ce_type": events.event_type(topics.LEAD_ENROLLED_BY_PUBLISHER),
        "ce_source": f"/{publisher}",
        "ce_time": datetime.now(UTC).isoformat(),
        "ce_subject": f"contact-{number}",
        "ce_workspaceid": workspace_id,
        "content-type": "application/json",
    }
    return [(name, text.encode()) for name, text in headers.items()]


if __name__ == "__main__":
    asyncio.run(publish(Order(**json.load(sys.stdin))))
