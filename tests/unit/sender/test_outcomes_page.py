"""The page of outcomes leaves nothing out: every rule, class, hold and decision is on it."""

import itertools
import random
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from paceline_providers import aadsts, classes, dialect
from paceline_providers.classes import OutcomeClass
from paceline_providers.registry import API_PROVIDERS
from paceline_sender.docs import CASES, ELSEWHERE, documents
from paceline_sender.domain.outcome import Answer, History, HoldReason, Kind, decide

PAGE = documents()["providers/outcomes.md"]
RULES = [
    *((rule.name, rule.sentence, rule.source) for rule in classes.rules()),
    *(
        (rule.name, rule.sentence, rule.source)
        for kind in API_PROVIDERS
        for rule in dialect.rules(kind)
    ),
    *(
        (rule.name, rule.sentence, rule.source)
        for identity in get_args(aadsts.Identity)
        for rule in aadsts.rules(identity)
    ),
]


def test_every_rule_of_every_provider_is_there_with_its_sentence_and_source() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    for name, sentence, source in RULES:
        escaped = source.replace("|", "\\|")
        assert any(
            line.startswith(f"| `{name}` |")
            and sentence in line
            and line.endswith(f"| {escaped} |")
            for line in rows
        ), name


def test_every_class_has_a_row() -> None:
    assert {case.answer.outcome_class for case in CASES} >= {one.value for one in OutcomeClass}
    assert {case.answer.kind for case in CASES} == set(get_args(Kind))


# A refusal before anything left says nothing of a recipient, and is no doubt.
POSSIBLE = [
    *itertools.product(("rejected", "deferred"), ("hard", "soft", "block", "limit", "auth")),
    *itertools.product(("rejected", "deferred"), ("config",)),
    *itertools.product(("unsent",), ("soft", "block", "limit", "auth", "config", None)),
]


@pytest.mark.parametrize("at_sender", [True, False])
@pytest.mark.parametrize("by_grant", [True, False])
def test_every_decision_that_can_be_taken_is_told(at_sender: bool, by_grant: bool) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told = {
        (one.outcome, one.outcome_class, one.hold.reason if one.hold else None)
        for one in (case.decision() for case in CASES)
    }
    histories = (History(), History(9, now - timedelta(days=4)), History(connect_failures=9))
    for (kind, meaning), wish, history in itertools.product(
        POSSIBLE, (None, now + timedelta(hours=3)), histories
    ):
        # Before MAIL FROM nothing is said about the sender.
        told_of = at_sender and kind != "unsent"
        answer = Answer(kind, meaning, retry_at=wish, at_sender=told_of, by_grant=by_grant)  # type: ignore[arg-type]
        decision = decide(answer, history, now, random.Random(1))
        hold = decision.hold.reason if decision.hold else None
        assert (decision.outcome, decision.outcome_class, hold) in told, answer


def test_nothing_is_told_of_what_cannot_happen() -> None:
    assert {case.elsewhere for case in CASES} == set(ELSEWHERE)


def test_every_hold_has_its_remedy_and_where_it_comes_from() -> None:
    for reason in get_args(HoldReason):
        assert f"| `{reason}` |" in PAGE
        if reason != "credential_unreadable":
            assert f"held (`{reason}`)" in PAGE


def test_an_answer_ahead_of_the_claim_never_costs_a_slot() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for kind, meaning in POSSIBLE:
        answer = Answer(kind, meaning)  # type: ignore[arg-type]
        decision = decide(answer, History(), now, random.Random(1), claimed=False)
        assert decision.outcome in ("unsent", "failed"), answer
