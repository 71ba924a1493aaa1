"""Which subjects belong to one conversation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_reply.domain.thread import base_subject, same_conversation


@pytest.mark.parametrize(
    "received",
    [
        "Hello there",
        "Re: Hello there",
        "RE: AW: Hello  there",
        "[EXT] Re: hello there",
        "Re[2]: Hello there",
        "SV: Hello there",
        "回复：Hello there",
        "Fwd: [External] Re: Hello there",
        " re :  HELLO THERE ",
    ],
)
def test_reply_marks_tags_case_and_spaces_do_not_matter(received: str) -> None:
    assert same_conversation("Hello there", received)


@pytest.mark.parametrize(
    "received", ["Hello", "Re: Hello there, Bob", "", "Re:", "Report: Hello there"]
)
def test_other_subjects_are_other_conversations(received: str) -> None:
    assert not same_conversation("Hello there", received)


def test_empty_subjects_prove_nothing() -> None:
    assert not same_conversation("", "")
    assert not same_conversation("Re:", "AW:")


@given(st.text(max_size=200))
def test_a_base_subject_is_its_own_base_and_survives_a_reply(subject: str) -> None:
    base = base_subject(subject)

    assert base_subject(base) == base
    assert base_subject(f"Re: {subject}") == base
