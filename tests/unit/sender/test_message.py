"""The bytes of a message: what users put into values never becomes structure."""

import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paceline_sender.domain import message
from paceline_sender.domain.conversation import Thread
from paceline_sender.domain.message import InvalidMessage, Parts, build

WS, JOB = "ws_0123456789abcdef", "job_fedcba9876543210"
MAC = "1." + "m" * 43
HTTPS, MAILTO = message.unsubscribe_links("https://mail.example", "ann@one.test", WS, JOB, MAC)
PARTS = Parts(
    from_name="Ann One",
    from_email="ann@one.test",
    reply_to=None,
    to_email="bob@two.test",
    subject="Hello",
    text="Hi Bob\n",
    html="<p>Hi Bob</p>\n",
    message_id="<fedcba9876543210.0123456789abcdef@one.test>",
    date=datetime(2026, 11, 20, 9, 0, tzinfo=UTC).astimezone(ZoneInfo("Europe/Berlin")),
    thread=Thread(None, ()),
    job_token=message.job_token(WS, JOB, MAC),
    unsubscribe_url=HTTPS,
    unsubscribe_mailto=MAILTO,
)
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


def parse(data: bytes):  # type: ignore[no-untyped-def]
    return message_from_bytes(data, policy=policy.default)


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
    assert parsed["Subject"] == wanted[:900].rstrip()
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


@pytest.mark.parametrize(
    ("what", "by"),
    [
        (b"Date:", b"Bcc: eve@evil.test\r\nDate:"),
        (b"Subject: Hello", b"Subject: =?utf-8?q?Hell?="),
        (b"To: bob@", b"To: eve@"),
        (b"<ann@one.test>", b"<eve@one.test>"),
        (b"Hi Bob", b"Hi Eve"),
        (b"X-Paceline-Job: job", b"X-Paceline-Job: jib"),
        (b"/u/ws_", b"/u/sw_"),
        (b"text/html", b"text/plain"),
        (b"--\r\n", b"\r\n"),
    ],
)
def test_bytes_that_say_something_else_do_not_verify(what: bytes, by: bytes) -> None:
    data = build(PARTS)
    expected = {
        "Subject": "Hello",
        "To": "bob@two.test",
        "X-Paceline-Job": PARTS.job_token,
        "List-Unsubscribe": f"<{HTTPS}>, <{MAILTO}>",
        "In-Reply-To": "",
    }
    names = tuple(parse(data).keys())[:9]

    def check(data: bytes) -> None:
        message.verify(
            data,
            expected=expected,
            sender=("Ann One", "ann@one.test"),
            names=names,
            text=PARTS.text,
            html=PARTS.html,
        )

    check(data)
    assert what in data
    with pytest.raises(InvalidMessage):
        check(data.replace(what, by))
