"""Reply and bounce as processes: from a mailbox's inbox to a stop and a suppression."""

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from confluent_kafka import Producer
from tests.integration.reply.world import World, until

from paceline_common import events, ids, topics
from paceline_common.topics import Topic
from paceline_local.stack import Stack

Publish = Callable[[str, Topic, str, events.Event], None]


@pytest.fixture
def services(stack: Stack) -> Iterator[None]:
    for name in ("reply", "bounce"):
        stack.restart(name, {"PACELINE_POLL_S": "600"})
    yield
    for name in ("reply", "bounce"):
        stack.stop(name)


@pytest.fixture
def publish(stack: Stack) -> Publish:
    def send(principal: str, topic: Topic, key: str, body: events.Event) -> None:
        producer = Producer(
            {
                "bootstrap.servers": f"127.0.0.1:{stack.ports['kafka']}",
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanisms": "SCRAM-SHA-512",
                "sasl.username": principal,
                "sasl.password": stack.passwords.get(principal, "paceline_kafka_password"),
            }
        )
        headers = {
            "ce_specversion": "1.0",
            "ce_id": str(uuid.uuid4()),
            "ce_type": events.event_type(topic),
            "ce_source": f"/paceline/{principal}",
            "ce_time": datetime.now(UTC).isoformat(),
            "ce_workspaceid": body.workspace_id,
            "content-type": "application/json",
        }
        producer.produce(
            topic.name, msgspec.json.encode(body), key.encode(), headers=list(headers.items())
        )
        assert producer.flush(20) == 0

    return send


async def test_a_mailbox_is_read_from_its_event_on_and_stops_what_must_stop(
    stack: Stack, services: None, world: World, publish: Publish
) -> None:
    answered, gone, away = [await world.sent() for _ in range(3)]
    mailbox = ids.encode("mbx", world.mailbox_id)
    workspace = ids.encode("ws", world.workspace_id)
    changed = events.MailboxChanged(workspace_id=workspace, mailbox_id=mailbox, version=1)
    publish("gateway", topics.MAILBOX_CHANGED, mailbox, changed)

    world.deliver(world.sample("human-gmail", answered))
    world.deliver(world.sample("dsn-postfix-unknown-user", gone))
    world.deliver(world.sample("auto-sieve-vacation", away))

    await until(lambda: len(world.inbound()) == 3, seconds=60)
    await until(lambda: world.suppressed() == {gone.lead_email: "hard_bounce"}, seconds=60)
    assert sorted(row["kind"] for row in world.inbound()) == ["auto_reply", "dsn", "human"]
    assert ("enrollment", answered.enrollment_id, "replied") in world.suspensions()
    assert world.enrollment_state(gone) == "bounced"
    assert world.enrollment_state(away) == "active"
    # Relayed to Kafka, so gone from the outboxes.
    await until(lambda: not world.events("replied") and not world.events("bounced", "bounce"))

    # A reply that dies in the middle reads on where its effects ended.
    stack.kill("reply")
    world.deliver(world.sample("human-outlook", away))
    stack.restart("reply", {"PACELINE_POLL_S": "600"})
    await until(lambda: len(world.inbound()) == 4, seconds=60)
    assert ("enrollment", away.enrollment_id, "replied") in world.suspensions()

    publish(
        "sender",
        topics.SEND_REJECTED,
        answered.enrollment,
        events.SendRejected(
            workspace_id=workspace, job_id=ids.encode("job", answered.job_id), mailbox_id=mailbox,
            enrollment_id=answered.enrollment, outcome_class="hard", rejected_at=datetime.now(UTC),
        ),
    )  # fmt: skip
    await until(lambda: answered.lead_email in world.suppressed(), seconds=60)

    log = (stack.layout.log / "reply.log").read_text() + (
        stack.layout.log / "bounce.log"
    ).read_text()
    for secret in (world.password, world.email, answered.lead_email, gone.lead_email, "Monday"):
        assert secret not in log
    assert all(json.loads(line) for line in log.splitlines() if line.startswith("{"))
