"""Octets that say something else than was meant are never sent."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.sender.messages import PARTS, parse, same_meaning

from paceline_sender.domain import message, mime, readback
from paceline_sender.domain.conversation import Thread
from paceline_sender.domain.message import Attachment, InvalidMessage, build

IMAGE = Attachment("logo.png", "image/png", bytes(range(256)), "logo@one.test")
REPORT = Attachment("Überblick; 2026.pdf", "application/pdf", b"%PDF" * 40)
WHOLE = replace(
    PARTS,
    from_name="Änn",
    subject="=?utf-8?q?Hello?=",
    text="Hi Bob\n" + "one " * 400,
    headers=(("X-Note", "größer so sehr, so sehr"),),
    attachments=(IMAGE, REPORT),
    thread=Thread("<2@one.test>", ("<1@one.test>", "<2@one.test>")),
)


def reads(data: bytes, parts: message.Parts = WHOLE) -> bool:
    try:
        readback.compare(data, *message.meaning(parts))
    except readback.Differs:
        return False
    return True


def test_what_was_built_reads_back() -> None:
    assert reads(build(WHOLE))
    assert reads(build(PARTS), PARTS)


@pytest.mark.parametrize(
    ("what", "by"),
    [
        (b"Date:", b"Bcc: eve@evil.test\r\nDate:"),
        (b"Date: Fri", b"Date:  Fri"),
        (b"Date:", b"date:"),
        (b"MIME-Version: 1.0\r\n", b""),
        (b"MIME-Version: 1.0\r\n", b"MIME-Version: 1.0\r\nBcc: eve@evil.test\r\n"),
        (b"MIME-Version: 1.0\r\n", b"MIME-Version: 1.0\r\n\r\n"),
        (b"X-Note: ", b"X-Note: \r\n "),
        (b"X-Note: ", b"X-Note:\t"),
        (b"Message-ID: <", b"Message-ID: =?utf-8?q?=3C?= <"),
        (b"?q?gr=C3=B6=C3=9Fer_", b"?q?gr=C3=B6=C3=9Fte_"),
        (b"?q?gr=C3=B6=C3=9Fer_", b"?q?gr=C3=B6=9F=C3er_"),
        (b"=?utf-8?q?gr=C3=B6=C3=9Fer_", b"=?latin1?q?gr=F6=DFer_"),
        (b"=?utf-8?q?gr=C3=B6", b"x =?utf-8?q?gr=C3=B6"),
        (b"=?utf-8?q?gr=C3=B6", b"gr\xc3\xb6 =?utf-8?q?"),
        (b"To: bob@", b"To: eve@"),
        (b"To: bob@two.test", b"To: bob@two.test, eve@evil.test"),
        (b"<ann@one.test>\r\n", b"<eve@one.test>\r\n"),
        (b"=?utf-8?q?=C3=84nn?=", b'"Eve"'),
        (b"=?utf-8?q?=C3=84nn?=", b"=?utf-8?q?=84nn?="),
        (b"References: <1@one.test> ", b"References: "),
        (b"Hi Bob\r\n", b"Hi Eve\r\n"),
        (b"Hi Bob\r\n", b"Hi Bob\n"),
        (b"Hi Bob\r\n", b"Hi Bob\r\r\n"),
        (b"one =\r\n", b"one =\n"),
        (b"Hi Bob\r\n", b"Hi Bob\0\r\n"),
        (b"Hi Bob\r\n", b"Hi Bob\r\n" + b"=\r\n" * 9 + b"a" * 1000 + b"\r\n"),
        (b"X-Paceline-Job: job", b"X-Paceline-Job: jib"),
        (b"/u/ws_", b"/u/sw_"),
        (b"text/html", b"text/plain"),
        (b"quoted-printable", b"base64"),
        (b"multipart/mixed", b"multipart/alternative"),
        (b'type="multipart/alternative"', b'type="text/html"'),
        (b'multipart/related; type="multipart/alternative";\r\n ', b"multipart/related; "),
        (b"Content-ID: <logo@", b"Content-ID: <lago@"),
        (b"Content-Disposition: inline", b"Content-Disposition: attachment"),
        (b"Content-Disposition: inline;", b"Content-Disposition: inline; size=1;"),
        (b'filename="logo.png"', b'filename="logo.exe"'),
        (b'filename="logo.png"', b'filename="logo.png"; x=1'),
        (b"filename*=utf-8''%C3%9C", b"filename*=utf-8''%C3%9D"),
        (b"filename*=utf-8''%C3%9C", b"filename*=latin1''%DC"),
        (b"filename*=", b"filename*1*="),
        (b"JVBERiVQREYl", b"JVBERiVQREYm"),
        (b"JVBERiVQREYl", b"JVBERi!VQREYl"),
        (b"JVBERiVQREYl", b"\r\nJVBERiVQREYl"),
        (b"--\r\n", b"--\r\nafterwards\r\n"),
    ],
)
def test_a_change_that_means_something_else_is_seen(what: bytes, by: bytes) -> None:
    data = build(WHOLE)
    assert what in data
    assert not reads(data.replace(what, by, 1))


def test_an_id_that_could_be_read_as_an_encoded_word_is_not_written() -> None:
    with pytest.raises(InvalidMessage) as refused:
        build(replace(PARTS, message_id="<=?utf-8?q?x?=@one.test>"))
    assert refused.value.reason == "message_invalid"


def test_a_line_that_is_too_long_is_seen_where_it_says_the_same() -> None:
    data = build(WHOLE)
    joined, soft_breaks = re.subn(rb"(?<=[a-z ])=\r\n", b"", data)
    assert soft_breaks > 14
    assert not reads(joined)


def test_parts_are_counted() -> None:
    data = build(WHOLE)
    boundary = parse(data).get_boundary().encode()
    delimiter = b"--" + boundary + b"\r\n"
    assert data.count(b"--" + boundary) == 3
    more = delimiter + b"Content-Type: text/plain\r\n\r\nanother part\r\n"
    assert not reads(data.replace(delimiter, more + delimiter, 1))
    assert not reads(data.replace(delimiter, b"preamble\r\n" + delimiter, 1))
    assert not reads(data.replace(b"--" + boundary + b"--\r\n", b""))
    assert not reads(data.replace(delimiter, b"--" + boundary + b" \r\n", 1))
    assert not reads(data + b"epilogue")


EDIT = st.one_of(
    st.tuples(st.just("insert"), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("replace"), st.binary(min_size=1, max_size=3)),
    st.tuples(
        st.just("insert"), st.sampled_from([b"\r\n", b"\r\n ", b" ", b"=\r\n", b"--", b"\r\n\r\n"])
    ),
    st.tuples(st.just("delete"), st.just(b"x")),
    st.tuples(st.just("delete"), st.just(b"xy")),
)


@settings(deadline=None, max_examples=1500)
@given(place=st.floats(0, 1, exclude_max=True), edit=EDIT)
def test_an_edit_is_seen_unless_it_means_the_same(place: float, edit: tuple[str, bytes]) -> None:
    """The standard library judges what an edit that passes means."""
    data = build(WHOLE)
    at = int(place * len(data))
    how, octets = edit
    after = at if how == "insert" else at + len(octets)
    changed = data[:at] + (b"" if how == "delete" else octets) + data[after:]
    if reads(changed):
        assert same_meaning(changed, WHOLE)


BUGS: list[tuple[str, Callable[..., object]]] = [
    ("field", lambda field: f"{field.name}: {getattr(field, 'value', 'x')}\r\n"),
    ("field", lambda field: f"{field.name}:\r\n"),
    ("_encoded", lambda leaf: leaf.content),
    ("_encoded", lambda leaf: base64.encodebytes(leaf.content)),
    ("_filename", lambda name: [f'filename="{name}"']),
    ("_words", lambda value, room: f"=?utf-8?q?{value}?="),
]


@pytest.mark.parametrize(("name", "bug"), BUGS)
def test_a_bug_in_writing_stops_the_message(
    name: str, bug: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mime, name, bug)
    with pytest.raises(InvalidMessage) as refused:
        build(WHOLE)
    assert refused.value.reason == "message_invalid"


def test_files_of_any_size_are_written_as_the_standard_library_would() -> None:
    octets = bytes(range(256)) * 20
    for size in (*range(300), *range(1700, 2100), 5000, 5120):
        leaf = mime.Leaf("application/pdf", octets[:size], "base64")
        _, body = mime.write(leaf, "seed")
        assert body == base64.encodebytes(octets[:size]).replace(b"\n", b"\r\n")
        assert readback._holds(body, leaf)
        for wrong in (body + b"\r\n", body[:-2], body.replace(b"\r\n", b"\n\r"), b" " + body[1:]):
            assert wrong == body or not readback._holds(wrong, leaf)
        if body.count(b"\r\n") > 1:
            assert not readback._holds(body.replace(b"\r\n", b"-\n", 1), leaf)
            assert not readback._holds(body.replace(b"\r\n", b"\r-", 1), leaf)
