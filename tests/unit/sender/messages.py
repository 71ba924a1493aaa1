"""A message's parts, and what the standard library makes of them: written and read."""

import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.utils import parseaddr
from typing import Any
from zoneinfo import ZoneInfo

from paceline_sender.domain import message
from paceline_sender.domain.conversation import Thread
from paceline_sender.domain.message import Parts

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


def parse(data: bytes) -> EmailMessage:
    """Read with the modern parser."""
    parsed = message_from_bytes(data, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def standard(parts: Parts) -> EmailMessage:
    """Build the same message with `EmailMessage`; texts as they are, so without controls."""
    built = EmailMessage(policy=policy.SMTP)
    built["Date"] = parts.date
    local, _, domain = parts.from_email.partition("@")
    built["From"] = Address(parts.from_name or "", local, domain)
    if parts.reply_to and parts.reply_to != parts.from_email:
        built["Reply-To"] = parts.reply_to
    built["To"] = parts.to_email
    built["Subject"] = parts.subject
    built["Message-ID"] = parts.message_id
    if parts.thread.in_reply_to:
        built["In-Reply-To"] = parts.thread.in_reply_to
        built["References"] = " ".join(parts.thread.references)
    built["List-Unsubscribe"] = f"<{parts.unsubscribe_url}>, <{parts.unsubscribe_mailto}>"
    built["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    built["X-Paceline-Job"] = parts.job_token
    for name, value in parts.headers:
        built[name] = value
    kinds = [("plain", parts.text), ("html", parts.html)]
    bodies = [(kind, text) for kind, text in kinds if text is not None]
    inline = [one for one in parts.attachments if one.content_id and parts.html is not None]
    # It takes no alternative into a related; Gmail and Outlook write them so.
    root = EmailMessage(policy=policy.SMTP) if inline and len(bodies) == 2 else built
    first, *others = bodies
    root.set_content(first[1], subtype=first[0], cte=parts.encoding)
    for kind, text in others:
        root.add_alternative(text, subtype=kind, cte=parts.encoding)
    if root is not built:
        del root["MIME-Version"]
        built.make_related()
        built.attach(root)
    for one in parts.attachments:
        kind, subtype = one.content_type.split("/")
        add = built.add_related if one in inline else built.add_attachment
        add(
            one.content,
            maintype=kind,
            subtype=subtype,
            cte="base64",
            disposition="inline" if one in inline else "attachment",
            filename=one.filename,
            cid=f"<{one.content_id}>" if one in inline else None,
        )
    if "MIME-Version" not in built:
        built["MIME-Version"] = "1.0"
    return built


def meaning(data: bytes) -> tuple[Any, Any]:
    """Return what the standard library reads: header fields in order, and the content's tree.

    Fields come from the old parser: the new one keeps the blank between two encoded-words of
    a phrase, which RFC 2047 §6.2 drops. File names come from the new one, which knows that
    RFC 2231's is meant.
    """
    parsed = message_from_bytes(data, policy=policy.compat32)
    fields = [
        (name, _phrase(value) if name == "From" else _decoded(value))
        for name, value in parsed.items()
        if not name.lower().startswith("content-")
    ]
    return fields, (_tree(parsed), _names(parse(data)))


def same_meaning(data: bytes, parts: Parts) -> bool:
    """Tell whether the standard library reads `data` as it reads the message of `parts`."""
    return meaning(data) == meaning(message.build(parts))


def reference(parts: Parts) -> tuple[Any, Any]:
    """Return what the standard library reads in what it wrote itself."""
    fields, content = meaning(standard(parts).as_bytes())
    # It writes MIME-Version where the content is set.
    version = ("MIME-Version", "1.0")
    return [*(one for one in fields if one != version), version], content


def _unfolded(value: Any) -> str:
    return re.sub(r"\r?\n(?=[ \t])", "", str(value))


def _decoded(value: Any) -> str:
    value = _unfolded(value)
    return str(make_header(decode_header(value))) if "=?" in value else value.strip()


def _phrase(value: Any) -> tuple[str, str]:
    phrase, address = parseaddr(_unfolded(value))
    return _decoded(phrase), address


def _tree(part: Message) -> Any:
    assert not part.defects
    if part.is_multipart():
        return part.get_content_type(), [_tree(one) for one in part.get_payload()]  # type: ignore[arg-type]
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    if part.get_content_maintype() == "text" and part.get_content_disposition() is None:
        # Where a text's last line ends is not the same for all who write mail.
        content = content.replace(b"\r\n", b"\n").rstrip(b"\n")
    return (
        part.get_content_type(),
        part.get_content_charset(),
        part.get_content_disposition(),
        part.get("Content-ID"),
        content,
    )


def _names(parsed: EmailMessage) -> list[str | None]:
    return [
        dict(part["Content-Disposition"].params).get("filename")
        for part in parsed.walk()
        if part["Content-Disposition"] is not None
    ]
