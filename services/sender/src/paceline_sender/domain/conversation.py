"""One conversation in the recipient's client, whoever sends it (RFC 5322 §3.6.4)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# RFC 5322 asks for lines of at most 998 octets; References is folded between ids,
# but some receivers refuse very long headers: keep the root and the latest ids.
MAX_REFERENCES: Final = 20
_REPLY_PREFIX: Final = re.compile(r"^(?:re\s*:\s*)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class SentMessage:
    """An earlier message of the conversation, as the recipient got it."""

    message_id: str
    subject: str


@dataclass(frozen=True, slots=True)
class Thread:
    """What makes a message a follow-up; empty for the first one."""

    in_reply_to: str | None
    references: tuple[str, ...]


def thread(sent: Sequence[SentMessage]) -> Thread:
    """Return the threading of a message that follows `sent` (oldest first).

    Only what was really sent counts. The first message stays in References
    however long the chain gets: clients group by it.
    """
    if not sent:
        return Thread(None, ())
    chain = tuple(dict.fromkeys(message.message_id for message in sent))
    if len(chain) > MAX_REFERENCES:
        chain = (chain[0], *chain[-(MAX_REFERENCES - 1) :])
    return Thread(sent[-1].message_id, chain)


def subject(own: str, sent: Sequence[SentMessage]) -> str:
    """Return the subject: the step's own, or `Re:` and the conversation's first one.

    Returns an empty text when the step has none and nothing was sent before.
    """
    if own.strip() or not sent:
        return own.strip()
    return f"Re: {_REPLY_PREFIX.sub('', sent[0].subject)}"


def message_id(job: str, workspace: str, domain: str) -> str:
    """Return the Message-ID of a job, brackets included: the same one at every attempt."""
    return f"<{job.removeprefix('job_')}.{workspace.removeprefix('ws_')}@{domain}>"
