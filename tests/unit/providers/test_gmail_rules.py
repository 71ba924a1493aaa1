"""What Gmail's refusals mean: the table of PROVIDERS §1.4, case by case."""

import re
from datetime import timedelta

import pytest

from paceline_providers.base import Unsent
from paceline_providers.dialect import Refusal, of_look, of_preparation, rule_for, rules
from paceline_providers.proof import Unavailable

WAIT = timedelta(hours=2)
SENDING = "User-rate limit exceeded. (Mail sending)"
_METRIC = "Quota exceeded for quota metric 'Queries' and limit 'Queries per minute{}' of service"
PROJECT = f"{_METRIC.format('')} 'gmail.googleapis.com' for consumer 'project_number:1'."
USER = f"{_METRIC.format(' per user')} 'gmail.googleapis.com' for consumer 'project_number:1'."
CASES: list[tuple[int, str, str, timedelta | None, str, str]] = [
    (400, "failedPrecondition", "Mail service not enabled", None, "auth", "deferred"),
    (400, "FAILED_PRECONDITION", "Precondition check failed.", None, "auth", "deferred"),
    (400, "badRequest", "Invalid To header", None, "config", "rejected"),
    (400, "invalidArgument", "Recipient address required", None, "config", "rejected"),
    (401, "authError", "Invalid Credentials", None, "auth", "deferred"),
    (403, "insufficientPermissions", "Insufficient Permission", None, "auth", "deferred"),
    (403, "domainPolicy", "Disabled by the administrator", None, "auth", "deferred"),
    (403, "dailyLimitExceeded", "Daily Limit Exceeded", None, "limit", "deferred"),
    (403, "rateLimitExceeded", "Rate Limit Exceeded", None, "soft", "deferred"),
    (403, "userRateLimitExceeded", "User Rate Limit Exceeded", None, "soft", "deferred"),
    (403, "userRateLimitExceeded", "User Rate Limit Exceeded", WAIT, "soft", "deferred"),
    (429, "rateLimitExceeded", "Too many concurrent requests for user", None, "soft", "deferred"),
    (429, "rateLimitExceeded", SENDING, None, "limit", "deferred"),
    (429, "rateLimitExceeded", "User-rate limit exceeded.", WAIT, "limit", "deferred"),
    (403, "rateLimitExceeded", PROJECT, None, "limit", "deferred"),
    (429, "rateLimitExceeded", PROJECT, WAIT, "limit", "deferred"),
    (403, "rateLimitExceeded", USER, None, "soft", "deferred"),
    (404, "notFound", "Requested entity was not found.", None, "ambig", "in_doubt"),
    (408, "", "", None, "ambig", "in_doubt"),
    (409, "aborted", "", None, "soft", "deferred"),
    (413, "uploadTooLarge", "Request Entity Too Large", None, "config", "rejected"),
    (418, "", "", None, "config", "rejected"),
    (500, "backendError", "Backend Error", None, "ambig", "in_doubt"),
    (503, "backendError", "Backend Error", WAIT, "ambig", "in_doubt"),
    (302, "", "", None, "ambig", "in_doubt"),
]


def refusal(status: int, reason: str, text: str, wait: timedelta | None) -> Refusal:
    return Refusal(status, (reason,) if reason else (), text, wait)


@pytest.mark.parametrize(("status", "reason", "text", "wait", "meaning", "submission"), CASES)
def test_a_refusal_has_its_class(
    status: int, reason: str, text: str, wait: timedelta | None, meaning: str, submission: str
) -> None:
    rule = rule_for("gmail", refusal(status, reason, text, wait))
    assert (rule.outcome_class, rule.submission) == (meaning, submission), rule.name


def test_every_rule_decides_some_case_here() -> None:
    decided = {rule_for("gmail", refusal(*case[:4])).name for case in CASES}
    assert {rule.name for rule in rules("gmail")} - decided == set()


def test_what_the_whole_project_has_used_up_concerns_every_mailbox_of_the_app() -> None:
    reaches = {rule.name: rule.reach for rule in rules("gmail") if rule.reach != "mailbox"}
    assert reaches == {"project-daily-limit": "app", "project-rate-limit": "app"}
    one = of_preparation("gmail", refusal(403, "rateLimitExceeded", PROJECT, WAIT))
    assert isinstance(one, Unsent)
    assert (one.reach, one.retry_after) == ("app", WAIT)


def test_no_answer_of_gmail_calls_a_recipient_bad() -> None:
    assert "hard" not in {rule.outcome_class for rule in rules("gmail")}


def test_what_leaves_a_doubt_is_called_ambiguous_and_nothing_else_is() -> None:
    for rule in rules("gmail"):
        assert (rule.submission == "in_doubt") == (rule.outcome_class == "ambig"), rule.name


def test_rules_are_named_once_and_say_where_they_come_from() -> None:
    names = [rule.name for rule in rules("gmail")]
    assert len(set(names)) == len(names)
    for rule in rules("gmail"):
        assert rule.sentence.endswith(".")
        assert re.search(r"RFC \d+|PROVIDERS §|google\.com", rule.source), rule.name


@pytest.mark.parametrize("status", [404, 408, 500, 503, 302])
def test_ahead_of_a_submission_and_in_a_look_nothing_is_ambiguous(status: int) -> None:
    one = refusal(status, "", "The words.", None)
    assert of_preparation("gmail", one).outcome_class == "soft"
    assert of_look("gmail", one) == Unavailable(
        of_preparation("gmail", one).outcome_class, "The words."
    )
