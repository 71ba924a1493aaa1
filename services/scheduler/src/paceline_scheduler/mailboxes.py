"""Mailbox settings become budgets and gates."""

import json
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Queries
from paceline_scheduler import policy


class Mailboxes:
    """Keeps `mailbox_budget` in line with `gateway.v_mailbox`."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def refresh(self, tx: AsyncConnection, mailboxes: Sequence[int] | None) -> set[int]:
        """Read the settings of some mailboxes, or all, of the workspaces that `tx` names.

        Returns those that exist; an older version than the budget's changes nothing.
        """
        rows = (await tx.execute(self._queries["load_mailboxes"], {"mailboxes": mailboxes})).all()
        if not rows:
            return set()
        policies = [policy.read(row.policy, row.timezone) for row in rows]
        await tx.execute(
            self._queries["upsert_budgets"],
            {
                "workspaces": [row.workspace_id for row in rows],
                "mailboxes": [row.mailbox_id for row in rows],
                "domains": [row.domain for row in rows],
                "versions": [row.version for row in rows],
                "actives": [row.is_active for row in rows],
                "zones": [one.tz for one in policies],
                "cadences": [one.cadence_ms for one in policies],
                "jitter_mins": [one.jitter_min_ms for one in policies],
                "jitter_maxes": [one.jitter_max_ms for one in policies],
                "graces": [one.grace_ms for one in policies],
                "day_caps": [one.day_cap for one in policies],
                "hour_caps": [one.hour_cap for one in policies],
                "windows": [json.dumps(one.windows) for one in policies],
            },
        )
        return {row.mailbox_id for row in rows}
