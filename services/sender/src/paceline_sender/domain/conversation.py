"""One conversation in the recipient's client, whoever sends it (RFC 5322 §3.6.4).

A conversation is one subject and one chain of ids; all clients that matter ask for both:

- Gmail wants the same subject and a References header that names ids seen in the thread
  (workspaceupdates.googleblog.com, 2019-03-29); its API wants the threadId as well
  (developers.google.com/workspace/gmail/api/guides/threads).
- Exchange, and so Outlook on it, follows References and In-Reply-To to the first message's
  Message-ID, and begins another conversation where the subject changes (learn.microsoft.com,
  "Work with conversations by using EWS in Exchange"). Outlook without it goes by the hash of
  the subject without its prefix ([MS-PST] 5.4).
- Apple Mail, Thunderbird and IMAP servers follow References (RFC 5256).

So a step with a subject of its own begins a new conversation in every client alike: it names
nothing, and what follows without a subject continues that one.

Thread-Topic and Thread-Index are not written. Exchange sets both on each message it handles,
and what leaves through Graph has its index: another one on a follow-up through another
transport could only split what subject and References hold together.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

# RFC 5322 asks for lines of at most 998 octets; References is folded between ids, but some
# receivers refuse very long headers: keep the root, by which clients group, and the latest.
MAX_REFERENCES: Final = 20
MAX_SUBJECT: Final = 540
PREFIX: Final = "Re: "
_MAX_BASE: Final = 500
_MAX_PREFIX: Final = MAX_SUBJECT - _MAX_BASE
_REPLY: Final = re.compile(r"^(?:re(?:\[\d+\])?\s*:\s*)+", re.IGNORECASE)
# What was read back is another's text: only what can be nothing but an id goes on.
_ID: Final = re.compile(r"<[!-;=?A-~]{1,160}@[!-;=?A-~]{1,160}>")


@dataclass(frozen=True, slots=True)
class SentMessage:
    """An earlier message to the same recipient, with the id that arrived there."""

    message_id: str
    subject: str


@dataclass(frozen=True, slots=True)
class Thread:
    """What makes a message a follow-up; empty for the first one."""

    in_reply_to: str | None
    references: tuple[str, ...]


def subject(own: str, sent: Sequence[SentMessage]) -> str:
    """Return the subject: the step's own, or `Re:` and that of the conversation so far.

    `own` is on one line already. Returns an empty text when the step has none and nothing
    was sent before.
    """
    own = own.strip()
    if own or not sent:
        # Cut behind the prefix, so that the same text is the same subject with and without.
        base = _base(own)
        prefix = own[: len(own) - len(base)]
        return f"{prefix if len(prefix) <= _MAX_PREFIX else PREFIX}{base[:_MAX_BASE].rstrip()}"
    base = _base(sent[-1].subject)
    return f"{PREFIX}{base}" if base else sent[-1].subject


def thread(subject: str, sent: Sequence[SentMessage]) -> Thread:
    """Return the threading of a message with this subject after `sent` (oldest first).

    It continues the latest conversation if the subject is the same but for `Re:`, and then
    names what was really sent in it; otherwise it begins another.
    """
    base = _base(subject)
    latest = takewhile(lambda one: _base(one.subject) == base, reversed(sent))
    ids = [one.message_id for one in latest if is_id(one.message_id)]
    if not ids:
        return Thread(None, ())
    chain = tuple(reversed(dict.fromkeys(ids)))
    if len(chain) > MAX_REFERENCES:
        chain = (chain[0], *chain[-(MAX_REFERENCES - 1) :])
    return Thread(chain[-1], chain)


def is_id(text: str) -> bool:
    """Tell whether `text` is a Message-ID that can be named in another message."""
    # "=?" could be read as an encoded-word.
    return _ID.fullmatch(text) is not None and "=?" not in text


def message_id(job: str, workspace: str, domain: str) -> str:
    """Return the Message-ID of a job, brackets included: the same one at every attempt."""
    return f"<{job.removeprefix('job_')}.{workspace.removeprefix('ws_')}@{domain}>"


def _base(subject: str) -> str:
    return _REPLY.sub("", subject).strip()
