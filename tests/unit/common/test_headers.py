"""Headers that a user may set: what a message means, where it goes and its proof stay ours."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_common import headers
from paceline_common.headers import MAX_HEADERS, MAX_VALUE, SENTENCES, refusal


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Content-Type", "header_structural"),
        ("content-anything", "header_structural"),
        ("MIME-Version", "header_structural"),
        ("From", "header_identity"),
        ("BCC", "header_identity"),
        ("Subject", "header_identity"),
        ("Message-ID", "header_identity"),
        ("References", "header_identity"),
        ("Thread-Index", "header_identity"),
        ("X-Receiver", "header_identity"),
        ("Received", "header_trace"),
        ("Received-SPF", "header_trace"),
        ("Return-Path", "header_trace"),
        ("Resent-To", "header_trace"),
        ("DKIM-Signature", "header_trace"),
        ("ARC-Seal", "header_trace"),
        ("X-Spam-Status", "header_trace"),
        ("List-Unsubscribe", "header_own"),
        ("list-unsubscribe-post", "header_own"),
        ("X-Paceline-Anything", "header_own"),
        ("X-SMTPAPI", "header_directive"),
        ("X-MC-BccAddress", "header_directive"),
        ("Deferred-Delivery", "header_directive"),
        ("Disposition-Notification-To", "header_directive"),
        ("", "header_name_invalid"),
        ("X Two", "header_name_invalid"),
        ("X-É", "header_name_invalid"),
        ("X-A:", "header_name_invalid"),
        ("X-A\r\nBcc", "header_name_invalid"),
        ("X-A\n", "header_name_invalid"),
        ("X-" + "a" * 49, "header_name_invalid"),
    ],
)
def test_a_header_that_is_not_the_users_is_refused_with_its_reason(name: str, reason: str) -> None:
    refused = refusal(name, "value")
    assert refused is not None
    assert (refused.name, refused.reason) == (name, reason)
    assert refused.text == SENTENCES[refused.reason]


@pytest.mark.parametrize(
    "name",
    ["X-Campaign", "Feedback-ID", "List-Id", "Organization", "Importance", "X-Priority",
     "Precedence", "Auto-Submitted", "X-Mailer", "Listen", "X-Jobs", "Contents", "Tone", "Fromage"],
)  # fmt: skip
def test_other_headers_may_be_set(name: str) -> None:
    assert refusal(name, "значение 😀") is None


@pytest.mark.parametrize(
    "value", ["", "  ", "a\r\nBcc: x@y", "a\nb", "a\x00", "a\x85b", "a\u2028b", "\ud800", "x" * 901]
)
def test_a_value_is_one_line_of_text(value: str) -> None:
    refused = refusal("X-Note", value)
    assert refused is not None
    assert refused.reason == "header_value_invalid"
    assert refusal("X-Note", "x" * MAX_VALUE) is None


def test_a_list_of_headers_has_no_name_twice_and_an_end() -> None:
    assert headers.first_refusal([("X-A", "1"), ("X-B", "2")]) is None
    twice = headers.first_refusal([("X-A", "1"), ("x-a", "2")])
    assert twice is not None
    assert twice.reason == "header_repeated"
    many = [(f"X-{n}", "v") for n in range(MAX_HEADERS)]
    assert headers.first_refusal(many) is None
    too_many = headers.first_refusal([*many, ("X-Last", "v")])
    assert too_many is not None
    assert too_many.reason == "headers_too_many"


def test_the_mailbox_has_the_last_word_and_forbidden_names_fall_out() -> None:
    merged = headers.merged(
        [("X-A", "workspace"), ("X-B", "workspace"), ("Bcc", "eve@evil.test")],
        [("x-a", "mailbox"), ("X-Paceline-Job", "forged"), ("X-C", "mailbox")],
    )
    assert merged == (("X-B", "workspace"), ("x-a", "mailbox"), ("X-C", "mailbox"))


@given(st.binary(max_size=500))
def test_the_size_of_base64_is_known_before_it_is_made(content: bytes) -> None:
    encoded = base64.encodebytes(content).replace(b"\n", b"\r\n")
    assert headers.encoded_size(len(content)) == len(encoded)
