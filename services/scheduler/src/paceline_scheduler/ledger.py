"""The decision ledger: why nothing is sent, or that it may be, with what it was decided by.

Releases are `slot` rows. A mailbox or a campaign has one open row, which the
next different decision closes; a job has one row per reason, counted. Behind a
closed window lie many jobs and one row: the mailbox's.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Database, Queries
from paceline_common.db.sql import number_array, text_array
from paceline_scheduler.domain.eligibility import Stretch
from paceline_scheduler.domain.hold import Hold

OPEN: Final = "open"
# Columns of `load_budgets.sql` that the rules are read from, and what else the decision rests on.
_NOTED: Final = (
    "policy", "timezone", "provider", "country", "region", "connected_at", "cadence_ms",
    "hour_cap", "ceiling", "types", "health", "health_floor", "stage", "domain_cap", "domain_tz",
)  # fmt: skip

Scope = Literal["mailbox", "job", "campaign"]

_json: Final = msgspec.json.Encoder().encode
_TRIM: Final = 5_000
_TRIM_EVERY_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Noted:
    """One decision about the thing `ref` of `scope`, in force up to `until` where that is known.

    `inputs` are what it was decided by, as JSON values; they hold nothing that changes from look
    to look (counts are those of the slots), so that one state stays one row.
    """

    scope: Scope
    ref: int
    reason: str
    until: datetime | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)


def of_mailbox(row: Row[Any], found: Stretch | Hold) -> Noted:
    """Return the decision about a mailbox, a row of `load_budgets.sql`, that `found` says.

    In force are either the hold, up to its end, or `open` up to the stretch's. The
    settings are noted as they were, so that `policy.read` understands the inputs;
    `opens` and `closes` are the stretch that was compiled, `day_cap` is its day's.
    """
    inputs = {name: row._mapping[name] for name in _NOTED}
    inputs["throttled"] = row.throttled_until is not None and row.throttled_until > row.db_now
    if isinstance(found, Stretch):
        inputs |= {
            "opens": found.start, "closes": found.end, "day_cap": found.day_cap,
            "ends_by": found.ends_by,
        }  # fmt: skip
        if found.closed_by is None:
            return Noted("mailbox", row.mailbox_id, OPEN, found.end, inputs)
        found = found.closed_by
    inputs["limit"] = found.limit
    return Noted("mailbox", row.mailbox_id, found.reason, found.until, inputs)


class Ledger:
    """Writes the ledger in the transactions that decide, and lets go of what is old."""

    def __init__(self, db: Database, queries: Queries, retention: timedelta) -> None:
        self._db = db
        self._queries = queries
        self._retention = retention

    async def note(
        self, tx: AsyncConnection, workspace_id: int, decisions: Sequence[Noted]
    ) -> None:
        """Note decisions; of several about one thing the last one holds."""
        if not decisions:
            return
        await tx.execute(
            self._queries["note_decisions"],
            {
                "workspace": workspace_id,
                "scopes": text_array([one.scope for one in decisions]),
                "refs": number_array([one.ref for one in decisions]),
                "reasons": text_array([one.reason for one in decisions]),
                "untils": text_array(
                    [None if one.until is None else one.until.isoformat() for one in decisions]
                ),
                "inputs": text_array([_json(one.inputs).decode() for one in decisions]),
            },
        )

    async def trim(self) -> int:
        """Delete closed decisions past their retention, in batches; return how many."""
        trimmed = 0
        while True:
            async with self._db.transaction(worker=True) as tx:
                arguments = {"age": self._retention, "most": _TRIM}
                result = await tx.execute(self._queries["trim_decisions"], arguments)
            trimmed += result.rowcount
            if result.rowcount < _TRIM:
                return trimmed

    async def run(self) -> None:
        """Trim once an hour until cancelled."""
        while True:
            await self.trim()
            await asyncio.sleep(_TRIM_EVERY_S)
