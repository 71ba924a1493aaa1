"""What the mail host really holds: its maildirs and its log, read back as facts.

Postfix with `enable_long_queue_ids` writes the instant of a submission into the
queue id, to the microsecond (`global/mail_queue.h`: six digits of seconds and
four of microseconds in base 52, a `z`, the inode in base 51). The log's own
stamps have a resolution of one second and are not used.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Final

_DIGITS: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_VALUE: Final = {digit: value for value, digit in enumerate(_DIGITS)}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_USEC_DIGITS: Final = 4

_LINE: Final = re.compile(r"\[\d+\]: (?P<id>[0-9A-Za-z]{12,}|NOQUEUE): (?P<rest>.*)$")
_LOGIN: Final = re.compile(r"client=.*\bsasl_username=(?P<user>[^,\s]+)")
_MESSAGE_ID: Final = re.compile(r"message-id=(?P<id>\S+)")
_FATE: Final = re.compile(r"to=<(?P<to>[^>]*)>.*\bstatus=(?P<status>\w+)")
_REJECT: Final = re.compile(
    r"reject: RCPT from [^:]+: (?P<code>\d{3}) .*\bfrom=<(?P<sender>[^>]*)> to=<(?P<to>[^>]*)>"
)
_RECEIVED: Final = re.compile(r"\(Postfix\).*?\bid (?P<id>[0-9A-Za-z]+)", re.DOTALL)
_ID: Final = re.compile(r"<[^<>\s]+>")


def queued_at(queue_id: str) -> datetime:
    """Return the instant (UTC, microseconds) at which Postfix made a long queue id.

    Raise `ValueError` for a short or foreign one.
    """
    # The inode's digits hold no `z`, those of the microseconds may.
    end = queue_id.rfind("z")
    seconds, micros = queue_id[: end - _USEC_DIGITS], queue_id[end - _USEC_DIGITS : end]
    if end < 10 or not set(seconds + micros) <= _VALUE.keys():
        raise ValueError(f"not a long queue id: {queue_id[:40]!r}")
    return _EPOCH + timedelta(seconds=_number(seconds), microseconds=_number(micros))


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 52 + _VALUE[digit]
    return value


@dataclass(slots=True)
class Submission:
    """One MAIL FROM that the mail host took from a logged-in mailbox, or a provider's send request.

    `refused` are the recipients answered 5xx at RCPT; `fate` says for each
    accepted one what became of it (`sent`, `bounced`, `deferred`). `job` and
    `thread_id`, the provider's conversation, are known of a provider's alone.
    """

    queue_id: str
    at: datetime
    mailbox: str
    message_id: str | None = None
    job: str | None = None
    thread_id: str | None = None
    refused: list[str] = field(default_factory=list)
    fate: dict[str, str] = field(default_factory=dict)

    @property
    def recipients(self) -> tuple[str, ...]:
        return (*self.refused, *self.fate)


@dataclass(frozen=True, slots=True)
class Log:
    """What mailboxes submitted, by the mail host's log and the providers' books, in order of time.

    `unqueued` are refusals without a queue id: (sender, recipient).
    """

    submissions: tuple[Submission, ...]
    unqueued: tuple[tuple[str, str], ...] = ()

    def joined(self, others: Iterable[Submission]) -> "Log":
        """Return this log with other submissions in their places."""
        every = sorted((*self.submissions, *others), key=lambda s: s.at)
        return Log(tuple(every), self.unqueued)

    def of(self, mailbox: str) -> list[Submission]:
        """Return the submissions of one mailbox, in order of time."""
        return [s for s in self.submissions if s.mailbox == mailbox]


def read_log(lines: Iterable[str], since: datetime) -> Log:
    """Return the submissions at or after `since` that Postfix's log lines tell of.

    Lines that were there before `since` must be left out by the caller where
    they matter: a refusal without a queue id has no instant.
    """
    found: dict[str, Submission] = {}
    unqueued: list[tuple[str, str]] = []
    for line in lines:
        match = _LINE.search(line)
        if match is None:
            continue
        queue_id, rest = match["id"], match["rest"]
        if login := _LOGIN.match(rest):
            if (at := queued_at(queue_id)) >= since:
                found[queue_id] = Submission(queue_id, at, login["user"].lower())
        elif reject := _REJECT.match(rest):
            if queue_id in found:
                found[queue_id].refused.append(reject["to"].lower())
            elif queue_id == "NOQUEUE":
                unqueued.append((reject["sender"].lower(), reject["to"].lower()))
        elif queue_id in found:
            if message := _MESSAGE_ID.match(rest):
                found[queue_id].message_id = message["id"]
            elif fate := _FATE.match(rest):
                found[queue_id].fate[fate["to"].lower()] = fate["status"]
    return Log(tuple(sorted(found.values(), key=lambda s: s.at)), tuple(unqueued))


@dataclass(frozen=True, slots=True)
class Held:
    """One message in a maildir or in an inbox at a provider.

    `at` is when the mail host took it; of what a provider wrote itself, when it
    came. `thread_id` is the provider's conversation, where there is one.
    """

    owner: str
    at: datetime
    message_id: str
    sender: str
    subject: str
    references: tuple[str, ...]
    in_reply_to: str | None
    job: str | None
    text: str
    headers: Mapping[str, str]
    report_on: str | None = None
    thread_id: str | None = None

    @property
    def automatic(self) -> bool:
        """Tell whether a machine wrote it (RFC 3834 §5), a DSN included."""
        return (
            self.headers.get("auto-submitted", "no").lower() != "no" or self.report_on is not None
        )

    @property
    def one_click_url(self) -> str | None:
        """Return the URL to POST to (RFC 8058 §3.1), or None when one click is not offered."""
        if self.headers.get("list-unsubscribe-post", "") != "List-Unsubscribe=One-Click":
            return None
        for part in self.headers.get("list-unsubscribe", "").split(","):
            uri = part.strip().strip("<>").replace(" ", "")
            if uri.startswith(("http://", "https://")):
                return uri
        return None


def read_maildir(owner: str, maildir: Path, since: datetime) -> list[Held]:
    """Return the messages that came at or after `since`, in order; an absent maildir holds none."""
    found = (parse(owner, path.read_bytes()) for path in files(maildir))
    return sorted((held for held in found if held.at >= since), key=lambda held: held.at)


def files(maildir: Path) -> Iterator[Path]:
    """Yield the messages' files of one maildir (`new` and `cur`)."""
    for part in ("new", "cur"):
        folder = maildir / part
        if folder.is_dir():
            yield from folder.iterdir()


def parse(
    owner: str, raw: bytes, came: datetime | None = None, thread_id: str | None = None
) -> Held:
    """Return what the checker needs of one delivered message.

    `came` is when a message came that the mail host may never have seen. Raise
    `ValueError` when no Postfix with long queue ids received it, nor it is known when it came.
    """
    message = message_from_bytes(raw, policy=policy.default)
    received = [m for line in message.get_all("Received", []) if (m := _RECEIVED.search(str(line)))]
    # The last Received line is the first hop: where the message was submitted.
    at = queued_at(received[-1]["id"]) if received else came
    if at is None:
        raise ValueError(f"no queue id in a message of {owner}")
    return Held(
        owner=owner,
        at=at,
        message_id=str(message.get("Message-ID", "")).strip(),
        sender=_address(message),
        subject=str(message.get("Subject", "")),
        references=tuple(_ID.findall(str(message.get("References", "")))),
        in_reply_to=next(iter(_ID.findall(str(message.get("In-Reply-To", "")))), None),
        job=message.get("X-Paceline-Job"),
        text=_text(message),
        headers={name.lower(): str(value) for name, value in message.items()},
        report_on=_reported(message),
        thread_id=thread_id,
    )


def _address(message: EmailMessage) -> str:
    header = message.get("From")
    addresses = getattr(header, "addresses", ())
    return addresses[0].addr_spec.lower() if addresses else ""


def _text(message: EmailMessage) -> str:
    body = message.get_body(("plain", "html"))
    return str(body.get_content()) if body is not None else ""


def _reported(message: EmailMessage) -> str | None:
    """Return the recipient a DSN (RFC 3464) speaks of, or None for other mail."""
    for part in message.walk():
        if part.get_content_type() != "message/delivery-status":
            continue
        for block in part.iter_parts():
            if recipient := block.get("Final-Recipient"):
                return str(recipient).partition(";")[2].strip().lower()
    return None


@dataclass(frozen=True, slots=True)
class Truth:
    """All that one run left on the mail host and at the providers.

    `delivered` are the messages in the recipients' maildirs, `inbound` those that came to
    the sending mailboxes, per owner.
    """

    log: Log
    delivered: Mapping[str, list[Held]]
    inbound: Mapping[str, list[Held]]
