"""Which header fields a user may add to messages, and how large content gets as MIME.

The gateway refuses with it what the sender could not send; the sender asks again before it
builds, for rules change while rows stay.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Reason = Literal[
    "header_name_invalid",
    "header_structural",
    "header_identity",
    "header_trace",
    "header_own",
    "header_directive",
    "header_value_invalid",
    "header_repeated",
    "headers_too_many",
]

MAX_HEADERS: Final = 20
MAX_VALUE: Final = 900  # with its name on one line of at most 998 octets (RFC 5322 §2.1.1)

SENTENCES: Final[dict[Reason, str]] = {
    "header_name_invalid": "A header's name is 1 to 50 letters, digits and hyphens,"
    " beginning with a letter.",
    "header_structural": "This header says how the message is put together;"
    " Paceline writes it from the content.",
    "header_identity": "This header says who writes to whom, when, or in which conversation;"
    " it comes from the mailbox, the lead and the campaign.",
    "header_trace": "This header is evidence of the way a message took;"
    " only mail servers and signers may write it.",
    "header_own": "Paceline writes this header itself; unsubscribing and the proof of what"
    " was sent depend on it.",
    "header_directive": "Mail services or clients take this header as an order: who else gets the"
    " message, when it leaves, what is tracked. That would pass by the limits and promises"
    " kept here.",
    "header_value_invalid": f"A header's value is 1 to {MAX_VALUE} characters on one line,"
    " without control characters.",
    "header_repeated": "This header is there twice.",
    "headers_too_many": f"More than {MAX_HEADERS} headers.",
}

# RFC 5322 §3.6.8 allows more; what lies outside is rewritten or refused on the way, and an
# encoded-word must fit the rest of a longer name's line.
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,49}")
# Controls, line and paragraph separators, lone surrogates.
_UNFIT: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# In lower case; a name that ends with "-" stands for all that begin with it.
_REFUSED: Final[dict[Reason, tuple[str, ...]]] = {
    # RFC 2045; what changes how the rest is read.
    "header_structural": ("content-", "mime-version", "encoding", "lines", "status", "x-status"),
    # RFC 5322 §3.6.1-3.6.5; Thread-* is Exchange's, Apparently-To sendmail's.
    "header_identity": (
        "date", "from", "sender", "reply-to", "to", "cc", "bcc", "subject", "message-id",
        "in-reply-to", "references", "original-", "supersedes",
        "thread-", "apparently-to", "errors-to", "x-original-from", "x-sender", "x-receiver",
    ),
    # RFC 5322 §3.6.6-3.6.7, 8601, 6376, 8617, 7208; what hosts write beside them.
    "header_trace": (
        "return-path", "received", "received-", "resent-", "delivered-to", "delivery-date",
        "envelope-", "x-envelope-", "x-original-to", "x-forwarded-", "authentication-results",
        "x-authentication-", "arc-", "dkim-", "domainkey-", "x-dkim", "x-dkim-", "bimi-",
        "x-google-", "x-gm-", "x-ms-", "x-microsoft-", "x-forefront-", "x-eop", "x-spam-",
        "x-virus-",
    ),
    # RFC 2369, 8058; the job's token and whatever else of ours.
    "header_own": (
        "list-unsubscribe", "list-unsubscribe-post", "x-paceline-",
    ),
    # SendGrid, SparkPost, Mailgun, Mandrill, SES, Mailjet, Brevo, Postmark, Elastic Email,
    # PowerMTA, X.400's deferral (RFC 2156), receipts (RFC 8098).
    "header_directive": (
        "x-smtpapi", "x-msys-", "x-mailgun-", "x-mc-", "x-mandrill-", "x-ses-", "x-mj-",
        "x-mailjet-", "x-mailin-", "x-sib-", "x-pm-", "x-elasticemail-", "x-virtual-mta",
        "x-job", "x-virtual-", "deferred-delivery", "latest-delivery-time",
        "disposition-notification-", "return-receipt-to", "x-confirm-reading-to",
    ),
}  # fmt: skip
_BY_NAME: Final[dict[str, Reason]] = {
    name: reason for reason, names in _REFUSED.items() for name in names if name[-1] != "-"
}
_BY_PREFIX: Final[tuple[tuple[str, Reason], ...]] = tuple(
    (name, reason) for reason, names in _REFUSED.items() for name in names if name[-1] == "-"
)


@dataclass(frozen=True, slots=True)
class RefusedHeader:
    """Why a header may not be set; `reason` is stable, `text` is for people."""

    name: str
    reason: Reason

    @property
    def text(self) -> str:
        """One sentence."""
        return SENTENCES[self.reason]


def refusal(name: str, value: str) -> RefusedHeader | None:
    """Return why a user may not set this header to this value; None if they may.

    Values may hold any letters: what is not ASCII is encoded when the message is built.
    """
    reason: Reason | None
    if _NAME.fullmatch(name) is None:
        reason = "header_name_invalid"
    else:
        lower = name.lower()
        reason = _BY_NAME.get(lower) or next(
            (reason for prefix, reason in _BY_PREFIX if lower.startswith(prefix)), None
        )
        if reason is None and not _is_fit(value):
            reason = "header_value_invalid"
    return None if reason is None else RefusedHeader(name, reason)


def first_refusal(headers: Iterable[tuple[str, str]]) -> RefusedHeader | None:
    """Return what is wrong with one owner's list of headers; None if nothing is."""
    seen: set[str] = set()
    for name, value in headers:
        if (refused := refusal(name, value)) is not None:
            return refused
        if name.lower() in seen:
            return RefusedHeader(name, "header_repeated")
        seen.add(name.lower())
        if len(seen) > MAX_HEADERS:
            return RefusedHeader(name, "headers_too_many")
    return None


def merged(
    workspace: Iterable[tuple[str, str]], mailbox: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """Return the headers of a message: the workspace's, then the mailbox's.

    A mailbox's header replaces the workspace's of the same name. What may not be set
    (any more) is left out.
    """
    own = [(name, value) for name, value in mailbox if refusal(name, value) is None]
    replaced = {name.lower() for name, _ in own}
    shared = [
        (name, value)
        for name, value in workspace
        if name.lower() not in replaced and refusal(name, value) is None
    ]
    return (*shared, *own)


def encoded_size(size: int) -> int:
    """Return the octets that `size` octets take as base64 in lines of 76 (RFC 2045 §6.8)."""
    characters = -(-size // 3) * 4
    return characters + -(-characters // 76) * 2


def size_at_most(bodies: Iterable[int], attachments: Iterable[int]) -> int:
    """Return a size that no message of these contents exceeds, in octets.

    `bodies` are sizes of text and HTML in UTF-8, `attachments` those of the files. For limits
    before a message exists; the sender measures the bytes themselves.
    """
    # An octet takes three in quoted-printable, and each 73 of those at most one soft break.
    texts = sum(3 * size + (3 * size // 73 + 2) * 3 for size in bodies)
    files = sum(encoded_size(size) + _PART_HEADERS for size in attachments)
    return texts + files + _MESSAGE_HEADERS


# Custom headers and subject may be encoded: up to twelve octets for a character.
_MESSAGE_HEADERS: Final = 16_384 + MAX_HEADERS * (50 + 12 * MAX_VALUE)
_PART_HEADERS: Final = 8_192


def _is_fit(value: str) -> bool:
    return bool(value.strip()) and len(value) <= MAX_VALUE and _UNFIT.search(value) is None
