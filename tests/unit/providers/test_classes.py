"""What a refusal means: the table of PROVIDERS §3, case by case."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_providers.classes import (
    OutcomeClass,
    Phase,
    classify,
    enhanced_status,
    first_match,
    parse_rules,
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
    ("rcpt", "550 5.4.1 Recipient address rejected: Access denied", "hard"),
    ("rcpt", "554 30 Sorry, your message cannot be delivered. This mailbox is disabled", "hard"),
    ("rcpt", "550 5.5.0 Requested action not taken: no such user", "hard"),
    ("rcpt", "550 5.3.0 unknown user", "hard"),
    ("rcpt", "550 Unrouteable address", "hard"),
    ("rcpt", "550 5.0.0 domain does not exist", "hard"),
    # words that sound like it, but speak of us, of now or of policy
    ("rcpt", "550 sender domain does not exist", "soft"),
    ("rcpt", "550 Helo command rejected: Host not found", "soft"),
    ("body", "554 5.0.0 your account has been disabled", "soft"),
    ("rcpt", "550 recipient's server: connection closed", "soft"),
    ("rcpt", "550 the recipient's server no longer accepts this", "soft"),
    ("rcpt", "550 user unknown, try again later", "soft"),
    ("rcpt", "550 5.1.0 Address rejected: blocked", "block"),
    ("rcpt", "550 5.4.1 access denied by policy", "block"),
    ("rcpt", "550 5.1.9 odd", "soft"),
    ("rcpt", "550 5.3.9 odd", "soft"),
    ("rcpt", "550 5.4.7 delivery time expired", "soft"),
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
    ("rcpt", "550 5.2.121 recipient's per hour message receive limit exceeded", "soft"),
    ("rcpt", "552 5.2.2 Quota exceeded", "soft"),
    ("rcpt", "550 5.2.4 mailing list trouble", "soft"),
    # wait
    ("rcpt", "450 4.2.1 receiving mail at a rate that prevents more", "soft"),
    ("body", "451 4.7.650 IP reputation", "soft"),
    ("body", "451 4.7.1 come back", "soft"),
    ("body", "451 local error", "soft"),
    ("body", "553 5.7.1 [TSS09] permanently deferred", "block"),
    ("rcpt", "450 4.2.0 <x>: Recipient address rejected: Greylisted, see help", "soft"),
    ("rcpt", "451 4.7.1 Greylisting in action, please come back later", "soft"),
    ("rcpt", "421 4.7.0 [TSS04] Messages temporarily deferred", "soft"),
    ("mail", "421 4.3.2 shutting down", "soft"),
    ("rcpt", "503 5.5.1 bad sequence of commands", "soft"),
    ("data", "550 4.4.1 odd pair", "soft"),
    ("data", "550 4.6.0 odd pair", "soft"),
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
    ("mail", "550 5.7.511 Access denied, banned sender", "block"),
    ("rcpt", "550 5.7.133 not authenticated for this group", "block"),
    ("body", "550 5.1.8 Access denied, bad outbound sender", "block"),
    ("body", "421 4.7.32 From is not aligned", "block"),
    ("body", "550 5.7.30 DKIM", "block"),
    ("mail", "550 5.7.1 Client host blocked using Spamhaus", "block"),
    ("connect", "554 5.7.1 your address has a bad reputation", "block"),
    # the mailbox has sent enough
    ("mail", "550 5.4.5 Daily user sending limit exceeded", "limit"),
    ("body", "550 5.1.90 Your message can't be sent", "limit"),
    ("body", "554 5.2.2 SubmissionQuotaExceeded", "limit"),
    ("body", "550 You have reached a limit for sending mail.", "limit"),
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
    ("auth", "535 5.7.139 Authentication unsuccessful, basic auth is disabled", "auth"),
    ("mail", "550 5.7.30 Basic authentication is not supported", "auth"),
    ("auth", "534 5.7.14 Please log in via your web browser", "auth"),
    # our side
    ("body", "552 5.7.0 blocked: its content presents a potential security issue", "config"),
    ("body", "552 5.7.0 spam", "block"),
    ("body", "550 5.7.1 This message is not RFC 5322 compliant", "config"),
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


# Enhanced code, reply code and diagnostic of a delivery report.
REPORTS: list[tuple[str | None, int | None, str, str]] = [
    ("5.1.1", 550, "User unknown", "hard"),
    ("5.1.2", 550, "Bad destination host", "hard"),
    ("5.1.3", 553, "syntax", "hard"),
    ("5.1.6", 551, "has moved", "hard"),
    ("5.1.10", 556, "null MX", "hard"),
    ("5.2.1", 550, "disabled", "hard"),
    ("5.4.4", 550, "unable to route", "hard"),
    ("5.7.13", 525, "account disabled", "hard"),
    ("5.7.18", 550, "null mx of sender", "hard"),
    ("5.4.1", 550, "Recipient address rejected: Access denied", "hard"),
    (None, 554, "delivery error: dd This mailbox is disabled (554.30).", "hard"),
    ("5.0.0", 550, "No such user", "hard"),
    (None, 550, "recipient rejected: user unknown", "hard"),
    (None, None, "Host or domain name not found", "hard"),
    (None, None, "unrouteable address", "hard"),
    ("5.1.0", 556, "null MX", "hard"),
    (None, None, "sender address rejected", "config"),
    ("5.1.7", 550, "bad sender", "config"),
    ("5.1.8", 550, "bad sender's system address", "config"),
    ("5.1.8", 550, "Access denied, bad outbound sender", "block"),
    ("5.2.3", 552, "too big", "config"),
    ("5.3.4", 552, "too big", "config"),
    ("5.6.0", 554, "bad content", "config"),
    ("4.2.2", 452, "over quota", "soft"),
    ("5.2.2", 552, "mailbox full", "soft"),
    ("5.2.2", 552, "552 5.2.2 Quota exceeded", "soft"),
    ("4.4.7", 421, "expired", "soft"),
    ("5.4.7", 550, "delivery time expired", "soft"),
    ("4.7.1", 451, "greylisted", "soft"),
    ("4.7.650", 451, "IP reputation", "soft"),
    ("4.7.1", 421, "rate limited: too many messages per hour", "soft"),
    (None, 421, "4.7.0 [TSS04] Messages temporarily deferred", "soft"),
    (None, 450, "user unknown, try later", "soft"),
    ("5.1.1", 450, "user unknown", "soft"),
    (None, 451, "blocked using zen.spamhaus.org", "soft"),
    (None, None, "connection refused", "soft"),
    (None, None, "", "soft"),
    ("5.0.0", 550, "something else", "soft"),
    ("2.0.0", 250, "ok, though the user is unknown", "soft"),
    ("5.0.0", 250, "no such user", "soft"),
    ("5.4.1", 250, "access denied", "soft"),
    ("5.0.0", None, "something else", "soft"),
    ("5.5.3", 452, "too many recipients", "limit"),
    ("5.4.5", 550, "Daily user sending limit exceeded", "limit"),
    ("5.1.90", 550, "Your message can't be sent: exceeded the daily limit", "limit"),
    ("5.0.0", 550, "you exceeded your maximum message quota", "limit"),
    ("4.4.2", None, "You have reached a limit for sending mail.", "limit"),
    ("5.7.1", 550, "relaying denied", "block"),
    ("5.7.1", 554, "rejected as spam", "block"),
    ("5.7.1", 550, "no such user here", "block"),
    ("5.7.0", 530, "Must issue a STARTTLS command first", "block"),
    ("5.7.1", 530, "Client was not authenticated", "block"),
    ("5.7.1", 521, "Access denied", "block"),
    (None, 521, "blocked using zen.spamhaus.org", "block"),
    ("5.7.26", 550, "DMARC", "block"),
    ("4.7.26", 421, "DMARC", "block"),
    ("5.7.28", 550, "unusual rate of unsolicited mail", "block"),
    ("5.7.511", 550, "Access denied, banned sender", "block"),
    ("5.7.705", 550, "tenant has exceeded threshold", "block"),
    (None, 550, "blocked using zen.spamhaus.org", "block"),
    ("5.7.8", 535, "bad credentials", "auth"),
    ("5.7.9", 534, "app password needed", "auth"),
]


@pytest.mark.parametrize(("status", "code", "text", "meaning"), REPORTS)
def test_a_report_has_its_class(
    status: str | None, code: int | None, text: str, meaning: str
) -> None:
    rule = rule_for(code, status, text, "dsn")
    assert rule.outcome_class == meaning, rule.name


def test_every_rule_decides_some_case_here() -> None:
    decided = {
        rule_for(int(reply[:3]), enhanced_status(reply[4:]), reply[4:], phase).name
        for phase, reply, _ in CASES
    } | {rule_for(code, status, text, "dsn").name for status, code, text, _ in REPORTS}
    assert {rule.name for rule in rules()} - decided == set()


def test_a_report_without_a_reply_code_is_classed_by_its_status() -> None:
    assert classify(None, "5.1.1", "", "dsn") is OutcomeClass.HARD
    assert classify(None, "4.4.7", "", "dsn") is OutcomeClass.SOFT
    assert classify(None, None, "", "dsn") is OutcomeClass.SOFT


GOOD = {"name": "a", "class": "hard", "text": "x", "sentence": "S.", "source": "x"}
LAST = {"name": "z", "class": "soft", "sentence": "S.", "source": "x"}


def test_the_first_rule_that_matches_decides_whatever_document_it_is_in() -> None:
    first = {**LAST, "name": "b", "class": "block", "status": ["5.x.x"]}

    parsed = parse_rules([{"rule": [first]}, {"rule": [{**GOOD, "text": "."}, LAST]}])

    assert first_match(parsed, None, "5.1.1", "text", "dsn").name == "b"
    assert first_match(parsed, None, None, "text", "dsn").name == "a"
    assert first_match(parsed, None, None, "", "dsn").name == "z"


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([{**GOOD, "colour": "red"}, LAST], "unknown keys"),
        ([{k: v for k, v in GOOD.items() if k != "sentence"}, LAST], "'sentence'. missing"),
        ([{**GOOD, "source": ""}, LAST], "'source'. missing"),
        ([{k: v for k, v in GOOD.items() if k != "text"}, LAST], "no condition"),
        ([{**GOOD, "class": "dead"}, LAST], "unknown class"),
        ([{**GOOD, "class": "ambig"}, LAST], "unknown class"),
        ([{**GOOD, "text": "("}, LAST], "rule 'a'"),
        ([{**GOOD, "phases": ["later"]}, LAST], "unknown phases"),
        ([{**GOOD, "about": "later"}, LAST], "unknown phases"),
        ([{**GOOD, "phases": []}, LAST], "phases wants a list"),
        ([{**GOOD, "codes": "550"}, LAST], "codes wants a list"),
        ([{**GOOD, "codes": ["5xx"]}, LAST], "no reply codes"),
        ([{**GOOD, "status": [r"5\.1\.1"]}, LAST], "no enhanced code"),
        ([GOOD, GOOD, LAST], "twice"),
        ([GOOD], "last rule"),
        ([], "last rule"),
    ],
)
def test_a_bad_rule_is_refused(entries: list[Mapping[str, Any]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_rules([{"rule": entries}])


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


@given(_PHASES, st.none() | st.integers(), st.none() | st.text(max_size=12), st.text(max_size=300))
def test_classification_is_total(
    phase: Phase, code: int | None, status: str | None, text: str
) -> None:
    assert classify(code, status, text, phase) in OutcomeClass


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
