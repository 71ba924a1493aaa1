"""Sending through Graph: drafts, threads, what is read back, and what counts as proof."""

import asyncio
from datetime import timedelta

import pytest
from tests.integration.providers.graph_mailbox import (
    HASTY,
    JOB,
    RECIPIENT,
    SEND_AND_READ,
    SEND_ONLY,
    SENDER,
    connected,
    mime,
)
from tests.waiting import until

from paceline_providers.base import (
    Accepted,
    Capabilities,
    Fence,
    InDoubt,
    Milestone,
    Rejected,
    ThreadHint,
    Unsent,
    probe,
)
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Destroyed, Found, Gone, NotSeen, Unavailable

FOLLOW_UP = mime(
    "job_2.ws_1.1-mac",
    "Re: Hello",
    extra="In-Reply-To: <first@north.test>\r\nReferences: <first@north.test>\r\n",
    message_id="<second@north.test>",
)

# ---- sending


async def test_a_draft_is_sent_as_it_was_written_and_keeps_its_id() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        [draft] = ann.mailbox.listed("drafts")
        assert (fence.kind, fence.draft_id) == ("graph", draft.immutable_id)
        assert ann.truth == []
        outcome = await ann.submitted(mime(), fence)
        [sent] = ann.truth
        assert (sent.how, sent.mime, sent.recipients) == ("send", mime(), (RECIPIENT,))
        assert outcome == Accepted(
            draft.immutable_id, 202, "202 accepted", "<first@north.test>", draft.conversation_id
        )
        [copy] = ann.mailbox.listed("sentitems")
        assert copy.immutable_id == outcome.provider_message_id
        for name in ("List-Unsubscribe", "List-Unsubscribe-Post", "X-Paceline-Job"):
            assert copy.header(name), name


async def test_a_rewritten_message_id_is_read_back() -> None:
    async with connected() as ann:
        ann.mailbox.conduct.rewrites_message_id = True
        outcome = await ann.submitted(mime(), await ann.prepared(mime()))
        [sent] = ann.truth
        assert isinstance(outcome, Accepted)
        assert outcome.message_id == sent.message_id != "<first@north.test>"


@pytest.mark.parametrize("lag", ["gone", "draft"])
async def test_the_name_of_a_draft_is_not_taken_for_that_of_the_sent_message(lag: str) -> None:
    async with connected() as ann:
        ann.mailbox.conduct.sent_lag_s = 60
        ann.mailbox.conduct.lag = "gone" if lag == "gone" else "draft"
        fence = await ann.prepared(mime())
        outcome = await ann.submitted(mime(), fence)
        assert isinstance(outcome, Accepted)
        assert outcome.message_id is None
        assert outcome.provider_message_id == fence.draft_id
        assert await ann.provider.find_sent(RECIPIENT, JOB, ann.since) == NotSeen()
        ann.twin.advance(61)
        found = await ann.provider.find_sent(RECIPIENT, JOB, ann.since)
        assert isinstance(found, Found)
        assert found.message_id == "<first@north.test>"


async def test_without_drafts_the_message_leaves_through_send_mail_and_nothing_is_named() -> None:
    async with connected(SEND_AND_READ) as ann:
        assert ann.provider.capabilities == Capabilities(
            fence=False, threads=False, reads_back=False, finds_sent=True
        )
        session = await ann.session()
        assert await session.prepare(mime()) is None
        assert await ann.submitted(mime()) == Accepted(None, 202, "202 accepted")
        [sent] = ann.truth
        assert (sent.how, sent.mime) == ("sendMail", mime())
        assert ann.twin.calls == ["sendMail"]
        assert isinstance(await ann.provider.find_sent(RECIPIENT, JOB, ann.since), Found)


async def test_milestones_follow_the_request() -> None:
    async with connected() as ann:
        session = await ann.session()
        for fence in (await ann.prepared(mime()), None):
            reached: list[Milestone] = []
            await session.submit(
                SENDER, RECIPIENT, mime(), before_mail_from=lambda: True,
                on_milestone=reached.append, fence=fence,
            )  # fmt: skip
            assert reached == ["mail_from", "final_dot"]


async def test_what_is_held_back_never_leaves_and_may_go_later() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        for held in (fence, None):
            outcome = await ann.submitted(mime(), held, before=lambda: False)
            assert isinstance(outcome, Unsent)
            assert outcome.reason == "held_back"
        assert ann.truth == []
        assert isinstance(await ann.submitted(mime(), fence), Accepted)
        assert len(ann.truth) == 1


async def test_a_message_to_anyone_else_is_refused_before_anything_leaves() -> None:
    async with connected() as ann:
        outcome = await ann.submitted(mime(extra="Cc: eve@example.test\r\n"))
        assert isinstance(outcome, Rejected)
        assert ann.twin.calls == []


async def test_a_message_too_big_for_a_request_is_refused_before_anything_leaves() -> None:
    async with connected() as ann:
        big = mime(body="x" * 3_000_001)
        assert isinstance(await (await ann.session()).prepare(big), Rejected)
        assert isinstance(await ann.submitted(big), Rejected)
        assert ann.twin.calls == []


async def test_a_mailbox_is_probed_through_the_same_door() -> None:
    async with connected() as ann:
        message = mime(to=SENDER)
        assert (await probe(ann.provider, SENDER, message)).code == "ok"
        ann.mailbox.conduct.refuses = (403, "ErrorAccessDenied", "Access is denied.")
        assert (await probe(ann.provider, SENDER, message)).code == "auth_failed"


async def test_at_most_two_requests_are_made_at_once() -> None:
    async with connected() as ann:
        ann.twin.fail("createDraft", "slow", times=8, delay_s=0.02)
        session = await ann.session()
        fences = await asyncio.gather(*(session.prepare(mime(f"job_{n}.x")) for n in range(8)))
        assert all(isinstance(fence, Fence) for fence in fences)
        assert ann.mailbox.most_active == 2


# ---- conversations


async def test_a_follow_up_is_a_reply_in_the_same_conversation() -> None:
    async with connected() as ann:
        first = await ann.submitted(mime(), await ann.prepared(mime()))
        assert isinstance(first, Accepted)
        ann.mailbox.conduct.replies_to_sender = True
        hint = ThreadHint(first.thread_id, first.provider_message_id)
        fence = await ann.prepared(FOLLOW_UP, hint)
        assert "createReply" in ann.twin.calls
        second = await ann.submitted(FOLLOW_UP, fence)
        assert isinstance(second, Accepted)
        assert second.thread_id == first.thread_id
        assert ann.truth[1].recipients == (RECIPIENT,)
        assert ann.truth[1].mime == FOLLOW_UP


async def test_a_draft_that_cannot_be_addressed_is_not_sent() -> None:
    async with connected() as ann:
        first = await ann.submitted(mime(), await ann.prepared(mime()))
        assert isinstance(first, Accepted)
        ann.mailbox.conduct.replies_to_sender = True
        ann.twin.fail("patch", "status", times=9, status=403, code="ErrorAccessDenied")
        hint = ThreadHint(first.thread_id, first.provider_message_id)
        prepared = await (await ann.session()).prepare(FOLLOW_UP, thread=hint)
        assert isinstance(prepared, Unsent)
        assert prepared.outcome_class is OutcomeClass.AUTH


@pytest.mark.parametrize("previous_id", ["AAkALgnothingofthatname", "not an id / at all"])
async def test_when_the_earlier_message_is_no_more_references_must_do(previous_id: str) -> None:
    async with connected() as ann:
        await ann.submitted(mime(), await ann.prepared(mime()))
        fence = await ann.prepared(FOLLOW_UP, ThreadHint("whatever", previous_id))
        assert isinstance(await ann.submitted(FOLLOW_UP, fence), Accepted)
        assert ann.truth[1].mime == FOLLOW_UP


# ---- tokens


async def test_an_expired_token_is_renewed_once_and_the_draft_sent_once() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.twin.identity.rotates = True
        for _ in range(2):
            ann.twin.identity.expire(SENDER)
            assert isinstance(await ann.provider.find_sent(RECIPIENT, JOB, ann.since), NotSeen)
        ann.twin.identity.expire(SENDER)
        asked = iter([True, True, False])
        assert isinstance(await ann.submitted(mime(), fence, lambda: next(asked)), Accepted)
        assert list(asked) == [False]
        assert ann.tokens.refreshes == 3
        assert len(ann.truth) == 1


async def test_a_revoked_grant_sends_nothing_and_says_why() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.twin.identity.revoke(SENDER)
        outcome = await ann.submitted(mime(), fence)
        assert not isinstance(outcome, Accepted | InDoubt | Rejected)
        assert outcome.outcome_class is OutcomeClass.AUTH
        assert ann.truth == []
        looked = await ann.provider.find_sent(RECIPIENT, JOB, ann.since)
        assert isinstance(looked, Unavailable)
        assert looked.outcome_class is OutcomeClass.AUTH


async def test_a_grant_without_sending_does_not_open() -> None:
    async with connected(frozenset({"Mail.ReadWrite", "User.Read"})) as ann:
        refused = await ann.provider.open()
        assert isinstance(refused, Unsent)
        assert (refused.reason, refused.outcome_class) == ("auth_failed", OutcomeClass.AUTH)


# ---- proof of sending


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_sent_message_is_found_by_its_job_among_many(hidden: bool) -> None:
    async with connected() as ann:
        ann.mailbox.conduct.rewrites_message_id = True
        ann.mailbox.conduct.hides_headers = hidden
        await ann.submitted(mime(), await ann.prepared(mime()))
        for number in range(120):
            ann.mailbox.send_mail(mime(f"job_9{number}.ws_1.1-mac"))
        found = await ann.provider.find_sent(RECIPIENT, JOB, ann.since)
        assert isinstance(found, Found)
        assert found.message_id == ann.truth[0].message_id
        assert found.provider_message_id == ann.truth[0].item_id
        assert abs(found.sent_at - ann.truth[0].at) < timedelta(seconds=2)
        assert ann.twin.calls.count("list") == 3


async def test_a_draft_that_carries_the_job_is_not_a_sent_message() -> None:
    async with connected() as ann:
        await ann.prepared(mime())
        [draft] = ann.mailbox.listed("drafts")
        ann.mailbox.move(draft, "sentitems")
        assert await ann.provider.find_sent(RECIPIENT, JOB, ann.since) == NotSeen()


async def test_another_jobs_message_is_no_proof() -> None:
    async with connected() as ann:
        ann.mailbox.send_mail(mime("job_1.ws_1.1-macx"))
        assert await ann.provider.find_sent(RECIPIENT, JOB, ann.since) == NotSeen()
        ann.mailbox.send_mail(mime(to="eve@example.test"))
        assert await ann.provider.find_sent(RECIPIENT, JOB, ann.since) == NotSeen()


async def test_a_next_page_elsewhere_gets_no_token() -> None:
    async with connected() as ann, connected() as other:
        for number in range(60):
            ann.mailbox.send_mail(mime(f"job_9{number}.ws_1.1-mac"))
        ann.mailbox.conduct.next_page_on = other.url.removeprefix("http://")
        looked = await ann.provider.find_sent(RECIPIENT, JOB, ann.since)
        assert isinstance(looked, Unavailable)
        assert other.twin.calls == []


async def test_a_grant_that_cannot_read_finds_nothing_out() -> None:
    async with connected(SEND_ONLY) as ann:
        assert await ann.provider.find_sent(RECIPIENT, JOB, ann.since) == Unavailable(
            None, "the grant does not include reading (Mail.Read)"
        )
        looked = await ann.provider.destroy(Fence("graph", "AAkALgx"))
        assert isinstance(looked, Unavailable)
        assert looked.outcome_class is None
        assert ann.twin.calls == []


# ---- proof of not sending


async def test_a_destroyed_draft_can_never_be_sent() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        assert await ann.provider.destroy(fence) == Destroyed()
        assert ann.mailbox.listed("drafts") == []
        # Its immutable id still leads to Deleted Items, and a draft there could be sent.
        assert ann.mailbox.find(fence.draft_id).folder == "deleteditems"
        assert not isinstance(await ann.submitted(mime(), fence), Accepted)
        assert ann.truth == []
        assert await ann.provider.destroy(fence) == Destroyed()


async def test_a_disarmed_draft_proves_itself_again_and_cannot_be_sent() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("patch", "reset_after", times=3)
        assert isinstance(await ann.provider.disarm(fence), Unavailable)
        assert await ann.provider.disarm(fence) == Destroyed()
        assert await ann.provider.disarm(fence) == Destroyed()
        assert isinstance(await ann.submitted(mime(), fence), Rejected)
        assert ann.truth == []
        assert await ann.provider.destroy(fence) == Destroyed()
        assert await ann.provider.disarm(fence) == Destroyed(), "recognised in Deleted Items"


async def test_a_sent_message_is_not_destroyed_nor_changed() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        await ann.submitted(mime(), fence)
        assert await ann.provider.destroy(fence) == Gone()
        [copy] = ann.mailbox.listed("sentitems")
        assert copy.addresses == [RECIPIENT]


@pytest.mark.parametrize("operation", ["patch", "delete"])
async def test_a_message_sent_between_the_look_and_the_deletion_is_no_proof(
    operation: str,
) -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail(operation, "slow", delay_s=0.2)
        destroying = asyncio.create_task(ann.provider.destroy(fence))
        await until(lambda: operation in ann.twin.calls)
        outcome = await ann.submitted(mime(), fence)
        proof = await destroying
        if operation == "patch":
            assert isinstance(outcome, Accepted)
            assert proof == Gone()
            assert len(ann.truth) == 1
        else:
            assert isinstance(outcome, Rejected)
            assert proof == Destroyed()
            assert ann.truth == []


async def test_a_send_request_that_is_done_after_the_destruction_sends_nothing() -> None:
    async with connected(timeouts=HASTY) as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("send", "done_later", delay_s=1.0)
        outcome = await ann.submitted(mime(), fence)
        assert isinstance(outcome, InDoubt)
        assert outcome.fence == fence
        assert await ann.provider.destroy(fence) == Destroyed()
        await until(lambda: ann.twin.late_answers == [400])
        assert ann.truth == []


async def test_a_send_request_that_is_done_before_the_destruction_is_found() -> None:
    async with connected(timeouts=HASTY) as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("send", "done_later", delay_s=0.8)
        assert isinstance(await ann.submitted(mime(), fence), InDoubt)
        await until(lambda: len(ann.truth) == 1)
        assert await ann.provider.destroy(fence) == Gone()
        assert isinstance(await ann.provider.find_sent(RECIPIENT, JOB, ann.since), Found)


async def test_a_draft_in_another_folder_may_be_on_its_way() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.mailbox.move(ann.mailbox.find(fence.draft_id), "junkemail")
        assert isinstance(await ann.provider.destroy(fence), Unavailable)
        assert ann.mailbox.find(fence.draft_id).addresses == [RECIPIENT]


async def test_a_draft_that_somebody_deleted_for_good_proves_nothing() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        for _ in range(2):
            ann.mailbox.delete(ann.mailbox.find(fence.draft_id))
        assert await ann.provider.destroy(fence) == Gone()


async def test_a_draft_that_vanishes_before_the_deletion_proves_nothing() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("delete", "slow", delay_s=0.2)
        destroying = asyncio.create_task(ann.provider.destroy(fence))
        await until(lambda: "delete" in ann.twin.calls)
        # A person writes the recipient in again, sends, and clears up behind them.
        draft = ann.mailbox.find(fence.draft_id)
        draft.recipients["to"] = [("Bob", RECIPIENT)]
        ann.mailbox.send(draft)
        for _ in range(2):
            ann.mailbox.delete(draft)
        assert await destroying == Gone()


@pytest.mark.parametrize("kind", ["reset_after", "done_then_status"])
async def test_a_deletion_without_an_answer_is_proven_by_the_next_one(kind: str) -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("delete", "reset_after" if kind == "reset_after" else "done_then_status")
        assert isinstance(await ann.provider.destroy(fence), Unavailable)
        assert await ann.provider.destroy(fence) == Destroyed()
        assert ann.twin.calls.count("delete") == 1
