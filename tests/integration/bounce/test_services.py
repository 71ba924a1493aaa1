"""Reply and bounce as processes: from a mailbox's inbox to a stop and a suppression."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.integration.reply.world import World, publish
from tests.waiting import until

from paceline_common import events, ids, topics
from paceline_local.stack import Stack


@pytest.fixture
def bounce(stack: Stack) -> Iterator[None]:
    stack.restart("bounce", {"PACELINE_HEALTH_RECOMPUTE_S": "0.2"})
    yield
    stack.stop("bounce")


async def test_sends_delivered_twice_make_one_score_that_is_told_and_decays(
    stack: Stack, bounce: None, world: World
) -> None:
    workspace = ids.encode("ws", world.workspace_id)
    other = await world.add_mailbox(f"other-{world.email}")

    def sent(n: int, mailbox_id: int) -> events.Sent:
        return events.Sent(
            workspace_id=workspace, job_id=ids.encode("job", n + 1),
            mailbox_id=ids.encode("mbx", mailbox_id), message_id=f"<{n}@north.test>",
            provider="smtp", sent_at=at,
        )  # fmt: skip

    def health(mailbox_id: int) -> tuple[int | None, int]:
        rows = world.rows(
            "SELECT score, recent_sends FROM bounce.mailbox_health WHERE mailbox_id = %s",
            mailbox_id,
        )
        return (rows[0]["score"], rows[0]["recent_sends"]) if rows else (None, 0)

    # Of one key, so in this order: behind the last one, every double has been read.
    at = datetime.now(UTC)
    for n in (*range(20), *range(20)):
        body, event_id = sent(n, world.mailbox_id), f"{workspace}-{n}"
        publish(stack, "sender", topics.SENT, workspace, body, event_id)
    publish(stack, "sender", topics.SENT, workspace, sent(20, other))

    await until(lambda: health(other) == (None, 1), within_s=60)
    assert health(world.mailbox_id) == (85, 20)
    await until(lambda: not world.events("mailbox-health-changed", "bounce"))

    # As if a fortnight had passed: the periodic look forgets what it was.
    world.rows(
        "UPDATE bounce.mailbox_day SET day = day - 40 WHERE workspace_id = %s", world.workspace_id
    )
    world.rows(
        "UPDATE bounce.mailbox_health SET recompute_at = now() WHERE workspace_id = %s",
        world.workspace_id,
    )
    await until(lambda: health(world.mailbox_id) == (None, 20))

    # The owner attests that it was in use before: told by the mailbox's own event.
    world.set_policy(attested=True)
    mailbox = ids.encode("mbx", world.mailbox_id)
    changed = events.MailboxChanged(workspace_id=workspace, mailbox_id=mailbox, version=2)
    publish(stack, "gateway", topics.MAILBOX_CHANGED, mailbox, changed)
    stage = "SELECT stage FROM bounce.mailbox_health WHERE mailbox_id = %s"
    await until(lambda: world.one(stage, world.mailbox_id) == {"stage": 3}, within_s=60)


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

    await until(lambda: len(world.inbound()) == 3, within_s=60)
    await until(lambda: world.suppressed() == {gone.lead_email: "hard_bounce"}, within_s=60)
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
    await until(lambda: len(world.inbound()) == 4, within_s=60)
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
    await until(lambda: answered.lead_email in world.suppressed(), within_s=60)

    log = (stack.layout.log / "reply.log").read_text() + (
        stack.layout.log / "bounce.log"
    ).read_text()
    for secret in (world.password, world.email, answered.lead_email, gone.lead_email, "Monday"):
        assert secret not in log
    assert all(json.loads(line) for line in log.splitlines() if line.startswith("{"))
