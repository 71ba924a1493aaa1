"""A Microsoft 365 mailbox in memory: items in folders, and what really left it.

Ids as Exchange gives them: the immutable one stays, the regular one changes
whenever the item changes folder (learn.microsoft.com/graph/outlook-immutable-id).
"""

import base64
import hashlib
import itertools
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email import message_from_bytes, policy
from email.header import Header
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final, Literal

from tests.twins.mime import addressed, headed, rewritten

FOLDERS: Final = ("inbox", "drafts", "sentitems", "junkemail", "deleteditems")
# Exchange sets these itself, whatever the MIME says (PROVIDERS §2.2).
_DROPPED: Final = frozenset({"auto-submitted", "return-path", "received"})
_REPLACED: Final = frozenset(
    name.encode() for name in (*_DROPPED, "from", "message-id", "bcc", "in-reply-to", "references")
)
_NDR_OF: Final = re.compile(r"\s+")
_ID: Final = re.compile(r"<[^<>\s]+>")
_GIVEN_BACK: Final = re.compile(rb"^Message-ID:\s*<[^<>\s]+>", re.IGNORECASE | re.MULTILINE)


class Refused(Exception):
    """Exchange's refusal: HTTP status, code and words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status: Final = status
        self.code: Final = code
        self.message: Final = message


NOT_FOUND: Final = (404, "ErrorItemNotFound", "The specified object was not found in the store.")


@dataclass
class Item:
    """One message in one folder; `headers` in order, as the MIME had them."""

    immutable_id: str
    folder: str
    headers: list[tuple[str, str]]
    body: str
    is_html: bool
    recipients: dict[str, list[tuple[str, str]]]
    reply_to: list[tuple[str, str]]
    sender: tuple[str, str]
    subject: str
    internet_message_id: str
    conversation_id: str
    mime: bytes
    created_at: datetime
    changed_at: datetime
    is_draft: bool
    received_at: datetime
    sent_at: datetime
    visible_at: datetime
    regular_id: str = ""
    entered: int = 0
    changed: int = 0
    has_attachments: bool = False
    is_read: bool = True

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    @property
    def addresses(self) -> list[str]:
        """Every recipient, lower case."""
        return [address.lower() for some in self.recipients.values() for _, address in some]


@dataclass(frozen=True)
class Submission:
    """Provider-side truth: one message that was taken to be delivered.

    `mime` as it was submitted, `raw` as recipients get it; `asked_at` is when the send
    request came, `at` when it was acted upon.
    """

    mailbox: str
    how: Literal["send", "sendMail"]
    item_id: str
    recipients: tuple[str, ...]
    submitted_message_id: str
    message_id: str
    job: str | None
    asked_at: datetime
    at: datetime
    conversation_id: str
    mime: bytes = field(repr=False)
    raw: bytes = field(repr=False)


@dataclass
class Conduct:
    """How the mailbox behaves from now on; a good one by default.

    `sent_lag_s` before a sent message is in Sent Items: meanwhile its id is not
    found (`lag="gone"`, as documented) or is still a draft (`lag="draft"`).
    `resends`: a sent draft may be sent again. `replies_to_sender`: createReply addresses the
    original's sender whatever the MIME says. `ndr_after_s`: every message sent
    comes back after that time; `ndr_status` is its enhanced code. `next_page_on`: the
    host that links to further pages name, instead of the twin's own. `concurrency`,
    `requests_per_10_min` and `sends_per_day` (rolling) are its limits (PROVIDERS §2.4).
    """

    rewrites_message_id: bool = False
    rewrites_draft_message_id: bool = False
    hides_headers: bool = False
    sent_lag_s: float = 0.0
    lag: Literal["gone", "draft"] = "gone"
    resends: bool = False
    replies_to_sender: bool = False
    ndr_after_s: float | None = None
    ndr_status: str = "5.1.10"
    refuses: tuple[int, str, str] | None = None
    next_page_on: str | None = None
    concurrency: int = 4
    requests_per_10_min: int = 10_000
    sends_per_day: int = 10_000


@dataclass
class Mailbox:
    """One user's mailbox. `now` is the twin's clock, `deliver` takes away what it sends."""

    email: str
    display_name: str
    now: Callable[[], datetime]
    deliver: Callable[[Submission], None]
    items: dict[str, Item] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    conduct: Conduct = field(default_factory=Conduct)
    active: int = 0
    most_active: int = 0
    delta_epoch: int = 0
    _sequence: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _due: list[tuple[datetime, Callable[[], None]]] = field(default_factory=list)
    # Folder, number of the change, and the ids that are gone from it.
    removed: dict[str, list[tuple[int, str, str]]] = field(default_factory=dict)
    changes: int = 0
    # Where things are found again, so that no request looks at every item.
    _by_regular_id: dict[str, Item] = field(default_factory=dict)
    _by_folder: dict[str, dict[str, Item]] = field(default_factory=dict)
    _conversations: dict[str, str] = field(default_factory=dict)
    _sent_at: deque[datetime] = field(default_factory=deque)
    _asked: deque[datetime] = field(default_factory=deque)

    # ---- limits

    def count_request(self) -> bool:
        """Count a request; False when there were too many in ten minutes."""
        now = self.now()
        while self._asked and self._asked[0] <= now - timedelta(minutes=10):
            self._asked.popleft()
        if len(self._asked) >= self.conduct.requests_per_10_min:
            return False
        self._asked.append(now)
        return True

    def _may_send(self) -> None:
        now = self.now()
        while self._sent_at and self._sent_at[0] <= now - timedelta(days=1):
            self._sent_at.popleft()
        if len(self._sent_at) >= self.conduct.sends_per_day:
            raise Refused(
                429, "ErrorExceededMessageLimit", "The message submission limit was exceeded."
            )

    # ---- time

    def settle(self) -> None:
        """Do what has become due: late copies in Sent Items, late reports."""
        if not self._due:
            return
        now = self.now()
        due = [work for at, work in self._due if at <= now]
        self._due = [(at, work) for at, work in self._due if at > now]
        for work in due:
            work()

    # ---- reading

    def folder_id(self, name: str) -> str:
        """Return the id of a well-known folder (constant, as containers' are)."""
        digest = hashlib.sha256(f"{self.email}/{name}".encode()).digest()
        return "AQMk" + base64.urlsafe_b64encode(digest).decode()

    def folder_named(self, name: str) -> str:
        """Return the well-known name for a name or an id."""
        for known in FOLDERS:
            if name.lower() == known or name == self.folder_id(known):
                return known
        raise Refused(404, "ErrorFolderNotFound", "The specified folder could not be found.")

    def find(self, item_id: str) -> Item:
        """Return the item of either id; an id of an earlier folder finds nothing."""
        self.settle()
        if not re.fullmatch(r"AA[Mk][A-Za-z0-9_=-]+", item_id):
            raise Refused(400, "ErrorInvalidIdMalformed", "Id is malformed.")
        item = self.items.get(item_id) or self._by_regular_id.get(item_id)
        if item is None or item.visible_at > self.now():
            raise Refused(*NOT_FOUND)
        return item

    def listed(self, folder: str | None) -> list[Item]:
        """Return what one folder, or the mailbox, shows now."""
        self.settle()
        now = self.now()
        items = self.items if folder is None else self._by_folder.get(folder, {})
        return [item for item in items.values() if item.visible_at <= now]

    def changed_since(self, folder: str, after: int, *, created_only: bool) -> list[Item]:
        """Return what came into a folder, or changed there, behind a change number."""
        self.settle()
        now, found = self.now(), []
        # What changed last stands last.
        for item in reversed(self._by_folder.get(folder, {}).values()):
            if item.changed <= after:
                break
            if item.visible_at <= now and (not created_only or item.entered > after):
                found.append(item)
        return found

    # ---- writing

    def add_mime(self, mime: bytes, folder: str, *, is_draft: bool = False) -> Item:
        """File a message."""
        parsed = message_from_bytes(mime, policy=policy.default)
        assert isinstance(parsed, EmailMessage)
        head = headed(mime)
        if is_draft or folder == "sentitems":
            # The signed-in mailbox is the sender, whatever the MIME says (PROVIDERS §2.2).
            sender = (self.display_name, self.email)
        else:
            sender = next(iter(addressed(head, "From")), ("", ""))
        recipients = {kind: addressed(head, kind) for kind in ("to", "cc", "bcc")}
        message_id = str(head.get("Message-ID", "")).strip() or self._message_id()
        if is_draft and self.conduct.rewrites_draft_message_id:
            message_id = self._message_id()
        part = parsed.get_body(("html", "plain"))
        now = self.now()
        item = Item(
            immutable_id="AAkALg" + secrets.token_urlsafe(60),
            folder=folder,
            headers=[
                (name, str(value)) for name, value in head.items() if name.lower() not in _DROPPED
            ],
            body=part.get_content() if part is not None else "",
            is_html=part is not None and part.get_content_type() == "text/html",
            recipients=recipients,
            reply_to=addressed(head, "reply-to"),
            sender=sender,
            subject=str(head.get("Subject", "")),
            internet_message_id=message_id,
            conversation_id=self._conversation(head, mime),
            mime=mime,
            created_at=now,
            changed_at=now,
            is_draft=is_draft,
            received_at=now,
            sent_at=now,
            visible_at=now,
            has_attachments=next(parsed.iter_attachments(), None) is not None,
            is_read=folder not in ("inbox", "junkemail"),
        )
        self.items[item.immutable_id] = item
        self._conversations.setdefault(message_id, item.conversation_id)
        self._enter(item, folder)
        return item

    def touch(self, item: Item) -> None:
        """Give an item a new change key."""
        item.changed = self.changes = next(self._sequence)
        item.changed_at = self.now()
        folder = self._by_folder.setdefault(item.folder, {})
        folder.pop(item.immutable_id, None)
        folder[item.immutable_id] = item

    def move(self, item: Item, folder: str) -> None:
        """Move to another folder: the regular id changes."""
        self._enter(item, folder)

    def delete(self, item: Item) -> None:
        """Move to Deleted Items; from there, away for good."""
        if item.folder == "deleteditems":
            self._drop(item)
        else:
            self._enter(item, "deleteditems")

    def send(self, item: Item, asked_at: datetime | None = None) -> None:
        """Send a draft wherever it lies now, as long as it is one."""
        if not item.is_draft and not self.conduct.resends:
            raise Refused(*NOT_FOUND)
        self._check(item)
        self._may_send()
        first = item.is_draft
        self._take("send", item, asked_at)
        if not first:
            return
        lag = timedelta(seconds=self.conduct.sent_lag_s)
        if lag and self.conduct.lag == "draft":
            self._due.append((self.now() + lag, lambda: self._file_sent(item)))
            return
        self._file_sent(item)
        self._show_later(item, lag)

    def send_mail(
        self, mime: bytes, *, save: bool = True, asked_at: datetime | None = None
    ) -> None:
        """Send in one go."""
        item = self.add_mime(mime, "sentitems")
        try:
            self._check(item)
            self._may_send()
        except Refused:
            self._drop(item)
            raise
        self._take("sendMail", item, asked_at)
        self._show_later(item, timedelta(seconds=self.conduct.sent_lag_s))
        if not save:
            self._drop(item)

    def _show_later(self, item: Item, lag: timedelta) -> None:
        if not lag:
            return
        item.visible_at = self.now() + lag

        def shown() -> None:
            item.entered = next(self._sequence)
            self.touch(item)

        self._due.append((item.visible_at, shown))

    def join(self, item: Item, conversation_id: str) -> None:
        """Put an item into a conversation."""
        item.conversation_id = conversation_id
        self._conversations[item.internet_message_id] = conversation_id

    def _drop(self, item: Item) -> None:
        """Take an item away for good."""
        del self.items[item.immutable_id]
        self._leave(item)

    def _leave(self, item: Item) -> None:
        self._by_folder[item.folder].pop(item.immutable_id, None)
        self._by_regular_id.pop(item.regular_id, None)
        self.changes = next(self._sequence)
        self.removed.setdefault(item.folder, []).append(
            (self.changes, item.immutable_id, item.regular_id)
        )

    def _check(self, item: Item) -> None:
        if self.conduct.refuses is not None:
            raise Refused(*self.conduct.refuses)
        if not item.addresses or any("@" not in address for address in item.addresses):
            raise Refused(
                400, "ErrorInvalidRecipients", "At least one recipient isn't valid., A message "
                "can't be sent because it contains no recipients.",
            )  # fmt: skip
        if len(item.addresses) > 500:
            raise Refused(400, "ErrorExceededMaxRecipientLimit", "Too many recipients.")

    def _take(
        self, how: Literal["send", "sendMail"], item: Item, asked_at: datetime | None
    ) -> None:
        submitted, now = item.internet_message_id, self.now()
        if self.conduct.rewrites_message_id:
            item.internet_message_id = self._message_id()
            self._conversations[item.internet_message_id] = item.conversation_id
        one = Submission(
            self.email, how, item.immutable_id, tuple(item.addresses), submitted,
            item.internet_message_id, item.header("X-Paceline-Job"), asked_at or now, now,
            item.conversation_id, item.mime, self._as_sent(item),
        )  # fmt: skip
        self._sent_at.append(now)
        self.submissions.append(one)
        self.deliver(one)
        if self.conduct.ndr_after_s is not None:
            at = self.now() + timedelta(seconds=self.conduct.ndr_after_s)
            self._due.append((at, lambda: _nothing(self.bounce(item))))

    def _as_sent(self, item: Item) -> bytes:
        """Return what recipients get: From and Message-ID are Exchange's business."""
        held = {name.lower() for name, _ in item.headers}
        threading = [
            f"{name}: " + "\n ".join(value.split())
            for name, value in item.headers
            if name.lower() in ("in-reply-to", "references")
        ]
        added = [
            formatted_from(item.sender), f"Message-ID: {item.internet_message_id}", *threading,
        ]  # fmt: skip
        if "date" not in held:
            added.append(f"Date: {format_datetime(self.now())}")
        return rewritten(item.mime, _REPLACED, added)

    def _file_sent(self, item: Item) -> None:
        if item.immutable_id not in self.items:
            # Somebody deleted what was on its way out.
            self.items[item.immutable_id] = item
            item.regular_id = ""
        item.is_draft = False
        item.sent_at = item.received_at = self.now()
        self._enter(item, "sentitems")

    def bounce(
        self,
        item: Item,
        status: str | None = None,
        words: str | None = None,
        recipient: str | None = None,
    ) -> Item:
        """Put Exchange's report about a sent message into the inbox (PROVIDERS §2.3)."""
        status = status or self.conduct.ndr_status
        words = words or f"550 {status} recipient not found"
        recipient = recipient or item.addresses[0]
        report = (
            f"From: Microsoft Outlook <postmaster@{self.email.rpartition('@')[2]}>\r\n"
            f"To: {self.email}\r\nSubject: Undeliverable: {item.subject}\r\n"
            f"Message-ID: {self._message_id()}\r\n"
            f"In-Reply-To: {item.internet_message_id}\r\n"
            f"References: {item.internet_message_id}\r\n"
            "X-MS-Exchange-Message-Is-Ndr:\r\nAuto-Submitted: auto-replied\r\n"
            "MIME-Version: 1.0\r\n"
            'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
            "--b\r\nContent-Type: text/plain\r\n\r\nYour message couldn't be delivered.\r\n"
            "--b\r\nContent-Type: message/delivery-status\r\n\r\n"
            "Reporting-MTA: dns;twin.prod.outlook.com\r\n\r\n"
            f"Final-Recipient: rfc822;{recipient}\r\nAction: failed\r\nStatus: {status}\r\n"
            f"Diagnostic-Code: smtp;{words}\r\n"
            "--b\r\nContent-Type: text/rfc822-headers\r\n\r\n"
            + "".join(f"{name}: {_NDR_OF.sub(' ', value)}\r\n" for name, value in item.headers)
            + "\r\n--b--\r\n"
        )
        return self.add_mime(report.encode(), "inbox")

    def _enter(self, item: Item, folder: str) -> None:
        if item.regular_id:
            self._leave(item)
        item.folder = folder
        item.regular_id = "AAMkAD" + secrets.token_urlsafe(60)
        self._by_regular_id[item.regular_id] = item
        item.entered = next(self._sequence)
        self.touch(item)

    def _conversation(self, head: EmailMessage, mime: bytes) -> str:
        text = f"{head.get('References') or ''} {head.get('In-Reply-To') or ''}"
        named = _ID.findall(text)
        if not named and head.get_content_type() == "multipart/report":
            given_back = b" ".join(_GIVEN_BACK.findall(mime))
            named = _ID.findall(given_back.decode("ascii", "replace"))
        for name in named:
            if name in self._conversations:
                return self._conversations[name]
        return "AAQkAD" + secrets.token_urlsafe(30)

    def _message_id(self) -> str:
        return f"<{secrets.token_hex(12).upper()}@TWIN0001MB.twinprd01.prod.outlook.com>"


def _nothing(_: object) -> None:
    return None


def formatted_from(sender: tuple[str, str]) -> str:
    """Return the From line of a mailbox."""
    name = sender[0].replace("\\", "").replace('"', "")
    if not name.isascii():
        name = str(Header(name, "utf-8").encode())
        return f"From: {name} <{sender[1]}>"
    return f'From: "{name}" <{sender[1]}>'
