"""The SMTP twin: a submission server with accounts, which misbehaves on command.

It keeps the provider-side truth (`SmtpTwin.submissions`) and hands what it took to a relay.
Tests reach all of it as an object, or over HTTP below `/control/`. Faults are those of
`wire.Fault`; an operation is a place of the conversation (`connect EHLO STARTTLS AUTH MAIL
RCPT DATA body dot`). A fault's `message` is the reply where it begins with a code
("451 4.3.0 try again"), else words behind `status`.
"""

import base64
import hashlib
import hmac
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from tests.twins import relay as post
from tests.twins import wire as http
from tests.twins.control import Machine
from tests.twins.mime import headed
from tests.twins.relay import Letter, Relay
from tests.twins.report import delivery_report
from tests.twins.smtp.server import GOOD_REPLIES
from tests.twins.smtp.wire import (
    GOOD,
    Act,
    Place,
    Seen,
    address_of,
    listening,
    unstuffed,
)  # fmt: skip
from tests.twins.wire import Fault, Request, Response

_REFUSED: Final = "535 5.7.8 Username and Password not accepted"


@dataclass(frozen=True)
class Submission:
    """The truth about one accepted message: `asked_at` is when its MAIL FROM came."""

    mailbox: str
    asked_at: datetime
    at: datetime
    id: str
    sender: str
    recipients: tuple[str, ...]
    message_id: str
    job: str | None
    raw: bytes = field(repr=False)


@dataclass
class Account:
    """One account: its password, the bearer tokens it may use, and how often it may send."""

    email: str
    password: str
    tokens: set[str] = field(default_factory=set)
    may_sign_in: bool = True
    messages_left: int | None = None


@dataclass
class SmtpTwin(Machine):
    """See `smtp.wire.Host`; `secure` gives it TLS, STARTTLS unless `implicit_tls`."""

    accounts: dict[str, Account] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")
    extensions: tuple[str, ...] = ("SIZE 35882577", "8BITMIME", "SMTPUTF8", "PIPELINING")
    size: int = 35_882_577
    implicit_tls: bool = False
    bearer: Callable[[str], str | None] | None = None

    @property
    def truth(self) -> Sequence[Submission]:
        """See `Machine.truth`."""
        return self.submissions

    def add_account(self, email: str, password: str) -> Account:
        """Add an account, or return the one there is."""
        return self.accounts.setdefault(email.lower(), Account(email.lower(), password))

    def bounce(
        self, submission: Submission, status: str, words: str, recipient: str | None = None
    ) -> None:
        """Let the delivery report about a submission leave for its sender, however late."""
        if self.relay is not None and submission.sender:
            to = recipient or submission.recipients[0]
            report = delivery_report(
                submission.sender, to, status, words, submission.raw, self.now()
            )
            self.relay.put(Letter("", submission.sender, report))

    def refused_later(self, letter: Letter, words: str) -> None:
        """Take note of what the relay's host will not have."""
        if isinstance(letter.ticket, Submission):
            self.bounce(letter.ticket, post.enhanced(words), words, letter.recipient)

    # ---- wire.Host

    @property
    def tls(self) -> ssl.SSLContext | None:
        """See `wire.Host`."""
        return self.secure.context if self.secure else None

    def begin(self, seen: Seen) -> None:
        """See `wire.Host`."""

    def offers(self, seen: Seen) -> Sequence[str]:
        """See `wire.Host`."""
        plain = self.tls is not None and not seen.was_encrypted
        return self.extensions if plain else (*self.extensions, f"AUTH {' '.join(self.mechanisms)}")

    def act(self, place: Place, seen: Seen) -> Act:
        """See `wire.Host`."""
        self.calls.append(place)
        fault = self.faults.take(place, seen.account)
        return GOOD if fault is None else _act(fault)

    def reply(self, place: Place, seen: Seen, argument: str) -> str:
        """See `wire.Host`."""
        match place:
            case "EHLO" | "RSET":
                seen.sender, seen.recipients = None, []
            case "AUTH":
                return self._sign_in(seen, argument)
            case "MAIL":
                return self._mail(seen, argument)
            case "RCPT":
                if seen.sender is None:
                    return "503 5.5.1 MAIL first"
                seen.recipients.append(address_of(argument))
            case "DATA":
                if not seen.recipients:
                    return "503 5.5.1 RCPT first"
            case "dot":
                return self._take(seen)
        return GOOD_REPLIES[place]

    def _mail(self, seen: Seen, argument: str) -> str:
        if seen.account is None:
            return "530 5.7.0 Authentication Required"
        account = self.accounts[seen.account]
        sender = address_of(argument)
        if sender != account.email:
            return f"553 5.7.1 <{sender}>: Sender address rejected: not owned by user"
        size = argument.upper().partition("SIZE=")[2].split(" ")[0]
        if size.isdecimal() and int(size) > self.size:
            return "552 5.3.4 Message too big"
        if account.messages_left == 0:
            return "550 5.4.5 Daily user sending limit exceeded"
        seen.sender, seen.recipients = sender, []
        return GOOD_REPLIES["MAIL"]

    def _take(self, seen: Seen) -> str:
        raw = unstuffed(seen.messages.pop())
        head = headed(raw)
        queue_id = secrets.token_hex(6).upper()
        assert seen.account is not None
        account = self.accounts[seen.account]
        if account.messages_left is not None:
            account.messages_left -= 1
        one = Submission(
            seen.account, (seen.began or datetime.now(UTC)) + self.offset, self.now(), queue_id,
            seen.sender or "", tuple(seen.recipients), str(head["Message-ID"] or "").strip(),
            head["X-Paceline-Job"], raw,
        )  # fmt: skip
        self.submissions.append(one)
        seen.sender, seen.recipients = None, []
        if self.relay is not None:
            for recipient in one.recipients:
                self.relay.put(Letter(one.sender, recipient, raw, one))
        return f"250 2.0.0 Ok: queued as {queue_id}"

    def _sign_in(self, seen: Seen, argument: str) -> str:
        mechanism, *words = argument.split("\n")
        if mechanism not in self.mechanisms:
            return "504 5.5.4 mechanism not known"
        if self.tls is not None and not seen.was_encrypted:
            return "538 5.7.11 Encryption required"
        match mechanism:
            case "PLAIN":
                _, user, secret = [*words[0].split("\0"), "", ""][:3]
                account = self._with_password(user, secret)
            case "LOGIN":
                account = self._with_password(*words[:2])
            case "CRAM-MD5":
                account = self._with_digest(words[0], words[1])
            case _:
                account = self._with_token(words[0])
                if account is None:
                    why = base64.b64encode(b'{"status":"400","schemes":"Bearer"}').decode()
                    return f"334 {why}\n\n{_REFUSED}"
        if account is None or not account.may_sign_in:
            return _REFUSED
        seen.account = account.email
        return GOOD_REPLIES["AUTH"]

    def _with_password(self, user: str, secret: str) -> Account | None:
        account = self.accounts.get(user.lower())
        return account if account and account.password == secret else None

    def _with_digest(self, challenge: str, answer: str) -> Account | None:
        user, _, digest = answer.rpartition(" ")
        account = self.accounts.get(user.lower())
        if account is None:
            return None
        wanted = hmac.new(account.password.encode(), challenge.encode(), hashlib.md5).hexdigest()
        return account if hmac.compare_digest(wanted, digest) else None

    def _with_token(self, words: str) -> Account | None:
        # XOAUTH2: user=…^Aauth=Bearer …^A^A; OAUTHBEARER: n,a=…,^Ahost=…^Aauth=Bearer …^A^A
        parts = dict(part.partition("=")[::2] for part in words.split("\x01"))
        token = parts.get("auth", "").removeprefix("Bearer ")
        user = parts.get("user") or words.partition("a=")[2].partition(",")[0]
        account = self.accounts.get(user.lower())
        if account is None:
            return None
        owner = self.bearer(token) if self.bearer else None
        return account if token in account.tokens or owner == account.email else None

    # ---- wire.Application: the control API is all there is

    def admit(self, request: Request) -> Response | None:
        """See `http.Application`."""
        return None

    def leave(self, request: Request) -> None:
        """See `http.Application`."""

    def fault_for(self, request: Request) -> Fault | None:
        """See `http.Application`."""
        return None

    def faulty_answer(self, fault: Fault) -> Response:
        """See `http.Application`."""
        return Response(fault.status)

    async def answer(self, request: Request) -> Response:
        """See `http.Application`."""
        if request.path[:1] != ("control",):
            return Response.of(404, {"error": "only /control/ is here"})
        return await self.controlled(request)

    async def control(self, request: Request, content: dict[str, Any]) -> Response:
        """See `Machine.control`."""
        match request.method, request.path[1:]:
            case "POST", ("accounts",):
                account = self.add_account(content.pop("email"), content.pop("password"))
                account.tokens |= set(content.pop("tokens", ()))
                for name, value in content.items():
                    setattr(account, name, value)
                return Response.of(200, {"email": account.email})
            case "POST", ("bounce",):
                for one in self.submissions:
                    if one.id == content["id"]:
                        words = content.get("words", "550 5.1.1 no such user here")
                        self.bounce(one, post.enhanced(words), words)
                        return Response.of(200, {})
        return Response.of(404, {"error": "no such control"})

    def told(self, one: Any, *, raw: bool) -> dict[str, Any]:
        """See `Machine.told`."""
        shown = asdict(one) | {"at": one.at.isoformat(), "asked_at": one.asked_at.isoformat()}
        return shown | {"raw": base64.b64encode(one.raw).decode() if raw else None}


def _act(fault: Fault) -> Act:
    words = fault.message
    reply = words if words[:3].isdecimal() else f"{fault.status} {words}"
    match fault.kind:
        case "reset_before" | "reset_in_body":
            return Act(fault="reset")
        case "reset_after" | "reset_in_answer":
            return Act(fault="reset", then="done")
        case "status":
            return Act(reply=reply)
        case "done_then_status":
            return Act(reply=reply, then="done")
        case "hang":
            return Act(fault="hang")
        case "done_then_hang":
            return Act(fault="hang", then="done")
        case "done_later":
            return Act(fault="hang", then="later", later_s=fault.delay_s)
        case "slow_loris":
            return Act(drip_s=fault.delay_s)
        case "slow":
            return Act(delay_s=fault.delay_s)


@asynccontextmanager
async def running(
    twin: SmtpTwin | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    control_port: int = 0,
    relay_to: tuple[str, int] | None = None,
) -> AsyncIterator[tuple[SmtpTwin, int, str]]:
    """Serve a twin until the block ends; gives it, its SMTP port and its control API's URL."""
    twin = twin or SmtpTwin()
    if relay_to is not None:
        twin.relay = Relay(*relay_to, refused=twin.refused_later)
    async with (
        post.relaying(twin.relay),
        listening(twin, host, port) as bound,
        http.served(twin, host, control_port) as control,
    ):
        yield twin, bound, f"http://{host}:{control}"
