"""Graph's mail resource: what each request does to a mailbox, and its answer."""

import base64
import binascii
import json
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.message import EmailMessage
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import httpx
from tests.twins.graph.mailbox import FOLDERS, Item, Mailbox, Refused
from tests.twins.graph.oauth import object_id
from tests.twins.graph.query import expanded, matching, ordered, selected
from tests.twins.graph.shapes import attached, rendered, stamp
from tests.twins.wire import Request, Response

_IMMUTABLE: Final = 'idtype="immutableid"'
_PAGE: Final = 10
_SUBSCRIPTION_MAX: Final = timedelta(minutes=10_080)


@dataclass
class Cursor:
    """Where a delta query stands: a snapshot being paged through, or a change number."""

    mailbox: str
    folder: str
    epoch: int
    after: int
    created_only: bool
    select: str | None
    queue: list[dict[str, Any]] = field(default_factory=list)
    at: int = 0


@dataclass
class MailCall:
    """One request to one mailbox, which came at `asked_at`."""

    mailbox: Mailbox
    request: Request
    cursors: dict[str, Cursor]
    subscriptions: dict[str, tuple[str, dict[str, Any]]]
    asked_at: datetime
    scheme: str = "http"

    @property
    def immutable(self) -> bool:
        return _IMMUTABLE in self.request.headers.get("prefer", "").lower().replace(" ", "")

    def _item(self) -> Item:
        return self.mailbox.find(self.request.path[3])

    def _shown(self, item: Item, select: str | None = None) -> dict[str, Any]:
        return selected(rendered(self.mailbox, item, immutable=self.immutable), select)

    def _answer(self, status: int, item: Item) -> Response:
        context = "https://graph.microsoft.com/v1.0/$metadata#users('twin')/messages/$entity"
        shown = self._shown(item, self.request.query.get("$select"))
        headers = {"Preference-Applied": 'IdType="ImmutableId"'} if self.immutable else {}
        return Response.of(status, {"@odata.context": context, **shown}, headers)

    def me(self) -> Response:
        return Response.of(
            200,
            {
                "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users/$entity",
                "id": object_id(self.mailbox.email),
                "displayName": self.mailbox.display_name,
                "givenName": self.mailbox.display_name.partition(" ")[0],
                "surname": self.mailbox.display_name.partition(" ")[2],
                "mail": self.mailbox.email,
                "userPrincipalName": self.mailbox.email,
                "businessPhones": [],
                "jobTitle": None,
                "mobilePhone": None,
                "officeLocation": None,
                "preferredLanguage": None,
            },
        )

    def folder(self) -> Response:
        return Response.of(200, self._folder(self.mailbox.folder_named(self.request.path[3])))

    def _folder(self, name: str) -> dict[str, Any]:
        items = self.mailbox.listed(name)
        return {
            "id": self.mailbox.folder_id(name),
            "displayName": name,
            "totalItemCount": len(items),
            "unreadItemCount": sum(not item.is_read for item in items),
        }

    def folders(self) -> Response:
        shown = [self._folder(name) for name in FOLDERS]
        context = "https://graph.microsoft.com/v1.0/$metadata#users('twin')/mailFolders"
        return Response.of(200, {"@odata.context": context, "value": shown})

    def attachments(self) -> Response:
        return Response.of(200, {"value": attached(self._item())})

    # ---- writing

    def create_draft(self) -> Response:
        return self._answer(201, self.mailbox.add_mime(self._mime(), "drafts", is_draft=True))

    def create_reply(self) -> Response:
        original = self._item()
        if self.request.body:
            mime = self._mime()
        else:
            reply = EmailMessage()
            reply["To"] = original.sender[1]
            reply["Subject"] = f"RE: {original.subject}"
            reply.set_content("")
            mime = bytes(reply)
        item = self.mailbox.add_mime(mime, "drafts", is_draft=True)
        self.mailbox.join(item, original.conversation_id)
        present = {name.lower() for name, _ in item.headers}
        for name in ("In-Reply-To", "References"):
            if name.lower() not in present:
                item.headers.append((name, original.internet_message_id))
        if self.mailbox.conduct.replies_to_sender:
            item.recipients["to"] = [original.sender]
        return self._answer(201, item)

    def patch(self) -> Response:
        item, changes = self._item(), self._json()
        only_draft = {"subject", "body", "replyTo", "internetMessageId", "from", "sender"}
        if not item.is_draft and only_draft & changes.keys():
            raise Refused(400, "ErrorInvalidPropertySet", "Message is not draft.")
        for name, value in changes.items():
            match name:
                case "toRecipients" | "ccRecipients" | "bccRecipients":
                    item.recipients[name.removesuffix("Recipients")] = _pairs(value)
                case "subject":
                    item.subject = value
                case "body":
                    item.body, item.is_html = value["content"], value["contentType"] == "html"
                case "replyTo":
                    item.reply_to = _pairs(value)
                case "internetMessageId":
                    item.internet_message_id = value
                    self.mailbox.join(item, item.conversation_id)
                case "isRead":
                    item.is_read = value
                case "categories" | "importance" | "flag":
                    pass
                case _:
                    raise Refused(
                        400, "ErrorInvalidPropertySet", "Set action is invalid for property."
                    )
        self.mailbox.touch(item)
        return self._answer(200, item)

    def send(self) -> Response:
        if self.request.headers.get("content-length") != "0":
            raise Refused(411, "ErrorInvalidRequest", "Content-Length: 0 is required.")
        self.mailbox.send(self._item(), self.asked_at)
        return Response(202)

    def send_mail(self) -> Response:
        if self._is_mime():
            self.mailbox.send_mail(self._mime(), asked_at=self.asked_at)
        else:
            content = self._json()
            self.mailbox.send_mail(
                _mime_of(content["message"], self.mailbox),
                save=content.get("saveToSentItems", True),
                asked_at=self.asked_at,
            )
        return Response(202)

    def move(self) -> Response:
        item = self._item()
        self.mailbox.move(item, self.mailbox.folder_named(str(self._json()["destinationId"])))
        return self._answer(201, item)

    def delete(self) -> Response:
        self.mailbox.delete(self._item())
        return Response(204)

    # ---- reading

    def get(self) -> Response:
        return self._answer(200, self._item())

    def mime(self) -> Response:
        return Response(200, self._item().mime, {"Content-Type": "text/plain"})

    def list(self) -> Response:
        query = self.request.query
        folder = None
        if self.request.path[2] == "mailFolders":
            folder = self.mailbox.folder_named(self.request.path[3])
        items = matching(self.mailbox.listed(folder), query.get("$filter", ""))
        items = ordered(items, query.get("$orderby", "receivedDateTime desc"))
        top, skip = int(query.get("$top", _PAGE)), int(query.get("$skip", 0))
        if not 1 <= top <= 1000:
            raise Refused(400, "ErrorInvalidUrlQuery", "$top must be between 1 and 1000.")
        page = items[skip : skip + top]
        content: dict[str, Any] = {
            "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#users('twin')/messages",
            "value": [
                self._shown(item, query.get("$select")) | expanded(item, query.get("$expand"))
                for item in page
            ],
        }
        if len(items) > skip + top:
            content["@odata.nextLink"] = self._link({**query, "$skip": str(skip + top)})
        return Response.of(200, content)

    def delta(self) -> Response:
        query = self.request.query
        token = query.get("$deltatoken") or query.get("$skiptoken")
        if token is None:
            cursor = self._first(query)
        else:
            found = self.cursors.get(token)
            if found is None or found.epoch != self.mailbox.delta_epoch:
                raise Refused(
                    410, "SyncStateNotFound", "The sync state generation is not found; resync."
                )
            cursor = found if "$skiptoken" in query else self._changes(found)
        prefer = self.request.headers.get("prefer", "")
        size = int(prefer.partition("odata.maxpagesize=")[2].partition(",")[0] or _PAGE)
        page, end = cursor.queue[cursor.at : cursor.at + size], cursor.at + size
        after = Cursor(
            cursor.mailbox, cursor.folder, cursor.epoch, cursor.after, cursor.created_only,
            cursor.select, cursor.queue, end,
        )  # fmt: skip
        token = uuid4().hex
        self.cursors[token] = after
        more = end < len(cursor.queue)
        return Response.of(
            200,
            {
                "@odata.context": "https://graph.microsoft.com/v1.0/$metadata#Collection(message)",
                "@odata.nextLink" if more else "@odata.deltaLink": self._link(
                    {"$skiptoken" if more else "$deltatoken": token}
                ),
                "value": page,
            },
        )

    def _first(self, query: Any) -> Cursor:
        folder = self.mailbox.folder_named(self.request.path[3])
        items = matching(self.mailbox.listed(folder), query.get("$filter", ""))
        cursor = Cursor(
            self.mailbox.email, folder, self.mailbox.delta_epoch, self.mailbox.changes,
            query.get("changeType") == "created", query.get("$select"),
        )  # fmt: skip
        items.sort(key=lambda item: item.received_at, reverse=True)
        cursor.queue = [self._shown(item, cursor.select) for item in items]
        return cursor

    def _changes(self, last: Cursor) -> Cursor:
        queue: list[tuple[int, dict[str, Any]]] = []
        changed = self.mailbox.changed_since(
            last.folder, last.after, created_only=last.created_only
        )
        for item in changed:
            at = item.entered if last.created_only else item.changed
            queue.append((at, self._shown(item, last.select)))
        if not last.created_only:
            for at, immutable_id, regular_id in reversed(self.mailbox.removed.get(last.folder, [])):
                if at <= last.after:
                    break
                gone = immutable_id if self.immutable else regular_id
                queue.append((at, {"id": gone, "@removed": {"reason": "deleted"}}))
        queue.sort(key=lambda entry: entry[0])
        return Cursor(
            last.mailbox, last.folder, last.epoch, self.mailbox.changes, last.created_only,
            last.select, [shown for _, shown in queue],
        )  # fmt: skip

    # ---- subscriptions

    async def subscribe(self) -> Response:
        content = self._json()
        expires = datetime.fromisoformat(content["expirationDateTime"])
        if expires > self.mailbox.now() + _SUBSCRIPTION_MAX:
            raise Refused(400, "InvalidRequest", "Subscriptions end within 10080 minutes.")
        if len(content.get("clientState", "")) > 128:
            raise Refused(400, "InvalidRequest", "clientState is limited to 128 characters.")
        word = f"Validation: Testing client application reachability {uuid4()}"
        try:
            async with httpx.AsyncClient(timeout=10) as client:
                echo = await client.post(
                    content["notificationUrl"], params={"validationToken": word}
                )
        except httpx.RequestError:
            echo = None
        if echo is None or echo.status_code != 200 or echo.text != word:
            raise Refused(400, "ValidationError", "Subscription validation request failed.")
        subscription_id = str(uuid4())
        one = {**content, "expirationDateTime": stamp(expires)}
        self.subscriptions[subscription_id] = (self.mailbox.email, one)
        return Response.of(201, {"id": subscription_id, **one})

    def renew(self) -> Response:
        found = self.subscriptions.get(self.request.path[2])
        if found is None:
            raise Refused(404, "ResourceNotFound", "The object was not found.")
        expires = datetime.fromisoformat(self._json()["expirationDateTime"])
        found[1]["expirationDateTime"] = stamp(expires)
        return Response.of(200, {"id": self.request.path[2], **found[1]})

    def unsubscribe(self) -> Response:
        if self.subscriptions.pop(self.request.path[2], None) is None:
            raise Refused(404, "ResourceNotFound", "The object was not found.")
        return Response(204)

    # ---- parts

    def _link(self, query: Any) -> str:
        host = self.mailbox.conduct.next_page_on or self.request.headers["host"]
        return f"{self.scheme}://{host}/{'/'.join(self.request.path)}?{urlencode(query)}"

    def _is_mime(self) -> bool:
        return self.request.headers.get("content-type", "").startswith("text/plain")

    def _json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.request.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Refused(400, "BadRequest", "Unable to read JSON request payload.")
        return found

    def _mime(self) -> bytes:
        if not self._is_mime():
            return _mime_of(self._json(), self.mailbox)
        try:
            return base64.b64decode(self.request.body, validate=True)
        except binascii.Error:
            raise Refused(
                400, "ErrorMimeContentInvalidBase64String",
                "Invalid base64 string for MIME content.",
            ) from None  # fmt: skip


def _pairs(recipients: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (one["emailAddress"].get("name", ""), one["emailAddress"]["address"]) for one in recipients
    ]


def _mime_of(message: dict[str, Any], mailbox: Mailbox) -> bytes:
    """Return the MIME of a JSON message."""
    built = EmailMessage()
    built["From"] = mailbox.email
    for name in ("to", "cc", "bcc"):
        if pairs := _pairs(message.get(f"{name}Recipients", [])):
            built[name.capitalize()] = ", ".join(address for _, address in pairs)
    built["Subject"] = message.get("subject", "")
    if "internetMessageId" in message:
        built["Message-ID"] = message["internetMessageId"]
    for header in message.get("internetMessageHeaders", []):
        if not header["name"].lower().startswith("x-"):
            raise Refused(
                400, "InvalidInternetMessageHeader", f"The internet message header name "
                f"'{header['name']}' should start with 'x-' or 'X-'.",
            )  # fmt: skip
        built[header["name"]] = header["value"]
    body = message.get("body", {"contentType": "text", "content": ""})
    built.set_content(
        body["content"], subtype="html" if body["contentType"].lower() == "html" else "plain"
    )
    return bytes(built)
