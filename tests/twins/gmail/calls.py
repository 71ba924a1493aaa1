"""The Gmail API's methods: what each does to a mailbox, and its answer."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from email import message_from_bytes, policy
from typing import Any, Final, TypeVar

from tests.twins.gmail.mailbox import SYSTEM_LABELS, Mailbox, Refused, Stored, rendered
from tests.twins.gmail.oauth import PREFIX, Access
from tests.twins.gmail.operations import Asked
from tests.twins.gmail.search import matcher

_Item = TypeVar("_Item")

_HISTORY_FIELDS: Final = {
    "messageAdded": "messagesAdded",
    "messageDeleted": "messagesDeleted",
    "labelAdded": "labelsAdded",
    "labelRemoved": "labelsRemoved",
}
_BLANK_LINE: Final = re.compile(rb"\r?\n\r?\n")
_MAX_BYTES: Final = 36_700_160
# PROVIDERS §1.2: raw in JSON works up to a body of 5 MB.
_MAX_JSON_BYTES: Final = 5_242_880


@dataclass
class Call:
    """One request to one mailbox; parameters may repeat."""

    mailbox: Mailbox
    access: Access
    asked: Asked
    parameters: dict[str, list[str]]
    content_type: str
    body: bytes
    is_upload: bool

    def run(self) -> dict[str, Any] | None:
        """Do it; None where the answer is empty."""
        handlers: dict[str, Callable[[], dict[str, Any] | None]] = {
            "users.getProfile": self._profile,
            "users.messages.send": self._send,
            "users.messages.list": self._list,
            "users.messages.get": self._get,
            "users.messages.modify": self._modify,
            "users.drafts.send": self._send_draft,
            "users.drafts.create": self._create_draft,
            "users.drafts.list": self._list_drafts,
            "users.drafts.get": self._get_draft,
            "users.drafts.delete": self._delete_draft,
            "users.threads.get": self._thread,
            "users.history.list": self._history,
            "users.labels.list": self._labels,
        }
        self.mailbox.spend(self.asked.operation.units)
        return handlers[self.asked.name]()

    def _profile(self) -> dict[str, Any]:
        return {
            "emailAddress": self.mailbox.email,
            "messagesTotal": len(self.mailbox.messages),
            "threadsTotal": len({one.thread_id for one in self.mailbox.messages.values()}),
            "historyId": str(self.mailbox.history_id),
        }

    # ---- sending

    def _send(self) -> dict[str, Any]:
        raw, resource = self._message(lambda document: document)
        return _brief(self.mailbox.send(raw, resource.get("threadId")))

    def _create_draft(self) -> dict[str, Any]:
        raw, resource = self._message(lambda document: document.get("message", {}))
        draft_id = self.mailbox.create_draft(raw, resource.get("threadId"))
        return {"id": draft_id, "message": _brief(self.mailbox.draft(draft_id))}

    def _send_draft(self) -> dict[str, Any]:
        return _brief(self.mailbox.send_draft(str(self._json(self.body).get("id"))))

    def _message(
        self, resource_of: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> tuple[bytes, dict[str, Any]]:
        """Return the RFC 5322 bytes and the Message resource that a request brings."""
        if not self.is_upload:
            if len(self.body) > _MAX_JSON_BYTES:
                raise Refused(413, "uploadTooLarge", "Request Entity Too Large")
            resource = resource_of(self._json(self.body))
            try:
                return base64.urlsafe_b64decode(resource["raw"] + "=="), resource
            except (KeyError, TypeError, binascii.Error):
                raise Refused(
                    400, "invalidArgument",
                    "'raw' RFC822 payload message string or uploading message via /upload/* URL "
                    "required",
                ) from None  # fmt: skip
        if len(self.body) > _MAX_BYTES:
            raise Refused(413, "uploadTooLarge", "Request Entity Too Large")
        if self.parameters.get("uploadType") == ["media"]:
            if not self.content_type.startswith("message/"):
                raise Refused(400, "badContent", f"Media type '{self.content_type}' not supported")
            return self.body, {}
        if self.parameters.get("uploadType") == ["multipart"]:
            return self._parts(resource_of)
        raise Refused(400, "badRequest", "The upload type is not known")

    def _parts(
        self, resource_of: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> tuple[bytes, dict[str, Any]]:
        head = message_from_bytes(
            f"Content-Type: {self.content_type}\r\n\r\n".encode(), policy=policy.default
        )
        # Google's own client frames its parts with bare line ends.
        boundary = rb"\r?\n--" + re.escape(f"{head.get_boundary()}".encode())
        parts = re.split(boundary, b"\n" + self.body)[1:-1]
        whole = len(parts) == 2 and all(_BLANK_LINE.search(part) for part in parts)
        if head.get_content_type() != "multipart/related" or not whole:
            raise Refused(400, "badContent", "Malformed multipart body.")
        (_, document), (kind, raw) = (_BLANK_LINE.split(part, maxsplit=1) for part in parts)
        if b"message/rfc822" not in kind.lower():
            raise Refused(400, "badContent", "Media type not supported")
        return raw, resource_of(self._json(document))

    def _json(self, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
        except ValueError:
            raise Refused(400, "parseError", "Parse Error") from None
        if not isinstance(document, dict):
            raise Refused(400, "parseError", "Parse Error")
        return document

    # ---- drafts

    def _get_draft(self) -> dict[str, Any]:
        stored = self.mailbox.draft(self.asked.item)
        return {"id": self.asked.item, "message": rendered(stored, self._one("format", "full"))}

    def _list_drafts(self) -> dict[str, Any]:
        found = [
            {"id": draft_id, "message": {"id": one.id, "threadId": one.thread_id}}
            for draft_id in self.mailbox.drafts
            if matcher(self._one("q", ""))(one := self.mailbox.draft(draft_id))
        ]
        return self._paged("drafts", found) | {"resultSizeEstimate": len(found)}

    def _delete_draft(self) -> None:
        self.mailbox.delete_draft(self.asked.item)

    # ---- reading

    def _list(self) -> dict[str, Any]:
        query = self._one("q", "")
        if query and self.access.scopes.isdisjoint(
            {"https://mail.google.com/", f"{PREFIX}gmail.modify", f"{PREFIX}gmail.readonly"}
        ):
            raise Refused(403, "forbidden", "Metadata scope does not support 'q' parameter")
        fits = matcher(query)
        hidden = set() if self._one("includeSpamTrash", "false") == "true" else {"SPAM", "TRASH"}
        found = [
            {"id": one.id, "threadId": one.thread_id}
            for one in reversed(self.mailbox.messages.values())
            if one.visible_at <= self.mailbox.now()
            and not one.labels & hidden
            and set(self.parameters.get("labelIds", ())) <= one.labels
            and fits(one)
        ]
        return self._paged("messages", found) | {"resultSizeEstimate": len(found)}

    def _get(self) -> dict[str, Any]:
        form = self._one("format", "full")
        if form in ("full", "raw") and self.access.scopes.isdisjoint(
            {"https://mail.google.com/", f"{PREFIX}gmail.modify", f"{PREFIX}gmail.readonly"}
        ):
            raise Refused(403, "forbidden", f"Metadata scope doesn't allow format {form.upper()}")
        return rendered(
            self.mailbox.find(self.asked.item), form, self.parameters.get("metadataHeaders")
        )

    def _modify(self) -> dict[str, Any]:
        change = self._json(self.body)
        return _brief(
            self.mailbox.relabel(
                self.asked.item, change.get("addLabelIds", ()), change.get("removeLabelIds", ())
            )
        )

    def _thread(self) -> dict[str, Any]:
        messages = self.mailbox.thread(self.asked.item)
        form, only = self._one("format", "full"), self.parameters.get("metadataHeaders")
        return {
            "id": self.asked.item,
            "historyId": str(max(one.history_id for one in messages)),
            "messages": [rendered(one, form, only) for one in messages],
        }

    def _history(self) -> dict[str, Any]:
        start = self._one("startHistoryId", "")
        if not start.isdecimal():
            raise Refused(400, "invalidArgument", "Missing or invalid startHistoryId")
        if not self.mailbox.history_floor <= int(start) <= self.mailbox.history_id:
            raise Refused(404, "notFound", "Requested entity was not found.")
        kinds, label = self.parameters.get("historyTypes"), self._one("labelId", "")
        records = []
        for change in self.mailbox.history:
            if change.id <= int(start) or (kinds and change.kind not in kinds):
                continue
            stored = self.mailbox.messages.get(change.message_id)
            labels = sorted(stored.labels) if stored else list(change.labels)
            if label and label not in labels:
                continue
            message = {"id": change.message_id, "labelIds": labels}
            message["threadId"] = stored.thread_id if stored else change.message_id
            entry: dict[str, Any] = {"message": message}
            field = _HISTORY_FIELDS[change.kind]
            if change.kind.startswith("label"):
                entry["labelIds"] = list(change.labels)
            brief = {"id": change.message_id, "threadId": message["threadId"]}
            records.append({"id": str(change.id), "messages": [brief], field: [entry]})
        return self._paged("history", records) | {"historyId": str(self.mailbox.history_id)}

    def _labels(self) -> dict[str, Any]:
        return {"labels": [{"id": one, "name": one, "type": "system"} for one in SYSTEM_LABELS]}

    # ---- parameters

    def _one(self, name: str, default: str) -> str:
        return self.parameters.get(name, [default])[0]

    def _paged(self, name: str, found: list[_Item]) -> dict[str, Any]:
        """Return one page; an empty list is left out, as Google does."""
        start, size = self._one("pageToken", "0"), self._one("maxResults", "100")
        if not start.isdecimal() or not size.isdecimal():
            raise Refused(400, "invalidArgument", "Invalid pageToken or maxResults")
        end = int(start) + max(1, min(int(size), 500))
        shown: dict[str, Any] = {name: found[int(start) : end]} if found[int(start) : end] else {}
        if end < len(found):
            shown["nextPageToken"] = str(end)
        return shown


def _brief(stored: Stored) -> dict[str, Any]:
    return {"id": stored.id, "threadId": stored.thread_id, "labelIds": sorted(stored.labels)}
