"""What refusals and reports do, with bounce's own credentials on the real parts."""

import hashlib
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.reply.world import Sent, World

from paceline_bounce.classify import Classifier
from paceline_bounce.consumers import inbound_received
from paceline_common import events, ids
from paceline_common.db import Database
from paceline_common.kafka.subscribe import Delivery

AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


def delivery(world: World, body: Any) -> Delivery[Any]:
    return Delivery(
        topic="t", partition=0, offset=0, key="k", event_id=str(uuid.uuid4()), source="s",
        workspace_id=world.workspace_id, time=AT, body=body, digest=b"",
    )  # fmt: skip


def rejected(world: World, sent: Sent, outcome_class: Any = "hard") -> Delivery[Any]:
    return delivery(
        world,
        events.SendRejected(
            workspace_id=ids.encode("ws", world.workspace_id),
            job_id=ids.encode("job", sent.job_id),
            mailbox_id=ids.encode("mbx", sent.mailbox_id),
            enrollment_id=sent.enrollment,
            campaign_id=ids.encode("cmp", 4),
            step=1,
            outcome_class=outcome_class,
            rejected_at=AT,
            code=550,
            status="5.1.1",
        ),
    )


def store(world: World, raw: bytes, kind: str = "dsn", mailbox_id: int | None = None) -> int:
    """Put a message where reply keeps what it received."""
    row = world.one(
        "INSERT INTO reply.inbound_message (workspace_id, mailbox_id, kind, message_id, digest,"
        " received_at, report) VALUES (%s, %s, %s, %s, %s, %s, %s) RETURNING inbound_id",
        world.workspace_id, mailbox_id or world.mailbox_id, kind, uuid.uuid4().hex,
        hashlib.sha256(raw).digest(), AT, raw,
    )  # fmt: skip
    number: int = row["inbound_id"]
    return number


def bounces(world: World) -> list[tuple[str, str | None, str | None]]:
    return [
        (row["state"], row["reason"], row["bounce_class"])
        for row in world.rows(
            "SELECT state, reason, bounce_class FROM bounce.bounce WHERE workspace_id = %s"
            " ORDER BY bounce_id",
            world.workspace_id,
        )
    ]


async def report(classifier: Classifier, db: Database, world: World, *inbound: int) -> None:
    async with db.transaction([world.workspace_id]) as tx:
        await classifier.reported(tx, world.workspace_id, inbound)


async def test_a_hard_refusal_bounces_and_suppresses_across_campaigns(
    classifier: Classifier, db: Database, world: World
) -> None:
    first = await world.sent()
    second = await world.sent(lead_email=first.lead_email)

    async with db.transaction([world.workspace_id]) as tx:
        await classifier.refused(tx, [rejected(world, first)])

    assert bounces(world) == [("counted", None, "hard")]
    assert world.suppressed() == {first.lead_email: "hard_bounce"}
    assert world.enrollment_state(first) == "bounced"
    assert world.enrollment_state(second) == "suppressed"
    (bounced,) = world.events("bounced", "bounce")
    assert (bounced.source, bounced.bounce_class, bounced.status) == ("smtp", "hard", "5.1.1")
    assert bounced.enrollment_id == first.enrollment


@pytest.mark.parametrize("outcome_class", ["soft", "block", "config", "auth"])
async def test_other_refusals_bounce_without_suppressing(
    classifier: Classifier, db: Database, world: World, outcome_class: str
) -> None:
    sent = await world.sent()

    async with db.transaction([world.workspace_id]) as tx:
        await classifier.refused(tx, [rejected(world, sent, outcome_class)])

    assert world.suppressed() == {}
    assert world.events("bounced", "bounce")[0].bounce_class == outcome_class


async def test_a_report_that_names_the_id_its_provider_made_of_ours_counts(
    classifier: Classifier, db: Database, world: World
) -> None:
    sent = await world.sent()
    rewritten = f"<{uuid.uuid4().hex}@mail.provider.test>"
    world.rows(
        "UPDATE sender.message SET sent_message_id = %s WHERE job_id = %s", rewritten, sent.job_id
    )
    raw = world.sample("dsn-postfix-unknown-user", sent).replace(
        sent.message_id.encode(), rewritten.encode()
    )
    # Nothing else of ours in it.
    inbound = store(world, raw.replace(b"X-Paceline-Job:", b"X-Other:"))

    await report(classifier, db, world, inbound)

    assert bounces(world) == [("counted", None, "hard")]


async def test_a_repeated_refusal_counts_once(
    classifier: Classifier, db: Database, world: World
) -> None:
    sent = await world.sent()
    for batch in ([rejected(world, sent)], [rejected(world, sent), rejected(world, sent)]):
        async with db.transaction([world.workspace_id]) as tx:
            await classifier.refused(tx, batch)

    assert len(bounces(world)) == len(world.events("bounced", "bounce")) == 1


@pytest.mark.parametrize(
    "name",
    [
        "dsn-postfix-unknown-user", "dsn-postfix-full-message", "dsn-exchange", "dsn-gmail",
        "dsn-qmail", "dsn-yahoo", "dsn-exim", "dsn-exim-report", "dsn-sendmail", "dsn-zoho",
        "dsn-workmail", "dsn-nothing-returned", "dsn-postfix-forwarded", "dsn-two-recipients",
    ],
)  # fmt: skip
async def test_a_hard_report_of_any_dialect_suppresses(
    classifier: Classifier, db: Database, world: World, name: str
) -> None:
    sent = await world.sent()

    await report(classifier, db, world, store(world, world.sample(name, sent)))

    assert world.suppressed() == {sent.lead_email: "hard_bounce"}
    assert world.enrollment_state(sent) == "bounced"
    (bounced,) = world.events("bounced", "bounce")
    assert (bounced.source, bounced.enrollment_id) == ("dsn", sent.enrollment)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("dsn-postfix-delayed", ("delayed", "delayed", None)),
        ("dsn-gmail-delay", ("delayed", "delayed", None)),
        ("dsn-postfix-delivered", ("ignored", "delivered", None)),
        ("dsn-postfix-relayed", ("ignored", "relayed", None)),
        ("dsn-postfix-mailbox-full", ("counted", None, "soft")),
        ("dsn-postfix-spamhaus", ("counted", None, "block")),
        ("dsn-postfix-other-recipient", ("untrusted", "other_recipient", None)),
        ("dsn-forged", ("untrusted", "unknown_message", None)),
        ("dsn-truncated", ("untrusted", "unknown_message", None)),
        ("human-gmail", ("ignored", "unreadable", None)),
    ],
)
async def test_other_reports_suppress_nobody(
    classifier: Classifier, db: Database, world: World, name: str, row: tuple[Any, ...]
) -> None:
    sent = await world.sent()

    await report(classifier, db, world, store(world, world.sample(name, sent)))

    assert bounces(world) == [row]
    assert world.suppressed() == {}
    assert len(world.events("bounced", "bounce")) == (row[0] == "counted")


async def test_a_report_in_another_mailbox_is_not_trusted(
    classifier: Classifier, db: Database, world: World
) -> None:
    sent = await world.sent()
    raw = world.sample("dsn-postfix-unknown-user", sent)

    await report(classifier, db, world, store(world, raw, mailbox_id=world.mailbox_id + 1000))

    assert bounces(world) == [("untrusted", "other_mailbox", None)]
    assert world.suppressed() == {}


async def test_a_report_with_another_workspaces_ids_is_not_trusted(
    classifier: Classifier, db: Database, world: World
) -> None:
    stranger = await World.create(world.stack, world.sql, world.gateway_keys, world.sender_keys)
    theirs = await stranger.sent()

    await report(
        classifier, db, world, store(world, world.sample("dsn-postfix-unknown-user", theirs))
    )

    assert bounces(world) == [("untrusted", "unknown_message", None)]
    assert stranger.suppressed() == world.suppressed() == {}
    stranger.close()


async def test_a_forged_token_does_not_outweigh_an_unknown_message_id(
    classifier: Classifier, db: Database, world: World
) -> None:
    sent = await world.sent()
    raw = world.sample("dsn-postfix-unknown-user", sent)
    forged = raw.replace(sent.token.encode(), f"{sent.token[:-4]}AAAA".encode())
    forged = forged.replace(sent.message_id.encode(), b"<unknown@north.test>")

    await report(classifier, db, world, store(world, forged))

    assert bounces(world) == [("untrusted", "unknown_message", None)]


async def test_reports_are_judged_once_and_a_second_report_on_a_job_is_noted(
    classifier: Classifier, db: Database, world: World
) -> None:
    sent = await world.sent()
    one = store(world, world.sample("dsn-postfix-unknown-user", sent))
    two = store(world, world.sample("dsn-exchange", sent))

    for inbound in ((one,), (one, two), (two,)):
        await report(classifier, db, world, *inbound)

    assert bounces(world) == [("counted", None, "hard"), ("ignored", "counted_before", None)]
    assert len(world.events("bounced", "bounce")) == 1


async def test_a_providers_limit_holds_the_mailbox_for_a_day(
    classifier: Classifier, db: Database, world: World
) -> None:
    sent = await world.sent()

    await report(classifier, db, world, store(world, world.sample("dsn-gmail-limit", sent)))

    assert world.suppressed() == {}
    assert world.suspensions() == [("mailbox", world.mailbox_id, "provider_limit")]
    until = world.one(
        "SELECT until FROM scheduler.suspension WHERE workspace_id = %s", world.workspace_id
    )["until"]
    assert (until - datetime.now(UTC)).total_seconds() == pytest.approx(24 * 3600, abs=120)
    assert world.events("issue-raised", "bounce")[0].code == "provider_limit"


async def test_only_reports_among_what_arrives_are_read(
    classifier: Classifier, db: Database, world: World
) -> None:
    sent = await world.sent()
    number = store(world, world.sample("dsn-postfix-unknown-user", sent))
    handler = inbound_received(classifier).handler

    def arrived(kind: Any) -> Delivery[Any]:
        body = events.InboundReceived(
            workspace_id=ids.encode("ws", world.workspace_id),
            inbound_id=ids.encode("inb", number),
            mailbox_id=ids.encode("mbx", world.mailbox_id),
            kind=kind,
            received_at=AT,
        )
        return delivery(world, body)

    async with db.transaction([world.workspace_id]) as tx:
        await handler(tx, [arrived("human"), arrived("other"), arrived("auto_reply")])
    assert bounces(world) == []

    async with db.transaction([world.workspace_id]) as tx:
        await handler(tx, [arrived("human"), arrived("dsn")])
    assert bounces(world) == [("counted", None, "hard")]
