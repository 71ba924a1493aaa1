"""Campaign settings become what decisions know of campaigns."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Queries


class Campaigns:
    """Keeps `campaign_policy` in line with `gateway.v_campaign`."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def refresh(self, tx: AsyncConnection, campaigns: Sequence[int] | None) -> None:
        """Read the settings of some campaigns, or all, of the workspaces that `tx` names.

        Leases of mailboxes that a campaign no longer admits go back to the queue.
        """
        arguments = {"campaigns": campaigns}
        rows = (await tx.execute(self._queries["load_changed_campaigns"], arguments)).all()
        if not rows:
            return
        changed = {
            "workspaces": [row.workspace_id for row in rows],
            "campaigns": [row.campaign_id for row in rows],
        }
        await tx.execute(
            self._queries["lock_gates"],
            {
                "workspaces": changed["workspaces"],
                "scopes": ["campaign"] * len(rows),
                "refs": changed["campaigns"],
            },
        )
        await tx.execute(self._queries["upsert_campaigns"], changed)
        await tx.execute(self._queries["requeue_unadmitted"], {**changed, "mailboxes": None})
