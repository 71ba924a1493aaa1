"""Delivery reports of many dialects, read and classified; and anything at all."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_bounce.classify import read_report
from paceline_bounce.domain.dsn import ACTIONS, read
from paceline_providers.classes import classify

SAMPLES = Path(__file__).parents[2] / "data" / "eml"
REPORTS = sorted(SAMPLES.glob("dsn-*.eml"))
TOKEN = "job_5851f42d4c957f2d.ws_5851f42d4c957f2d.1." + "A" * 43
MESSAGE_ID = "<01hq3v8k2c.1@acme.test>"

# name: action, status, code, class
EXPECTED: dict[str, tuple[str, str | None, int | None, str]] = {
    "dsn-exchange": ("failed", "5.1.10", 550, "hard"),
    "dsn-exchange-german": ("failed", "5.7.133", 550, "block"),
    "dsn-exchange-mailbox-disabled": ("failed", "5.2.1", 550, "hard"),
    "dsn-exim": ("failed", "5.1.1", 550, "hard"),
    "dsn-exim-report": ("failed", "5.0.0", 550, "hard"),
    "dsn-exim-warning": ("delayed", None, None, "soft"),
    "dsn-forged": ("failed", "5.1.1", 550, "hard"),
    "dsn-gmail": ("failed", "5.1.1", 550, "hard"),
    "dsn-gmail-delay": ("delayed", "4.4.1", None, "soft"),
    "dsn-gmail-limit": ("failed", "4.4.2", None, "limit"),
    "dsn-nothing-returned": ("failed", "5.1.1", 550, "hard"),
    "dsn-postfix-delayed": ("delayed", "4.4.1", None, "soft"),
    "dsn-postfix-delivered": ("delivered", "2.0.0", 250, "soft"),
    "dsn-postfix-expired": ("failed", "4.4.1", 451, "soft"),
    "dsn-postfix-forwarded": ("failed", "5.1.1", 550, "hard"),
    "dsn-postfix-full-message": ("failed", "5.1.1", 550, "hard"),
    "dsn-postfix-mailbox-full": ("failed", "5.2.2", 552, "soft"),
    "dsn-postfix-no-domain": ("failed", "5.4.4", None, "hard"),
    "dsn-postfix-null-mx": ("failed", "5.1.0", 556, "hard"),
    "dsn-postfix-other-recipient": ("failed", "5.1.1", 550, "hard"),
    "dsn-postfix-relayed": ("relayed", "2.0.0", 250, "soft"),
    "dsn-postfix-spamhaus": ("failed", "5.7.1", 554, "block"),
    "dsn-postfix-unknown-user": ("failed", "5.1.1", 550, "hard"),
    "dsn-postfix-vague": ("failed", "5.0.0", 550, "hard"),
    "dsn-postfix-xtext": ("failed", "5.1.1", 550, "hard"),
    "dsn-qmail": ("failed", "5.1.1", 550, "hard"),
    "dsn-sendmail": ("failed", "5.1.1", 550, "hard"),
    "dsn-truncated": ("failed", "5.1.1", None, "hard"),
    "dsn-two-recipients": ("failed", "5.1.1", 550, "hard"),
    "dsn-utf8": ("failed", "5.1.1", 550, "hard"),
    "dsn-workmail": ("failed", "5.1.1", 550, "hard"),
    "dsn-yahoo": ("failed", None, 554, "hard"),
    "dsn-zoho": ("failed", "5.4.1", 550, "hard"),
}


def test_every_sample_has_an_expectation() -> None:
    assert {path.stem for path in REPORTS} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_each_dialect_tells_who_what_and_why(name: str) -> None:
    _, recipients = read_report((SAMPLES / f"{name}.eml").read_bytes())

    last = recipients[-1]
    meaning = classify(last.code, last.status, last.diagnostic, "dsn")
    assert (last.action, last.status, last.code, meaning) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("dsn-qmail", ("lee@client.test",)),
        ("dsn-yahoo", ("lee@client.test",)),
        ("dsn-exim", ("lee@client.test",)),
        ("dsn-exchange", ("lee@client.test",)),
        ("dsn-utf8", ("müller@client.test",)),
        ("dsn-postfix-forwarded", ("lee@client.test", "lee.private@elsewhere.test")),
        (
            "dsn-postfix-xtext",
            ("lee+2btag@client.test", "lee+tag@client.test", "alias@elsewhere.test"),
        ),
    ],
)
def test_the_recipient_is_named_in_every_spelling(name: str, addresses: tuple[str, ...]) -> None:
    _, recipients = read_report((SAMPLES / f"{name}.eml").read_bytes())

    assert recipients[0].addresses == addresses


@pytest.mark.parametrize(
    "address", ["lee445@client.test", "a.451-x@client.test", "550@5.7.1.test", "x+421@b.test"]
)
@pytest.mark.parametrize("name", ["dsn-yahoo", "dsn-qmail", "dsn-postfix-unknown-user"])
def test_digits_of_an_address_are_not_taken_for_a_code(name: str, address: str) -> None:
    raw = (SAMPLES / f"{name}.eml").read_text().replace("lee@client.test", address).encode()

    _, (recipient,) = read_report(raw)

    assert recipient.addresses[0] == address
    assert (recipient.status, recipient.code) == EXPECTED[name][1:3]


def test_recipients_of_one_report_are_told_apart() -> None:
    report = read((SAMPLES / "dsn-two-recipients.eml").read_bytes())

    assert [(one.addresses, one.action) for one in report.recipients] == [
        (("first@client.test",), "delivered"),
        (("lee@client.test",), "failed"),
    ]


# What the report itself does not return cannot be found in it.
WITHOUT_TOKEN = {
    "dsn-exim-warning", "dsn-gmail", "dsn-gmail-delay", "dsn-gmail-limit",
    "dsn-nothing-returned", "dsn-truncated", "dsn-workmail", "dsn-forged",
}  # fmt: skip
WITHOUT_ID = {"dsn-exim-warning", "dsn-truncated", "dsn-forged"}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_returned_message_is_recognised(name: str) -> None:
    raw = (SAMPLES / f"{name}.eml").read_bytes()

    for report in (read(raw), read(raw.replace(b"\n", b"\r\n"))):
        if "delay" not in name or name == "dsn-postfix-delayed":
            assert (TOKEN in report.tokens) == (name not in WITHOUT_TOKEN)
        assert (MESSAGE_ID in report.message_ids) == (name not in WITHOUT_ID)


def test_a_report_does_not_name_itself_as_the_returned_message() -> None:
    report = read((SAMPLES / "dsn-gmail.eml").read_bytes())

    assert report.message_ids == (MESSAGE_ID,)


def test_a_returned_message_is_found_inside_base64() -> None:
    import base64

    inner = base64.encodebytes(f"Message-ID: {MESSAGE_ID}\nX-Paceline-Job: {TOKEN}\n".encode())
    report = read(
        b'Content-Type: multipart/report; boundary="x"\n\n--x\nContent-Type: text/rfc822-headers\n'
        b"Content-Transfer-Encoding: base64\n\n" + inner + b"\n--x--\n"
    )

    assert report.tokens == (TOKEN,)
    assert report.message_ids == (MESSAGE_ID,)


def test_a_thousand_nested_parts_are_no_report() -> None:
    nested = b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (n, n) for n in range(1500)
    )

    assert read_report(nested)[1] == ()


@given(st.binary(max_size=4000))
def test_reading_never_fails_on_any_bytes(raw: bytes) -> None:
    read_report(raw)


@given(st.sampled_from(REPORTS), st.data())
def test_damaged_reports_are_read_and_every_recipient_gets_a_verdict(
    path: Path, data: st.DataObject
) -> None:
    raw = path.read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 200)))

    _, recipients = read_report(raw[:start] + data.draw(st.binary(max_size=60)) + raw[end:])

    for one in recipients:
        assert one.action in ACTIONS
        assert one.addresses
        assert "\x00" not in one.diagnostic
        classify(one.code, one.status, one.diagnostic, "dsn")
