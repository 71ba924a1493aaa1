"""The hash chain: what a record's digest covers, and how the next one follows.

Each workspace has its own chain; workspace 0 is the installation's. A record's
digest is SHA-256 over the previous digest (32 zero bytes before the first) and
the record's canonical bytes, so that no row can be changed, removed or put in
between without every later digest changing too.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

INSTALLATION: Final = 0
GENESIS: Final = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One audited action, as it is stored; `at` is aware and kept to the microsecond."""

    workspace_id: int
    seq: int
    event_id: str
    source: str
    at: datetime
    action: str
    actor: str
    subject: str
    source_ip: str | None
    before_digest: str | None
    after_digest: str | None
    detail: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Break:
    """The first row at which a chain is not what was written, and how one can tell."""

    workspace_id: int
    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain; `seq` 0 with the digest `GENESIS` is an empty one."""

    seq: int = 0
    digest: bytes = GENESIS


def canonical(record: Record) -> bytes:
    """Return the bytes a digest covers: JSON, keys sorted, no spaces, ASCII, instants in UTC."""
    return json.dumps(
        {
            "v": 1,
            "workspace_id": record.workspace_id,
            "seq": record.seq,
            "event_id": record.event_id,
            "source": record.source,
            "at": record.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "action": record.action,
            "actor": record.actor,
            "subject": record.subject,
            "source_ip": record.source_ip,
            "before_digest": record.before_digest,
            "after_digest": record.after_digest,
            "detail": dict(record.detail),
        },
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    ).encode("ascii")


def digest(previous: bytes, record: Record) -> bytes:
    """Return the record's digest (32 bytes), given the digest before it."""
    return hashlib.sha256(previous + canonical(record)).digest()


def statement(workspace_id: int, seq: int, head: bytes, signed_at: datetime) -> bytes:
    """Return the bytes that a checkpoint's signature covers: a chain's head at an instant."""
    at = signed_at.astimezone(UTC).isoformat(timespec="microseconds")
    return f"paceline audit checkpoint v1\n{workspace_id}\n{seq}\n{head.hex()}\n{at}\n".encode()


class Chain:
    """Recomputes one chain, row by row from its start."""

    def __init__(self, workspace_id: int) -> None:
        self.workspace_id = workspace_id
        self.head = Head()

    def follow(self, record: Record, stored: bytes) -> Break | None:
        """Take the next row with its stored digest; return how it breaks the chain, if it does.

        Behind a break nothing can be told: stop there.
        """
        if record.seq != self.head.seq + 1:
            return Break(self.workspace_id, self.head.seq + 1, "missing")
        if digest(self.head.digest, record) != stored:
            return Break(self.workspace_id, record.seq, "altered")
        self.head = Head(record.seq, stored)
        return None
