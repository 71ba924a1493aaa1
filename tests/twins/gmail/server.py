"""The Gmail twin: Google's mail and sign-in as PROVIDERS §1 has them, misbehaving on command.

It keeps the provider-side truth (`GmailTwin.submissions`). Tests reach all of it as an
object, or over HTTP below `/control/`. Faults are those of `wire.Fault`; operations are the
names in `operations`, and "token", "revoke", "userinfo", "authorize".
"""

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from tests.twins import wire
from tests.twins.gmail.calls import Call
from tests.twins.gmail.mailbox import Conduct, Mailbox, Refused, Stored, Submission
from tests.twins.gmail.oauth import EVERYTHING, Identity, OAuthRefused
from tests.twins.gmail.operations import Asked, asked, check_parameters
from tests.twins.wire import Fault, Request, Response


@dataclass
class GmailTwin:
    """All accounts, and Google's sign-in for them."""

    offset: timedelta = timedelta()
    mailboxes: dict[str, Mailbox] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    late_answers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.identity = Identity(self.now, lambda email: email in self.mailboxes)

    # ---- the control API, as an object

    def now(self) -> datetime:
        """Return the twin's time."""
        return datetime.now(UTC) + self.offset

    def advance(self, seconds: float) -> None:
        """Move the twin's clock."""
        self.offset += timedelta(seconds=seconds)

    def add_mailbox(self, email: str, name: str = "Ann North") -> Mailbox:
        """Add an account, or return the one there is."""
        email = email.lower()
        if email not in self.mailboxes:
            self.mailboxes[email] = Mailbox(email, name, self.now, self._deliver)
        return self.mailboxes[email]

    def fail(self, operation: str, kind: wire.FaultKind, **more: Any) -> Fault:
        """Let the next requests of `operation` go wrong; see `wire.Fault`."""
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

    def bounce(
        self, submission: Submission, status: str = "5.1.1", diagnostic: str | None = None
    ) -> Stored:
        """Let the delivery report about a submission arrive, however late."""
        words = diagnostic or f"550 {status} The email account that you tried to reach is gone."
        return self.mailboxes[submission.mailbox].bounce(submission, status, words)

    def _deliver(self, submission: Submission) -> None:
        for recipient in submission.recipients:
            if recipient in self.mailboxes:
                self.mailboxes[recipient].receive(submission.raw)

    # ---- wire.Application

    def operation(self, request: Request) -> str:
        """Name what a request asks for: faults are set by it."""
        match request.method, request.path:
            case _, ("control", *_):
                return "control"
            case "GET", ("o", "oauth2", "v2", "auth"):
                return "authorize"
            case "POST", ("token",):
                return "token"
            case "POST", ("revoke",):
                return "revoke"
            case "GET", ("v1", "userinfo"):
                return "userinfo"
        one = self._asked(request)
        return one.name if one else "unknown"

    def admit(self, request: Request) -> Response | None:
        """Note the call."""
        operation = self.operation(request)
        if operation != "control":
            self.calls.append(operation)
        return None

    def leave(self, request: Request) -> None:
        """See `wire.Application`."""

    def fault_for(self, request: Request) -> Fault | None:
        """See `wire.Application`."""
        operation = self.operation(request)
        if operation == "control":
            return None
        access = self.identity.who(request.headers.get("authorization"))
        for fault in self.faults:
            if fault.times < 1 or fault.operation not in (operation, "any"):
                continue
            if fault.mailbox in (None, access.email if access else None):
                fault.times -= 1
                return fault
        return None

    def faulty_answer(self, fault: Fault) -> Response:
        """See `wire.Application`."""
        headers = {}
        if fault.retry_after_s is not None:
            headers["Retry-After"] = str(fault.retry_after_s)
        return failure(fault.status, fault.code, fault.message, headers)

    async def answer(self, request: Request) -> Response:
        """Do what is asked, or refuse as Google does."""
        try:
            match self.operation(request):
                case "control":
                    return self._control(request)
                case "authorize":
                    to = self.identity.authorize(request.query)
                    return Response(302, headers={"Location": to})
                case "token":
                    return Response.of(200, self._token(request))
                case "revoke":
                    form = dict(parse_qsl(request.body.decode())) | dict(request.query)
                    self.identity.revoke(form.get("token", ""))
                    return Response.of(200, {})
                case "userinfo":
                    return Response.of(200, self._userinfo(request))
                case _:
                    return self._mail(request)
        except Refused as refusal:
            return failure(refusal.status, refusal.reason, refusal.message)
        except OAuthRefused as refusal:
            told = {"error": refusal.error, "error_description": refusal.description}
            return Response.of(refusal.status, told)

    # ---- sign-in

    def _token(self, request: Request) -> dict[str, Any]:
        scheme, _, pair = request.headers.get("authorization", "").partition(" ")
        basic = None
        if scheme.lower() == "basic":
            client, _, secret = base64.b64decode(pair).decode().partition(":")
            basic = (client, secret)
        return self.identity.token(dict(parse_qsl(request.body.decode())), basic)

    def _userinfo(self, request: Request) -> dict[str, Any]:
        access = self.identity.who(request.headers.get("authorization"))
        if access is None:
            raise Refused(401, "authError", "Invalid Credentials")
        email = access.email
        return {
            "sub": str(int.from_bytes(email.encode()[:8], "big")),
            "email": email,
            "email_verified": True,
            "name": self.mailboxes[email].name,
        }

    # ---- mail

    def _asked(self, request: Request) -> Asked | None:
        return asked(request.method, urlsplit(request.target).path.lstrip("/"))

    def _mail(self, request: Request) -> Response:
        one = self._asked(request)
        if one is None:
            return failure(404, "notFound", "Not Found")
        access = self.identity.who(request.headers.get("authorization"))
        if access is None:
            message = "Request had invalid authentication credentials."
            challenge = 'Bearer realm="https://accounts.google.com/", error="invalid_token"'
            return failure(401, "authError", message, {"WWW-Authenticate": challenge})
        if one.operation.scopes.isdisjoint(access.scopes):
            message = "Request had insufficient authentication scopes."
            raise Refused(403, "insufficientPermissions", message)
        if one.user.replace("%40", "@").lower() not in ("me", access.email):
            raise Refused(403, "forbidden", f"Delegation denied for {access.email}")
        parameters = parse_qs(urlsplit(request.target).query, keep_blank_values=True)
        check_parameters(one, frozenset(parameters))
        call = Call(
            self.mailboxes[access.email], access, one, parameters,
            request.headers.get("content-type", ""), request.body, request.path[0] == "upload",
        )  # fmt: skip
        document = call.run()
        return Response(204) if document is None else Response.of(200, document)

    # ---- control over HTTP

    def _control(self, request: Request) -> Response:
        content = json.loads(request.body) if request.body else {}
        match request.method, request.path[1:]:
            case "GET", ("ready",):
                return Response.of(200, {"ready": True})
            case "POST", ("mailboxes",):
                mailbox = self.add_mailbox(content["email"], content.get("name", "Ann North"))
                scopes = tuple(content.get("scopes", EVERYTHING))
                return Response.of(200, self.identity.grant(mailbox.email, scopes))
            case "POST", ("mailboxes", email, "conduct"):
                conduct = self._known(email).conduct
                if unknown := content.keys() - {one.name for one in fields(Conduct)}:
                    raise Refused(400, "invalidArgument", f"no such conduct: {sorted(unknown)}")
                for name, value in content.items():
                    setattr(conduct, name, value)
                return Response.of(200, asdict(conduct))
            case "POST", ("mailboxes", email, "deliver"):
                stored = self._known(email).receive(
                    base64.b64decode(content["mime"]), content.get("labels", ("INBOX", "UNREAD"))
                )
                return Response.of(200, {"id": stored.id, "threadId": stored.thread_id})
            case "POST", ("mailboxes", email, "bounce"):
                return self._control_bounce(self._known(email), content)
            case "POST", ("mailboxes", email, "tokens"):
                return self._control_tokens(self._known(email).email, content)
            case "POST", ("mailboxes", email, "forget-history"):
                self._known(email).forget_history()
                return Response.of(200, {})
            case "POST", ("faults",):
                return Response.of(200, asdict(self.fail(**content)))
            case "DELETE", ("faults",):
                self.faults.clear()
                return Response.of(200, {})
            case "POST", ("clock",):
                self.advance(content["advance_s"])
                return Response.of(200, {"now": self.now().isoformat()})
            case "GET", ("truth",):
                return Response.of(200, {"submissions": [_told(one) for one in self.submissions]})
            case "GET", ("calls",):
                return Response.of(200, {"calls": self.calls})
            case _:
                raise Refused(404, "notFound", "no such control")

    def _control_bounce(self, mailbox: Mailbox, content: Mapping[str, Any]) -> Response:
        for one in mailbox.submissions:
            if one.id == content["id"]:
                stored = self.bounce(one, content.get("status", "5.1.1"), content.get("diagnostic"))
                return Response.of(200, {"id": stored.id, "threadId": stored.thread_id})
        raise Refused(404, "notFound", "no such submission")

    def _control_tokens(self, email: str, content: Mapping[str, Any]) -> Response:
        match content["do"]:
            case "expire":
                self.identity.expire(email)
            case "revoke":
                self.identity.revoke_all(email)
            case "untick":
                self.identity.unticked[email] = frozenset(content["scopes"])
            case "decline":
                self.identity.declines.add(email)
            case "agree":
                self.identity.declines.discard(email)
                self.identity.unticked.pop(email, None)
            case other:
                raise Refused(400, "invalidArgument", f"cannot {other}")
        return Response.of(200, {})

    def _known(self, email: str) -> Mailbox:
        if email.lower() not in self.mailboxes:
            raise Refused(404, "notFound", "no such mailbox")
        return self.mailboxes[email.lower()]


_STATUS = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE",
}  # fmt: skip


def failure(
    status: int, reason: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return Google's error body (cloud.google.com/apis/design/errors, v1 form)."""
    named = _STATUS.get(status)
    if reason == "failedPrecondition":
        named = "FAILED_PRECONDITION"
    error: dict[str, Any] = {
        "code": status,
        "message": message,
        "errors": [{"message": message, "domain": "global", "reason": reason}],
    }
    if named is not None:
        error["status"] = named
    return Response.of(status, {"error": error}, headers)


def _told(one: Submission) -> dict[str, Any]:
    raw = base64.b64encode(one.raw).decode()
    return {**asdict(one), "at": one.at.isoformat(), "raw": raw}


@asynccontextmanager
async def running(
    twin: GmailTwin | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[GmailTwin, str]]:
    """Serve a twin until the block ends; gives it and its base URL (no slash at the end)."""
    twin = twin or GmailTwin()
    async with wire.served(twin, host, port) as bound:
        yield twin, f"http://{host}:{bound}"
