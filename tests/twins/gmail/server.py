"""The Gmail twin: Google's mail and sign-in as PROVIDERS §1 has them, misbehaving on command.

It keeps the provider-side truth (`GmailTwin.submissions`). Tests reach all of it as an
object, or over HTTP below `/control/` (`control.Machine`). Faults are those of `wire.Fault`;
operations are the names in `operations`, and "token", "revoke", "userinfo", "tokeninfo",
"authorize", "consent". What it took leaves through a relay, where it has one, and mail for its
accounts comes in by SMTP.
"""

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

from tests.twins import relay as post
from tests.twins import wire
from tests.twins.control import Machine
from tests.twins.gmail.calls import Call
from tests.twins.gmail.mailbox import Conduct, Mailbox, Refused, Stored, Submission
from tests.twins.gmail.oauth import EVERYTHING, Identity, OAuthRefused
from tests.twins.gmail.operations import Asked, asked, check_parameters
from tests.twins.relay import Letter, Relay
from tests.twins.smtp.inbound import Inbound
from tests.twins.smtp.wire import listening
from tests.twins.wire import Fault, Request, Response


@dataclass
class GmailTwin(Machine):
    """All accounts, and Google's sign-in for them.

    `smtp_port`: where mail for its accounts comes in, once it listens.
    """

    mailboxes: dict[str, Mailbox] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    smtp_port: int | None = None

    def __post_init__(self) -> None:
        self.identity = Identity(self.now, self.mailboxes.keys())

    # ---- the control API, as an object

    @property
    def truth(self) -> Sequence[Submission]:
        """See `Machine.truth`."""
        return self.submissions

    def add_mailbox(self, email: str, name: str = "Ann North") -> Mailbox:
        """Add an account, or return the one there is."""
        email = email.lower()
        if email not in self.mailboxes:
            self.mailboxes[email] = Mailbox(email, name, self.now, self._deliver)
        return self.mailboxes[email]

    def bounce(
        self, submission: Submission, status: str = "5.1.1", diagnostic: str | None = None
    ) -> Stored:
        """Let the delivery report about a submission arrive, however late."""
        words = diagnostic or f"550 {status} The email account that you tried to reach is gone."
        return self.mailboxes[submission.mailbox].bounce(submission, status, words)

    def refused_later(self, letter: Letter, words: str) -> None:
        """Report what the relay's host will not have, as Gmail reports it."""
        if isinstance(letter.ticket, Submission) and letter.sender in self.mailboxes:
            mailbox = self.mailboxes[letter.sender]
            mailbox.bounce(letter.ticket, post.enhanced(words), words, letter.recipient)

    def arrive(self, recipient: str, raw: bytes) -> None:
        """Let mail from outside arrive; whoever has gone since RCPT gets nothing."""
        if recipient in self.mailboxes:
            self.mailboxes[recipient].receive(raw)

    def _deliver(self, submission: Submission) -> None:
        self.submissions.append(submission)
        for recipient in submission.recipients:
            if recipient in self.mailboxes:
                self.mailboxes[recipient].receive(submission.raw)
            elif self.relay is not None:
                letter = Letter(submission.mailbox, recipient, submission.raw, submission)
                self.relay.put(letter)

    # ---- wire.Application

    def operation(self, request: Request) -> str:
        """Name what a request asks for: faults are set by it."""
        match request.method, request.path:
            case _, ("control", *_):
                return "control"
            case "GET", ("o", "oauth2", "v2", "auth"):
                return "authorize"
            case "POST", ("o", "oauth2", "v2", "auth", "consent"):
                return "consent"
            case "POST", ("token",):
                return "token"
            case "POST", ("revoke",):
                return "revoke"
            case "GET", ("v1", "userinfo"):
                return "userinfo"
            case "GET", ("tokeninfo",):
                return "tokeninfo"
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
        return self.faults.take(operation, access.email if access else None)

    def faulty_answer(self, fault: Fault) -> Response:
        """See `wire.Application`."""
        headers = dict(fault.headers)
        if fault.retry_after_s is not None:
            headers["Retry-After"] = str(fault.retry_after_s)
        return failure(fault.status, fault.code, fault.message, headers)

    async def answer(self, request: Request) -> Response:
        """Do what is asked, or refuse as Google does."""
        try:
            match self.operation(request):
                case "control":
                    return await self.controlled(request)
                case "authorize":
                    return self.identity.authorize(request.query)
                case "consent":
                    form = parse_qs(request.body.decode(), keep_blank_values=True)
                    plain = {name: values[0] for name, values in form.items()}
                    return self.identity.decide(plain, form.get("granted", []))
                case "token":
                    return Response.of(200, self._token(request))
                case "revoke":
                    sent = dict(parse_qsl(request.body.decode())) | dict(request.query)
                    self.identity.revoke(sent.get("token", ""))
                    return Response.of(200, {})
                case "userinfo":
                    return Response.of(200, self._userinfo(request))
                case "tokeninfo":
                    return self._tokeninfo(request)
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

    def _tokeninfo(self, request: Request) -> Response:
        # developers.google.com/identity/sign-in/web/backend-auth (calling tokeninfo)
        token = request.query.get("access_token", "")
        access = self.identity.who(f"Bearer {token}")
        if access is None:
            told = {"error": "invalid_token", "error_description": "Invalid Value"}
            return Response.of(400, told)
        left = int((access.expires_at - self.now()).total_seconds())
        return Response.of(
            200,
            {
                "scope": " ".join(sorted(access.scopes)), "expires_in": str(left),
                "email": access.email, "email_verified": "true", "access_type": "offline",
            },
        )  # fmt: skip

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
            request.at + self.offset,
        )  # fmt: skip
        document = call.run()
        return Response(204) if document is None else Response.of(200, document)

    # ---- control over HTTP

    async def control(self, request: Request, content: dict[str, Any]) -> Response:
        """See `Machine.control`."""
        match request.method, request.path[1:]:
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
            case "DELETE", ("mailboxes", email):
                # Gone with all that it held; what it sent stays in the truth.
                self.identity.revoke_all(email.lower())
                self.mailboxes.pop(email.lower(), None)
                return Response.of(200, {})
            case "GET", ("mailboxes", email, "inbox"):
                held = [
                    one for one in self._known(email).messages.values() if "INBOX" in one.labels
                ]
                return Response.of(200, {"messages": [_shown(one) for one in held]})
            case "GET", ("mailboxes", email, "tokens"):
                return Response.of(200, {"tokens": self.identity.tokens_of(email.lower())})
            case "POST", ("mailboxes", email, "tokens"):
                return self._control_tokens(self._known(email).email, content)
            case "POST", ("mailboxes", email, "forget-history"):
                self._known(email).forget_history()
                return Response.of(200, {})
            case "POST", ("identity",):
                return Response.of(200, self._control_identity(content))
            case _:
                raise Refused(404, "notFound", "no such control")

    def _control_bounce(self, mailbox: Mailbox, content: Mapping[str, Any]) -> Response:
        for one in mailbox.submissions:
            if one.id == content["id"]:
                stored = self.bounce(one, content.get("status", "5.1.1"), content.get("diagnostic"))
                return Response.of(200, {"id": stored.id, "threadId": stored.thread_id})
        raise Refused(404, "notFound", "no such submission")

    def _control_identity(self, content: Mapping[str, Any]) -> dict[str, Any]:
        identity = self.identity
        identity.interactive = content.get("interactive", identity.interactive)
        identity.clients |= content.get("clients", {})
        identity.redirect_uris |= set(content.get("redirect_uris", ()))
        if "lifetime_s" in content:
            identity.lifetime = timedelta(seconds=content["lifetime_s"])
        return {"interactive": identity.interactive, "clients": sorted(identity.clients)}

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

    def told(self, one: Any, *, raw: bool) -> dict[str, Any]:
        """See `Machine.told`."""
        shown = asdict(one) | {"at": one.at.isoformat(), "asked_at": one.asked_at.isoformat()}
        return shown | {"raw": base64.b64encode(one.raw).decode() if raw else None}

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


def _shown(one: Stored) -> dict[str, str]:
    raw = base64.b64encode(one.raw).decode()
    return {"at": one.at.isoformat(), "thread_id": one.thread_id, "raw": raw}


@asynccontextmanager
async def running(
    twin: GmailTwin | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    smtp_port: int | None = None,
    relay_to: tuple[str, int] | None = None,
) -> AsyncIterator[tuple[GmailTwin, str]]:
    """Serve a twin until the block ends; gives it and its base URL (no slash at the end).

    With an `smtp_port` (0: any) it takes in mail for its accounts; with `relay_to` it hands
    what it takes to that SMTP host.
    """
    twin = twin or GmailTwin()
    if relay_to is not None:
        twin.relay = Relay(*relay_to, refused=twin.refused_later)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(post.relaying(twin.relay))
        if smtp_port is not None:
            inbound = Inbound("mx.gmail.twin.test", twin.mailboxes.__contains__, twin.arrive)
            twin.smtp_port = await stack.enter_async_context(listening(inbound, host, smtp_port))
        tls = twin.secure.context if twin.secure else None
        bound = await stack.enter_async_context(wire.served(twin, host, port, tls))
        yield twin, f"{'https' if tls else 'http'}://{host}:{bound}"
