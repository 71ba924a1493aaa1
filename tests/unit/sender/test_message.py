"""The bytes of a message: what users put into values never becomes structure."""

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.sender.messages import HTTPS, JOB, MAC, MAILTO, PARTS, WS, parse

from paceline_common import headers
from paceline_sender.domain import message
from paceline_sender.domain.conversation import Thread
from paceline_sender.domain.message import Attachment, InvalidMessage, build

NASTY = st.one_of(
    st.text(),
    st.text(st.characters(codec="utf-8")),
    st.text(st.sampled_from(list('=?utf-8qb_ab\r\n\t\x00\x85\u2028"\\<>@,;:() é😀'))),
    st.sampled_from(
        [
            "Bob\r\nBcc: eve@evil.test",
            "Bob\nX-Paceline-Job: forged",
            "=?utf-8?q?Free=0D=0ABcc=3A_eve=40evil.test?=",
            "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?=",
            "a\u2028Bcc: x@y",
            "\ud800\udfff",
            "x" * 2000,
            "é" * 2000,
            "word " * 400,
            '"quoted" <evil@evil.test>',
        ]
    ),
)


def test_a_first_message_carries_what_a_bulk_sender_must() -> None:
    data = build(PARTS)
    parsed = parse(data)
    assert list(parsed.keys())[:10] == [
        "Date", "From", "To", "Subject", "Message-ID", "List-Unsubscribe",
        "List-Unsubscribe-Post", "X-Paceline-Job", "MIME-Version", "Content-Type",
    ]  # fmt: skip
    assert parsed["Date"] == "Fri, 20 Nov 2026 10:00:00 +0100"
    assert parsed["List-Unsubscribe"] == f"<{HTTPS}>, <{MAILTO}>"
    assert parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert parsed["X-Paceline-Job"] == f"{JOB}.{WS}.{MAC}"
    assert parsed.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in parsed.iter_parts()] == ["text/plain", "text/html"]
    assert b"\n" not in data.replace(b"\r\n", b"")
    # No token is torn or encoded, however long it is.
    assert f"<{HTTPS}>,".encode() in data
    assert f"<{MAILTO}>".encode() in data


def test_a_follow_up_names_its_predecessors() -> None:
    chain = tuple(f"<{n:016x}.0123456789abcdef@one.test>" for n in range(12))
    data = build(replace(PARTS, thread=Thread(chain[-1], chain)))
    parsed = parse(data)
    assert parsed["In-Reply-To"] == chain[-1]
    assert parsed["References"].split() == list(chain)
    assert b"=?" not in data.split(b"\r\n\r\n")[0]


def test_reply_to_is_written_only_when_it_differs() -> None:
    assert parse(build(PARTS))["Reply-To"] is None
    assert parse(build(replace(PARTS, reply_to="ann@one.test")))["Reply-To"] is None
    assert parse(build(replace(PARTS, reply_to="desk@one.test")))["Reply-To"] == "desk@one.test"


@pytest.mark.parametrize("kind", ["text", "html"])
def test_one_template_gives_one_part(kind: str) -> None:
    other = {"text": None} if kind == "html" else {"html": None}
    parsed = parse(build(replace(PARTS, **other)))  # type: ignore[arg-type]
    assert parsed.get_content_type() == ("text/plain" if kind == "text" else "text/html")


@settings(deadline=None)
@given(subject=NASTY, name=NASTY)
@example(subject="=?utf-8?q?x?=", name="=?utf-8?q?x?=")
@example(subject="a =?utf-8?q?x?= b", name="a\tb\x0bc")
def test_no_value_becomes_structure(subject: str, name: str) -> None:
    wanted = message.clean_header_text(subject)
    if not wanted:
        with pytest.raises(InvalidMessage):
            build(replace(PARTS, subject=subject, from_name=name))
        return
    data = build(replace(PARTS, subject=subject, from_name=name))
    reference = parse(build(PARTS))
    parsed = parse(data)
    assert parsed.keys() == reference.keys()
    assert parsed["Subject"] == wanted[:540].rstrip()
    assert [a.addr_spec for a in parsed["From"].addresses] == ["ann@one.test"]
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))
    assert data.isascii()
    assert "\x00" not in data.decode("ascii")


@settings(deadline=None)
@given(NASTY)
@example("a\tb\x00\x7f\x85\u2028\u2029\ud800c")
def test_cleaned_text_has_no_control_character_left(value: str) -> None:
    in_header = {unicodedata.category(char) for char in message.clean_header_text(value)}
    assert not in_header & {"Cc", "Cs", "Zl", "Zp"}
    in_body = message.clean_body(value)
    assert not {"Cs"} & {unicodedata.category(char) for char in in_body}
    assert not {char for char in in_body if char < " "} - {"\n", "\t"}


@settings(deadline=None)
@given(text=NASTY, html=NASTY)
def test_bodies_survive_and_never_reach_the_headers(text: str, html: str) -> None:
    data = build(replace(PARTS, text=text, html=html))
    parsed = parse(data)
    assert parsed.keys() == parse(build(PARTS)).keys()
    plain = parsed.get_body(("plain",)).get_content().replace("\r\n", "\n")
    assert plain.rstrip("\n") == message.clean_body(text).rstrip("\n")


@settings(deadline=None)
@given(st.one_of(NASTY, st.emails()))
def test_only_a_plain_address_reaches_the_envelope(address: str) -> None:
    if message.is_address(address):
        parsed = parse(build(replace(PARTS, to_email=address)))
        assert [a.addr_spec for a in parsed["To"].addresses] == [address]
        assert not set(address) & set('\r\n <>,;"()\\')
    else:
        with pytest.raises(InvalidMessage):
            build(replace(PARTS, to_email=address))


def test_the_envelopes_sender_is_no_header() -> None:
    assert PARTS.envelope_from == "ann@one.test"
    parts = replace(PARTS, return_path="bounces@one.test")
    assert parts.envelope_from == "bounces@one.test"
    assert b"bounces@" not in build(parts)
    with pytest.raises(InvalidMessage):
        build(replace(PARTS, return_path="a b@one.test"))


def test_headers_stand_between_ours_and_the_contents_own() -> None:
    own = (("X-Campaign", "größer"), ("Feedback-ID", "1:2:3:paceline"))
    keys = parse(build(replace(PARTS, headers=own))).keys()
    assert keys[keys.index("X-Paceline-Job") :] == [
        "X-Paceline-Job", "X-Campaign", "Feedback-ID", "MIME-Version", "Content-Type",
    ]  # fmt: skip


@pytest.mark.parametrize("header", [("Bcc", "eve@evil.test"), ("X-A", "a\r\nBcc: eve@evil.test")])
def test_a_header_that_is_not_the_users_makes_no_message(header: tuple[str, str]) -> None:
    with pytest.raises(InvalidMessage) as refused:
        build(replace(PARTS, headers=(header,)))
    assert refused.value.reason == "header_invalid"


def test_the_size_is_known_before_anything_is_sent() -> None:
    size = len(build(PARTS))
    assert build(PARTS, at_most=size)
    with pytest.raises(InvalidMessage) as refused:
        build(PARTS, at_most=size - 1)
    assert refused.value.reason == "message_too_large"


@settings(deadline=None, max_examples=50)
@given(text=NASTY, html=NASTY, files=st.lists(st.binary(max_size=3000), max_size=3))
def test_no_message_is_larger_than_foreseen(text: str, html: str, files: list[bytes]) -> None:
    parts = replace(
        PARTS,
        text=text,
        html=html,
        attachments=tuple(Attachment("é" * 300, "application/pdf", one) for one in files),
    )
    bodies = [len(message.clean_body(one).encode()) for one in (text, html)]
    assert len(build(parts)) <= headers.size_at_most(bodies, map(len, files))


def test_an_inline_image_must_have_an_id_of_its_own() -> None:
    image = Attachment("a.png", "image/png", b"x", "logo")
    for some in ((image, image), (replace(image, content_id="a>b"),)):
        with pytest.raises(InvalidMessage) as refused:
            build(replace(PARTS, attachments=some))
        assert refused.value.reason == "attachment_invalid"
