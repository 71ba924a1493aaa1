"""What every provider promises the sender, whatever it speaks."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.conformance.providers.stage import RECIPIENT, SENDER, Stage, message
from tests.conformance.providers.stages import STAGES

from paceline_providers.base import (
    Accepted,
    Deferred,
    Fence,
    Milestone,
    Session,
    ThreadHint,
    Unsent,
    probe,
)
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Destroyed, Found, Gone, NotSeen, Unavailable

FENCED = [name for name, entry in STAGES.items() if entry.capabilities.fence]
THREADED = [name for name, entry in STAGES.items() if entry.capabilities.threads]
READING_BACK = [name for name, entry in STAGES.items() if entry.capabilities.reads_back]
FINDING = [name for name, entry in STAGES.items() if entry.capabilities.finds_sent]


@pytest.fixture(params=STAGES)
async def stage(request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    async with STAGES[request.param].start() as started:
        yield started


async def opened(stage: Stage) -> Session:
    session = await stage.provider.open()
    assert not isinstance(session, Unsent), session
    return session


async def submitted(stage: Stage, job: str = "job_1", thread: ThreadHint | None = None) -> Accepted:
    session = await opened(stage)
    data = message(job)
    fence = await session.prepare(data, thread=thread)
    assert fence is None or isinstance(fence, Fence)
    outcome = await session.submit(
        SENDER, RECIPIENT, data, before_mail_from=lambda: True, thread=thread, fence=fence
    )
    await session.close()
    assert isinstance(outcome, Accepted), outcome
    return outcome


def a_minute_ago() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=1)


@pytest.mark.parametrize("name", STAGES)
async def test_it_can_what_it_says(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.capabilities == STAGES[name].capabilities


@pytest.mark.parametrize("name", STAGES)
async def test_an_accepted_message_is_taken_once(name: str) -> None:
    async with STAGES[name].start() as stage:
        outcome = await submitted(stage)
        [taken] = stage.taken()
        assert (taken.job, taken.recipient) == ("job_1", RECIPIENT)
        assert bool(outcome.provider_message_id) == STAGES[name].names_accepted
        assert outcome.text
        if stage.capabilities.threads:
            assert outcome.thread_id


async def test_before_mail_from_is_asked_once_and_before_anything_leaves(stage: Stage) -> None:
    events: list[str] = []

    def ask() -> bool:
        events.append("asked")
        assert stage.began() == 0
        return True

    def note(milestone: Milestone) -> None:
        events.append(milestone)

    session = await opened(stage)
    outcome = await session.submit(
        SENDER, RECIPIENT, message("job_1"), before_mail_from=ask, on_milestone=note
    )
    assert isinstance(outcome, Accepted)
    assert events == ["asked", "mail_from", "final_dot"]


async def test_a_held_back_message_never_leaves_and_the_next_one_does(stage: Stage) -> None:
    session = await opened(stage)
    held = message("job_held")
    fence = await session.prepare(held)
    assert fence is None or isinstance(fence, Fence)
    outcome = await session.submit(
        SENDER, RECIPIENT, held, before_mail_from=lambda: False, fence=fence
    )
    assert isinstance(outcome, Unsent)
    assert (outcome.reason, outcome.outcome_class) == ("held_back", None)
    assert stage.began() == 0
    assert session.is_reusable
    outcome = await session.submit(
        SENDER, RECIPIENT, message("job_2"), before_mail_from=lambda: True
    )
    assert isinstance(outcome, Accepted)
    assert [one.job for one in stage.taken()] == ["job_2"]


async def test_a_session_takes_one_message_after_another(stage: Stage) -> None:
    session = await opened(stage)
    for number in range(3):
        assert session.is_reusable
        outcome = await session.submit(
            SENDER, RECIPIENT, message(f"job_{number}"), before_mail_from=lambda: True
        )
        assert isinstance(outcome, Accepted)
    await session.close()
    assert [one.job for one in stage.taken()] == ["job_0", "job_1", "job_2"]


async def test_where_nobody_listens_nothing_leaves(stage: Stage) -> None:
    session = await stage.nobody_listens().open()
    if not isinstance(session, Unsent):
        # A provider without a connection of its own meets the closed port later.
        asked = 0

        def ask() -> bool:
            nonlocal asked
            asked += 1
            return True

        # Connecting takes time: the slot is looked at after it.
        unsent = await session.submit(SENDER, RECIPIENT, message("job_1"), before_mail_from=ask)
        assert isinstance(unsent, Unsent)
        assert asked == 0
        session = unsent
    assert (session.reason, session.outcome_class) == ("connect_refused", OutcomeClass.SOFT)


async def test_a_revoked_credential_is_the_mailboxs_fault_and_sends_nothing(stage: Stage) -> None:
    stage.revoke_sign_in()
    session = await stage.provider.open()
    if isinstance(session, Unsent):
        assert session.reason == "auth_failed"
        assert session.outcome_class is OutcomeClass.AUTH
        assert session.text
    else:
        outcome = await session.submit(
            SENDER, RECIPIENT, message("job_1"), before_mail_from=lambda: True
        )
        assert isinstance(outcome, Deferred), outcome
        assert outcome.outcome_class is OutcomeClass.AUTH
    assert stage.taken() == []


async def test_an_expired_token_is_renewed_once(stage: Stage) -> None:
    session = await opened(stage)
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        return True

    expired = stage.expire_sign_in()
    outcome = await session.submit(SENDER, RECIPIENT, message("job_1"), before_mail_from=ask)
    assert isinstance(outcome, Accepted), outcome
    assert len(stage.taken()) == 1
    assert asked == (2 if expired else 1)


async def test_an_expired_token_and_a_slot_that_closed_send_nothing(stage: Stage) -> None:
    session = await opened(stage)
    answers = iter((True, False))
    if stage.expire_sign_in():
        outcome = await session.submit(
            SENDER, RECIPIENT, message("job_1"), before_mail_from=lambda: next(answers)
        )
        # The first request had left: capacity is spent, and the mailbox is not to blame.
        assert isinstance(outcome, Deferred), outcome
        assert outcome.outcome_class is OutcomeClass.SOFT
    assert stage.taken() == []


async def test_a_probe_sends_to_the_mailbox_itself(stage: Stage) -> None:
    text = message("probe").replace(RECIPIENT.encode(), SENDER.encode())
    result = await probe(stage.provider, SENDER, text)
    assert result.ok, result
    assert [one.recipient for one in stage.taken()] == [SENDER]


async def test_a_probe_with_a_revoked_credential_says_so(stage: Stage) -> None:
    stage.revoke_sign_in()
    text = message("probe").replace(RECIPIENT.encode(), SENDER.encode())
    result = await probe(stage.provider, SENDER, text)
    assert result.code == "auth_failed"
    assert result.message
    assert result.remedy


# ---- the fence


@pytest.mark.parametrize("name", STAGES)
async def test_preparing_sends_nothing(name: str) -> None:
    async with STAGES[name].start() as stage:
        prepared = await (await opened(stage)).prepare(message("job_1"))
        assert stage.taken() == []
        assert stage.began() == 0
        if not stage.capabilities.fence:
            assert prepared is None


@pytest.mark.parametrize("name", FENCED)
async def test_a_fence_survives_as_text(name: str) -> None:
    async with STAGES[name].start() as stage:
        fence = await (await opened(stage)).prepare(message("job_1"))
        assert isinstance(fence, Fence)
        stored = msgspec.json.encode(asdict(fence))
        assert msgspec.json.decode(stored, type=Fence) == fence


@pytest.mark.parametrize("name", FENCED)
async def test_a_destroyed_fence_can_never_be_sent(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.prover is not None
        session = await opened(stage)
        fence = await session.prepare(message("job_1"))
        assert isinstance(fence, Fence)
        assert await stage.prover.destroy(fence) == Destroyed()
        # Where the provider keeps what was deleted, the proof can be had again.
        assert await stage.prover.destroy(fence) in (Gone(), Destroyed())
        outcome = await session.submit(
            SENDER, RECIPIENT, message("job_1"), before_mail_from=lambda: True, fence=fence
        )
        assert not isinstance(outcome, Accepted)
        assert stage.taken() == []


@pytest.mark.parametrize("name", FENCED)
async def test_a_sent_fence_is_gone_and_not_destroyed(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.prover is not None
        session = await opened(stage)
        fence = await session.prepare(message("job_1"))
        assert isinstance(fence, Fence)
        outcome = await session.submit(
            SENDER, RECIPIENT, message("job_1"), before_mail_from=lambda: True, fence=fence
        )
        assert isinstance(outcome, Accepted)
        assert await stage.prover.destroy(fence) == Gone()
        again = await session.submit(
            SENDER, RECIPIENT, message("job_1"), before_mail_from=lambda: True, fence=fence
        )
        assert not isinstance(again, Accepted)
        assert len(stage.taken()) == 1


# ---- looking for proof


@pytest.mark.parametrize("name", FINDING)
async def test_what_was_sent_is_found_by_its_job_and_nothing_else_is(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.prover is not None
        outcome = await submitted(stage, "job_1")
        found = await stage.prover.find_sent(RECIPIENT, "job_1", a_minute_ago())
        assert isinstance(found, Found), found
        if STAGES[name].names_accepted:
            assert found.provider_message_id == outcome.provider_message_id
            assert found.thread_id == outcome.thread_id
        assert found.message_id == stage.taken()[0].message_id
        assert abs(found.sent_at - datetime.now(UTC)) < timedelta(minutes=1)
        assert await stage.prover.find_sent(RECIPIENT, "job_2", a_minute_ago()) == NotSeen()
        other = await stage.prover.find_sent("else@example.test", "job_1", a_minute_ago())
        assert other == NotSeen()


@pytest.mark.parametrize("name", FINDING)
async def test_it_is_found_whatever_message_id_it_was_given(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.prover is not None
        stage.rewrite_message_ids()
        await submitted(stage)
        assert isinstance(await stage.prover.find_sent(RECIPIENT, "job_1", a_minute_ago()), Found)


@pytest.mark.parametrize("name", FINDING)
async def test_sent_mail_that_shows_late_is_not_seen_and_then_found(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.prover is not None
        stage.hide_sent(300)
        await submitted(stage)
        assert await stage.prover.find_sent(RECIPIENT, "job_1", a_minute_ago()) == NotSeen()
        stage.pass_time(301)
        found = await stage.prover.find_sent(RECIPIENT, "job_1", a_minute_ago())
        assert isinstance(found, Found)


@pytest.mark.parametrize("name", [name for name in FENCED if name in FINDING])
async def test_a_draft_is_not_taken_for_sent_mail(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.prover is not None
        await (await opened(stage)).prepare(message("job_1"))
        assert await stage.prover.find_sent(RECIPIENT, "job_1", a_minute_ago()) == NotSeen()


@pytest.mark.parametrize("name", STAGES)
async def test_where_nothing_can_be_looked_at_it_says_so_for_good(name: str) -> None:
    async with STAGES[name].start() as stage:
        if stage.prover is not None and not stage.capabilities.finds_sent:
            answer = await stage.prover.find_sent(RECIPIENT, "job_1", a_minute_ago())
            assert isinstance(answer, Unavailable)
            assert answer.outcome_class is None


@pytest.mark.parametrize("name", FINDING)
async def test_a_revoked_grant_proves_nothing(name: str) -> None:
    async with STAGES[name].start() as stage:
        assert stage.prover is not None
        stage.revoke_sign_in()
        answer = await stage.prover.find_sent(RECIPIENT, "job_1", a_minute_ago())
        assert isinstance(answer, Unavailable)
        assert answer.outcome_class is OutcomeClass.AUTH


# ---- ids and threads


@pytest.mark.parametrize("name", READING_BACK)
async def test_the_message_id_that_recipients_see_is_read_back(name: str) -> None:
    async with STAGES[name].start() as stage:
        stage.rewrite_message_ids()
        outcome = await submitted(stage)
        assert outcome.message_id == stage.taken()[0].message_id
        assert outcome.message_id != "<job_1@north.test>"


@pytest.mark.parametrize("name", THREADED)
async def test_a_follow_up_joins_its_conversation(name: str) -> None:
    async with STAGES[name].start() as stage:
        first = await submitted(stage)
        seen = stage.taken()[0].message_id
        extra = f"In-Reply-To: {seen}\r\nReferences: {seen}\r\n"
        data = message("job_2", subject="Re: Hello", extra=extra)
        session = await opened(stage)
        hint = ThreadHint(first.thread_id, first.provider_message_id)
        fence = await session.prepare(data, thread=hint)
        assert fence is None or isinstance(fence, Fence)
        second = await session.submit(
            SENDER, RECIPIENT, data, before_mail_from=lambda: True, thread=hint, fence=fence
        )
        assert isinstance(second, Accepted)
        assert second.thread_id == first.thread_id
        assert second.provider_message_id != first.provider_message_id


async def test_a_thread_that_is_no_more_does_not_stop_the_message(stage: Stage) -> None:
    hint = ThreadHint(stage.stranger_thread(), stage.stranger_thread())
    outcome = await submitted(stage, thread=hint)
    assert len(stage.taken()) == 1
    assert outcome.thread_id != hint.thread_id
