"""The Graph twin: Microsoft 365 mail as PROVIDERS §2 describes it, which misbehaves on command.

It keeps the provider-side truth (`GraphTwin.submissions`). Tests reach all of it as an
object, or over HTTP below `/control/` (`control.Machine`). Faults are those of `wire.Fault`;
operations are what `GraphTwin.operation` names. What it took leaves through a relay, where it
has one, and mail for its users comes in by SMTP.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import uuid4

import httpx
from tests.twins import relay as post
from tests.twins import wire
from tests.twins.control import Machine
from tests.twins.graph.calls import Cursor, MailCall
from tests.twins.graph.mailbox import Conduct, Item, Mailbox, Refused, Submission
from tests.twins.graph.oauth import EVERYTHING, Identity
from tests.twins.relay import Letter, Relay
from tests.twins.smtp.inbound import Inbound
from tests.twins.smtp.wire import listening
from tests.twins.wire import Fault, Request, Response

_READ: Final = frozenset({"Mail.Read", "Mail.ReadWrite"})
_WRITE: Final = frozenset({"Mail.ReadWrite"})
_SEND: Final = frozenset({"Mail.Send"})
_NEEDS: Final = {
    "me": frozenset({"User.Read"}), "send": _SEND, "sendMail": _SEND, "createDraft": _WRITE,
    "createReply": _WRITE, "patch": _WRITE, "delete": _WRITE, "move": _WRITE,
}  # fmt: skip


@dataclass
class GraphTwin(Machine):
    """All users of one tenant, and the identity platform that signs them in.

    `smtp_port`: where mail for its users comes in, once it listens.
    """

    mailboxes: dict[str, Mailbox] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    subscriptions: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    smtp_port: int | None = None
    _cursors: dict[str, Cursor] = field(default_factory=dict)
    _inside: dict[int, Mailbox] = field(default_factory=dict)
    _arriving: set["asyncio.Task[Item]"] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.identity = Identity(self.now, self.mailboxes)

    # ---- the control API, as an object

    @property
    def truth(self) -> Sequence[Submission]:
        """See `Machine.truth`."""
        return self.submissions

    def add_mailbox(self, email: str, display_name: str = "Ann North") -> Mailbox:
        """Add a user, or return the one there is."""
        email = email.lower()
        if email not in self.mailboxes:
            self.mailboxes[email] = Mailbox(email, display_name, self.now, self._sent)
        return self.mailboxes[email]

    def bounce(
        self,
        submission: Submission,
        status: str = "5.1.10",
        words: str | None = None,
        recipient: str | None = None,
    ) -> Item | None:
        """Let the delivery report about a submission arrive, however late."""
        mailbox = self.mailboxes.get(submission.mailbox)
        item = mailbox.items.get(submission.item_id) if mailbox else None
        if mailbox is None or item is None:
            return None
        return mailbox.bounce(item, status, words, recipient)

    def refused_later(self, letter: Letter, words: str) -> None:
        """Report what the relay's host will not have, as Exchange reports it."""
        if isinstance(letter.ticket, Submission):
            self.bounce(letter.ticket, post.enhanced(words), words, letter.recipient)

    def arrive(self, recipient: str, raw: bytes) -> None:
        """Let mail from outside arrive; whoever has gone since RCPT gets nothing."""
        if recipient not in self.mailboxes:
            return
        task = asyncio.create_task(self.deliver(recipient, raw))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    def _sent(self, submission: Submission) -> None:
        self.submissions.append(submission)
        for recipient in submission.recipients:
            if recipient in self.mailboxes:
                self.mailboxes[recipient].add_mime(submission.raw, "inbox")
            elif self.relay is not None:
                letter = Letter(submission.mailbox, recipient, submission.raw, submission)
                self.relay.put(letter)

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
            case "POST", (_, "oauth2", "v2.0", "authorize", "consent"):
                return "consent"
            case "GET", (_, "v2.0", "adminconsent"):
                return "adminconsent"
            case "POST", (_, "v2.0", "adminconsent", "consent"):
                return "adminconsentDecision"
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
            case "GET", ("v1.0", "me", "messages", _, "attachments"):
                return "attachments"
            case "POST", ("v1.0", "me", "messages", _, "move"):
                return "move"
            case "GET", ("v1.0", "me", "mailFolders"):
                return "folders"
            case "GET", ("v1.0", "me", "messages") | ("v1.0", "me", "mailFolders", _, "messages"):
                return "list"
            case "GET", ("v1.0", "me", "mailFolders", _, "messages", "delta"):
                return "delta"
            case "GET", ("v1.0", "me", "mailFolders", _):
                return "folder"
            case "POST", ("v1.0", "subscriptions"):
                return "subscribe"
            case "PATCH", ("v1.0", "subscriptions", _):
                return "renew"
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
        if not mailbox.count_request():
            return error(
                429, "ApplicationThrottled", "Application is over its request limit.",
                self.now(), 60,
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
        if operation == "control":
            return None
        mailbox = self._mailbox_of(request)
        return self.faults.take(operation, mailbox.email if mailbox else None)

    def faulty_answer(self, fault: Fault) -> Response:
        """See `wire.Application`."""
        answer = error(fault.status, fault.code, fault.message, self.now(), fault.retry_after_s)
        return replace(answer, headers={**answer.headers, **fault.headers})

    async def answer(self, request: Request) -> Response:
        """Do what is asked, or refuse as Graph does."""
        operation = self.operation(request)
        try:
            match operation:
                case "control":
                    return await self.controlled(request)
                case "token":
                    return self.identity.token(request)
                case "authorize":
                    return self.identity.authorize(request)
                case "consent":
                    return self.identity.decide(_form(request))
                case "adminconsent":
                    return self.identity.admin_consent(request)
                case "adminconsentDecision":
                    return self.identity.decide_admin(_form(request))
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
        if needed.isdisjoint(access.scopes):
            raise Refused(
                403, "ErrorAccessDenied", "Access is denied. Check credentials and try again."
            )
        mailbox = self.mailboxes[access.email]
        mailbox.settle()
        call = MailCall(
            mailbox, request, self._cursors, self.subscriptions, request.at + self.offset,
            "https" if self.secure else "http",
        )  # fmt: skip
        handlers: dict[str, Callable[[], Response]] = {
            "me": call.me, "sendMail": call.send_mail, "createDraft": call.create_draft,
            "createReply": call.create_reply, "send": call.send, "patch": call.patch,
            "delete": call.delete, "get": call.get, "mime": call.mime, "list": call.list,
            "delta": call.delta, "folder": call.folder, "unsubscribe": call.unsubscribe,
            "folders": call.folders, "attachments": call.attachments, "move": call.move,
            "renew": call.renew,
        }  # fmt: skip
        if operation == "subscribe":
            return await call.subscribe()
        return handlers[operation]()

    # ---- control over HTTP

    async def control(self, request: Request, content: dict[str, Any]) -> Response:
        """See `Machine.control`."""
        match request.method, request.path[1:]:
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
            case "DELETE", ("mailboxes", email):
                # Gone with all that it held; what it sent stays in the truth.
                self.identity.revoke(email.lower())
                self.mailboxes.pop(email.lower(), None)
                return Response.of(200, {})
            case "GET", ("mailboxes", email, "inbox"):
                held = self._known(email).listed("inbox")
                return Response.of(200, {"messages": [_shown(one) for one in held]})
            case "GET", ("mailboxes", email, "tokens"):
                return Response.of(200, {"tokens": self.identity.tokens_of(email.lower())})
            case "POST", ("mailboxes", email, "tokens"):
                return self._control_tokens(self._known(email).email, content)
            case "POST", ("mailboxes", email, "expire-delta"):
                self._known(email).delta_epoch += 1
                return Response.of(200, {})
            case "POST", ("mailboxes", email, "bounce"):
                for one in self._known(email).submissions:
                    if one.item_id == content["id"]:
                        report = self.bounce(one, content.get("status", "5.1.10"))
                        return Response.of(200, {"id": report.immutable_id if report else None})
                raise Refused(404, "NotFound", "no such submission")
            case "POST", ("identity",):
                return Response.of(200, self._control_identity(content))
            case _:
                raise Refused(404, "NotFound", "no such control")

    def told(self, one: Any, *, raw: bool) -> dict[str, Any]:
        """See `Machine.told`."""
        shown = asdict(one) | {"at": one.at.isoformat(), "asked_at": one.asked_at.isoformat()}
        for name in ("mime", "raw"):
            shown[name] = base64.b64encode(getattr(one, name)).decode() if raw else None
        return shown

    def _known(self, email: str) -> Mailbox:
        if email.lower() not in self.mailboxes:
            raise Refused(404, "NotFound", "no such mailbox")
        return self.mailboxes[email.lower()]

    def _control_identity(self, content: dict[str, Any]) -> dict[str, Any]:
        identity = self.identity
        identity.interactive = content.get("interactive", identity.interactive)
        identity.needs_admin = content.get("needs_admin", identity.needs_admin)
        identity.rotates = content.get("rotates", identity.rotates)
        identity.clients |= content.get("clients", {})
        identity.redirect_uris |= set(content.get("redirect_uris", ()))
        identity.admins |= set(content.get("admins", ()))
        if "lifetime_s" in content:
            identity.lifetime = timedelta(seconds=content["lifetime_s"])
        return {"interactive": identity.interactive, "clients": sorted(identity.clients)}

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


def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.decode(), keep_blank_values=True))


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


def _shown(one: Item) -> dict[str, str]:
    raw = base64.b64encode(one.mime).decode()
    return {"at": one.received_at.isoformat(), "thread_id": one.conversation_id, "raw": raw}


@asynccontextmanager
async def running(
    twin: GraphTwin | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    smtp_port: int | None = None,
    relay_to: tuple[str, int] | None = None,
) -> AsyncIterator[tuple[GraphTwin, str]]:
    """Serve a twin until the block ends; gives it and its base URL (no slash at the end).

    With an `smtp_port` (0: any) it takes in mail for its users; with `relay_to` it hands what
    it takes to that SMTP host.
    """
    twin = twin or GraphTwin()
    if relay_to is not None:
        twin.relay = Relay(*relay_to, refused=twin.refused_later)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(post.relaying(twin.relay))
        if smtp_port is not None:
            inbound = Inbound("mx.graph.twin.test", twin.mailboxes.__contains__, twin.arrive)
            twin.smtp_port = await stack.enter_async_context(listening(inbound, host, smtp_port))
        tls = twin.secure.context if twin.secure else None
        bound = await stack.enter_async_context(wire.served(twin, host, port, tls))
        yield twin, f"{'https' if tls else 'http'}://{host}:{bound}"
