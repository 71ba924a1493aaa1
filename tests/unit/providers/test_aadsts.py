"""What the Microsoft identity platform's refusals mean: the table of PROVIDERS §2.1."""

import json
import re

import pytest

from paceline_providers.aadsts import rule_for, rules, token_failure
from paceline_providers.proof import TokenRefused, TokenUnavailable

CASES: list[tuple[str, int | None, str, str, str]] = [
    ("invalid_grant", 65001, "no-consent", "auth", "user"),
    ("invalid_grant", 65005, "no-consent", "auth", "user"),
    ("access_denied", 65004, "no-consent", "auth", "user"),
    ("invalid_grant", 90093, "admin-consent", "auth", "admin"),
    ("consent_required", 90094, "admin-consent", "auth", "admin"),
    ("interaction_required", 50076, "multi-factor", "auth", "user"),
    ("interaction_required", 50079, "multi-factor", "auth", "user"),
    ("interaction_required", 53003, "conditional-access", "auth", "admin"),
    ("invalid_grant", 70008, "expired", "auth", "user"),
    ("invalid_grant", 700082, "expired", "auth", "user"),
    ("invalid_grant", 50173, "revoked", "auth", "user"),
    ("invalid_grant", 50020, "wrong-account", "auth", "user"),
    ("invalid_grant", 54005, "code-used-twice", "auth", "user"),
    ("invalid_client", 7000215, "bad-app-secret", "config", "app"),
    ("invalid_client", 7000222, "expired-app-secret", "config", "app"),
    ("unauthorized_client", 700016, "unknown-app", "config", "app"),
    ("invalid_request", 50011, "redirect-mismatch", "config", "app"),
    ("server_error", 90090, "transient", "soft", "nobody"),
    ("temporarily_unavailable", None, "unavailable", "soft", "nobody"),
    ("interaction_required", None, "interaction", "auth", "user"),
    ("access_denied", None, "declined", "auth", "user"),
    ("invalid_grant", None, "grant-ended", "auth", "user"),
    ("invalid_client", None, "app", "config", "app"),
    ("", None, "not-understood", "soft", "nobody"),
    # Numbers that Microsoft has not told of yet: the word decides.
    ("invalid_grant", 123456, "grant-ended", "auth", "user"),
    # A number within a longer one is not it.
    ("invalid_grant", 650010, "grant-ended", "auth", "user"),
]


def described(number: int | None) -> str:
    return "" if number is None else f"AADSTS{number}: Words. Trace ID: 65001 Timestamp: 90094"


@pytest.mark.parametrize(("error", "number", "name", "meaning", "whose"), CASES)
def test_a_refusal_has_its_rule(
    error: str, number: int | None, name: str, meaning: str, whose: str
) -> None:
    rule = rule_for(error, described(number))
    assert (rule.name, rule.outcome_class, rule.whose) == (name, meaning, whose)


def test_every_rule_decides_some_case_here() -> None:
    assert {rule.name for rule in rules()} == {name for _, _, name, _, _ in CASES}


def test_rules_are_named_once_and_say_where_they_come_from() -> None:
    assert len({rule.name for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule.sentence.endswith(".")
        assert re.search(r"RFC \d+|PROVIDERS §|learn\.microsoft\.com", rule.source), rule.name


@pytest.mark.parametrize(
    ("status", "error", "number", "ended"),
    [
        (400, "invalid_grant", 50173, True),
        (400, "interaction_required", 50076, True),
        (400, "invalid_grant", 90094, True),
        # Every mailbox of the app waits for its operator; none has lost its grant.
        (401, "invalid_client", 7000215, False),
        (400, "server_error", 90090, False),
        (503, "temporarily_unavailable", None, False),
        # Whatever a failing server says.
        (500, "invalid_grant", 50173, False),
    ],
)
def test_only_what_user_or_administrator_must_mend_ends_the_grant(
    status: int, error: str, number: int | None, ended: bool
) -> None:
    body = {"error": error, "error_description": described(number)}
    failure = token_failure(status, json.dumps(body).encode())
    assert isinstance(failure, TokenRefused if ended else TokenUnavailable)
    assert str(failure)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"{}"])
def test_an_answer_of_another_kind_says_nothing_about_the_grant(body: bytes) -> None:
    assert isinstance(token_failure(400, body), TokenUnavailable)
