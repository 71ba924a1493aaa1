"""A Gmail mailbox in memory: messages, threads, drafts, history, and what really left it."""

import itertools
import re
import secrets
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import format_datetime
from functools import cached_property
from typing import Final

from tests.twins.mime import addressed, headed, rewritten

SYSTEM_LABELS: Final = ("INBOX", "SENT", "DRAFT", "SPAM", "TRASH", "UNREAD", "STARRED", "IMPORTANT")
_REPLY_MARK: Final = re.compile(r"^(?:\s*(?:re|fwd?)\s*:)+\s*", re.IGNORECASE)
_MESSAGE_ID: Final = re.compile(r"<[^<>\s]+@[^<>\s]+>")
_GIVEN_BACK: Final = re.compile(rb"^Message-ID:\s*(<[^<>\s]+>)", re.IGNORECASE | re.MULTILINE)


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
    `bounces_after_s`: the report about every message sent comes after that time, with
    `bounce_status`.
    """

    rewrites_message_id: bool = False
    index_lag_s: float = 0.0
    sends_per_day: int = 2000
    limit_s: float = 3600.0
    units_per_minute: int = 15_000
    has_mail: bool = True
    bounces_after_s: float | None = None
    bounce_status: str = "5.1.1"


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
    _known: dict[str, str | None] = field(default_factory=dict, repr=False)

    @cached_property
    def parsed(self) -> EmailMessage:
        """The message, parsed."""
        parsed = message_from_bytes(self.raw, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        return parsed

    @cached_property
    def head(self) -> EmailMessage:
        """Its header alone, parsed."""
        return headed(self.raw)

    def header(self, name: str) -> str | None:
        """The first header of that name, unfolded."""
        name = name.lower()
        if name not in self._known:
            value = self.head[name]
            self._known[name] = None if value is None else str(value)
        return self._known[name]


@dataclass(frozen=True)
class Submission:
    """The truth about one accepted message; `raw` as its recipients get it.

    `asked_at` is when the send request came, `at` when it was acted upon.
    """

    mailbox: str
    asked_at: datetime
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
    history_id: int = 1000
    # What leaves and where it is found again, so that no request looks at every message.
    _spent: deque[tuple[datetime, int]] = field(default_factory=deque)
    _units: int = 0
    _sent_at: deque[datetime] = field(default_factory=deque)
    _threads: dict[str, dict[str, Stored]] = field(default_factory=dict)
    _named: dict[str, list[Stored]] = field(default_factory=dict)
    _due: list[tuple[datetime, Submission]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1001))

    # ---- quota

    def spend(self, units: int) -> None:
        """Use quota units (developers.google.com/gmail/api/reference/quota)."""
        if not self.conduct.has_mail:
            raise Refused(400, "failedPrecondition", "Mail service not enabled")
        now = self.now()
        while self._spent and self._spent[0][0] <= now - timedelta(minutes=1):
            self._units -= self._spent.popleft()[1]
        if self._units + units > self.conduct.units_per_minute:
            raise Refused(403, "userRateLimitExceeded", "User Rate Limit Exceeded")
        self._spent.append((now, units))
        self._units += units

    def _may_send(self) -> None:
        since = self.now() - timedelta(days=1)
        while self._sent_at and self._sent_at[0] <= since:
            self._sent_at.popleft()
        if len(self._sent_at) >= self.conduct.sends_per_day:
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
        if thread_id not in self._threads:
            raise Refused(404, "notFound", "Requested entity was not found.")
        return list(self._threads[thread_id].values())

    @property
    def thread_ids(self) -> Collection[str]:
        """Every conversation there is, oldest first."""
        return self._threads.keys()

    def settle(self) -> None:
        """Let the reports arrive that have become due."""
        if not self._due:
            return
        now = self.now()
        due = [one for at, one in self._due if at <= now]
        self._due = [(at, one) for at, one in self._due if at > now]
        for submission in due:
            status = self.conduct.bounce_status
            words = f"550 {status} The email account that you tried to reach is gone."
            self.bounce(submission, status, words)

    def send(self, raw: bytes, thread_id: str | None, asked_at: datetime | None = None) -> Stored:
        """Do users.messages.send."""
        to = checked(raw)
        if thread_id is not None:
            self.thread(thread_id)
        self._may_send()
        return self._sent(raw, to, thread_id, None, asked_at)

    def send_draft(self, draft_id: str, asked_at: datetime | None = None) -> Stored:
        """Do users.drafts.send: the draft is gone, its message sent, in one step."""
        draft = self.draft(draft_id)
        to = checked(draft.raw)
        self._may_send()
        thread = self.thread(draft.thread_id)
        self.delete_draft(draft_id)
        joined = draft.thread_id if len(thread) > 1 else None
        return self._sent(draft.raw, to, joined, draft_id, asked_at)

    def _sent(
        self,
        raw: bytes,
        to: tuple[str, ...],
        thread_id: str | None,
        draft_id: str | None,
        asked_at: datetime | None,
    ) -> Stored:
        raw = self._as_sent(raw)
        sent = self._add(
            raw, {"SENT"}, self._joined(headed(raw), thread_id), lag_s=self.conduct.index_lag_s
        )
        self._sent_at.append(sent.at)
        submission = Submission(
            self.email, asked_at or sent.at, sent.at, sent.id, sent.thread_id, draft_id,
            sent.header("Message-ID") or "", to, sent.header("X-Paceline-Job"), raw,
        )  # fmt: skip
        self.submissions.append(submission)
        if self.conduct.bounces_after_s is not None:
            at = self.now() + timedelta(seconds=self.conduct.bounces_after_s)
            self._due.append((at, submission))
        self.deliver(submission)
        return sent

    def _as_sent(self, raw: bytes) -> bytes:
        """Do what Gmail does to a message's Message-ID and Bcc."""
        old = headed(raw)["Message-ID"]
        kept = old is not None and _MESSAGE_ID.fullmatch(str(old).strip()) is not None
        if kept and not self.conduct.rewrites_message_id:
            return rewritten(raw, {b"bcc"})
        added = [f"Message-ID: <CA{secrets.token_urlsafe(24)}@mail.gmail.com>"]
        if old is not None:
            added.append(f"X-Google-Original-Message-ID: {str(old).strip()}")
        return rewritten(raw, {b"bcc", b"message-id"}, added)

    def receive(self, raw: bytes, labels: Collection[str] = ("INBOX", "UNREAD")) -> Stored:
        """Let a message arrive."""
        head = headed(raw)
        thread_id = self._joined(head, None, received=True)
        if thread_id is None and head.get_content_type() == "multipart/report":
            thread_id = self._reported(raw)
        return self._add(raw, set(labels), thread_id)

    def _joined(
        self, head: EmailMessage, thread_id: str | None, *, received: bool = False
    ) -> str | None:
        """Return the conversation that a message joins, None for a new one.

        A sent one needs the thread's id, References or In-Reply-To, and the same subject
        (PROVIDERS §1.2); a received one has no id to give.
        """
        subject = _REPLY_MARK.sub("", str(head["Subject"] or ""))
        for name in f"{head['References'] or ''} {head['In-Reply-To'] or ''}".split():
            for one in self._named.get(name, ()):
                if received:
                    return one.thread_id
                if (
                    one.thread_id == thread_id
                    and _REPLY_MARK.sub("", one.header("Subject") or "") == subject
                ):
                    return thread_id
        return None

    def _reported(self, raw: bytes) -> str | None:
        """Return the conversation of the message that a delivery report gives back."""
        for name in _GIVEN_BACK.findall(raw):
            for one in self._named.get(name.decode("ascii", "replace"), ()):
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
        self._threads.setdefault(stored.thread_id, {})[stored.id] = stored
        if name := (stored.header("Message-ID") or "").strip():
            self._named.setdefault(name, []).append(stored)
        self._note("messageAdded", stored)
        return stored

    def remove(self, message_id: str) -> None:
        """Do users.messages.delete: for good."""
        stored = self.find(message_id)
        del self.messages[stored.id]
        thread = self._threads[stored.thread_id]
        del thread[stored.id]
        if not thread:
            del self._threads[stored.thread_id]
        if name := (stored.header("Message-ID") or "").strip():
            self._named[name].remove(stored)
        self._note("messageDeleted", stored)

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
        stored = self._add(raw, {"DRAFT"}, self._joined(headed(raw), thread_id))
        draft_id = f"r{secrets.randbits(62)}"
        self.drafts[draft_id] = stored.id
        return draft_id

    def update_draft(self, draft_id: str, raw: bytes, thread_id: str | None) -> None:
        """Do users.drafts.update: another message, under the same draft's id."""
        old = self.draft(draft_id)
        stored = self._add(raw, {"DRAFT"}, self._joined(headed(raw), thread_id))
        self.drafts[draft_id] = stored.id
        self.remove(old.id)

    def delete_draft(self, draft_id: str) -> None:
        """Do users.drafts.delete: for good, or 404."""
        stored = self.draft(draft_id)
        del self.drafts[draft_id]
        self.remove(stored.id)

    # ---- delivery reports

    def bounce(
        self, submission: Submission, status: str, diagnostic: str, recipient: str | None = None
    ) -> Stored:
        """Let Gmail's own delivery report about a submission arrive (PROVIDERS §1.3)."""
        recipient = recipient or submission.recipients[0]
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


def checked(raw: bytes) -> tuple[str, ...]:
    """Return all that a message is addressed to, in lower case; refuse what Gmail would not send.

    Bcc counts, though its recipients' copies do not show it.
    """
    head = headed(raw)
    to = tuple(address.lower() for _, address in addressed(head, "To", "Cc", "Bcc"))
    if not to:
        raise Refused(400, "invalidArgument", "Recipient address required")
    if len(to) > 100:
        raise Refused(400, "invalidArgument", "Too many recipients")
    if any("@" not in one for one in to):
        raise Refused(400, "invalidArgument", "Invalid To header")
    return to
