"""The Graph twin: Microsoft 365 mail as PROVIDERS §2 describes it, which misbehaves on command.

It keeps the provider-side truth (`GraphTwin.submissions`). Tests reach all of it as an
object, or over HTTP below `/control/`.
"""

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import httpx
from tests.twins import wire
from tests.twins.graph.calls import Cursor, MailCall
from tests.twins.graph.mailbox import Conduct, Item, Mailbox, Refused, Submission, stamp
from tests.twins.graph.oauth import EVERYTHING, Identity
from tests.twins.wire import Fault, Request, Response

_READ: Final = frozenset({"Mail.Read", "Mail.ReadWrite"})
_WRITE: Final = frozenset({"Mail.ReadWrite"})
_SEND: Final = frozenset({"Mail.Send"})
_NEEDS: Final = {
    "me": frozenset({"User.Read"}), "send": _SEND, "sendMail": _SEND, "createDraft": _WRITE,
    "createReply": _WRITE, "patch": _WRITE, "delete": _WRITE,
}  # fmt: skip


@dataclass
class GraphTwin:
    """All users of one tenant, and the identity platform that signs them in."""

    offset: timedelta = timedelta()
    mailboxes: dict[str, Mailbox] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    late_answers: list[int] = field(default_factory=list)
    subscriptions: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    _cursors: dict[str, Cursor] = field(default_factory=dict)
    _inside: dict[int, Mailbox] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identity = Identity(self.now, self.mailboxes)

    # ---- the control API, as an object

    def now(self) -> datetime:
        """Return the twin's time."""
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        """Move the twin's clock."""
        self.offset += timedelta(seconds=seconds)

    def add_mailbox(self, email: str, display_name: str = "Ann North") -> Mailbox:
        """Add a user, or return the one there is."""
        email = email.lower()
        if email not in self.mailboxes:
            self.mailboxes[email] = Mailbox(email, display_name, self.now)
        return self.mailboxes[email]

    def fail(self, operation: str, kind: wire.FaultKind, **more: Any) -> Fault:
        """Let the next requests of `operation` go wrong; see `Fault`."""
        fault = Fault(operation, kind, **more)
        self.faults.append(fault)
        return fault

    @property
    def submissions(self) -> list[Submission]:
        """The truth: every message that was taken, in order."""
        return sorted(
            (one for mailbox in self.mailboxes.values() for one in mailbox.submissions),
            key=lambda one: one.at,
        )

    async def deliver(self, email: str, mime: bytes, folder: str = "inbox") -> Item:
        """Let a message arrive, and tell the subscribers."""
        mailbox = self.mailboxes[email.lower()]
        item = mailbox.add_mime(mime, folder)
        for subscription_id, (owner, one) in list(self.subscriptions.items()):
            if owner == mailbox.email and folder in str(one["resource"]).lower():
                await self._notify(subscription_id, one, item)
        return item

    async def _notify(self, subscription_id: str, one: dict[str, Any], item: Item) -> None:
        note = {
            "subscriptionId": subscription_id,
            "subscriptionExpirationDateTime": one["expirationDateTime"],
            "changeType": "created",
            "resource": f"Users/twin/Messages/{item.regular_id}",
            "resourceData": {
                "@odata.type": "#Microsoft.Graph.Message",
                "@odata.id": f"Users/twin/Messages/{item.regular_id}",
                "@odata.etag": 'W/"twin"',
                "id": item.regular_id,
            },
            "clientState": one.get("clientState"),
            "tenantId": str(uuid4()),
        }
        async with httpx.AsyncClient(timeout=3) as client:
            try:
                await client.post(one["notificationUrl"], json={"value": [note]})
            except httpx.RequestError:
                # A listener that is down misses its notifications; it has delta for that.
                return

    # ---- wire.Application

    def operation(self, request: Request) -> str:
        """Name what a request asks for: faults are set by it."""
        match request.method, request.path:
            case _, ("control", *_):
                return "control"
            case "POST", (_, "oauth2", "v2.0", "token"):
                return "token"
            case "GET", (_, "oauth2", "v2.0", "authorize"):
                return "authorize"
            case "GET", (_, "v2.0", "adminconsent"):
                return "adminconsent"
            case "GET", ("v1.0", "me"):
                return "me"
            case "POST", ("v1.0", "me", "sendMail"):
                return "sendMail"
            case "POST", ("v1.0", "me", "messages"):
                return "createDraft"
            case "POST", ("v1.0", "me", "messages", _, "send"):
                return "send"
            case "POST", ("v1.0", "me", "messages", _, "createReply"):
                return "createReply"
            case "PATCH", ("v1.0", "me", "messages", _):
                return "patch"
            case "DELETE", ("v1.0", "me", "messages", _):
                return "delete"
            case "GET", ("v1.0", "me", "messages", _):
                return "get"
            case "GET", ("v1.0", "me", "messages", _, "$value"):
                return "mime"
            case "GET", ("v1.0", "me", "messages") | ("v1.0", "me", "mailFolders", _, "messages"):
                return "list"
            case "GET", ("v1.0", "me", "mailFolders", _, "messages", "delta"):
                return "delta"
            case "GET", ("v1.0", "me", "mailFolders", _):
                return "folder"
            case "POST", ("v1.0", "subscriptions"):
                return "subscribe"
            case "DELETE", ("v1.0", "subscriptions", _):
                return "unsubscribe"
            case _:
                return "unknown"

    def admit(self, request: Request) -> Response | None:
        """Count a mailbox's requests; more than four at once are refused (PROVIDERS §2.4)."""
        operation = self.operation(request)
        if operation == "control":
            return None
        self.calls.append(operation)
        mailbox = self._mailbox_of(request)
        if mailbox is None:
            return None
        if mailbox.active >= mailbox.conduct.concurrency:
            return error(
                429, "ApplicationThrottled",
                "Application is over its MailboxConcurrency limit.", self.now(), 1,
            )  # fmt: skip
        # By request: its token may expire before it is over.
        self._inside[id(request)] = mailbox
        mailbox.active += 1
        mailbox.most_active = max(mailbox.most_active, mailbox.active)
        return None

    def leave(self, request: Request) -> None:
        """See `wire.Application`."""
        if (mailbox := self._inside.pop(id(request), None)) is not None:
            mailbox.active -= 1

    def fault_for(self, request: Request) -> Fault | None:
        """See `wire.Application`."""
        operation = self.operation(request)
        mailbox = self._mailbox_of(request)
        for fault in self.faults:
            if fault.times > 0 and (
                fault.operation == operation
                or (fault.operation == "any" and operation != "control")
            ):
                if fault.mailbox not in (None, mailbox.email if mailbox else None):
                    continue
                fault.times -= 1
                return fault
        return None

    def faulty_answer(self, fault: Fault) -> Response:
        """See `wire.Application`."""
        return error(fault.status, fault.code, fault.message, self.now(), fault.retry_after_s)

    async def answer(self, request: Request) -> Response:
        """Do what is asked, or refuse as Graph does."""
        operation = self.operation(request)
        try:
            match operation:
                case "control":
                    return await self._control(request)
                case "token":
                    return self.identity.token(request)
                case "authorize":
                    return self.identity.authorize(request)
                case "adminconsent":
                    return self.identity.admin_consent(request)
                case "unknown":
                    raise Refused(400, "BadRequest", "Resource not found for the segment.")
                case _:
                    return await self._mail(operation, request)
        except Refused as refusal:
            return error(refusal.status, refusal.code, refusal.message, self.now())

    def _mailbox_of(self, request: Request) -> Mailbox | None:
        access = self.identity.who(request.headers.get("authorization"))
        return self.mailboxes.get(access.email) if access else None

    # ---- mail

    async def _mail(self, operation: str, request: Request) -> Response:
        access = self.identity.who(request.headers.get("authorization"))
        if access is None:
            raise Refused(
                401,
                "InvalidAuthenticationToken",
                "Lifetime validation failed.",
            )
        needed = _NEEDS.get(operation, _READ)
        if operation in ("subscribe", "unsubscribe"):
            needed = _READ
        if needed.isdisjoint(access.scopes):
            raise Refused(
                403, "ErrorAccessDenied", "Access is denied. Check credentials and try again."
            )
        mailbox = self.mailboxes[access.email]
        call = MailCall(mailbox, request, self._cursors, self.subscriptions)
        handlers: dict[str, Callable[[], Response]] = {
            "me": call.me, "sendMail": call.send_mail, "createDraft": call.create_draft,
            "createReply": call.create_reply, "send": call.send, "patch": call.patch,
            "delete": call.delete, "get": call.get, "mime": call.mime, "list": call.list,
            "delta": call.delta, "folder": call.folder, "unsubscribe": call.unsubscribe,
        }  # fmt: skip
        if operation == "subscribe":
            return await call.subscribe()
        return handlers[operation]()

    # ---- control over HTTP

    async def _control(self, request: Request) -> Response:
        content = json.loads(request.body) if request.body else {}
        match request.method, request.path[1:]:
            case "GET", ("ready",):
                return Response.of(200, {"ready": True})
            case "POST", ("mailboxes",):
                mailbox = self.add_mailbox(content["email"], content.get("display_name", "Ann"))
                scopes = frozenset(content.get("scopes", EVERYTHING))
                return Response.of(200, self.identity.grant(mailbox.email, scopes))
            case "POST", ("mailboxes", email, "conduct"):
                conduct = self._known(email).conduct
                if unknown := content.keys() - {one.name for one in fields(Conduct)}:
                    raise Refused(400, "BadRequest", f"no such conduct: {sorted(unknown)}")
                for name, value in content.items():
                    setattr(conduct, name, tuple(value) if isinstance(value, list) else value)
                return Response.of(200, asdict(conduct))
            case "POST", ("mailboxes", email, "deliver"):
                self._known(email)
                mime = base64.b64decode(content["mime"])
                item = await self.deliver(email, mime, content.get("folder", "inbox"))
                return Response.of(200, {"id": item.immutable_id})
            case "POST", ("mailboxes", email, "tokens"):
                return self._control_tokens(self._known(email).email, content)
            case "POST", ("mailboxes", email, "expire-delta"):
                self._known(email).delta_epoch += 1
                return Response.of(200, {})
            case "POST", ("faults",):
                return Response.of(200, asdict(self.fail(**content)))
            case "DELETE", ("faults",):
                self.faults.clear()
                return Response.of(200, {})
            case "POST", ("clock",):
                self.advance(content["advance_s"])
                return Response.of(200, {"now": stamp(self.now())})
            case "GET", ("truth",):
                return Response.of(200, {"submissions": [_told(one) for one in self.submissions]})
            case "GET", ("calls",):
                return Response.of(200, {"calls": self.calls})
            case _:
                raise Refused(404, "NotFound", "no such control")

    def _known(self, email: str) -> Mailbox:
        if email.lower() not in self.mailboxes:
            raise Refused(404, "NotFound", "no such mailbox")
        return self.mailboxes[email.lower()]

    def _control_tokens(self, email: str, content: dict[str, Any]) -> Response:
        match content["do"]:
            case "expire":
                self.identity.expire(email)
            case "revoke":
                self.identity.revoke(email, content.get("aadsts", 50173))
            case "refuse":
                self.identity.refuse_token[email] = content["aadsts"]
            case "refuse-consent":
                self.identity.refuse_authorize[email] = content["aadsts"]
            case "restore":
                self.identity.refuse_token.pop(email, None)
                self.identity.refuse_authorize.pop(email, None)
            case other:
                raise Refused(400, "BadRequest", f"cannot {other}")
        return Response.of(200, {})


def error(
    status: int, code: str, message: str, at: datetime, retry_after_s: int | None = None
) -> Response:
    """Return Graph's error body (learn.microsoft.com/graph/errors)."""
    request_id = str(uuid4())
    headers = {"request-id": request_id}
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    inner = {
        "date": at.strftime("%Y-%m-%dT%H:%M:%S"),
        "request-id": request_id,
        "client-request-id": request_id,
    }
    content = {"error": {"code": code, "message": message, "innerError": inner}}
    return Response.of(status, content, headers)


def _told(one: Submission) -> dict[str, Any]:
    mime = base64.b64encode(one.mime).decode()
    return {**asdict(one), "at": one.at.isoformat(), "mime": mime}


@asynccontextmanager
async def running(
    twin: GraphTwin | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[GraphTwin, str]]:
    """Serve a twin until the block ends; gives it and its base URL (no slash at the end)."""
    twin = twin or GraphTwin()
    async with wire.served(twin, host, port) as bound:
        yield twin, f"http://{host}:{bound}"
