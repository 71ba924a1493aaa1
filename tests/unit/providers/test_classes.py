"""What a refusal means: the table of PROVIDERS §3, case by case."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_providers.classes import (
    OutcomeClass,
    Phase,
    classify,
    enhanced_status,
    rule_for,
    rules,
)

CASES: list[tuple[Phase, str, str]] = [
    # the recipient
    ("rcpt", "550 5.1.1 <x>: Recipient address rejected: User unknown", "hard"),
    ("rcpt", "550 5.1.0 Address rejected", "hard"),
    ("rcpt", "553 5.1.3 bad syntax", "hard"),
    ("rcpt", "551 5.1.6 moved", "hard"),
    ("rcpt", "550 5.1.2 Domain not found", "hard"),
    ("rcpt", "550 5.4.4 no host", "hard"),
    ("rcpt", "556 5.1.10 null MX", "hard"),
    ("rcpt", "556 Domain does not accept mail", "hard"),
    ("rcpt", "521 Host does not accept mail", "hard"),
    ("rcpt", "550 5.7.18 null MX", "hard"),
    ("rcpt", "550 5.2.1 disabled", "hard"),
    ("rcpt", "525 5.7.13 account disabled", "hard"),
    ("rcpt", "525 account disabled", "hard"),
    ("rcpt", "550 No such user here", "hard"),
    ("rcpt", "550 sorry, no mailbox here by that name", "hard"),
    ("rcpt", "554 5.0.0 mailbox for x does not exist", "hard"),
    ("rcpt", "550 Requested action not taken: recipient unknown", "hard"),
    ("dsn", "550 5.1.1 unknown", "hard"),
    ("body", "554 5.1.1 unknown", "hard"),
    # never from a transient code, whatever the words
    ("rcpt", "450 4.1.1 unverified recipient: user unknown", "soft"),
    ("rcpt", "451 no such user, maybe", "soft"),
    # full
    ("rcpt", "452 4.2.2 over quota", "soft"),
    ("rcpt", "552 5.2.2 mailbox full", "soft"),
    ("rcpt", "552 Mailbox is over quota", "soft"),
    ("rcpt", "554 5.0.0 user's mailbox is full", "soft"),
    ("rcpt", "550 5.3.1 system full", "soft"),
    ("rcpt", "550 5.3.2 system not accepting messages", "soft"),
    # wait
    ("rcpt", "450 4.2.0 <x>: Recipient address rejected: Greylisted, see help", "soft"),
    ("rcpt", "451 4.7.1 Greylisting in action, please come back later", "soft"),
    ("rcpt", "421 4.7.0 [TSS04] Messages temporarily deferred", "soft"),
    ("mail", "421 4.3.2 shutting down", "soft"),
    ("rcpt", "503 5.5.1 bad sequence of commands", "soft"),
    ("data", "550 4.4.1 odd pair", "soft"),
    ("body", "451 4.4.7 expired", "soft"),
    # policy
    ("rcpt", "554 5.7.1 Access denied", "block"),
    ("body", "550 5.7.0 policy", "block"),
    ("body", "550 5.7.26 unauthenticated", "block"),
    ("body", "421 4.7.28 unusual rate", "block"),
    ("body", "550 5.7.23 SPF", "block"),
    ("rcpt", "550 blocked using zen.spamhaus.org", "block"),
    ("body", "554 message looks like spam", "block"),
    ("body", "550 5.7.509 DMARC", "block"),
    ("mail", "550 5.7.1 Client host blocked using Spamhaus", "block"),
    ("connect", "554 5.7.1 your address has a bad reputation", "block"),
    # the mailbox has sent enough
    ("mail", "550 5.4.5 Daily user sending limit exceeded", "limit"),
    ("rcpt", "452 4.5.3 too many recipients", "limit"),
    ("rcpt", "550 5.5.3 too many recipients", "limit"),
    ("body", "550 hourly sending quota exceeded", "limit"),
    ("mail", "451 4.7.1 too many messages sent from this account", "limit"),
    ("body", "554 5.7.1 You exceeded your sending limit of 100 messages per day", "limit"),
    # credentials
    ("auth", "535 5.7.8 Bad credentials", "auth"),
    ("auth", "534 5.7.9 app password needed", "auth"),
    ("auth", "504 5.5.4 unrecognised", "auth"),
    ("auth", "454 4.7.0 Temporary authentication failure", "soft"),
    ("mail", "530 5.7.0 Authentication required", "auth"),
    ("rcpt", "550 5.7.8 not authenticated", "auth"),
    # our side
    ("mail", "530 5.7.0 Must issue a STARTTLS command first", "config"),
    ("auth", "538 5.7.11 Encryption required for requested authentication mechanism", "config"),
    ("mail", "553 5.7.1 <x>: Sender address rejected: not owned by user y", "config"),
    ("rcpt", "553 5.7.1 <x>: Sender address rejected: not owned by user y", "config"),
    ("body", "550 5.7.60 Client does not have permissions to send as this sender", "config"),
    ("mail", "550 unknown sender", "config"),
    ("mail", "550 5.1.8 bad sender's domain", "config"),
    ("rcpt", "450 4.1.8 sender domain not found", "config"),
    ("mail", "550 5.1.1 unknown", "config"),
    ("body", "552 5.3.4 too big", "config"),
    ("body", "552 message size exceeds fixed limit", "config"),
    ("body", "550 5.6.0 malformed", "config"),
    ("data", "554 5.5.1 no valid recipients", "config"),
    ("rcpt", "501 syntax", "config"),
    # nothing known
    ("rcpt", "550 5.0.0 computer says no", "soft"),
    ("body", "554 transaction failed", "soft"),
    ("data", "250 ok", "soft"),
]


@pytest.mark.parametrize(("phase", "reply", "meaning"), CASES)
def test_a_reply_has_its_class(phase: Phase, reply: str, meaning: str) -> None:
    code, text = int(reply[:3]), reply[4:]
    rule = rule_for(code, enhanced_status(text), text, phase)
    assert rule.outcome_class == meaning, rule.name


def test_every_rule_decides_some_case_here() -> None:
    decided = {
        rule_for(int(reply[:3]), enhanced_status(reply[4:]), reply[4:], phase).name
        for phase, reply, _ in CASES
    }
    assert {rule.name for rule in rules()} - decided == set()


def test_a_report_without_a_reply_code_is_classed_by_its_status() -> None:
    assert classify(None, "5.1.1", "", "dsn") is OutcomeClass.HARD
    assert classify(None, "4.4.7", "", "dsn") is OutcomeClass.SOFT
    assert classify(None, None, "", "dsn") is OutcomeClass.SOFT


def test_rules_are_named_once_and_say_where_they_come_from() -> None:
    names = [rule.name for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule.sentence.endswith(".")
        assert re.search(r"RFC \d+|PROVIDERS §", rule.source), rule.name


def test_no_rule_calls_an_outcome_ambiguous_because_a_reply_is_an_answer() -> None:
    assert OutcomeClass.AMBIG not in {rule.outcome_class for rule in rules()}


_PHASES = st.sampled_from(["connect", "auth", "mail", "rcpt", "data", "body", "dsn"])
_NUMBERS = st.integers(0, 999)
_DETAILS = st.builds("{}.{}".format, _NUMBERS, _NUMBERS)


@given(_PHASES, st.integers(400, 499), _DETAILS, st.text(max_size=60))
def test_a_transient_code_is_never_hard(phase: Phase, code: int, detail: str, text: str) -> None:
    assert classify(code, f"4.{detail}", text, phase) is not OutcomeClass.HARD


@given(st.integers(100, 599) | st.none(), st.none() | _DETAILS, st.text(max_size=60))
def test_before_the_recipient_is_named_nothing_is_hard(
    code: int | None, detail: str | None, text: str
) -> None:
    status = None if detail is None else f"5.{detail}"
    for phase in ("connect", "auth", "mail"):
        assert classify(code, status, text, phase) is not OutcomeClass.HARD


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("5.1.1 unknown", "5.1.1"),
        ("5.1.1\n5.1.1 unknown", "5.1.1"),
        ("2.0.0 ok", "2.0.0"),
        ("unknown 5.1.1", None),
        ("3.1.1 no such class", None),
        ("5.1.1.2 is an address", "5.1.1"),
        ("", None),
    ],
)
def test_the_enhanced_code_stands_at_the_head(text: str, status: str | None) -> None:
    assert enhanced_status(text) == status
