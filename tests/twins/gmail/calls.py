"""The Gmail API's methods: what each does to a mailbox, and its answer."""

import base64
import binascii
import bisect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email import message_from_bytes, policy
from typing import Any, Final, TypeVar

from tests.twins.gmail.mailbox import SYSTEM_LABELS, Mailbox, Refused, Stored
from tests.twins.gmail.oauth import PREFIX, Access
from tests.twins.gmail.operations import Asked
from tests.twins.gmail.search import matcher, since
from tests.twins.gmail.shapes import attachment, rendered

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
    """One request to one mailbox, which came at `asked_at`; parameters may repeat."""

    mailbox: Mailbox
    access: Access
    asked: Asked
    parameters: dict[str, list[str]]
    content_type: str
    body: bytes
    is_upload: bool
    asked_at: datetime

    def run(self) -> dict[str, Any] | None:
        """Do it; None where the answer is empty."""
        handlers: dict[str, Callable[[], dict[str, Any] | None]] = {
            "users.getProfile": self._profile,
            "users.messages.send": self._send,
            "users.messages.list": self._list,
            "users.messages.get": self._get,
            "users.messages.modify": self._modify,
            "users.messages.trash": lambda: self._relabelled({"TRASH"}, {"INBOX"}),
            "users.messages.untrash": lambda: self._relabelled((), {"TRASH"}),
            "users.messages.delete": self._remove,
            "users.messages.attachments.get": self._attachment,
            "users.drafts.send": self._send_draft,
            "users.drafts.create": self._create_draft,
            "users.drafts.list": self._list_drafts,
            "users.drafts.get": self._get_draft,
            "users.drafts.update": self._update_draft,
            "users.drafts.delete": self._delete_draft,
            "users.threads.get": self._thread,
            "users.threads.list": self._list_threads,
            "users.history.list": self._history,
            "users.labels.list": self._labels,
            "users.labels.get": self._label,
            "users.settings.sendAs.list": self._send_as,
        }
        self.mailbox.settle()
        self.mailbox.spend(self.asked.operation.units)
        return handlers[self.asked.name]()

    def _profile(self) -> dict[str, Any]:
        return {
            "emailAddress": self.mailbox.email,
            "messagesTotal": len(self.mailbox.messages),
            "threadsTotal": len(self.mailbox.thread_ids),
            "historyId": str(self.mailbox.history_id),
        }

    # ---- sending

    def _send(self) -> dict[str, Any]:
        raw, resource = self._message(lambda document: document)
        return _brief(self.mailbox.send(raw, resource.get("threadId"), self.asked_at))

    def _create_draft(self) -> dict[str, Any]:
        raw, resource = self._message(lambda document: document.get("message", {}))
        draft_id = self.mailbox.create_draft(raw, resource.get("threadId"))
        return {"id": draft_id, "message": _brief(self.mailbox.draft(draft_id))}

    def _send_draft(self) -> dict[str, Any]:
        draft_id = str(self._json(self.body).get("id"))
        return _brief(self.mailbox.send_draft(draft_id, self.asked_at))

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
        return self._paged("drafts", found)

    def _update_draft(self) -> dict[str, Any]:
        raw, resource = self._message(lambda document: document.get("message", {}))
        self.mailbox.update_draft(self.asked.item, raw, resource.get("threadId"))
        return {"id": self.asked.item, "message": _brief(self.mailbox.draft(self.asked.item))}

    def _delete_draft(self) -> None:
        self.mailbox.delete_draft(self.asked.item)

    # ---- reading

    def _list(self) -> dict[str, Any]:
        found = ({"id": one.id, "threadId": one.thread_id} for one in self._matching())
        return self._paged("messages", found)

    def _list_threads(self) -> dict[str, Any]:
        seen: dict[str, Stored] = {}
        for one in self._matching():
            seen.setdefault(one.thread_id, one)
        found = [
            {"id": thread_id, "snippet": rendered(one, "minimal")["snippet"],
             "historyId": str(one.history_id)}
            for thread_id, one in seen.items()
        ]  # fmt: skip
        return self._paged("threads", found)

    def _matching(self) -> Iterator[Stored]:
        """Yield what a list shows, newest first; nothing older than a query wants is read."""
        query = self._one("q", "")
        if query and self.access.scopes.isdisjoint(
            {"https://mail.google.com/", f"{PREFIX}gmail.modify", f"{PREFIX}gmail.readonly"}
        ):
            raise Refused(403, "forbidden", "Metadata scope does not support 'q' parameter")
        fits, from_on, now = matcher(query), since(query), self.mailbox.now()
        hidden = set() if self._one("includeSpamTrash", "false") == "true" else {"SPAM", "TRASH"}
        wanted = set(self.parameters.get("labelIds", ()))
        for one in reversed(self.mailbox.messages.values()):
            if from_on is not None and one.at < from_on:
                return
            if (
                one.visible_at <= now
                and not one.labels & hidden
                and wanted <= one.labels
                and fits(one)
            ):
                yield one

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
        return self._relabelled(change.get("addLabelIds", ()), change.get("removeLabelIds", ()))

    def _relabelled(self, added: Iterable[str], removed: Iterable[str]) -> dict[str, Any]:
        return _brief(self.mailbox.relabel(self.asked.item, tuple(added), tuple(removed)))

    def _remove(self) -> None:
        self.mailbox.remove(self.asked.item)

    def _attachment(self) -> dict[str, Any]:
        data = attachment(self.mailbox.find(self.asked.message), self.asked.item)
        return {"size": len(data), "data": base64.urlsafe_b64encode(data).decode()}

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
        history = self.mailbox.history
        begin = bisect.bisect_right(history, int(start), key=lambda change: change.id)
        for change in itertools.islice(history, begin, None):
            if kinds and change.kind not in kinds:
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
        shown = self._paged("history", records) | {"historyId": str(self.mailbox.history_id)}
        del shown["resultSizeEstimate"]
        return shown

    def _labels(self) -> dict[str, Any]:
        return {"labels": [{"id": one, "name": one, "type": "system"} for one in SYSTEM_LABELS]}

    def _label(self) -> dict[str, Any]:
        name = self.asked.item
        if name not in SYSTEM_LABELS:
            raise Refused(404, "notFound", "Requested entity was not found.")
        held = [one for one in self.mailbox.messages.values() if name in one.labels]
        unread = [one for one in held if "UNREAD" in one.labels]
        return {
            "id": name, "name": name, "type": "system",
            "messagesTotal": len(held), "messagesUnread": len(unread),
            "threadsTotal": len({one.thread_id for one in held}),
            "threadsUnread": len({one.thread_id for one in unread}),
        }  # fmt: skip

    def _send_as(self) -> dict[str, Any]:
        own = {
            "sendAsEmail": self.mailbox.email, "displayName": self.mailbox.name,
            "replyToAddress": "", "signature": "", "isPrimary": True, "isDefault": True,
        }  # fmt: skip
        return {"sendAs": [own]}

    # ---- parameters

    def _one(self, name: str, default: str) -> str:
        return self.parameters.get(name, [default])[0]

    def _paged(self, name: str, found: Iterable[_Item]) -> dict[str, Any]:
        """Return one page; an empty list is left out, as Google does."""
        start, size = self._one("pageToken", "0"), self._one("maxResults", "100")
        if not start.isdecimal() or not size.isdecimal():
            raise Refused(400, "invalidArgument", "Invalid pageToken or maxResults")
        end = int(start) + max(1, min(int(size), 500))
        looked = list(itertools.islice(found, end + 1))
        page = looked[int(start) : end]
        shown: dict[str, Any] = {name: page} if page else {}
        if end < len(looked):
            shown["nextPageToken"] = str(end)
        return shown | {"resultSizeEstimate": len(looked)}


def _brief(stored: Stored) -> dict[str, Any]:
    return {"id": stored.id, "threadId": stored.thread_id, "labelIds": sorted(stored.labels)}
