"""What one received message does, committed with its cursor or not at all."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import AsyncConnection
from tests.integration.reply.world import SAMPLES, Sent, World

from paceline_common import ids
from paceline_common.db import Outbox, Outgoing
from paceline_common.keys import KeyService
from paceline_reply.reader import Parts
from paceline_reply.receive import Mailbox, Receiver
from paceline_reply.sources.base import Fetched


def fetched(raw: bytes, **more: Any) -> Fetched:
    return Fetched(datetime.now(UTC).replace(microsecond=0), raw, len(raw), **more)


def place(uid: int) -> dict[str, int]:
    return {"uid_validity": 77, "last_uid": uid}


async def receive(
    parts: Parts, world: World, raw: bytes, uid: int = 1, mailbox_id: int | None = None
) -> str | None:
    mailbox = Mailbox(world.workspace_id, mailbox_id or world.mailbox_id, world.email)
    return await parts.receiver.receive(mailbox, fetched(raw), place(uid))


@pytest.fixture
async def sent(world: World) -> Sent:
    world.connect()
    world.rows(
        "UPDATE reply.cursor SET place = %s WHERE workspace_id = %s",
        Jsonb(place(0)),
        world.workspace_id,
    )
    return await world.sent()


async def test_a_human_answer_stops_its_enrollment_in_the_same_commit(
    parts: Parts, world: World, sent: Sent
) -> None:
    kind = await receive(parts, world, world.sample("human-gmail", sent), uid=5)

    assert kind == "human"
    (row,) = world.inbound()
    assert (row["kind"], row["job_id"], row["matched_by"]) == ("human", sent.job_id, "references")
    assert row["report"] is None
    reply = world.one("SELECT * FROM reply.reply WHERE workspace_id = %s", world.workspace_id)
    assert reply["snippet"] == "Sounds good — call me on Monday."
    assert world.suspensions() == [("enrollment", sent.enrollment_id, "replied")]
    (replied,) = world.events("replied")
    assert (replied.enrollment_id, replied.job_id) == (
        sent.enrollment,
        ids.encode("job", sent.job_id),
    )
    (received,) = world.events("inbound-received")
    assert (received.kind, received.enrollment_id) == ("human", sent.enrollment)
    assert world.cursor()["place"] == place(5)


async def test_the_same_message_counts_once(parts: Parts, world: World, sent: Sent) -> None:
    raw = world.sample("human-gmail", sent)

    assert await receive(parts, world, raw, uid=5) == "human"
    assert await receive(parts, world, raw, uid=6) is None

    assert len(world.inbound()) == len(world.events("replied")) == 1
    assert world.cursor()["place"] == place(6)


async def test_another_message_with_the_same_id_is_not_dropped(
    parts: Parts, world: World, sent: Sent
) -> None:
    raw = world.sample("human-gmail", sent)

    await receive(parts, world, raw)
    await receive(parts, world, raw.replace(b"Monday", b"Friday"), uid=2)

    assert len(world.inbound()) == 2


@pytest.mark.parametrize("name", ["auto-sieve-vacation", "auto-exchange-oof", "auto-read-receipt"])
async def test_an_automatic_answer_stops_nothing(
    parts: Parts, world: World, sent: Sent, name: str
) -> None:
    assert await receive(parts, world, world.sample(name, sent)) == "auto_reply"

    assert world.inbound()[0]["enrollment_id"] == sent.enrollment_id
    assert world.suspensions() == []
    assert world.events("replied") == []


async def test_a_report_is_kept_whole_for_bounce(parts: Parts, world: World, sent: Sent) -> None:
    raw = world.sample("dsn-postfix-unknown-user", sent)

    assert await receive(parts, world, raw) == "dsn"

    assert bytes(world.inbound()[0]["report"]) == raw
    assert world.events("inbound-received")[0].kind == "dsn"
    assert world.suspensions() == []


async def test_an_answer_without_ids_is_matched_by_address_and_subject(
    parts: Parts, world: World, sent: Sent
) -> None:
    assert await receive(parts, world, world.sample("human-no-ids", sent)) == "human"

    assert world.inbound()[0]["matched_by"] == "address"
    assert world.suspensions() == [("enrollment", sent.enrollment_id, "replied")]


async def test_a_stranger_or_another_subject_is_no_answer(
    parts: Parts, world: World, sent: Sent
) -> None:
    raw = world.sample("human-no-ids", sent)

    assert (
        await receive(parts, world, raw.replace(sent.lead_email.encode(), b"x@y.test")) == "other"
    )
    assert await receive(parts, world, raw.replace(b"roadmap", b"lunch"), uid=2) == "other"
    assert world.suspensions() == []


async def test_a_thread_ends_after_its_life(parts: Parts, world: World, sent: Sent) -> None:
    world.rows(
        "UPDATE sender.message SET submitted_at = now() - interval '91 days'"
        " WHERE workspace_id = %s",
        world.workspace_id,
    )

    assert await receive(parts, world, world.sample("human-no-ids", sent)) == "other"


async def test_an_answer_from_another_address_is_matched_by_its_ids(
    parts: Parts, world: World, sent: Sent
) -> None:
    assert await receive(parts, world, world.sample("human-assistant", sent)) == "human"

    assert world.suspensions() == [("enrollment", sent.enrollment_id, "replied")]


async def test_an_answer_with_another_workspaces_ids_stops_nothing(
    parts: Parts, world: World, sent: Sent
) -> None:
    stranger = await World.create(world.stack, world.sql, world.gateway_keys, world.sender_keys)
    theirs = await stranger.sent(lead_email="somebody@else.test")

    raw = world.sample("human-gmail", theirs, **{sent.message_id: theirs.message_id})

    assert await receive(parts, world, raw) == "other"
    assert stranger.suspensions() == world.suspensions() == []


async def test_our_own_send_in_an_inbox_is_never_an_answer(
    parts: Parts, world: World, sent: Sent
) -> None:
    other = await world.add_mailbox(f"tom-{uuid.uuid4().hex[:8]}@north.test")
    world.connect(other)

    own = world.sample("own-send", sent)
    assert await receive(parts, world, own, mailbox_id=other) == "own"
    assert world.inbound()[0]["job_id"] == sent.job_id
    assert world.suspensions() == []


async def test_a_forged_token_does_not_make_a_message_our_own(
    parts: Parts, world: World, sent: Sent
) -> None:
    tom = f"tom-{uuid.uuid4().hex[:8]}@north.test"
    await world.add_mailbox(tom)
    raw = (
        world.sample("human-gmail", sent)
        .replace(sent.lead_email.encode(), tom.encode())
        .replace(b"MIME-", f"X-Paceline-Job: {sent.token[:-4]}AAAA\nMIME-".encode(), 1)
    )

    # A colleague whose mailbox is ours too may be a lead, and may answer.
    assert (
        await receive(parts, world, raw.replace(sent.lead_email.encode(), tom.encode())) == "human"
    )


async def test_a_probe_message_is_own(parts: Parts, world: World, sent: Sent) -> None:
    assert await receive(parts, world, world.sample("own-probe", sent)) == "own"


async def test_unsubscribing_by_mail_suppresses_within_the_commit(
    parts: Parts, world: World, sent: Sent
) -> None:
    kind = await receive(parts, world, world.sample("unsubscribe-mailto", sent))

    assert kind == "unsubscribe"
    assert world.suppressed() == {sent.lead_email: "unsubscribed"}
    assert world.enrollment_state(sent) == "unsubscribed"
    open_jobs = world.rows(
        "SELECT 1 FROM scheduler.send_job WHERE workspace_id = %s AND state = 'queued'",
        world.workspace_id,
    )
    assert open_jobs == []
    assert world.events("inbound-received")[0].kind == "other"


async def test_a_forged_unsubscribe_token_suppresses_nobody(
    parts: Parts, world: World, sent: Sent
) -> None:
    raw = world.sample("unsubscribe-mailto", sent)
    forged = raw.replace(sent.unsubscribe.encode(), f"{sent.unsubscribe[:-4]}AAAA".encode())
    # The job's own MAC is for another purpose.
    ws, job, _ = sent.unsubscribe.split(".", 2)
    reused = f"{ws}.{job}.{sent.token.split('.', 2)[2]}"

    await receive(parts, world, forged)
    await receive(parts, world, raw.replace(sent.unsubscribe.encode(), reused.encode()), uid=2)

    assert world.suppressed() == {}


async def test_an_unsubscribe_read_again_does_not_undo_its_lifting(
    parts: Parts, world: World, sent: Sent
) -> None:
    raw = world.sample("unsubscribe-mailto", sent)
    await receive(parts, world, raw)
    world.rows(
        "UPDATE scheduler.address SET suppressed_at = NULL, reason = NULL, source = NULL"
        " WHERE workspace_id = %s",
        world.workspace_id,
    )

    assert await receive(parts, world, raw, uid=9) is None
    assert world.suppressed() == {}


class BrokenOutbox(Outbox):
    """An outbox that fails after everything else of the effect was written."""

    async def add(self, tx: AsyncConnection, outgoing: Sequence[Outgoing]) -> None:
        raise ConnectionError("the last statement of the transaction")


async def test_nothing_of_a_message_is_kept_when_its_effect_fails(
    parts: Parts, keys: KeyService, world: World, sent: Sent
) -> None:
    receiver = Receiver(
        db=parts.db,
        outbox=BrokenOutbox(parts.db),
        keys=keys,
        clock=parts.clock,
        metrics=parts.metrics,
        thread_life=timedelta(days=1),
    )
    mailbox = Mailbox(world.workspace_id, world.mailbox_id, world.email)

    with pytest.raises(ConnectionError):
        await receiver.receive(mailbox, fetched(world.sample("human-gmail", sent)), place(5))

    assert world.inbound() == []
    assert world.suspensions() == []
    assert world.cursor()["place"] == place(0)


@pytest.mark.parametrize("name", ["odd-raw-8bit", "odd-no-headers", "odd-empty"])
async def test_odd_messages_are_recorded_too(
    parts: Parts, world: World, sent: Sent, name: str
) -> None:
    assert await receive(parts, world, (SAMPLES / f"{name}.eml").read_bytes()) == "other"
    assert len(world.inbound()) == 1
