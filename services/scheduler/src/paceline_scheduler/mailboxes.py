"""Mailbox settings and health become budgets and gates."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Queries
from paceline_scheduler import policy
from paceline_scheduler.domain.eligibility import types_mask
from paceline_scheduler.domain.rules import State

Key = tuple[int, int]

# Parameter of `upsert_budgets.sql`, and the column of `load_mailboxes.sql` that says what it was.
_WAS: Final = {
    "domains": "was_domain", "versions": "was_version", "actives": "was_active", "zones": "was_tz",
    "cadences": "cadence_ms", "jitter_mins": "jitter_min_ms", "jitter_maxes": "jitter_max_ms",
    "graces": "grace_ms", "hour_caps": "hour_cap", "ceilings": "ceiling",
    "outstandings": "max_outstanding", "floors": "health_floor", "types": "types",
    "accounts": "account_ref", "hosts": "host", "policies": "was_policy",
    "providers": "was_provider", "countries": "was_country", "regions": "was_region",
    "connected": "was_connected_at",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of a mailbox's health as of `version`: `score` 0..100, None for unknown;
    `stage` 0..5."""

    workspace_id: int
    mailbox_id: int
    version: int
    score: int | None
    stage: int


class Mailboxes:
    """Keeps `mailbox_budget` in line with `gateway.v_mailbox` and with what bounce measures."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def refresh(self, tx: AsyncConnection, mailboxes: Sequence[int] | None) -> set[int]:
        """Read the settings of some mailboxes, or all, of the workspaces that `tx` names.

        Returns those that exist. Budgets that differ in anything are written anew
        under their gates; leases that a mailbox no longer serves go back to the queue.
        """
        rows = await self._load(tx, mailboxes)
        changed = [row for row in rows if _differs(row)]
        if changed:
            await self._lock(tx, ((row.workspace_id, row.mailbox_id) for row in changed))
            # Read again: what their types rest on changes under the gate alone.
            await self._write(tx, await self._load(tx, [row.mailbox_id for row in changed]))
        await tx.execute(
            self._queries["add_accounts"],
            _keys([(row.workspace_id, row.mailbox_id) for row in rows]),
        )
        return {row.mailbox_id for row in rows}

    async def deactivate(self, tx: AsyncConnection, mailboxes: Sequence[Key]) -> None:
        """Let mailboxes that are gone send nothing any more; their leases go back to the queue."""
        if mailboxes:
            await self._lock(tx, mailboxes)
            await tx.execute(self._queries["deactivate_mailboxes"], _keys(mailboxes))
            await self._requeue(tx, mailboxes)

    async def apply_health(self, tx: AsyncConnection, measured: Sequence[Health]) -> set[Key]:
        """Write newer measurements, and tell the pacer; return the mailboxes they changed.

        An older version changes nothing, nor does a mailbox that nobody knows.
        """
        named = [(one.workspace_id, one.mailbox_id) for one in measured]
        if not named:
            return set()
        await self._lock(tx, named)
        arguments: dict[str, Any] = {
            **_keys(named),
            "versions": [one.version for one in measured],
            "scores": [one.score for one in measured],
            "stages": [one.stage for one in measured],
        }
        rows = (await tx.execute(self._queries["load_health"], arguments)).all()
        changed = [(row.workspace_id, row.mailbox_id) for row in rows]
        if not rows:
            return set()
        await tx.execute(
            self._queries["set_health"],
            {
                **_keys(changed),
                "versions": [row.version for row in rows],
                "scores": [row.score for row in rows],
                "stages": [row.stage for row in rows],
                "types": [
                    types_mask(policy.read(row._asdict()), State(health=row.score, stage=row.stage))
                    for row in rows
                ],
            },
        )
        await self._requeue(tx, changed)
        await tx.execute(
            self._queries["add_changes"],
            {
                "workspaces": [workspace for workspace, _ in changed],
                "scopes": ["mailbox"] * len(changed),
                "refs": [mailbox for _, mailbox in changed],
            },
        )
        return set(changed)

    async def _load(
        self, tx: AsyncConnection, mailboxes: Sequence[int] | None
    ) -> Sequence[Row[Any]]:
        arguments = {"mailboxes": mailboxes}
        return (await tx.execute(self._queries["load_mailboxes"], arguments)).all()

    async def _lock(self, tx: AsyncConnection, mailboxes: Iterable[Key]) -> None:
        named = list(mailboxes)
        await tx.execute(
            self._queries["lock_gates"],
            {
                "workspaces": [workspace for workspace, _ in named],
                "scopes": ["mailbox"] * len(named),
                "refs": [mailbox for _, mailbox in named],
            },
        )

    async def _write(self, tx: AsyncConnection, rows: Sequence[Row[Any]]) -> None:
        columns = [_columns(row) for row in rows]
        keys = [(row.workspace_id, row.mailbox_id) for row in rows]
        await tx.execute(
            self._queries["upsert_budgets"],
            {
                **_keys(keys),
                **{name: [one[name] for one in columns] for name in _WAS},
                "policies": [json.dumps(one["policies"]) for one in columns],
            },
        )
        await self._requeue(tx, keys)

    async def _requeue(self, tx: AsyncConnection, mailboxes: Sequence[Key]) -> None:
        await tx.execute(
            self._queries["requeue_unadmitted"],
            {
                "workspaces": sorted({workspace for workspace, _ in mailboxes}),
                "mailboxes": [mailbox for _, mailbox in mailboxes],
                "campaigns": None,
            },
        )


def _differs(row: Row[Any]) -> bool:
    if not row.is_known or row.version < row.was_version:
        return not row.is_known
    now = _columns(row)
    return any(now[name] != getattr(row, column) for name, column in _WAS.items())


def _columns(row: Row[Any]) -> dict[str, Any]:
    rules = policy.read(row._asdict())
    kept = policy.columns(rules)
    return {
        "domains": row.domain,
        "versions": row.version,
        "actives": row.is_active,
        "zones": kept.tz,
        "cadences": kept.cadence_ms,
        "jitter_mins": kept.jitter_min_ms,
        "jitter_maxes": kept.jitter_max_ms,
        "graces": kept.grace_ms,
        "hour_caps": kept.hour_cap,
        "ceilings": kept.ceiling,
        "outstandings": kept.max_outstanding,
        "floors": kept.health_floor,
        "types": types_mask(rules, State(health=row.health, stage=row.stage)),
        "accounts": policy.account_ref(row.provider, row.email),
        "hosts": policy.host_code(row.provider),
        "policies": row.policy,
        "providers": row.provider,
        "countries": row.country,
        "regions": row.region,
        "connected": row.connected_at,
    }


def _keys(mailboxes: Sequence[Key]) -> dict[str, list[int]]:
    return {
        "workspaces": [workspace for workspace, _ in mailboxes],
        "mailboxes": [mailbox for _, mailbox in mailboxes],
    }
