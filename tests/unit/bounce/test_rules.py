"""The rules: their order, their conditions, and that every failure gets a verdict."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_bounce.classify import load_rules
from paceline_bounce.domain.rules import UNKNOWN, classify, parse_rules

RULES = load_rules()


@pytest.mark.parametrize(
    ("status", "code", "text", "bounce_class"),
    [
        # RFC 3463, PROVIDERS §3.2
        ("5.1.1", 550, "User unknown", "hard"),
        ("5.1.2", 550, "Bad destination host", "hard"),
        ("5.1.3", 553, "syntax", "hard"),
        ("5.1.6", 551, "has moved", "hard"),
        ("5.1.7", 550, "bad sender", "config"),
        ("5.1.8", 550, "bad sender's system address", "block"),
        ("5.1.10", 556, "null MX", "hard"),
        ("5.2.1", 550, "disabled", "hard"),
        ("4.2.2", 452, "over quota", "soft"),
        ("5.2.2", 552, "mailbox full", "soft"),
        ("5.2.3", 552, "too big", "config"),
        ("5.3.4", 552, "too big", "config"),
        ("5.4.4", 550, "unable to route", "hard"),
        ("4.4.7", 421, "expired", "soft"),
        ("5.4.7", 550, "delivery time expired", "soft"),
        ("5.5.3", 452, "too many recipients", "limit"),
        ("5.6.0", 554, "bad content", "config"),
        ("5.7.1", 550, "relaying denied", "block"),
        ("5.7.1", 554, "rejected as spam", "block"),
        ("5.7.1", 550, "no such user here", "hard"),
        ("5.7.8", 535, "bad credentials", "auth"),
        ("5.7.9", 534, "app password needed", "auth"),
        ("5.7.13", 525, "account disabled", "hard"),
        ("5.7.18", 550, "null mx of sender", "hard"),
        ("5.7.26", 550, "DMARC", "block"),
        ("4.7.1", 451, "greylisted", "soft"),
        # Gmail, Microsoft 365, Yahoo
        ("5.4.5", 550, "Daily user sending limit exceeded", "limit"),
        ("5.7.28", 550, "unusual rate of unsolicited mail", "block"),
        ("5.1.90", 550, "Your message can't be sent: exceeded the daily limit", "limit"),
        ("5.4.1", 550, "Recipient address rejected: Access denied", "hard"),
        ("5.7.511", 550, "Access denied, banned sender", "block"),
        ("5.7.705", 550, "tenant has exceeded threshold", "block"),
        ("4.7.650", 451, "IP reputation", "soft"),
        (None, 554, "delivery error: dd This mailbox is disabled (554.30).", "hard"),
        (None, 421, "4.7.0 [TSS04] Messages temporarily deferred", "soft"),
        # words alone
        ("5.0.0", 550, "No such user", "hard"),
        (None, 550, "recipient rejected: user unknown", "hard"),
        (None, 550, "blocked using zen.spamhaus.org", "block"),
        (None, 450, "user unknown, try later", "soft"),
        (None, None, "Host or domain name not found", "hard"),
        (None, None, "", "soft"),
        ("5.0.0", 550, "something else", "soft"),
    ],
)
def test_known_failures_have_their_class(
    status: str | None, code: int | None, text: str, bounce_class: str
) -> None:
    assert classify(RULES, status=status, code=code, text=text).bounce_class == bounce_class


def test_what_no_rule_knows_is_soft() -> None:
    assert classify(RULES, status=None, code=None, text="?") is UNKNOWN
    assert UNKNOWN.bounce_class == "soft"


def test_the_first_rule_that_fits_decides() -> None:
    first = {"name": "a", "class": "block", "status": r"5\..*", "sentence": "s", "source": "x"}
    second = {**first, "name": "b", "class": "hard", "status": r"5\.1\.1"}

    rules = parse_rules([{"rule": [first]}, {"rule": [second]}])

    assert classify(rules, status="5.1.1", code=None, text="").name == "a"


GOOD = {"name": "a", "class": "hard", "text": "x", "sentence": "s", "source": "x"}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([{**GOOD, "colour": "red"}], "unknown keys"),
        ([{k: v for k, v in GOOD.items() if k != "sentence"}], "missing"),
        ([{k: v for k, v in GOOD.items() if k != "text"}], "no condition"),
        ([{**GOOD, "class": "dead"}], "unknown class"),
        ([{**GOOD, "text": "("}], "rule 'a'"),
        ([GOOD, GOOD], "twice"),
    ],
)
def test_a_bad_rule_is_refused_at_start(entries: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_rules([{"rule": entries}])


def test_every_rule_has_a_sentence_and_a_source() -> None:
    assert all(rule.sentence.endswith(".") and rule.source for rule in RULES)


@given(st.none() | st.text(max_size=12), st.none() | st.integers(), st.text(max_size=300))
def test_classification_is_total(status: str | None, code: int | None, text: str) -> None:
    assert classify(RULES, status=status, code=code, text=text).bounce_class


@given(
    st.integers(0, 999).map(lambda n: f"4.{n // 100}.{n % 100}"),
    st.integers(400, 499),
    st.text(alphabet="abcdefghij ", max_size=50),
)
def test_a_transient_status_never_suppresses(status: str, code: int, text: str) -> None:
    assert classify(RULES, status=status, code=code, text=text).bounce_class != "hard"
