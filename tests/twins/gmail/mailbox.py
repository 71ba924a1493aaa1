"""A Gmail mailbox in memory: messages, threads, drafts, history, and what really left it."""

import base64
import itertools
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses
from functools import cached_property
from typing import Any, Final

SYSTEM_LABELS: Final = ("INBOX", "SENT", "DRAFT", "SPAM", "TRASH", "UNREAD", "STARRED", "IMPORTANT")
_REPLY_MARK: Final = re.compile(r"^(?:\s*(?:re|fwd?)\s*:)+\s*", re.IGNORECASE)
_MESSAGE_ID: Final = re.compile(r"<[^<>\s]+@[^<>\s]+>")


class Refused(Exception):
    """Gmail's refusal: HTTP status, the reason of its error body, and words."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status: Final = status
        self.reason: Final = reason
        self.message: Final = message


@dataclass
class Conduct:
    """How this mailbox behaves.

    `rewrites_message_id`: a sent message gets Gmail's own Message-ID; a malformed one always
    does. `index_lag_s`: how long a sent message stays out of lists and searches.
    `sends_per_day` (rolling) and `units_per_minute` are its quota; `limit_s` is how long a
    reached sending limit lasts. `has_mail`: without it "Mail service not enabled".
    """

    rewrites_message_id: bool = False
    index_lag_s: float = 0.0
    sends_per_day: int = 2000
    limit_s: float = 3600.0
    units_per_minute: int = 15_000
    has_mail: bool = True


@dataclass
class Stored:
    """One message of the mailbox; `visible_at`: from when lists show it."""

    id: str
    thread_id: str
    raw: bytes
    at: datetime
    visible_at: datetime
    labels: set[str]
    history_id: int = 0

    @cached_property
    def parsed(self) -> EmailMessage:
        """The message, parsed."""
        return _parsed(self.raw)

    def header(self, name: str) -> str | None:
        """The first header of that name, unfolded."""
        value = self.parsed[name]
        return None if value is None else str(value)


@dataclass(frozen=True)
class Submission:
    """The truth about one accepted message; `raw` as its recipients get it."""

    mailbox: str
    at: datetime
    id: str
    thread_id: str
    draft_id: str | None
    message_id: str
    recipients: tuple[str, ...]
    job: str | None
    raw: bytes


@dataclass(frozen=True)
class Change:
    """One record of the history; `kind` as in historyTypes."""

    id: int
    kind: str
    message_id: str
    labels: tuple[str, ...]


@dataclass
class Mailbox:
    """One account. `deliver` takes what it sends to where it goes."""

    email: str
    name: str
    now: Callable[[], datetime]
    deliver: Callable[[Submission], None]
    conduct: Conduct = field(default_factory=Conduct)
    messages: dict[str, Stored] = field(default_factory=dict)
    drafts: dict[str, str] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    history_floor: int = 0
    spent: list[tuple[datetime, int]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1001))
    history_id: int = 1000

    # ---- quota

    def spend(self, units: int) -> None:
        """Use quota units (developers.google.com/gmail/api/reference/quota)."""
        if not self.conduct.has_mail:
            raise Refused(400, "failedPrecondition", "Mail service not enabled")
        since = self.now() - timedelta(minutes=1)
        self.spent = [(at, spent) for at, spent in self.spent if at > since]
        if sum(spent for _, spent in self.spent) + units > self.conduct.units_per_minute:
            raise Refused(403, "userRateLimitExceeded", "User Rate Limit Exceeded")
        self.spent.append((self.now(), units))

    def _may_send(self) -> None:
        since = self.now() - timedelta(days=1)
        if sum(one.at > since for one in self.submissions) >= self.conduct.sends_per_day:
            until = self.now() + timedelta(seconds=self.conduct.limit_s)
            stamp = until.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            raise Refused(
                429, "rateLimitExceeded",
                f"User-rate limit exceeded.  Retry after {stamp} (Mail sending)",
            )  # fmt: skip

    # ---- messages

    def find(self, message_id: str) -> Stored:
        """Return a message, wherever it is; 404."""
        if message_id not in self.messages:
            raise Refused(404, "notFound", "Requested entity was not found.")
        return self.messages[message_id]

    def thread(self, thread_id: str) -> list[Stored]:
        """Return a conversation's messages, oldest first; 404."""
        found = [one for one in self.messages.values() if one.thread_id == thread_id]
        if not found:
            raise Refused(404, "notFound", "Requested entity was not found.")
        return found

    def send(self, raw: bytes, thread_id: str | None) -> Stored:
        """Do users.messages.send."""
        checked(raw)
        if thread_id is not None:
            self.thread(thread_id)
        self._may_send()
        return self._sent(raw, thread_id, None)

    def send_draft(self, draft_id: str) -> Stored:
        """Do users.drafts.send: the draft is gone, its message sent, in one step."""
        draft = self.draft(draft_id)
        checked(draft.raw)
        self._may_send()
        thread = self.thread(draft.thread_id)
        self.delete_draft(draft_id)
        return self._sent(draft.raw, draft.thread_id if len(thread) > 1 else None, draft_id)

    def _sent(self, raw: bytes, thread_id: str | None, draft_id: str | None) -> Stored:
        raw = self._as_sent(raw)
        sent = self._add(
            raw, {"SENT"}, self._joined(raw, thread_id), lag_s=self.conduct.index_lag_s
        )
        submission = Submission(
            self.email, sent.at, sent.id, sent.thread_id, draft_id, sent.header("Message-ID") or "",
            recipients(raw), sent.header("X-Paceline-Job"), raw,
        )  # fmt: skip
        self.submissions.append(submission)
        self.deliver(submission)
        return sent

    def _as_sent(self, raw: bytes) -> bytes:
        """Do what Gmail does to a message's Message-ID and Bcc."""
        old = _parsed(raw)["Message-ID"]
        kept = old is not None and _MESSAGE_ID.fullmatch(str(old).strip()) is not None
        head, _, body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
        lines = re.split(rb"\n(?![ \t])", head)
        gone = (
            {b"bcc"} if kept and not self.conduct.rewrites_message_id else {b"bcc", b"message-id"}
        )
        lines = [line for line in lines if line.partition(b":")[0].strip().lower() not in gone]
        if b"message-id" in gone:
            lines.append(f"Message-ID: <CA{secrets.token_urlsafe(24)}@mail.gmail.com>".encode())
            if old is not None:
                lines.append(f"X-Google-Original-Message-ID: {str(old).strip()}".encode())
        return b"\r\n".join(lines) + b"\r\n\r\n" + body.replace(b"\n", b"\r\n")

    def receive(self, raw: bytes, labels: Collection[str] = ("INBOX", "UNREAD")) -> Stored:
        """Let a message arrive."""
        return self._add(raw, set(labels), self._joined(raw, None, received=True))

    def _joined(self, raw: bytes, thread_id: str | None, *, received: bool = False) -> str | None:
        """Return the conversation that a message joins, None for a new one.

        A sent one needs the thread's id, References or In-Reply-To, and the same subject
        (PROVIDERS §1.2); a received one has no id to give.
        """
        parsed = _parsed(raw)
        named = set(f"{parsed['References'] or ''} {parsed['In-Reply-To'] or ''}".split())
        if not named:
            return None
        subject = _REPLY_MARK.sub("", str(parsed["Subject"] or ""))
        for one in self.messages.values():
            fits = one.header("Message-ID") in named and (
                received or _REPLY_MARK.sub("", one.header("Subject") or "") == subject
            )
            if fits and (received or one.thread_id == thread_id):
                return one.thread_id
        return None

    def _add(
        self, raw: bytes, labels: set[str], thread_id: str | None, *, lag_s: float = 0.0
    ) -> Stored:
        number = f"{secrets.randbits(60) | 1 << 60:016x}"
        now = self.now()
        stored = Stored(
            number, thread_id or number, raw, now, now + timedelta(seconds=lag_s), labels
        )
        self.messages[stored.id] = stored
        self._note("messageAdded", stored)
        return stored

    def relabel(self, message_id: str, added: Collection[str], removed: Collection[str]) -> Stored:
        """Do users.messages.modify."""
        stored = self.find(message_id)
        if unknown := (set(added) | set(removed)) - set(SYSTEM_LABELS):
            raise Refused(400, "invalidArgument", f"Invalid label: {sorted(unknown)[0]}")
        stored.labels = (stored.labels | set(added)) - set(removed)
        if added:
            self._note("labelAdded", stored, added)
        if removed:
            self._note("labelRemoved", stored, removed)
        return stored

    def _note(self, kind: str, stored: Stored, labels: Collection[str] = ()) -> None:
        self.history_id = next(self._numbers)
        stored.history_id = self.history_id
        self.history.append(
            Change(self.history_id, kind, stored.id, tuple(sorted(labels or stored.labels)))
        )

    def forget_history(self) -> None:
        """Let every history id given so far be too old."""
        self.history_id = next(self._numbers)
        self.history_floor = self.history_id
        self.history.clear()

    # ---- drafts

    def draft(self, draft_id: str) -> Stored:
        """Return a draft's message; 404."""
        if draft_id not in self.drafts:
            raise Refused(404, "notFound", "Requested entity was not found.")
        return self.messages[self.drafts[draft_id]]

    def create_draft(self, raw: bytes, thread_id: str | None) -> str:
        """Do users.drafts.create: a draft may be incomplete."""
        if thread_id is not None:
            self.thread(thread_id)
        stored = self._add(raw, {"DRAFT"}, self._joined(raw, thread_id))
        draft_id = f"r{secrets.randbits(62)}"
        self.drafts[draft_id] = stored.id
        return draft_id

    def delete_draft(self, draft_id: str) -> None:
        """Do users.drafts.delete: for good, or 404."""
        stored = self.draft(draft_id)
        del self.drafts[draft_id]
        del self.messages[stored.id]
        self._note("messageDeleted", stored)

    # ---- delivery reports

    def bounce(self, submission: Submission, status: str, diagnostic: str) -> Stored:
        """Let Gmail's own delivery report about a submission arrive (PROVIDERS §1.3)."""
        recipient = submission.recipients[0]
        action = "failed" if status.startswith("5") else "delayed"
        word = "Failure" if action == "failed" else "Delay"
        original = submission.raw.partition(b"\r\n\r\n")[0].decode("utf-8", "replace")
        boundary = secrets.token_hex(12)
        report = "\r\n".join((
            "Return-Path: <>",
            "From: Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
            f"To: {self.email}",
            "Auto-Submitted: auto-replied",
            f"Subject: Delivery Status Notification ({word})",
            f"Message-ID: <{secrets.token_hex(10)}@mx.google.com>",
            f"Date: {format_datetime(self.now())}",
            f"X-Failed-Recipients: {recipient}",
            f"X-Original-Message-ID: {submission.message_id}",
            f"In-Reply-To: {submission.message_id}",
            f"References: {submission.message_id}",
            "MIME-Version: 1.0",
            f'Content-Type: multipart/report; report-type=delivery-status; boundary="{boundary}"',
            "",
            f"--{boundary}",
            'Content-Type: text/plain; charset="UTF-8"',
            "",
            f"Your message wasn't delivered to {recipient}. The response was: {diagnostic}",
            f"--{boundary}",
            "Content-Type: message/delivery-status",
            "",
            "Reporting-MTA: dns; googlemail.com",
            f"Arrival-Date: {format_datetime(submission.at)}",
            f"X-Original-Message-ID: {submission.message_id}",
            "",
            f"Final-Recipient: rfc822; {recipient}",
            f"Action: {action}",
            f"Status: {status}",
            f"Diagnostic-Code: smtp; {diagnostic}",
            f"Last-Attempt-Date: {format_datetime(self.now())}",
            "",
            f"--{boundary}",
            "Content-Type: text/rfc822-headers",
            "",
            original,
            f"--{boundary}--",
            "",
        ))  # fmt: skip
        return self.receive(report.encode())


def checked(raw: bytes) -> None:
    """Refuse what Gmail would not send."""
    if not recipients(raw):
        raise Refused(400, "invalidArgument", "Recipient address required")
    if len(recipients(raw)) > 100:
        raise Refused(400, "invalidArgument", "Too many recipients")
    if any("@" not in one for one in recipients(raw)):
        raise Refused(400, "invalidArgument", "Invalid To header")


def recipients(raw: bytes) -> tuple[str, ...]:
    """Return all that a message is addressed to, in lower case."""
    parsed = _parsed(raw)
    fields = [str(one) for name in ("To", "Cc", "Bcc") for one in parsed.get_all(name, ())]
    return tuple(address.lower() for _, address in getaddresses(fields) if address)


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
    content = part.get_payload(decode=True)
    data = content if isinstance(content, bytes) else b""
    shown["body"] = {"size": len(data), "data": base64.urlsafe_b64encode(data).decode()}
    return shown


def _snippet(message: EmailMessage) -> str:
    body = message.get_body(("plain", "html"))
    if body is None or body.is_multipart():
        return ""
    return " ".join(str(body.get_content()).split())[:200]


def _parsed(raw: bytes) -> EmailMessage:
    parsed = message_from_bytes(raw, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed
