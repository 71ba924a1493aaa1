"""What a message is, over samples of many dialects, and over anything at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_reply.domain.autoreply import automatic
from paceline_reply.domain.inbound import read
from paceline_reply.domain.kind import classify

SAMPLES = Path(__file__).parents[2] / "data" / "eml"
KIND_OF = {
    "arf": "complaint",
    "auto": "auto_reply",
    "dsn": "dsn",
    "human": "human",
    "unsubscribe": "unsubscribe",
}


def names(prefix: str) -> list[str]:
    found = sorted(path.stem for path in SAMPLES.glob(f"{prefix}-*.eml"))
    assert found, f"no samples {prefix}-*"
    return found


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for prefix, kind in KIND_OF.items() for name in names(prefix)],
)
def test_each_sample_that_answers_ours_is_what_its_name_says(name: str, kind: str) -> None:
    inbound = read((SAMPLES / f"{name}.eml").read_bytes())

    found = classify(inbound, own=False, unsubscribes=kind == "unsubscribe", matched=True)

    assert found == kind


@pytest.mark.parametrize("name", [*names("other"), *names("human")])
def test_what_answers_nothing_of_ours_is_other(name: str) -> None:
    inbound = read((SAMPLES / f"{name}.eml").read_bytes())

    assert classify(inbound, own=False, unsubscribes=False, matched=False) == "other"


@pytest.mark.parametrize("name", names("own"))
def test_our_own_messages_are_own(name: str) -> None:
    inbound = read((SAMPLES / f"{name}.eml").read_bytes())

    assert classify(inbound, own=True, unsubscribes=False, matched=True) == "own"


def test_a_report_is_a_report_even_if_it_looks_automatic_and_returns_our_token() -> None:
    inbound = read((SAMPLES / "dsn-gmail.eml").read_bytes())

    assert automatic(inbound) == "auto-submitted: auto-replied"
    assert classify(inbound, own=True, unsubscribes=True, matched=True) == "dsn"


@pytest.mark.parametrize(
    ("headers", "sign"),
    [
        ("Auto-Submitted: auto-generated", "auto-submitted: auto-generated"),
        ("Auto-Submitted: Auto-Replied (vacation)", "auto-submitted: auto-replied (vacation)"),
        ("Auto-Submitted: auto-replied; x=y", "auto-submitted: auto-replied"),
        ("X-Autorespond: yes", "x-autorespond"),
        ("X-Apple-Action: VACATION", "x-apple-action: vacation"),
        ("Precedence: auto_reply", "precedence: auto_reply"),
        ("Precedence: junk", "precedence: junk"),
        ("Return-Path: <>", "null return-path"),
        ("X-Auto-Response-Suppress: DR, AutoReply", "x-auto-response-suppress"),
        ("Subject: Auto: hello\nIn-Reply-To: <a@b>", "subject"),
        ("Subject: OOO: back on Monday", "subject"),
    ],
)
def test_signs_of_an_automatic_answer(headers: str, sign: str) -> None:
    assert automatic(read(f"{headers}\n\nx".encode())) == sign


@pytest.mark.parametrize(
    "headers",
    [
        "Auto-Submitted: no",
        "Precedence: list\nList-Id: <sales.client.test>",
        "X-Auto-Response-Suppress: DR, OOF",
        "Subject: Auto: insurance for your fleet",
        "Subject: Re: your out of office policy",
        "X-Autoreply: no",
        "Return-Path: <lee@client.test>",
    ],
)
def test_signs_that_prove_nothing(headers: str) -> None:
    assert automatic(read(f"{headers}\n\nx".encode())) is None


@given(st.binary(max_size=2000), st.booleans(), st.booleans(), st.booleans())
def test_any_bytes_have_exactly_one_kind(
    raw: bytes, own: bool, unsubscribes: bool, matched: bool
) -> None:
    kind = classify(read(raw), own=own, unsubscribes=unsubscribes, matched=matched)

    assert kind in ("human", "auto_reply", "dsn", "complaint", "unsubscribe", "own", "other")
