"""Graph's resources as Microsoft describes them: messages, recipients, attachments."""

import base64
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from tests.twins.graph.mailbox import Item, Mailbox


def recipient(pair: tuple[str, str]) -> dict[str, Any]:
    """Return the `recipient` resource."""
    return {"emailAddress": {"name": pair[0] or pair[1], "address": pair[1]}}


def stamp(at: datetime) -> str:
    """Return a DateTimeOffset as Graph writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def rendered(mailbox: Mailbox, item: Item, *, immutable: bool) -> dict[str, Any]:
    """Return the `message` resource, `internetMessageHeaders` and all."""
    text = item.body
    headers = [] if mailbox.conduct.hides_headers else item.headers
    change_key = base64.b64encode(f"twin{item.changed:012}".encode()).decode()
    return {
        "@odata.etag": f'W/"{change_key}"',
        "id": item.immutable_id if immutable else item.regular_id,
        "createdDateTime": stamp(item.created_at),
        "lastModifiedDateTime": stamp(item.changed_at),
        "changeKey": change_key,
        "categories": [],
        "receivedDateTime": stamp(item.received_at),
        "sentDateTime": stamp(item.sent_at),
        "hasAttachments": item.has_attachments,
        "internetMessageId": item.internet_message_id,
        "subject": item.subject,
        "bodyPreview": text[:255],
        "importance": "normal",
        "parentFolderId": mailbox.folder_id(item.folder),
        "conversationId": item.conversation_id,
        "conversationIndex": base64.b64encode(item.conversation_id.encode()[:22]).decode(),
        "isDeliveryReceiptRequested": None,
        "isReadReceiptRequested": False,
        "isRead": item.is_read,
        "isDraft": item.is_draft,
        "webLink": "https://outlook.office365.com/owa/?ItemID=twin",
        "inferenceClassification": "focused",
        "body": {"contentType": "html" if item.is_html else "text", "content": text},
        "sender": recipient(item.sender),
        "from": recipient(item.sender),
        "toRecipients": [recipient(pair) for pair in item.recipients["to"]],
        "ccRecipients": [recipient(pair) for pair in item.recipients["cc"]],
        "bccRecipients": [recipient(pair) for pair in item.recipients["bcc"]],
        "replyTo": [recipient(pair) for pair in item.reply_to],
        "flag": {"flagStatus": "notFlagged"},
        "internetMessageHeaders": [{"name": name, "value": value} for name, value in headers],
    }


def attached(item: Item) -> list[dict[str, Any]]:
    """Return the `fileAttachment` resources of an item."""
    parsed = message_from_bytes(item.mime, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    found = []
    for number, part in enumerate(parsed.iter_attachments()):
        content = part.get_payload(decode=True)
        data = content if isinstance(content, bytes) else b""
        found.append(
            {
                "@odata.type": "#microsoft.graph.fileAttachment",
                "id": f"{item.immutable_id}{number}",
                "name": part.get_filename() or "",
                "contentType": part.get_content_type(),
                "size": len(data),
                "isInline": part.get_content_disposition() == "inline",
                "contentId": part["Content-ID"],
                "contentBytes": base64.b64encode(data).decode(),
            }
        )
    return found
