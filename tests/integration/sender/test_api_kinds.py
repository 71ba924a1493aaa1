"""Gmail and Graph mailboxes, whole: drafts as fences, threads, grants, limits, on their twins."""

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.waiting import until

from paceline_common import failpoints
from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.keys import KeyService
from paceline_sender.failpoints import FAILPOINTS
from paceline_sender.job import Job
from paceline_sender.settings import SenderSettings
from paceline_sender.transport import MailTransport

from .api_mailbox import DELETES, DRAFTS, SEND_ONLY, SENDS, Api, ApiKind, api
from .conftest import Sender, World

KINDS: tuple[ApiKind, ...] = ("gmail", "graph")
pytestmark = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
async def box(
    kind: ApiKind, world: World, keys: KeyService, own_keys: KeyService, settings: SenderSettings
) -> AsyncIterator[Api]:
    async with api(kind, world, keys, own_keys, settings) as one:
        yield one


@pytest.fixture
def run(box: Api, make_sender: Callable[[Any], Sender]) -> Callable[[], Awaitable[Sender]]:
    async def started() -> Sender:
        made = make_sender(box.mail)
        await made.reconciler.beat_once()
        made.start()
        return made

    return started


async def sent(world: World, sender: Sender, step: int = 1, **lead: Any) -> Job:
    """Send one job and wait until it is sent."""
    job = world.job(
        lead.pop("enrollment", None) or world.lead("bob@example.test"), step=step, grace_ms=8000
    )
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "sent", "sent")
    return job


Run = Callable[[], Awaitable[Sender]]


async def test_a_message_leaves_as_the_draft_that_was_stored_with_its_claim(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    sender = await run()
    job = await sent(world, sender)
    (attempt,) = world.attempts(job)
    assert attempt["outcome"] == "accepted"
    assert attempt["draft"]["kind"] == box.kind
    assert attempt["draft_left_at"] is None
    (message,) = box.sent()
    assert message["X-Paceline-Job"].startswith(f"{job.public_id}.")
    assert box.calls(SENDS[box.kind]) == 1
    assert box.drafts() == 0
    row = world.message(job)
    assert row["provider_message_id"] == attempt["provider_message_id"] is not None
    assert row["thread_id"]
    assert row["thread_mailbox_id"] == world.mailbox_id
    (event,) = world.events("sent")
    assert event.provider == box.kind
    assert event.message_id == (row["sent_message_id"] or row["message_id"])


async def test_a_grant_that_only_sends_needs_no_draft(world: World, box: Api, run: Run) -> None:
    await box.connect(SEND_ONLY[box.kind])
    sender = await run()
    job = await sent(world, sender)
    (attempt,) = world.attempts(job)
    assert (attempt["outcome"], attempt["draft"]) == ("accepted", None)
    assert box.calls(DRAFTS[box.kind]) == 0
    assert len(box.sent()) == 1
    assert world.used() == (0, 1, 1)


async def test_a_follow_up_stays_in_the_conversation_and_names_what_was_really_sent(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    box.mailbox.conduct.rewrites_message_id = True
    sender = await run()
    enrollment = world.lead("bob@example.test", company="Acme")
    first = await sent(world, sender, enrollment=enrollment)
    second = await sent(world, sender, step=2, enrollment=enrollment)
    before, after = box.sent()
    row = world.message(first)
    assert row["sent_message_id"] == before["Message-ID"]
    assert row["sent_message_id"] != row["message_id"]
    assert after["In-Reply-To"] == before["Message-ID"]
    assert after["References"].split() == [before["Message-ID"]]
    assert after["Subject"] == f"Re: {before['Subject']}"
    assert world.message(second)["thread_id"] == row["thread_id"]
    one, other = box.twin.truth
    name = "thread_id" if box.kind == "gmail" else "conversation_id"
    assert getattr(one, name) == getattr(other, name)
    if box.kind == "graph":
        assert box.calls("createReply") == 1


async def test_a_step_with_a_subject_of_its_own_is_another_conversation(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    sender = await run()
    enrollment = world.lead("bob@example.test", company="Acme")
    await sent(world, sender, enrollment=enrollment)
    world.rows(
        "UPDATE gateway.step SET subject = 'Another matter'"
        " WHERE workspace_id = %s AND position = 2",
        world.workspace_id,
    )
    await sent(world, sender, step=2, enrollment=enrollment)
    _, after = box.sent()
    assert after["Subject"] == "Another matter"
    assert after["In-Reply-To"] is None
    assert after["References"] is None
    assert box.calls("createReply") == 0
    one, other = box.twin.truth
    name = "thread_id" if box.kind == "gmail" else "conversation_id"
    assert getattr(one, name) != getattr(other, name)


async def test_another_mailbox_is_not_given_this_ones_ids(world: World, box: Api, run: Run) -> None:
    await box.connect()
    sender = await run()
    enrollment = world.lead("bob@example.test", company="Acme")
    first = await sent(world, sender, enrollment=enrollment)
    world.rows(
        "UPDATE sender.message SET mailbox_id = mailbox_id + 1000000,"
        " thread_mailbox_id = thread_mailbox_id + 1000000 WHERE job_id = %s",
        first.job_id,
    )
    await sent(world, sender, step=2, enrollment=enrollment)
    assert box.calls("createReply") == 0
    before, after = box.sent()
    # Headers keep the conversation together all the same.
    assert after["In-Reply-To"] == before["Message-ID"]


async def test_an_expired_token_is_refreshed_once_for_all_and_stored(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    box.expire()
    sender = await run()
    jobs = [
        world.job(world.lead(f"b{n}@example.test"), in_ms=2000, grace_ms=8000) for n in range(4)
    ]
    sender.preparer.hold(jobs)
    for job in jobs:
        await until(lambda job=job: world.job_row(job)["state"] == "sent", "sent")  # type: ignore[misc]
    assert box.identity.refreshes == 1
    row = world.one("SELECT * FROM sender.oauth_token WHERE mailbox_id = %s", world.mailbox_id)
    assert (row["credential_version"], row["version"]) == (1, 1)


async def test_a_token_is_refreshed_ahead_of_its_end(world: World, box: Api, run: Run) -> None:
    await box.connect(access_lasts=timedelta(minutes=4))
    sender = await run()
    await sent(world, sender)
    await sent(world, sender, enrollment=world.lead("c@example.test"))
    assert box.identity.refreshes == 1


async def test_tokens_that_another_process_stored_are_used(
    world: World,
    box: Api,
    run: Run,
    make_sender: Callable[[Any], Sender],
    own_keys: KeyService,
    keys: KeyService,
    settings: SenderSettings,
) -> None:
    if box.kind == "graph":
        box.identity.rotates = True
    await box.connect(access_lasts=timedelta(minutes=4))
    await sent(world, await run())
    # Another process starts from the same old credential.
    db = Database(settings)
    other = MailTransport(box.mail._settings, SystemClock(), db, own_keys)
    second = make_sender(other)
    await second.reconciler.beat_once()
    second.start()
    await sent(world, second, enrollment=world.lead("c@example.test"))
    await other.close()
    await db.close()
    assert box.identity.refreshes == 1


async def test_a_revoked_grant_suspends_the_mailbox_with_an_issue_and_gives_the_slot_back(
    world: World, box: Api, run: Run
) -> None:
    await box.connect(access_lasts=timedelta(minutes=4))
    box.revoke()
    sender = await run()
    job = world.job(world.lead("bob@example.test"), in_ms=8000, grace_ms=4000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "given back")
    (suspension,) = world.suspensions()
    assert (suspension["scope"], suspension["reason"]) == ("mailbox", "grant_revoked")
    assert suspension["until"] is None
    (issue,) = world.events("issue-raised")
    assert (issue.code, issue.severity, issue.subject) == ("grant_revoked", "error", world.mailbox)
    assert issue.detail
    assert world.used() == (0, 0, 0)
    assert box.sent() == []


async def test_a_grant_that_was_renewed_meanwhile_is_not_suspended_for_the_old_one(
    world: World, box: Api, run: Run
) -> None:
    await box.connect(access_lasts=timedelta(minutes=4))
    box.revoke()
    sender = await run()
    job = world.job(world.lead("bob@example.test"), in_ms=8000, grace_ms=4000)
    record = sender.submitter._recorder._record

    async def reconnected_first(batch: Any) -> Any:
        await box.connect()
        return await record(batch)

    sender.submitter._recorder._record = reconnected_first  # type: ignore[method-assign]
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "given back")
    assert world.suspensions() == []
    assert world.events("issue-raised") == []
    sender.submitter._recorder._record = record  # type: ignore[method-assign]
    await sent(world, sender, enrollment=world.lead("c@example.test"))


async def test_a_throttled_send_waits_as_long_as_it_was_told(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    code = "rateLimitExceeded" if box.kind == "gmail" else "ApplicationThrottled"
    box.fail(SENDS[box.kind], "status", status=429, code=code, retry_after_s=7200)
    sender = await run()
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "deferred")
    asked = timedelta(seconds=7200)
    row = world.job_row(job)
    assert row["due_at"] - row["updated_at"] > asked - timedelta(seconds=5)
    (suspension,) = world.suspensions()
    assert suspension["reason"] == "limited"
    assert abs(suspension["until"] - datetime.now(UTC) - asked) < timedelta(seconds=20)
    (event,) = world.events("send-deferred")
    assert event.submitted is True
    assert event.outcome_class == ("limit" if box.kind == "gmail" else "soft")
    await until(lambda: box.drafts() == 0, "the draft is destroyed")
    await until(lambda: world.attempts(job)[0]["draft_left_at"] is None, "and that is noted")


async def test_a_short_wish_to_wait_holds_the_process_back_without_a_gate(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    code = "userRateLimitExceeded" if box.kind == "gmail" else "MailboxConcurrency"
    status = 403 if box.kind == "gmail" else 429
    # Ahead of the submission: longer than a call waits by itself, shorter than a gate.
    box.fail(DRAFTS[box.kind], "status", status=status, code=code, retry_after_s=30, times=3)
    sender = await run()
    job = world.job(world.lead("bob@example.test"), in_ms=8000, grace_ms=4000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "given back")
    assert world.used() == (0, 0, 0)
    asked = box.calls(DRAFTS[box.kind])
    other = world.job(world.lead("c@example.test"), in_ms=8000, grace_ms=4000)
    sender.preparer.hold([other])
    await until(lambda: world.job_row(other)["state"] == "queued", "given back too")
    assert box.calls(DRAFTS[box.kind]) == asked
    for one in (job, other):
        row = world.job_row(one)
        assert row["due_at"] - row["updated_at"] > timedelta(seconds=15)
    assert world.suspensions() == []


async def test_a_mailbox_at_its_providers_limit_is_held(world: World, box: Api, run: Run) -> None:
    await box.connect()
    box.mailbox.conduct.sends_per_day = 0
    sender = await run()
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "deferred")
    (suspension,) = world.suspensions()
    assert suspension["reason"] == "limited"
    held_for = suspension["until"] - datetime.now(UTC)
    named = timedelta(hours=1) if box.kind == "gmail" else timedelta(hours=24)
    assert abs(held_for - named) < timedelta(minutes=1)
    (event,) = world.events("send-deferred")
    assert event.outcome_class == "limit"
    assert event.retry_at is not None
    assert box.sent() == []


@pytest.mark.parametrize("happened", [True, False])
async def test_a_submission_in_doubt_keeps_its_draft_as_the_fence(
    world: World, box: Api, run: Run, happened: bool
) -> None:
    await box.connect()
    box.fail(SENDS[box.kind], "reset_after" if happened else "reset_before")
    sender = await run()
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "in_doubt", "in doubt")
    (attempt,) = world.attempts(job)
    assert attempt["draft"]["draft_id"]
    assert attempt["draft_left_at"] is None
    assert box.drafts() == (0 if happened else 1)
    assert box.calls(DELETES[box.kind]) == 0
    assert await sender.drafts.tidy() == 0
    account = await sender.drafts._accounts.load(world.workspace_id, world.mailbox_id)
    assert account is not None
    prover = box.mail.prover(account)
    assert prover is not None


@pytest.mark.parametrize("how", ["refused claim", "too late", "bad message"])
async def test_nothing_submitted_gives_the_capacity_back_once_and_leaves_no_draft(
    world: World, box: Api, run: Run, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await box.connect()
    sender = await run()
    job = world.job(world.lead("bob@example.test"), in_ms=3000, grace_ms=8000)
    match how:
        case "refused claim":
            sender.preparer.hold([job])
            await until(lambda: box.drafts() == 1, "the draft is made")
            world.rows(
                "INSERT INTO scheduler.suspension (workspace_id, scope, ref, reason, detail,"
                " opened_by) VALUES (%s, 'mailbox', %s, 'paused', '', 'test')",
                world.workspace_id, world.mailbox_id,
            )  # fmt: skip
        case "too late":
            monkeypatch.setattr(sender.submitter, "_may_leave", lambda *_: False)
            sender.preparer.hold([job])
        case "bad message":
            status, code = (400, "invalidArgument")
            if box.kind == "graph":
                code = "ErrorMimeContentInvalid"
            box.fail(DRAFTS[box.kind], "status", status=status, code=code)
            sender.preparer.hold([job])
    wanted = "failed" if how == "bad message" else "queued"
    await until(lambda: world.job_row(job)["state"] == wanted, wanted)
    assert world.used() == (0, 0, 0)
    assert box.sent() == []
    assert box.calls(SENDS[box.kind]) == 0
    await until(lambda: box.drafts() == 0, "no draft is left")
    await until(
        lambda: all(one["draft_left_at"] is None for one in world.attempts(job)),
        "and that is noted",
    )


async def test_a_draft_whose_process_died_is_destroyed_by_another(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    code = "rateLimitExceeded" if box.kind == "gmail" else "ApplicationThrottled"
    box.fail(SENDS[box.kind], "status", status=429, code=code, retry_after_s=7200)
    # The provider is away when the process tidies up behind itself.
    operation = DELETES[box.kind] if box.kind == "gmail" else "folder"
    box.fail(operation, "status", status=403, code="forbidden", times=1)
    sender = await run()
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "deferred")
    await until(lambda: not sender.preparer._tasks, "nothing more is tried")
    assert box.drafts() == 1
    assert await sender.drafts.tidy() == 0  # too soon
    world.rows(
        "UPDATE sender.attempt SET draft_left_at = draft_left_at - interval '6 minutes'"
        " WHERE job_id = %s",
        job.job_id,
    )
    assert await sender.drafts.tidy() == 1
    assert box.drafts() == 0
    assert world.attempts(job)[0]["draft_left_at"] is None


async def test_slow_drafts_of_later_messages_do_not_delay_the_one_whose_slot_it_is(
    world: World, box: Api, run: Run
) -> None:
    await box.connect()
    sender = await run()
    now = world.job(world.lead("bob@example.test"), in_ms=3000, grace_ms=1000)
    sender.preparer.hold([now])
    await until(lambda: box.drafts() == 1, "its draft is made")
    box.fail(DRAFTS[box.kind], "slow", delay_s=6.0, times=2)
    later = [world.job(world.lead(f"c{n}@example.test"), in_ms=9500) for n in range(2)]
    sender.preparer.hold(later)
    await until(lambda: box.calls(DRAFTS[box.kind]) == 2, "the next one is under way")
    await until(lambda: world.job_row(now)["state"] != "reserved", "its slot is over")
    await until(lambda: world.job_row(now)["state"] == "sent", "sent in time", within_s=3)


async def test_a_crash_between_refresh_and_store_leaves_a_working_grant(
    world: World, box: Api, run: Run
) -> None:
    await box.connect(access_lasts=timedelta(minutes=4))
    failpoints.configure("sender.token_refreshed=raise@1", extra_names=frozenset(FAILPOINTS))
    try:
        sender = await run()
        await sent(world, sender)
    finally:
        failpoints.configure("")
    # What was not stored is asked for again by whoever comes next.
    assert (
        world.rows("SELECT * FROM sender.oauth_token WHERE mailbox_id = %s", world.mailbox_id) == []
    )


async def test_secrets_are_held_no_longer_than_a_message_is_under_way(
    world: World, box: Api, run: Run
) -> None:
    await box.connect(access_lasts=timedelta(minutes=4))
    sender = await run()
    gc.disable()
    await sent(world, sender)
    await until(lambda: not sender.preparer._tasks, "let go")
    try:
        await until(lambda: len(box.mail._boxes) == 0, "the grant is let go of")
    finally:
        gc.enable()
    assert [key[:2] for key in box.mail._access] == [(world.workspace_id, world.mailbox_id)]
    kept = repr(box.mail._access)
    assert box.identity.refreshes == 1
    await sent(world, sender, enrollment=world.lead("c@example.test"))
    assert box.identity.refreshes == 1
    assert not any(token in kept for token in box.identity.refresh)
