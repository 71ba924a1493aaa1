"""Reading a message: what is found in it, and that nothing makes reading fail."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_reply.domain.inbound import read
from paceline_reply.domain.unsubscribe import unsubscribe_token

SAMPLES = Path(__file__).parents[2] / "data" / "eml"
ALL = sorted(SAMPLES.glob("*.eml"))


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.eml").read_bytes()


def test_ids_come_with_the_one_replied_to_first_then_the_newest_reference() -> None:
    inbound = read(b"Message-ID: <me@x>\nIn-Reply-To: <c@x>\nReferences: <a@x>\n <b@x> <c@x>\n\nhi")

    assert inbound.message_id == "<me@x>"
    assert inbound.references == ("<c@x>", "<b@x>", "<a@x>")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("human-gmail", "Sounds good — call me on Monday."),
        ("human-outlook", "Not interested, thanks."),
        ("human-outlook-german", "Bitte rufen Sie mich an."),
        ("human-apple-mail", "Who is this?"),
        ("human-below-quote", "With a spreadsheet."),
        ("human-html-only", "Yes & soon."),
    ],
)
def test_the_snippet_is_what_was_written_not_what_was_quoted(name: str, words: str) -> None:
    assert read(sample(name)).snippet() == words


def test_a_snippet_is_one_line_of_bounded_length() -> None:
    snippet = read(b"\n" + b"word\n" * 500).snippet(limit=100)

    assert len(snippet) <= 100
    assert "\n" not in snippet
    assert snippet.endswith("…")


def test_encoded_words_are_decoded_and_unknown_charsets_survive() -> None:
    assert read(sample("auto-japanese")).subject == "自動応答"
    assert read(b"Subject: =?x-nope?Q?abc?=\n\n").subject == "=?x-nope?Q?abc?="


def test_nul_and_control_characters_never_reach_a_text_column() -> None:
    inbound = read(sample("odd-raw-8bit"))

    assert "\x00" not in inbound.subject + inbound.text
    assert inbound.message_id == "<odd1@client.test>"


def test_a_thousand_nested_parts_leave_the_headers_readable() -> None:
    nested = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n) for n in range(1500)
    )

    assert read(b"Message-ID: <deep@x>\n" + nested).message_id == "<deep@x>"


def test_an_unsubscribe_token_is_found_in_the_subject_however_it_is_framed() -> None:
    token = "ws_5851f42d4c957f2d.job_5851f42d4c957f2d.1." + "A" * 43

    assert unsubscribe_token(read(sample("unsubscribe-mailto"))) == token
    assert unsubscribe_token(read(f"Subject: RE: Unsubscribe\n  {token}\n\n".encode())) == token
    assert unsubscribe_token(read(b"Subject: please unsubscribe me\n\n")) is None


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_line_ends_make_no_difference(path: Path) -> None:
    raw = path.read_bytes()

    assert read(raw.replace(b"\n", b"\r\n")) == read(raw)


@given(st.binary(max_size=4000))
def test_reading_never_fails_on_any_bytes(raw: bytes) -> None:
    inbound = read(raw)

    assert "\x00" not in inbound.subject + inbound.text + inbound.message_id


@given(st.sampled_from(ALL), st.data())
def test_reading_never_fails_on_damaged_messages(path: Path, data: st.DataObject) -> None:
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 200)))

    read(raw[:start] + data.draw(st.binary(max_size=60)) + raw[end:])
