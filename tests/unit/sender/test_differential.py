"""What is written by hand means what the standard library would have written.

Two ways: its parser reads our octets as what was meant, whatever was meant; and its builder,
given the same parts, makes a message that reads the same.
"""

import re
from dataclasses import replace
from email.header import decode_header
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from tests.unit.sender.messages import PARTS, meaning, parse, reference

from paceline_common import headers
from paceline_sender.domain import message, mime
from paceline_sender.domain.conversation import Thread
from paceline_sender.domain.message import Attachment, Parts, build

PIECES = [
    "=?utf-8?q?x?=", "=?", "?=", "\r\n", "\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\u2028",
    "\r\nBcc: eve@evil.test\r\n", "\r\n\r\n", ".", "\n.\n", "\n..\n", "--", "--=_a", "\n--=_m",
    "From ", "\nFrom ", "=", "=\n", "=3D", "=20", " \n", "\t\n", "\t", "  ", "x" * 80, "x" * 1000,
    "é", "😀", "👩‍👩‍👧", "שלום", "\u202eexe.fdp", "日本語", "e\u0301", "\ud800", '"', "\\",
    "<>", ",;:()",
]  # fmt: skip
WRITTEN = st.one_of(
    st.text(max_size=60),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12).map("".join),
)
BODY = st.one_of(
    WRITTEN,
    st.lists(WRITTEN, max_size=20).map("\n".join),
    st.builds(lambda piece: piece * (4_000 // len(piece)), st.sampled_from(PIECES)),
)
CHAIN = st.lists(st.integers(0, 10**30), max_size=20, unique=True).map(
    lambda numbers: tuple(f"<{n}@one.test>" for n in numbers)
)
FILE = st.builds(
    Attachment,
    WRITTEN,
    st.sampled_from(["application/pdf", "image/png", "text/csv", "application/x-tar"]),
    st.one_of(
        st.binary(max_size=300), st.sampled_from([b"", b"\r\n--=_m", b"\n.\n", b"x" * 99_999])
    ),
    st.none(),
)
INLINE = st.builds(
    Attachment,
    WRITTEN,
    st.sampled_from(["image/png", "image/gif"]),
    st.binary(max_size=300),
    st.sampled_from(["logo", "logo@one.test", "a.b-c"]),
)


@st.composite
def parts(draw: st.DrawFn) -> Parts:
    texts = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    chain = draw(CHAIN)
    names = draw(st.lists(st.sampled_from(["X-Note", "Feedback-ID", "X-" + "n" * 48]), unique=True))
    inline = draw(st.lists(INLINE, max_size=2, unique_by=lambda one: one.content_id))
    return replace(
        PARTS,
        from_name=draw(st.none() | WRITTEN),
        reply_to=draw(st.sampled_from([None, "ann@one.test", "desk@one.test"])),
        subject=draw(WRITTEN),
        text=draw(BODY) if texts[0] else None,
        html=draw(BODY) if texts[1] else None,
        thread=Thread(chain[-1], chain) if chain else Thread(None, ()),
        headers=tuple((name, draw(VALUE)) for name in names),
        attachments=(*inline, *draw(st.lists(FILE, max_size=2))),
        encoding=draw(st.sampled_from(["quoted-printable", "base64"])),
    )


VALUE = WRITTEN.filter(lambda value: headers.refusal("X-Note", value) is None)
SLOW = settings(
    deadline=None,
    max_examples=150,
    # Making such a message smaller takes minutes; it is shown as it is.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def meant(some: Parts) -> tuple[Any, Any]:
    """What the parts say, in the words of `messages.meaning`; nothing of it comes from MIME."""
    clean = message.clean_header_text
    fields: list[tuple[str, Any]] = [("Date", format_datetime(some.date))]
    fields.append(("From", (clean(some.from_name or ""), some.from_email)))
    if some.reply_to and some.reply_to != some.from_email:
        fields.append(("Reply-To", some.reply_to))
    fields += [("To", some.to_email), ("Subject", clean(some.subject)[:540].rstrip())]
    fields.append(("Message-ID", some.message_id))
    if some.thread.in_reply_to:
        fields.append(("In-Reply-To", some.thread.in_reply_to))
        fields.append(("References", " ".join(some.thread.references)))
    fields += [
        ("List-Unsubscribe", f"<{some.unsubscribe_url}>, <{some.unsubscribe_mailto}>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("X-Paceline-Job", some.job_token),
        *((name, clean(value)) for name, value in some.headers),
        ("MIME-Version", "1.0"),
    ]
    bodies: list[Any] = [
        (f"text/{kind}", "utf-8", None, None, message.clean_body(text).rstrip("\n").encode())
        for kind, text in (("plain", some.text), ("html", some.html))
        if text is not None
    ]
    tree: Any = ("multipart/alternative", bodies) if len(bodies) == 2 else bodies[0]
    shown = [one for one in some.attachments if one.content_id and some.html is not None]
    files = [one for one in some.attachments if not one.content_id or some.html is None]
    if shown:
        tree = ("multipart/related", [tree, *(leaf(one, "inline") for one in shown)])
    if files:
        tree = ("multipart/mixed", [tree, *(leaf(one, "attachment") for one in files)])
    names = [clean(one.filename)[:200].rstrip() or "attachment" for one in (*shown, *files)]
    return fields, (tree, names)


def leaf(one: Attachment, disposition: str) -> Any:
    shown = f"<{one.content_id}>" if disposition == "inline" else None
    return one.content_type, None, disposition, shown, one.content


@SLOW
@given(parts())
@example(replace(PARTS, subject="a =?utf-8?q?x?= b", from_name="a\tb\x0bc"))
@example(replace(PARTS, subject="é" * 900, from_name="é" * 200))
@example(replace(PARTS, text="é" * 100_000, html="=\n" * 50_000, encoding="base64"))
@example(replace(PARTS, text=".\n" * 50_000, html="😀 \t\n" * 25_000))
@example(replace(PARTS, text=".\n" * 3, html="--=_a\n"))
@example(replace(PARTS, text="", html="\n\n"))
@example(replace(PARTS, attachments=(Attachment("", "image/png", b"", "x"),), html=None))
def test_the_standard_parser_reads_what_was_meant(some: Parts) -> None:
    if not message.clean_header_text(some.subject):
        some = replace(some, subject="Hello")
    data = build(some)
    assert meaning(data) == meant(some)
    lines = data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not set(b"\r\n\0") & set(data.replace(b"\r\n", b""))
    assert data.isascii()
    head, _, body = data.partition(b"\r\n\r\n")
    assert all(len(line) <= 78 for line in head.split(b"\r\n") if b"=?" in line)
    assert all(
        len(line) <= 76 for line in body.split(b"\r\n") if not re.match(rb"Content-| ", line)
    )


@SLOW
@given(parts())
def test_the_standard_builder_means_the_same(some: Parts) -> None:
    """Given texts that need no cleaning, for `EmailMessage` refuses or keeps what we clean."""
    clean = message.clean_header_text

    def plain(value: str) -> str:
        # EmailMessage decodes an encoded-word that stands in a value.
        return clean(value).replace("=?", "=")[:180].rstrip() or "x"

    some = replace(
        some,
        from_name=plain(some.from_name or ""),
        subject=plain(some.subject),
        text=None if some.text is None else message.clean_body(some.text),
        html=None if some.html is None else message.clean_body(some.html),
        headers=tuple((name, plain(value)) for name, value in some.headers),
        attachments=tuple(replace(one, filename=plain(one.filename)) for one in some.attachments),
    )
    (fields, content), (expected, expected_content) = meaning(build(some)), reference(some)
    assert content == expected_content
    assert [(name, solid(value)) for name, value in fields] == [
        (name, solid(value)) for name, value in expected
    ]


def solid(value: Any) -> str:
    """Return it without blanks: 3.11's folding loses and adds some beside encoded-words."""
    return re.sub(r"\s", "", str(value))


@pytest.mark.parametrize("encoding", ["quoted-printable", "base64"])
def test_no_boundary_occurs_in_content(encoding: Any) -> None:
    first = parse(build(replace(PARTS, encoding=encoding)))
    boundary = first.get_boundary()
    body = f"--{boundary}\n\n{boundary}\n--{boundary}--\n"
    forged = replace(
        PARTS, text=body, html=body, encoding=encoding,
        attachments=(Attachment(f"{boundary}.txt", "text/plain", body.encode()),),
    )  # fmt: skip
    data = build(forged)
    assert meaning(data) == meant(forged)
    assert data.count(b"--" + str(boundary).encode()) == 3


def test_the_same_parts_give_the_same_octets() -> None:
    whole = replace(PARTS, attachments=(Attachment("a.bin", "application/x", b"1"),))
    assert build(whole) == build(whole)
    other = build(replace(whole, message_id="<other@one.test>"))
    assert parse(other).get_boundary() != parse(build(whole)).get_boundary()


@pytest.mark.parametrize(
    ("filename", "fallback"),
    [
        ("report 2026.pdf", None),
        ("Überblick.pdf", "Uberblick.pdf"),
        ('a"b\\c;d%.txt', "a_b_c_d_.txt"),
        ("日本語.xlsx", "___.xlsx"),
        ("=?utf-8?q?x?=.txt", "=_utf-8_q_x_=.txt"),
        ("é" * 190 + ".pdf", "e" * 60),
    ],
)
def test_old_readers_get_a_name_too(filename: str, fallback: str | None) -> None:
    data = build(replace(PARTS, attachments=(Attachment(filename, "application/pdf", b"x"),)))
    field = next(
        part["Content-Disposition"] for part in parse(data).walk() if part["Content-Disposition"]
    )
    assert field.params["filename"] == filename
    head = data.partition(b"Content-Disposition")[2].partition(b"\r\n\r\n")[0]
    assert f'filename="{fallback or filename}"'.encode() in head
    assert all(len(line) <= 78 for line in head.split(b"\r\n"))


@pytest.mark.parametrize("kind", ["message/rfc822", "multipart/mixed", "no type", "text/csv; x=y"])
def test_what_may_not_be_base64_travels_as_a_file(kind: str) -> None:
    data = build(replace(PARTS, attachments=(Attachment("a.eml", kind, b"From: x\r\n\r\ny"),)))
    part = next(iter(parse(data).iter_attachments()))
    assert part.get_content_type() == "application/octet-stream"
    assert part.get_content() == b"From: x\r\n\r\ny"


@given(st.text(max_size=300), st.integers(24, 78))
@settings(deadline=None)
def test_each_encoded_word_stands_alone(value: str, room: int) -> None:
    value = message.clean_header_text(value)
    words = mime._words(value, room).split("\r\n ") if value else []
    assert all(len(word) <= 75 for word in words)
    decoded = [decode_header(word) for word in words]
    assert all(len(one) == 1 and one[0][1] == "utf-8" for one in decoded)
    assert "".join(one[0][0].decode("utf-8") for one in decoded) == value
