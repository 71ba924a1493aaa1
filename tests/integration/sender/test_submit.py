"""From a leased slot to a recorded outcome, on the scheduler's real functions."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from tests.waiting import until

from paceline_common import ids
from paceline_common.keys import KeyServiceUnavailable
from paceline_sender.domain.outcome import Answer
from paceline_sender.job import Report

from .conftest import FakeTransport, Sender, World


async def finished(world: World, job: Any, state: str) -> dict[str, Any]:
    await until(lambda: world.job_row(job)["state"] == state, f"job {state}")
    return world.job_row(job)


async def test_a_slot_becomes_one_submission_at_its_time(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    enrollment = world.lead("bob@example.test")
    job = world.job(enrollment)
    sender.preparer.hold([job])
    await finished(world, job, "sent")

    ((envelope_from, recipient, data, at),) = transport.submitted
    assert (envelope_from, recipient) == (world.email, "bob@example.test")
    # One machine, one clock: the wall clock here is the one Postgres reads.
    assert job.slot_at <= at <= job.not_after
    parsed = message_from_bytes(data, policy=policy.default)
    assert parsed["Subject"] == "Hello Bob"
    assert parsed["In-Reply-To"] is None

    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["attempt_no"], attempt["code"]) == ("accepted", 1, 250)
    assert attempt["claimed_at"] >= job.slot_at - timedelta(milliseconds=50)
    message = world.message(job)
    assert message["message_id"] == parsed["Message-ID"]
    assert message["submitted_at"] is not None
    (sent,) = world.events("sent")
    assert sent.message_id == parsed["Message-ID"]
    assert sent.enrollment_id == ids.encode("enr", enrollment["enrollment_id"])
    await until(lambda: transport.sessions[0].closed, "closed")


SLOW_CLAIM = """
CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END';
CREATE TRIGGER dawdle BEFORE INSERT ON sender.message
    FOR EACH ROW EXECUTE FUNCTION public.dawdle();
"""


async def test_a_claim_that_is_slow_but_in_time_delays_nothing(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    world.sql.execute(SLOW_CLAIM)
    try:
        slots = {}
        for n in range(8):
            job = world.job(world.lead(f"b{n}@example.test"), in_ms=400)
            slots[f"b{n}@example.test"] = job.slot_at
            sender.preparer.hold([job])
            await finished(world, job, "sent")
    finally:
        world.sql.execute("DROP FUNCTION public.dawdle() CASCADE")
    late = [at - slots[recipient] for _, recipient, _, at in transport.submitted]
    # The machine may be busy, but not each time.
    assert timedelta(0) <= min(late) < timedelta(milliseconds=20)


async def test_a_slot_told_twice_is_submitted_once(
    world: World,
    make_sender: Callable[[Any], Sender],
    sender: Sender,
    transport: FakeTransport,
) -> None:
    """Twice to one process, and to another one as well."""
    other = make_sender(transport)
    other.start()
    jobs = [world.job(world.lead(f"b{n}@example.test"), in_ms=400) for n in range(10)]
    for one in (sender, other):
        one.preparer.hold(jobs)
        one.preparer.hold(jobs)
    for job in jobs:
        await finished(world, job, "sent")
    # Told once more when all is over, and stopped at once: there is nothing to give back.
    sender.preparer.hold(jobs)
    await sender.stop()
    await other.stop()
    assert len(transport.submitted) == len(jobs)
    assert len(world.events("sent")) == len(jobs)
    assert world.events("send-deferred") == []
    assert all(len(world.attempts(job)) == 1 for job in jobs)


async def test_a_follow_up_continues_the_conversation(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    enrollment = world.lead("bob@example.test", company="Two Ltd")
    first = world.job(enrollment)
    sender.preparer.hold([first])
    await finished(world, first, "sent")
    second = world.job(enrollment, step=2)
    sender.preparer.hold([second])
    await finished(world, second, "sent")

    parsed = message_from_bytes(transport.submitted[1][2], policy=policy.default)
    first_id = world.message(first)["message_id"]
    assert parsed["Subject"] == "Re: Hello Bob"
    assert parsed["In-Reply-To"] == first_id
    assert parsed["References"] == first_id
    assert world.message(second)["references_"] == [first_id]
    body = parsed.get_body(("plain",))
    assert body is not None
    assert body.get_content().strip() == "Did you see this, Bob? Two Ltd"


async def test_only_what_was_sent_is_part_of_the_conversation(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    enrollment = world.lead("bob@example.test", company="Two Ltd")
    transport.answers["bob@example.test"] = Answer("rejected", "block", code=550, text="5.7.1 no")
    first = world.job(enrollment)
    sender.preparer.hold([first])
    await finished(world, first, "bounced")
    transport.answers.clear()
    second = world.job(enrollment, step=2)
    sender.preparer.hold([second])
    await finished(world, second, "failed")
    # Its first message never went out, so there is no subject to answer to.
    assert world.job_row(second)["reason"] == "subject_missing"
    assert len(transport.submitted) == 1


async def test_a_missing_variable_fails_the_job_and_names_itself(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    job = world.job(world.lead("bob@example.test"), step=2)
    sender.preparer.hold([job])
    row = await finished(world, job, "failed")
    assert row["reason"] == "missing_variable"
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["claimed_at"]) == ("failed", None)
    assert "company" in attempt["text"]
    enrollment = world.one(
        "SELECT state, reason FROM scheduler.enrollment WHERE workspace_id = %s"
        " AND enrollment_id = %s",
        world.workspace_id, job.enrollment_id,
    )  # fmt: skip
    assert enrollment == {"state": "failed", "reason": "missing_variable"}
    assert transport.submitted == []


async def test_a_suspension_before_the_slot_stops_the_message(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    job = world.job(world.lead("bob@example.test"), in_ms=500)
    sender.preparer.hold([job])
    await until(lambda: bool(transport.sessions), "connected")
    world.rows("SELECT set_config('app.workspace_ids', %s, false)", str(world.workspace_id))
    world.rows(
        "SELECT scheduler.suspend(%s, 'campaign', %s, 'paused', NULL, 'test', NULL)",
        world.workspace_id, world.campaign_id,
    )  # fmt: skip
    await until(lambda: transport.sessions[0].closed, "given up")
    assert world.job_row(job)["state"] == "queued"
    assert transport.submitted == []


async def test_a_suppressed_address_gets_nothing(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    enrollment = world.lead("bob@example.test")
    job = world.job(enrollment)
    world.rows(
        "UPDATE scheduler.address SET suppressed_at = now(), reason = 'unsubscribed',"
        " source = 'test' WHERE workspace_id = %s AND address_id = %s",
        world.workspace_id, enrollment["address_id"],
    )  # fmt: skip
    sender.preparer.hold([job])
    await until(lambda: bool(world.attempts(job)), "refusal recorded")
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["reason"]) == ("refused", "suppressed")
    assert transport.submitted == []


async def test_a_claim_past_its_grace_is_handed_back_unsent(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    transport.stall_s = 1.2
    job = world.job(world.lead("bob@example.test"), grace_ms=500)
    sender.preparer.hold([job])
    row = await finished(world, job, "queued")
    assert (row["fence"], row["reason"], row["attempts"]) == (2, "too_late", 0)
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["reason"]) == ("unsent", "too_late")
    assert transport.submitted == []
    slot = world.one(
        "SELECT returned_at FROM scheduler.slot WHERE workspace_id = %s AND job_id = %s",
        job.workspace_id, job.job_id,
    )  # fmt: skip
    assert slot["returned_at"] is not None
    (event,) = world.events("send-deferred")
    assert (event.outcome_class, event.submitted) == ("unsent", False)


async def test_a_hard_refusal_bounces_with_codes_and_no_words(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    words = "5.1.1 <gone@example.test>: no such user"
    transport.answers["gone@example.test"] = Answer(
        "rejected", "hard", code=550, status="5.1.1", text=words
    )
    job = world.job(world.lead("gone@example.test"))
    sender.preparer.hold([job])
    await finished(world, job, "bounced")
    (event,) = world.events("send-rejected")
    assert (event.outcome_class, event.code, event.status) == ("hard", 550, "5.1.1")
    (attempt,) = world.attempts(job)
    assert attempt["text"] == words
    (raw,) = world.rows(
        "SELECT convert_from(body, 'UTF8') AS body FROM sender.outbox WHERE workspace_id = %s"
        " AND topic = 'send-rejected'",
        world.workspace_id,
    )
    assert "gone@" not in raw["body"]


async def test_a_soft_refusal_comes_back_with_the_same_message_id(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    transport.answers["bob@example.test"] = Answer("deferred", "soft", code=451, status="4.7.1")
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    row = await finished(world, job, "queued")
    (event,) = world.events("send-deferred")
    wait = event.retry_at - row["updated_at"]
    assert timedelta(minutes=3.9) < wait < timedelta(minutes=6.1)
    assert (row["sticky"], row["mailbox_id"]) == (True, world.mailbox_id)
    first = message_from_bytes(transport.submitted[0][2], policy=policy.default)["Message-ID"]

    transport.answers.clear()
    world.rows(
        "UPDATE gateway.mailbox SET domain = 'south.test' WHERE mailbox_id = %s", world.mailbox_id
    )
    world.rows(
        "UPDATE scheduler.send_job SET state = 'reserved',"
        " slot_at = clock_timestamp() + interval '300 ms',"
        " not_after = clock_timestamp() + interval '2 s' WHERE workspace_id = %s AND job_id = %s",
        job.workspace_id, job.job_id,
    )  # fmt: skip
    row = world.job_row(job)
    again = replace(job, fence=row["fence"], slot_at=row["slot_at"], not_after=row["not_after"])
    sender.preparer.hold([again])
    await finished(world, job, "sent")
    second = message_from_bytes(transport.submitted[1][2], policy=policy.default)["Message-ID"]
    assert first == second
    assert [attempt["attempt_no"] for attempt in world.attempts(job)] == [1, 2]


async def test_a_wrong_password_holds_the_mailbox_with_the_servers_words(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    words = "5.7.8 bad password of <ann@north.test>"
    transport.refusal = Answer("unsent", "auth", "auth_failed", 535, "5.7.8", words)
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await until(lambda: bool(world.suspensions()), "suspended")
    (suspension,) = world.suspensions()
    assert (suspension["scope"], suspension["ref"]) == ("mailbox", world.mailbox_id)
    assert (suspension["reason"], suspension["detail"]) == ("auth_failed", words)
    assert suspension["until"] is None
    assert world.job_row(job)["state"] == "queued"
    (issue,) = world.events("issue-raised")
    assert (issue.subject, issue.code) == (world.mailbox, "auth_failed")
    assert issue.detail == "5.7.8 bad password of <address>"
    assert transport.submitted == []


async def test_the_third_failed_connection_in_a_row_holds_the_mailbox(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    transport.refusal = Answer("unsent", "soft", "connect_refused", text="connection refused")
    for count in range(3):
        assert world.suspensions() == []
        job = world.job(world.lead(f"b{count}@example.test"), in_ms=5000)
        sender.preparer.hold([job])
        await until(lambda job=job: world.job_row(job)["state"] == "queued", "given back")  # type: ignore[misc]
    (suspension,) = world.suspensions()
    assert suspension["reason"] == "connect_failed"
    # A recheck ends it, not the clock.
    assert suspension["until"] is None
    (recheck,) = world.rows(
        "SELECT reason FROM scheduler.node_recheck WHERE mailbox_id = %s", world.mailbox_id
    )
    assert recheck["reason"] == "connect_failed"


async def test_no_answer_is_in_doubt_and_never_tried_again(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    transport.answers["bob@example.test"] = Answer("in_doubt", "ambig", "lost_after_final_dot")
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    row = await finished(world, job, "in_doubt")
    assert row["fence"] == job.fence
    (event,) = world.events("send-in-doubt")
    assert event.message_id == world.message(job)["message_id"]
    (issue,) = world.events("issue-raised")
    assert issue.code == "send_in_doubt"
    again = world.job_row(job)
    sender.preparer.hold([job])
    await sender.stop()
    assert world.job_row(job) == again
    assert len(transport.submitted) == 1


async def test_one_job_in_doubt_is_one_issue_however_often_it_is_named(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    transport.answers["bob@example.test"] = Answer("in_doubt", "ambig", "lost_after_final_dot")
    transport.answering.clear()
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await until(lambda: len(transport.submitted) == 1, "under way")
    # As two looks for abandoned tries would name it, before the answer comes.
    abandoned = Report(
        job=job,
        outcome="in_doubt",
        outcome_class="ambig",
        reason="no_outcome",
        claimed=True,
        provider="smtp",
    )
    await asyncio.gather(*(sender.submitter.report(abandoned) for _ in range(2)))
    transport.answering.set()
    await sender.stop()
    assert world.job_row(job)["state"] == "in_doubt"
    assert [one.code for one in world.events("issue-raised")] == ["send_in_doubt"]
    assert len(world.events("send-in-doubt")) == 1


async def test_stopping_gives_back_what_is_held_and_finishes_what_is_claimed(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    transport.answering.clear()
    claimed = world.job(world.lead("a@example.test"), in_ms=200)
    connected = world.job(world.lead("b@example.test"), in_ms=8_000)
    held = world.job(world.lead("c@example.test"), in_ms=60_000)
    sender.preparer.hold([claimed, connected, held])
    await until(lambda: len(transport.submitted) == 1, "one under way")
    await until(lambda: len(transport.sessions) == 2, "one connected")
    sender.submitter.stopping.set()
    await finished(world, connected, "queued")
    await finished(world, held, "queued")
    assert world.job_row(claimed)["state"] == "sending"
    assert sender.running is not None
    assert not sender.running.done()
    transport.answering.set()
    await asyncio.wait_for(sender.running, 5)
    assert world.job_row(claimed)["state"] == "sent"
    assert world.job_row(held)["reason"] == "sender_stopping"


async def test_an_abandoned_try_is_named_in_doubt_once_its_process_is_silent(
    world: World,
    make_sender: Callable[[Any], Sender],
    transport: FakeTransport,
) -> None:
    dead = make_sender(transport)
    await dead.reconciler.beat_once()
    dead.start()
    transport.answering.clear()
    job = world.job(world.lead("bob@example.test"), in_ms=1000, grace_ms=1500)
    dead.preparer.hold([job])
    await until(lambda: len(transport.submitted) == 1, "under way")

    survivor = make_sender(FakeTransport())
    await survivor.reconciler.beat_once()
    assert await survivor.reconciler.reconcile() == 0  # its process may still answer
    watching = asyncio.create_task(survivor.reconciler.run())
    beating = asyncio.create_task(survivor.reconciler.beat())
    try:
        await finished(world, job, "in_doubt")
    finally:
        watching.cancel()
        survivor.reconciler.drained.set()
        await beating
    (event,) = world.events("send-in-doubt")
    assert event.job_id == job.public_id
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["reason"]) == ("in_doubt", "no_outcome")

    # The process was only slow: its answer is the truth.
    transport.answering.set()
    await finished(world, job, "sent")
    await until(lambda: world.attempts(job)[0]["outcome"] == "accepted", "the answer replaces it")


async def test_an_outage_between_answer_and_record_loses_nothing(
    world: World,
    sender: Sender,
    transport: FakeTransport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    record = sender.submitter._recorder._record
    failures = 3

    async def away(batch: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise ConnectionError("Postgres is away")
        await record(batch)

    monkeypatch.setattr(sender.submitter._recorder, "_record", away)
    job = world.job(world.lead("bob@example.test"))
    sender.preparer.hold([job])
    await finished(world, job, "sent")
    assert failures == 0
    assert len(transport.submitted) == 1


@pytest.mark.parametrize("reserved", ["gone", "other fence"])
async def test_a_lease_that_ended_is_dropped_before_anything_is_opened(
    world: World, sender: Sender, transport: FakeTransport, reserved: str
) -> None:
    job = world.job(world.lead("bob@example.test"))
    statement = (
        "UPDATE scheduler.send_job SET state = 'cancelled'"
        if reserved == "gone"
        else "UPDATE scheduler.send_job SET fence = fence + 1"
    )
    world.rows(f"{statement} WHERE workspace_id = %s AND job_id = %s", job.workspace_id, job.job_id)
    sender.preparer.hold([job])
    later = world.job(world.lead("c@example.test"))
    sender.preparer.hold([later])
    await finished(world, later, "sent")
    assert [recipient for _, recipient, _, _ in transport.submitted] == ["c@example.test"]
    assert world.attempts(job) == []


async def test_a_mailbox_that_was_switched_off_gives_the_job_back(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    world.rows(
        "UPDATE gateway.mailbox SET is_active = false WHERE mailbox_id = %s", world.mailbox_id
    )
    job = world.job(world.lead("bob@example.test"), in_ms=2000)
    sender.preparer.hold([job])
    row = await finished(world, job, "queued")
    assert row["reason"] == "mailbox_not_available"
    assert transport.sessions == []


async def test_without_the_key_service_jobs_go_back_and_nothing_is_opened(
    world: World,
    sender: Sender,
    transport: FakeTransport,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(_messages: Any) -> list[str]:
        raise KeyServiceUnavailable("away")

    monkeypatch.setattr(sender.preparer._keys, "mac", away)
    job = world.job(world.lead("bob@example.test"), in_ms=2000)
    sender.preparer.hold([job])
    row = await finished(world, job, "queued")
    assert row["reason"] == "key_service_unavailable"
    assert row["due_at"] - row["updated_at"] > timedelta(seconds=20)
    assert transport.sessions == []


async def test_no_other_workspace_is_seen(world: World, sender: Sender) -> None:
    """A job of another workspace does not exist for a batch that does not name it."""
    job = world.job(world.lead("bob@example.test"))
    foreign = replace(job, workspace_id=job.workspace_id + 1_000_000)
    sender.preparer.hold([foreign])
    await until(lambda: not sender.preparer._in_hand and not sender.preparer._held, "let go")
    assert world.job_row(job)["state"] == "reserved"
