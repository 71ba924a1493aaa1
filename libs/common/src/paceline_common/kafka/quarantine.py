"""Faults: whose they are, and where a record goes that cannot be handled.

`classify` tells a lost dependency (wait, without limit) from an event's own
fault (a few tries, then quarantine) and from a bug. A quarantined record is
one row, one dead letter through the outbox and, where the consumer keeps an
inbox, one inbox row, in one transaction.
"""

import enum
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec
import psycopg
from aiokafka import ConsumerRecord
from aiokafka.errors import KafkaError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db.outbox import stored_headers
from paceline_common.db.session import Database
from paceline_common.topics import Topic


class EventFault(Exception):
    """The event itself cannot be handled, now or later.

    `code` is stable (`unknown_campaign`), `message` a sentence for the person
    who repairs it, without personal data. `installation` keeps the record from
    the workspace it names: its publisher may not use that workspace.
    """

    def __init__(self, code: str, message: str, *, installation: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.installation = installation


class Fault(enum.Enum):
    """Whose fault an exception is."""

    DEPENDENCY = "dependency"
    EVENT = "event"
    BUG = "bug"


# SQLSTATE classes and codes (Postgres appendix A) that say "not now", never "not this row".
_LOST_CLASSES: Final = frozenset({"08", "28", "40", "53", "57", "58"})
_LOST_CODES: Final = frozenset(
    {
        "55P03",  # lock_not_available: another member holds the rows
        "25006",  # read_only_sql_transaction: a failover is under way
        "25P03",  # idle_in_transaction_session_timeout
        "3D000", "3F000", "42P01", "42703", "42883",  # the schema is not migrated yet
    }
)  # fmt: skip
# A smaller transaction may get through where these stopped a large one.
_SPLIT: Final = frozenset({"40001", "40P01", "55P03", "57014"})
_EVENT_CLASSES: Final = frozenset({"22", "23"})

_lost_types: list[type[BaseException]] = [OSError, PoolTimeout, KafkaError]


def lost_dependency_types(*types: type[BaseException]) -> None:
    """Register exception types that mean a lost dependency, such as a key service's."""
    _lost_types.extend(one for one in types if one not in _lost_types)


def sqlstate(error: BaseException) -> str | None:
    """Return the SQLSTATE of a database error, None for a broken connection or another error."""
    state = getattr(getattr(error, "orig", error), "sqlstate", None)
    return state if isinstance(state, str) else None


def classify(error: BaseException) -> Fault:
    """Tell whose fault `error` is; what nobody knows is a bug."""
    if isinstance(error, EventFault):
        return Fault.EVENT
    # The driver's own errors where a statement goes straight to it (`db.outbox`).
    if isinstance(error, DBAPIError | psycopg.Error):
        state = sqlstate(error)
        if state is None:
            # The connection's own failures, timeouts of connecting among them, have no state.
            lost = getattr(error, "connection_invalidated", False) or isinstance(
                getattr(error, "orig", error), psycopg.OperationalError | psycopg.InterfaceError
            )
            return Fault.DEPENDENCY if lost else Fault.EVENT
        if state[:2] in _LOST_CLASSES or state in _LOST_CODES:
            return Fault.DEPENDENCY
        return Fault.EVENT if state[:2] in _EVENT_CLASSES else Fault.BUG
    if isinstance(error, tuple(_lost_types)):
        return Fault.DEPENDENCY
    if isinstance(error, ValueError | msgspec.MsgspecError):
        return Fault.EVENT
    return Fault.BUG


def is_splittable(error: BaseException) -> bool:
    """Tell whether a smaller transaction might pass where this error stopped a large one."""
    return sqlstate(error) in _SPLIT


def reason_of(error: BaseException) -> tuple[str, str]:
    """Return the reason code and a readable reason, free of row contents."""
    if isinstance(error, EventFault):
        return error.code, error.message
    if isinstance(error, DBAPIError):
        diagnostics = getattr(error.orig, "diag", None)
        constraint = getattr(diagnostics, "constraint_name", None)
        reason = f"Postgres refused it with SQLSTATE {sqlstate(error)}"
        return "refused_by_database", reason + (f" ({constraint})" if constraint else "")
    # Only the type: the text of a stranger's exception may quote the event.
    return "handler_failed", f"the handler failed with {type(error).__qualname__}"


class Halted(Exception):
    """The subscription must not go on: too much was quarantined, or a stop could not be kept."""


class RateLimit:
    """At most `limit` quarantined records in `window_s` seconds."""

    def __init__(
        self, limit: int, window_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._monotonic = monotonic
        # Of those past the limit (`is_reached`) only the newest matter.
        self._times: deque[float] = deque(maxlen=limit)

    def is_reached(self) -> bool:
        """Tell whether one more record would pass the limit."""
        while self._times and self._times[0] <= self._monotonic() - self._window_s:
            self._times.popleft()
        return len(self._times) >= self._limit

    def check(self) -> None:
        """Raise `Halted` if one more record would pass the limit."""
        if self.is_reached():
            raise Halted(f"{self._limit} records quarantined within {self._window_s:g} s")

    def count(self) -> None:
        """Count one quarantined record."""
        self._times.append(self._monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Everything the quarantine keeps of a record."""

    record: "ConsumerRecord[bytes, bytes]"
    workspace_id: int | None
    event_id: str | None
    source: str | None
    type: str | None
    reason_code: str
    reason: str
    attempts: int


class Quarantine:
    """The quarantine of one service."""

    def __init__(self, db: Database) -> None:
        self._worker_role = db.worker_role
        # One statement: the dead letter leaves if, and only if, the row is new.
        self._insert = text(
            f"WITH put AS (INSERT INTO {db.schema}.quarantine"  # noqa: S608 - own schema
            ' (workspace_id, topic, "partition", offset_, key, event_id, source, type, headers,'
            " body, digest, reason_code, reason, attempts)"
            " VALUES (:workspace_id, :topic, :partition, :offset, :key, :event_id, :source, :type,"
            " CAST(:headers AS jsonb), :body, :digest, :reason_code, :reason, :attempts)"
            " ON CONFLICT DO NOTHING RETURNING quarantine_id)"
            f" INSERT INTO {db.schema}.outbox (workspace_id, topic, key, type, body, headers)"
            " SELECT :workspace_id, :dead_letter, :text_key, 'dead-letter', :letter,"
            " CAST(:letter_headers AS jsonb) FROM put RETURNING id"
        )
        self._settle = text(
            f"UPDATE {db.schema}.quarantine SET settled_at = now(), settled_by = :by"  # noqa: S608 - own schema
            " WHERE quarantine_id = :id AND settled_at IS NULL"
        )

    async def put(self, tx: AsyncConnection, topic: Topic, one: Quarantined) -> bool:
        """Write row and dead letter into `tx`; False if this very record is already there.

        A row without a workspace is written as the worker role, in which `tx` stays.
        """
        if one.workspace_id is None:
            await tx.execute(_AS_ROLE, {"role": self._worker_role})
        record = one.record
        headers = stored_headers(record.headers)
        told = {
            "paceline-topic": record.topic,
            "paceline-partition": str(record.partition),
            "paceline-offset": str(record.offset),
            "paceline-reason-code": one.reason_code,
            "paceline-reason": one.reason,
        }
        inserted = await tx.execute(
            self._insert,
            {
                "workspace_id": one.workspace_id,
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "key": record.key,
                "event_id": one.event_id,
                "source": one.source,
                "type": one.type,
                "headers": json.dumps(headers),
                "body": record.value,
                "digest": digest(record),
                "reason_code": one.reason_code,
                "reason": one.reason.replace("\0", "\N{REPLACEMENT CHARACTER}"),
                "attempts": one.attempts,
                "dead_letter": topic.dead_letter,
                "text_key": _text_key(record.key),
                "letter": record.value or b"",
                "letter_headers": json.dumps([*headers, *told.items()]),
            },
        )
        return inserted.first() is not None

    async def settle(self, tx: AsyncConnection, quarantine_id: int, by: str) -> bool:
        """Mark a row settled, in the transaction of the effect that repairs it."""
        return (await tx.execute(self._settle, {"id": quarantine_id, "by": by})).rowcount == 1


_AS_ROLE: Final = text("SELECT set_config('role', :role, true)")


def digest(record: "ConsumerRecord[bytes, bytes]") -> bytes:
    """Return the SHA-256 of a record's value."""
    return hashlib.sha256(record.value or b"").digest()


def _text_key(key: bytes | None) -> str:
    return (key or b"").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
