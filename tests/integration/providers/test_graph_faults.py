"""Each thing Microsoft can do to a send request: what comes of it, and what is found out later."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.providers.graph_mailbox import (
    HASTY,
    JOB,
    RECIPIENT,
    SEND_AND_READ,
    Connected,
    connected,
    mime,
)
from tests.twins.wire import FaultKind
from tests.waiting import until

from paceline_providers.base import Accepted, Deferred, Fence, InDoubt, Rejected, Unsent
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Destroyed, Found, Gone, NotSeen, Unavailable


@dataclass(frozen=True)
class Case:
    """A fault of the send request; `sent`: whether the message left all the same."""

    name: str
    kind: FaultKind
    sent: bool
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


IN_DOUBT = [
    Case("reset_before_the_body", "reset_before", sent=False),
    Case("reset_after_the_body", "reset_after", sent=True),
    Case("reset_in_the_answer", "reset_in_answer", sent=True),
    Case("gateway_timeout", "status", sent=False, more={"status": 504, "code": "gatewayTimeout"}),
    Case("internal_error", "status", sent=False, more={"status": 500, "code": "generalException"}),
    Case("unavailable", "status", sent=False, more={"status": 503, "retry_after_s": 5}),
    Case("accepted_then_504", "done_then_status", sent=True, more={"status": 504}),
    Case("accepted_then_500", "done_then_status", sent=True, more={"status": 500}),
    Case("accepted_then_503", "done_then_status", sent=True, more={"retry_after_s": 5}),
    Case("no_answer", "hang", sent=False),
    Case("accepted_and_no_answer", "done_then_hang", sent=True),
    Case("slow_loris", "slow_loris", sent=True, more={"delay_s": 0.3}),
]


@pytest.mark.parametrize("case", IN_DOUBT, ids=str)
async def test_a_draft_in_doubt_is_found_out_and_was_asked_for_once(case: Case) -> None:
    async with connected(timeouts=HASTY) as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("send", case.kind, **case.more)
        outcome = await ann.submitted(mime(), fence)
        assert isinstance(outcome, InDoubt)
        assert outcome.evidence
        assert outcome.fence == fence
        assert ann.twin.calls.count("send") == 1
        await settled(ann, fence, sent=case.sent)


async def settled(ann: Connected, fence: Fence, *, sent: bool) -> None:
    found = await ann.provider.find_sent(RECIPIENT, JOB, ann.since)
    assert isinstance(found, Found) == sent
    assert await ann.provider.destroy(fence) == (Gone() if sent else Destroyed())
    assert len(ann.truth) == sent


@pytest.mark.parametrize("case", IN_DOUBT, ids=str)
async def test_without_a_draft_only_what_was_sent_can_be_found_out(case: Case) -> None:
    async with connected(SEND_AND_READ, HASTY) as ann:
        ann.twin.fail("sendMail", case.kind, **case.more)
        outcome = await ann.submitted(mime())
        assert isinstance(outcome, InDoubt)
        assert outcome.fence is None
        assert ann.twin.calls == ["sendMail"]
        found = await ann.provider.find_sent(RECIPIENT, JOB, ann.since)
        assert isinstance(found, Found) if case.sent else found == NotSeen()
        assert len(ann.truth) == case.sent


async def test_a_reset_in_the_body_sends_nothing_and_never_counts_as_sent() -> None:
    async with connected(SEND_AND_READ, HASTY) as ann:
        ann.twin.fail("sendMail", "reset_in_body")
        big = mime(body="words and more words\r\n" * 100_000)
        # Whether the last block was given to the connection before the reset is the system's.
        assert isinstance(await ann.submitted(big), Deferred | InDoubt)
        assert ann.twin.calls == ["sendMail"]
        assert ann.truth == []


@dataclass(frozen=True)
class Refused:
    """A definite answer to a send request."""

    status: int
    code: str
    outcome: type[Deferred] | type[Rejected]
    outcome_class: OutcomeClass
    retry_after_s: int | None = None

    def __str__(self) -> str:
        return f"{self.status}-{self.code}"


LIMIT, SOFT, AUTH, CONFIG = (
    OutcomeClass.LIMIT, OutcomeClass.SOFT, OutcomeClass.AUTH, OutcomeClass.CONFIG,
)  # fmt: skip
SPEAK_OF_THE_SENDER = ("ErrorSendAsDenied", "ErrorMessageSubmissionBlocked", "ErrorAccountSuspend")
REFUSALS = [
    Refused(429, "ApplicationThrottled", Deferred, SOFT, 7),
    Refused(429, "MailboxConcurrency", Deferred, SOFT, 1),
    Refused(503, "ApplicationThrottled", Deferred, SOFT, 90),
    Refused(429, "ErrorExceededMessageLimit", Deferred, LIMIT, 3600),
    Refused(403, "ErrorExceededHourlyMessageLimit", Deferred, LIMIT),
    Refused(400, "ErrorSubmissionQuotaExceeded", Deferred, LIMIT),
    Refused(403, "ErrorQuotaExceeded", Deferred, SOFT),
    Refused(403, "ErrorMessageSubmissionBlocked", Deferred, AUTH),
    Refused(403, "ErrorAccountSuspend", Deferred, AUTH),
    Refused(403, "ErrorAccessDenied", Deferred, AUTH),
    Refused(403, "ErrorMailboxNotEnabledForRESTAPI", Deferred, AUTH),
    Refused(403, "ErrorSendAsDenied", Rejected, CONFIG),
    Refused(400, "ErrorInvalidRecipients", Rejected, CONFIG),
    Refused(400, "ErrorExceededMaxRecipientLimit", Rejected, CONFIG),
    Refused(400, "ErrorInvalidIdMalformed", Rejected, CONFIG),
    Refused(413, "ErrorMessageSizeExceeded", Rejected, CONFIG),
    Refused(400, "somethingNew", Rejected, CONFIG),
    Refused(403, "somethingNew", Deferred, AUTH),
]


@pytest.mark.parametrize("case", REFUSALS, ids=str)
async def test_a_refusal_has_its_class_and_leaves_the_draft_standing(case: Refused) -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail(
            "send", "status", status=case.status, code=case.code, message="The words.",
            retry_after_s=case.retry_after_s,
        )  # fmt: skip
        outcome = await ann.submitted(mime(), fence)
        assert type(outcome) is case.outcome
        assert isinstance(outcome, Deferred | Rejected)
        assert (outcome.outcome_class, outcome.code, outcome.status, outcome.text) == (
            case.outcome_class, case.status, case.code, "The words.",
        )  # fmt: skip
        if isinstance(outcome, Deferred):
            wish = None if case.retry_after_s is None else timedelta(seconds=case.retry_after_s)
            assert outcome.retry_after == wish
        assert (outcome.phase == "mail") == (case.code in SPEAK_OF_THE_SENDER)
        assert ann.twin.calls.count("send") == 1
        assert await ann.provider.destroy(fence) == Destroyed()


async def test_a_draft_that_is_not_there_leaves_a_doubt() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        assert isinstance(await ann.submitted(mime(), fence), Accepted)
        again = await ann.submitted(mime(), fence)
        assert isinstance(again, InDoubt)
        assert again.fence == fence
        assert len(ann.truth) == 1


async def test_microsoft_sends_twice_when_asked_twice_and_so_it_is_asked_once() -> None:
    async with connected() as ann:
        ann.mailbox.conduct.resends = True
        fence = await ann.prepared(mime())
        assert isinstance(await ann.submitted(mime(), fence), Accepted)
        assert len(ann.truth) == 1
        assert isinstance(await ann.submitted(mime(), fence), Accepted)
        assert [one.job for one in ann.truth] == [JOB, JOB]


@pytest.mark.parametrize("kind", ["hang", "reset_before", "reset_after", "slow_loris"])
async def test_a_draft_that_was_perhaps_not_made_is_unsent(kind: FaultKind) -> None:
    async with connected(timeouts=HASTY) as ann:
        ann.twin.fail("createDraft", kind, delay_s=0.3)
        prepared = await (await ann.session()).prepare(mime())
        assert isinstance(prepared, Unsent)
        assert prepared.outcome_class is OutcomeClass.SOFT
        assert ann.twin.calls == ["createDraft"]
        assert ann.truth == []


@pytest.mark.parametrize(
    ("status", "code", "outcome_class"),
    [
        (503, "ApplicationThrottled", SOFT), (504, "gatewayTimeout", SOFT),
        (403, "ErrorAccessDenied", AUTH), (404, "ErrorItemNotFound", SOFT),
    ],
)  # fmt: skip
async def test_a_refused_draft_is_unsent_with_the_reason(
    status: int, code: str, outcome_class: OutcomeClass
) -> None:
    async with connected() as ann:
        ann.twin.fail("createDraft", "status", times=9, status=status, code=code, retry_after_s=600)
        prepared = await (await ann.session()).prepare(mime())
        assert isinstance(prepared, Unsent)
        assert prepared.outcome_class is outcome_class
        assert prepared.retry_after == timedelta(seconds=600)


async def test_a_throttled_draft_is_made_after_the_wait_that_was_asked_for() -> None:
    async with connected() as ann:
        ann.twin.fail("createDraft", "status", status=429, code="TooManyRequests", retry_after_s=4)
        await ann.prepared(mime())
        assert ann.pauses == [4]
        assert ann.twin.calls == ["createDraft", "createDraft"]


async def test_a_mailbox_that_is_busy_with_others_asks_us_to_wait() -> None:
    async with connected() as ann:
        fence = await ann.prepared(mime())
        ann.mailbox.active = 4
        outcome = await ann.submitted(mime(), fence)
        assert isinstance(outcome, Deferred)
        assert "MailboxConcurrency" in outcome.text
        ann.mailbox.active = 0
        assert isinstance(await ann.submitted(mime(), fence), Accepted)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("folder", "status"), ("get", "hang"), ("get", "status"), ("patch", "hang"),
        ("patch", "reset_after"), ("patch", "status"), ("patch", "done_then_status"),
        ("delete", "hang"), ("delete", "reset_after"), ("delete", "status"),
        ("delete", "done_then_status"),
    ],
)  # fmt: skip
async def test_a_destruction_that_is_disturbed_proves_nothing_wrong(
    operation: str, kind: FaultKind
) -> None:
    async with connected(timeouts=HASTY) as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail(operation, kind, times=9, status=500)
        assert isinstance(await ann.provider.destroy(fence), Unavailable)
        ann.twin.faults.clear()
        assert await ann.provider.destroy(fence) == Destroyed()
        assert ann.truth == []


@pytest.mark.parametrize("kind", ["reset_after", "hang", "status", "slow_loris"])
async def test_a_look_that_is_disturbed_is_not_a_miss(kind: FaultKind) -> None:
    async with connected(timeouts=HASTY) as ann:
        await ann.submitted(mime(), await ann.prepared(mime()))
        ann.twin.fail("list", kind, times=9, delay_s=0.3)
        assert isinstance(await ann.provider.find_sent(RECIPIENT, JOB, ann.since), Unavailable)


async def test_what_cannot_be_read_back_is_accepted_all_the_same() -> None:
    async with connected(timeouts=HASTY) as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("get", "hang", times=2)
        outcome = await ann.submitted(mime(), fence)
        assert isinstance(outcome, Accepted)
        assert (outcome.provider_message_id, outcome.message_id) == (fence.draft_id, None)


async def test_a_late_report_comes_to_the_inbox_and_changes_no_outcome() -> None:
    async with connected() as ann:
        ann.mailbox.conduct.ndr_after_s = 3600
        assert isinstance(await ann.submitted(mime(), await ann.prepared(mime())), Accepted)
        assert ann.mailbox.listed("inbox") == []
        ann.twin.advance(3601)
        [report] = ann.mailbox.listed("inbox")
        assert report.header("X-MS-Exchange-Message-Is-Ndr") is not None
        assert report.header("In-Reply-To") == ann.truth[0].message_id
        assert b"multipart/report" in report.mime
        assert JOB.encode() in report.mime


async def test_nothing_that_hung_is_left_running() -> None:
    async with connected(timeouts=HASTY) as ann:
        fence = await ann.prepared(mime())
        ann.twin.fail("send", "done_later", delay_s=0.8)
        assert isinstance(await ann.submitted(mime(), fence), InDoubt)
        await until(lambda: ann.mailbox.active == 0)
