"""An RFC 5322 message from rendered parts, safe against what users put into values.

Headers are written here, octet by octet, because Python 3.11's header folding
turns any token longer than a line (a List-Unsubscribe URL, a Message-ID) into
an encoded-word, and decodes encoded-words that stand in a value. Bodies are
the standard library's. The result is parsed again and compared with what was
meant (`verify`); a message that does not say exactly that is not sent.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, policy
from email.header import Header, decode_header, make_header
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from typing import Final, Literal
from urllib.parse import quote

from paceline_sender.domain.conversation import Thread

Encoding = Literal["quoted-printable", "base64"]

_CRLF: Final = "\r\n"
_LINE: Final = 78  # RFC 5322 §2.1.1: SHOULD; 998 is the MUST
_PLAIN: Final = re.compile(r"[ -~]*")
# A dot-atom at a host name (RFC 5321 §4.1.2 without quoted strings and address literals).
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
)
_MAX_SUBJECT: Final = 900


class InvalidMessage(Exception):
    """No message can be made of these parts; `reason` is stable, the text is for people.

    reason: `address_invalid`, `subject_missing`, `message_invalid`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels with the message; a `content_id` makes it an inline image of the HTML.

    `content_type` is `type/subtype` without parameters; `content_id` stands without brackets,
    as `cid:` names it in the HTML.
    """

    filename: str
    content_type: str
    content: bytes
    content_id: str | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """What one message is made of. `date` is the slot's time in the mailbox's zone.

    `headers` are the workspace's own, then the mailbox's. `return_path` is the envelope's
    sender where the transport lets one choose it (`envelope_from`); it is never a header.
    """

    from_name: str | None
    from_email: str
    reply_to: str | None
    to_email: str
    subject: str
    text: str | None
    html: str | None
    message_id: str
    date: datetime
    thread: Thread
    job_token: str
    unsubscribe_url: str
    unsubscribe_mailto: str
    headers: tuple[tuple[str, str], ...] = ()
    attachments: tuple[Attachment, ...] = ()
    encoding: Encoding = "quoted-printable"
    return_path: str | None = None

    @property
    def envelope_from(self) -> str:
        """The envelope's sender (RFC 5321 MAIL FROM)."""
        return self.return_path or self.from_email


def job_mac_input(workspace: str, job: str) -> bytes:
    """Return what the MAC of `X-Paceline-Job` covers (public ids)."""
    return f"job/{workspace}/{job}".encode()


def unsubscribe_mac_input(workspace: str, job: str) -> bytes:
    """Return what the MAC of an unsubscribe link covers (public ids)."""
    return f"unsubscribe/{workspace}/{job}".encode()


def job_token(workspace: str, job: str, mac: str) -> str:
    """Return the value of `X-Paceline-Job`."""
    return f"{job}.{workspace}.{mac}"


def unsubscribe_links(
    public_url: str, mailbox_email: str, workspace: str, job: str, mac: str
) -> tuple[str, str]:
    """Return the HTTPS and the mailto URL of RFC 8058 and RFC 2369."""
    token = f"{workspace}.{job}.{mac}"
    subject = quote(f"unsubscribe {token}", safe="")
    return (
        f"{public_url.rstrip('/')}/u/{token}",
        f"mailto:{quote(mailbox_email, safe='@')}?subject={subject}",
    )


def clean_header_text(value: str) -> str:
    """Return `value` on one line: controls and line separators become spaces.

    Lone surrogates become U+FFFD; runs of white space become one space.
    """
    plain = "".join(
        " "
        if (point := ord(char)) < 0x20 or 0x7F <= point <= 0x9F or point in (0x2028, 0x2029)
        else "\ufffd"
        if 0xD800 <= point <= 0xDFFF
        else char
        for char in value
    )
    return " ".join(plain.split())


def clean_body(value: str) -> str:
    """Return body text with `\\n` line ends, without controls other than tab."""
    lines = value.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        "\ufffd"
        if 0xD800 <= (point := ord(char)) <= 0xDFFF
        else char
        if (point >= 0x20 and point != 0x7F) or char in "\n\t"
        else ""
        for char in lines
    )


def build(parts: Parts) -> bytes:
    """Return the message's bytes, CRLF line ends, 7-bit clean, verified.

    Raises `InvalidMessage`.
    """
    subject = clean_header_text(parts.subject)
    if not subject:
        raise InvalidMessage("subject_missing", "the message has no subject")
    subject = subject[:_MAX_SUBJECT].rstrip()
    for address in (parts.from_email, parts.reply_to, parts.to_email, parts.return_path):
        if address is not None and not is_address(address):
            raise InvalidMessage("address_invalid", "an address cannot be used in an envelope")
    from_name = clean_header_text(parts.from_name or "")
    headers: dict[str, str] = {
        "Date": format_datetime(parts.date),
        "From": _mailbox("From", from_name, parts.from_email),
    }
    if parts.reply_to and parts.reply_to != parts.from_email:
        headers["Reply-To"] = parts.reply_to
    headers["To"] = parts.to_email
    headers["Subject"] = _unstructured("Subject", subject)
    headers["Message-ID"] = parts.message_id
    if parts.thread.in_reply_to:
        headers["In-Reply-To"] = parts.thread.in_reply_to
        headers["References"] = _tokens("References", parts.thread.references)
    headers["List-Unsubscribe"] = _tokens(
        "List-Unsubscribe", (f"<{parts.unsubscribe_url}>,", f"<{parts.unsubscribe_mailto}>")
    )
    headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    headers["X-Paceline-Job"] = parts.job_token
    headers["MIME-Version"] = "1.0"
    text = clean_body(parts.text) if parts.text is not None else None
    html = clean_body(parts.html) if parts.html is not None else None
    data = "".join(f"{name}: {value}{_CRLF}" for name, value in headers.items()).encode(
        "ascii"
    ) + _content(text, html)
    verify(
        data,
        expected={
            "To": parts.to_email,
            "Subject": subject,
            "Message-ID": parts.message_id,
            "X-Paceline-Job": parts.job_token,
            "List-Unsubscribe": f"<{parts.unsubscribe_url}>, <{parts.unsubscribe_mailto}>",
            "In-Reply-To": parts.thread.in_reply_to or "",
            "References": " ".join(parts.thread.references),
        },
        sender=(from_name, parts.from_email),
        names=tuple(headers),
        text=text,
        html=html,
    )
    return data


def is_address(value: str) -> bool:
    """Tell whether `value` can stand in an envelope and a header as it is (RFC 5321, ASCII)."""
    # "=?" could be read as an encoded-word in a header.
    return len(value) <= 254 and "=?" not in value and _ADDRESS.fullmatch(value) is not None


def verify(
    data: bytes,
    *,
    expected: Mapping[str, str],
    sender: tuple[str, str],
    names: tuple[str, ...],
    text: str | None,
    html: str | None,
) -> None:
    """Parse `data` again and compare it with what was meant; raise `InvalidMessage`.

    `names` are all headers, in order, that stand before the content's own;
    `sender` is the name and address shown in From; an empty text means absent.
    """
    # compat32: the default policy's header registry takes ten times as long, and keeps the
    # blank between two encoded-words of a phrase, which RFC 2047 §6.2 drops.
    parsed = message_from_bytes(data, policy=policy.compat32)
    if parsed.defects:
        raise InvalidMessage("message_invalid", "the message does not parse cleanly")
    if [name for name in parsed.keys() if not name.lower().startswith("content-")] != list(names):  # noqa: SIM118 - a message is no mapping
        raise InvalidMessage("message_invalid", "headers do not read back as written")
    fields = {name: "".join(value.splitlines()) for name, value in parsed.items()}
    for name, value in expected.items():
        if _decoded(fields.get(name, "")) != value:
            raise InvalidMessage("message_invalid", f"{name} does not read back as written")
    phrase, address = parseaddr(fields["From"])
    if (_decoded(phrase), address) != sender:
        raise InvalidMessage("message_invalid", "From does not read back as written")
    parts = parsed.get_payload() if parsed.is_multipart() else [parsed]
    wanted = [(kind, body) for kind, body in (("plain", text), ("html", html)) if body is not None]
    if len(parts) != len(wanted):
        raise InvalidMessage("message_invalid", "the body parts do not read back as written")
    for part, (kind, body) in zip(parts, wanted, strict=True):
        got = part.get_payload(decode=True).decode("utf-8").replace("\r\n", "\n")
        if (
            part.defects
            or part.get_content_type() != f"text/{kind}"
            or got.rstrip("\n") != body.rstrip("\n")
        ):
            raise InvalidMessage("message_invalid", "a body does not read back as written")
    if any(len(line) > 998 for line in data.split(b"\r\n")) or not data.isascii():
        raise InvalidMessage("message_invalid", "a line is too long or not ASCII")


def _decoded(field: str) -> str:
    return str(make_header(decode_header(field))) if "=?" in field else field


def _mailbox(header: str, name: str, address: str) -> str:
    if not name:
        return address
    if _PLAIN.fullmatch(name) and "=?" not in name and len(name) <= 60:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{quoted}" <{address}>'
    return f"{_encoded(header, name)}{_CRLF} <{address}>"


def _unstructured(header: str, value: str) -> str:
    if _PLAIN.fullmatch(value) and "=?" not in value:
        return _tokens(header, tuple(value.split(" ")))
    return _encoded(header, value)


def _encoded(header: str, value: str) -> str:
    # An ASCII value with "=?" in it is encoded too, so that it is shown as it is.
    return Header(value, "utf-8", header_name=header, maxlinelen=75).encode(linesep=_CRLF)


def _tokens(header: str, tokens: tuple[str, ...]) -> str:
    lines: list[str] = []
    line, room = "", _LINE - len(header) - 2
    for token in tokens:
        if line and len(line) + 1 + len(token) > room:
            lines.append(line)
            line, room = token, _LINE - 1
        else:
            line = f"{line} {token}" if line else token
    return f"{_CRLF} ".join([*lines, line])


def _content(text: str | None, html: str | None) -> bytes:
    body = EmailMessage(policy=policy.SMTP)
    if text is not None:
        body.set_content(text, cte="quoted-printable")
        if html is not None:
            body.add_alternative(html, subtype="html", cte="quoted-printable")
    elif html is not None:
        body.set_content(html, subtype="html", cte="quoted-printable")
    else:
        raise InvalidMessage("message_invalid", "the message has no body")
    del body["MIME-Version"]
    return body.as_bytes()
