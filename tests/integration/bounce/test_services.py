"""Reply and bounce as processes: from a mailbox's inbox to a stop and a suppression."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.integration.reply.world import World, publish, until

from paceline_common import events, ids, topics
from paceline_local.stack import Stack


@pytest.fixture
def services(stack: Stack) -> Iterator[None]:
    for name in ("reply", "bounce"):
        stack.restart(name, {"PACELINE_POLL_S": "600"})
    yield
    for name in ("reply", "bounce"):
        stack.stop(name)


async def test_a_mailbox_is_read_from_its_event_on_and_stops_what_must_stop(
    stack: Stack, services: None, world: World
) -> None:
    answered, gone, away = [await world.sent() for _ in range(3)]
    mailbox = ids.encode("mbx", world.mailbox_id)
    workspace = ids.encode("ws", world.workspace_id)
    changed = events.MailboxChanged(workspace_id=workspace, mailbox_id=mailbox, version=1)
    publish(stack, "gateway", topics.MAILBOX_CHANGED, mailbox, changed)

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
        stack,
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
