"""Gmail's resources as the discovery document describes them: messages, parts, attachments."""

import base64
from collections.abc import Collection
from email.message import EmailMessage
from typing import Any

from tests.twins.gmail.mailbox import Refused, Stored


def rendered(
    stored: Stored, form: str = "full", only: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the Message resource in one of its formats; `only`: headers wanted in `metadata`."""
    shown: dict[str, Any] = {
        "id": stored.id,
        "threadId": stored.thread_id,
        "labelIds": sorted(stored.labels),
        "sizeEstimate": len(stored.raw),
        "historyId": str(stored.history_id),
        "internalDate": str(int(stored.at.timestamp() * 1000)),
        "snippet": _snippet(stored.parsed),
    }
    match form:
        case "raw":
            shown["raw"] = base64.urlsafe_b64encode(stored.raw).decode()
        case "full":
            shown["payload"] = _part(stored.parsed, "")
        case "metadata":
            wanted = None if only is None else {name.lower() for name in only}
            payload = _part(stored.parsed, "")
            shown["payload"] = {
                "mimeType": payload["mimeType"],
                "headers": [
                    one
                    for one in payload["headers"]
                    if wanted is None or one["name"].lower() in wanted
                ],
            }
    return shown


def _part(part: EmailMessage, number: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "partId": number,
        "mimeType": part.get_content_type(),
        "filename": part.get_filename() or "",
        "headers": [{"name": name, "value": str(value)} for name, value in part.items()],
    }
    if part.is_multipart():
        shown["body"] = {"size": 0}
        shown["parts"] = [
            _part(one, f"{number}.{at}".removeprefix("."))
            for at, one in enumerate(part.iter_parts())
            if isinstance(one, EmailMessage)
        ]
        return shown
    data = content_of(part)
    if shown["filename"]:
        # Attachments are asked for by themselves (users.messages.attachments.get).
        shown["body"] = {"attachmentId": f"ANGjdJ{number}", "size": len(data)}
    else:
        shown["body"] = {"size": len(data), "data": base64.urlsafe_b64encode(data).decode()}
    return shown


def content_of(part: EmailMessage) -> bytes:
    """Return a part's bytes, decoded."""
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def attachment(stored: Stored, attachment_id: str) -> bytes:
    """Return an attachment by its place in the message; 404."""
    part: EmailMessage | None = stored.parsed
    for number in attachment_id.removeprefix("ANGjdJ").split("."):
        inner = list(part.iter_parts()) if part is not None and part.is_multipart() else []
        found = inner[int(number)] if number.isdecimal() and int(number) < len(inner) else None
        part = found if isinstance(found, EmailMessage) else None
    if part is None:
        raise Refused(404, "notFound", "Requested entity was not found.")
    return content_of(part)


def _snippet(message: EmailMessage) -> str:
    body = message.get_body(("plain", "html"))
    if body is None or body.is_multipart():
        return ""
    return " ".join(str(body.get_content()).split())[:200]
