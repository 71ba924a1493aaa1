"""What Graph's refusals mean: the table of PROVIDERS §2.4, case by case."""

import re
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from paceline_providers.api import Reply
from paceline_providers.base import Deferred
from paceline_providers.dialect import (
    Refusal,
    of_look,
    of_preparation,
    of_submission,
    rule_for,
    rules,
)
from paceline_providers.graph import GraphProvider
from paceline_providers.proof import Unavailable

WAIT = timedelta(seconds=9)
CASES: list[tuple[int, str, timedelta | None, str, str]] = [
    (401, "InvalidAuthenticationToken", None, "auth", "deferred"),
    (403, "ErrorAccessDenied", None, "auth", "deferred"),
    (403, "ErrorMailboxNotEnabledForRESTAPI", None, "auth", "deferred"),
    (404, "MailboxNotEnabledForRESTAPI", None, "auth", "deferred"),
    (403, "ErrorSendAsDenied", None, "config", "rejected"),
    (400, "ErrorExceededMessageLimit", None, "limit", "deferred"),
    (403, "ErrorExceededHourlyMessageLimit", None, "limit", "deferred"),
    (429, "ErrorSubmissionQuotaExceeded", WAIT, "limit", "deferred"),
    (403, "ErrorMessageSubmissionBlocked", None, "auth", "deferred"),
    (403, "ErrorAccountSuspend", None, "auth", "deferred"),
    (507, "ErrorQuotaExceeded", None, "soft", "deferred"),
    (400, "ErrorInvalidRecipients", None, "config", "rejected"),
    (400, "ErrorExceededMaxRecipientLimit", None, "config", "rejected"),
    (400, "ErrorInvalidIdMalformed", None, "config", "rejected"),
    (400, "ErrorMimeContentInvalidBase64String", None, "config", "rejected"),
    (413, "ErrorMessageSizeExceeded", None, "config", "rejected"),
    (413, "", None, "config", "rejected"),
    (404, "ErrorItemNotFound", None, "ambig", "in_doubt"),
    (429, "ApplicationThrottled", WAIT, "soft", "deferred"),
    (429, "", None, "soft", "deferred"),
    (429, "Application", WAIT, "limit", "deferred"),
    (429, "Tenant_Application", WAIT, "limit", "deferred"),
    (429, "Tenant", None, "limit", "deferred"),
    (503, "ApplicationThrottled", WAIT, "soft", "deferred"),
    # Without the wish to wait, or without the word for it, it may have been done.
    (503, "ApplicationThrottled", None, "ambig", "in_doubt"),
    (503, "serviceNotAvailable", WAIT, "ambig", "in_doubt"),
    (500, "generalException", None, "ambig", "in_doubt"),
    (502, "", None, "ambig", "in_doubt"),
    (504, "", WAIT, "ambig", "in_doubt"),
    (408, "", None, "ambig", "in_doubt"),
    (403, "unheardOf", None, "auth", "deferred"),
    (400, "unheardOf", None, "config", "rejected"),
    (302, "", None, "ambig", "in_doubt"),
]


def refusal(status: int, code: str, wait: timedelta | None) -> Refusal:
    return Refusal(status, (code,) if code else (), "The words.", wait)


@pytest.mark.parametrize(("status", "code", "wait", "meaning", "submission"), CASES)
def test_a_refusal_has_its_class(
    status: int, code: str, wait: timedelta | None, meaning: str, submission: str
) -> None:
    rule = rule_for("graph", refusal(status, code, wait))
    assert (rule.outcome_class, rule.submission) == (meaning, submission), rule.name


def test_every_rule_decides_some_case_here() -> None:
    decided = {rule_for("graph", refusal(*case[:3])).name for case in CASES}
    assert {rule.name for rule in rules("graph")} - decided == set()


@pytest.mark.parametrize(
    ("scope", "reach"),
    [
        ("Application/ReadWrite/9a3d526c", "app"),
        ("Tenant_Application/ReadWrite/9a3d526c/0785ef7c", "tenant"),
        ("Tenant/ReadWrite/9a3d526c/0785ef7c", "tenant"),
        ("User/ReadWrite/9a3d526c/0785ef7c", "mailbox"),
        (None, "mailbox"),
    ],
)
def test_the_header_says_whose_limit_it_is(scope: str | None, reach: str) -> None:
    headers = httpx.Headers(
        {"Retry-After": "9"} | ({"x-ms-throttle-scope": scope} if scope else {})
    )
    body = b'{"error": {"code": "ApplicationThrottled", "message": "The words."}}'

    async def token(refused: str | None = None) -> str:
        return "token"

    provider = GraphProvider.of(
        {"scopes": ["Mail.Send"]}, httpx.AsyncClient(), token, lambda: datetime.now(UTC)
    )
    found = of_submission("graph", provider.refusal(Reply(429, headers, body)))
    assert isinstance(found, Deferred)
    assert (found.reach, found.retry_after) == (reach, WAIT)


def test_no_answer_of_graph_calls_a_recipient_bad() -> None:
    assert "hard" not in {rule.outcome_class for rule in rules("graph")}


def test_what_leaves_a_doubt_is_called_ambiguous_and_nothing_else_is() -> None:
    for rule in rules("graph"):
        assert (rule.submission == "in_doubt") == (rule.outcome_class == "ambig"), rule.name


def test_rules_are_named_once_and_say_where_they_come_from() -> None:
    names = [rule.name for rule in rules("graph")]
    assert len(set(names)) == len(names)
    for rule in rules("graph"):
        assert rule.sentence.endswith(".")
        assert re.search(r"RFC \d+|PROVIDERS §|learn\.microsoft\.com", rule.source), rule.name


@pytest.mark.parametrize("status", [404, 408, 500, 502, 503, 504, 302])
def test_ahead_of_a_submission_and_in_a_look_nothing_is_ambiguous(status: int) -> None:
    one = refusal(status, "", None)
    prepared = of_preparation("graph", one)
    assert prepared.outcome_class == "soft"
    assert of_look("graph", one) == Unavailable(prepared.outcome_class, "The words.")
