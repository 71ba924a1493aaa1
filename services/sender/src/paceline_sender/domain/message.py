"""An RFC 5322 message from rendered parts, safe against what users put into values.

Here stands what a message says; `mime` writes it and `readback` reads the octets again. A
message that does not say exactly what was meant is not sent.
"""

import re
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Final, Literal
from urllib.parse import quote

from paceline_common import headers
from paceline_sender.domain import conversation, mime, readback
from paceline_sender.domain.conversation import Thread
from paceline_sender.domain.mime import Encoding, Entity, Leaf, Mailbox, Multipart, Text, Tokens

# A dot-atom at a host name (RFC 5321 §4.1.2 without quoted strings and address literals).
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
)
_MAX_FILENAME: Final = 200
# C0 and C1 controls, line and paragraph separators.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# RFC 6838 §4.2.
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
_CONTENT_ID: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=^_`{|}~.@-]{1,200}")


class InvalidMessage(Exception):
    """No message can be made of these parts; `reason` is stable, the text is for people.

    reason: `address_invalid`, `subject_missing`, `header_invalid`, `attachment_invalid`,
    `message_too_large`, `message_invalid`.
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
    if not value.isascii():
        value = _SURROGATE.sub("\ufffd", value)
    if not value.isprintable():
        value = _CONTROL.sub(" ", value)
    return " ".join(value.split())


def clean_body(value: str) -> str:
    """Return body text as the recipient gets it: `\\n` line ends, no controls other than tab."""
    return mime.text_octets(value).decode().replace("\r\n", "\n")


def build(parts: Parts, *, at_most: int | None = None) -> bytes:
    """Return the message's bytes: CRLF line ends, 7 bit, read back and compared.

    Raises `InvalidMessage`, also for a message of more than `at_most` octets.
    """
    fields, entity = meaning(parts)
    head, body = mime.write(entity, parts.message_id)
    lines = "".join([mime.field(field) for field in fields])
    data = f"{lines}{head}\r\n".encode("ascii", "replace") + body
    try:
        readback.compare(data, fields, entity)
    except readback.Differs as difference:
        raise InvalidMessage("message_invalid", str(difference)) from None
    if at_most is not None and len(data) > at_most:
        text = f"the message has {len(data)} octets, {at_most} are taken"
        raise InvalidMessage("message_too_large", text)
    return data


def meaning(parts: Parts) -> tuple[list[mime.Field], Entity]:
    """Return the fields, in order, and the content that a message of `parts` has.

    Raises `InvalidMessage`.
    """
    for address in (parts.from_email, parts.reply_to, parts.to_email, parts.return_path):
        if address is not None and not is_address(address):
            raise InvalidMessage("address_invalid", "an address cannot be used in an envelope")
    return _fields(parts), _entity(parts)


def is_address(value: str) -> bool:
    """Tell whether `value` can stand in an envelope and a header as it is (RFC 5321, ASCII)."""
    # "=?" could be read as an encoded-word in a header.
    return len(value) <= 254 and "=?" not in value and _ADDRESS.fullmatch(value) is not None


def _fields(parts: Parts) -> list[mime.Field]:
    subject = clean_header_text(parts.subject)
    if not subject:
        raise InvalidMessage("subject_missing", "the message has no subject")
    from_email, thread = parts.from_email, parts.thread
    fields: list[mime.Field] = [
        Tokens("Date", (format_datetime(parts.date),)),
        Mailbox("From", clean_header_text(parts.from_name or ""), from_email),
    ]
    if parts.reply_to and parts.reply_to != from_email:
        fields.append(Tokens("Reply-To", (parts.reply_to,)))
    fields += (
        Tokens("To", (parts.to_email,)),
        Text("Subject", subject[: conversation.MAX_SUBJECT].rstrip()),
        Tokens("Message-ID", (parts.message_id,)),
    )
    if thread.in_reply_to:
        fields += (
            Tokens("In-Reply-To", (thread.in_reply_to,)),
            Tokens("References", thread.references),
        )
    fields += (
        Tokens(
            "List-Unsubscribe", (f"<{parts.unsubscribe_url}>,", f"<{parts.unsubscribe_mailto}>")
        ),
        Tokens("List-Unsubscribe-Post", ("List-Unsubscribe=One-Click",)),
        Tokens("X-Paceline-Job", (parts.job_token,)),
    )
    for name, value in parts.headers:
        if (refused := headers.refusal(name, value)) is not None:
            raise InvalidMessage("header_invalid", f"{name}: {refused.text}")
        fields.append(Text(name, clean_header_text(value)))
    fields.append(Tokens("MIME-Version", ("1.0",)))
    return fields


def _entity(parts: Parts) -> Entity:
    """Return mixed(related(alternative(text, html), inline…), attachments…), as far as needed."""
    bodies = tuple(
        Leaf(f'text/{subtype}; charset="utf-8"', mime.text_octets(value), parts.encoding)
        for subtype, value in (("plain", parts.text), ("html", parts.html))
        if value is not None
    )
    if not bodies:
        raise InvalidMessage("message_invalid", "the message has no body")
    entity: Entity = bodies[0] if len(bodies) == 1 else Multipart("alternative", bodies)
    if not parts.attachments:
        return entity
    # Without HTML nothing can show an image in its place.
    inline: list[Attachment] = []
    files: list[Attachment] = []
    for one in parts.attachments:
        (inline if one.content_id and parts.html is not None else files).append(one)
    if inline:
        if len({one.content_id for one in inline}) < len(inline):
            raise InvalidMessage("attachment_invalid", "two inline attachments have one id")
        entity = Multipart("related", (entity, *map(_inline, inline)))
    if files:
        entity = Multipart("mixed", (entity, *(_file(one, "attachment") for one in files)))
    return entity


def _inline(attachment: Attachment) -> Leaf:
    content_id = attachment.content_id or ""
    if _CONTENT_ID.fullmatch(content_id) is None:
        raise InvalidMessage("attachment_invalid", "an inline attachment's id cannot be written")
    return _file(attachment, "inline")._replace(content_id=content_id)


def _file(attachment: Attachment, disposition: Literal["inline", "attachment"]) -> Leaf:
    kind = attachment.content_type.lower()
    # RFC 2046 §5.2.1: a message may not be base64; as any file it may.
    if _TYPE.fullmatch(kind) is None or kind.startswith(("multipart/", "message/")):
        kind = "application/octet-stream"
    name = clean_header_text(attachment.filename)[:_MAX_FILENAME].rstrip() or "attachment"
    return Leaf(kind, attachment.content, "base64", disposition, name)
