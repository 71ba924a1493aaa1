"""Drafts that nobody will send: destroyed in the background, until they are gone.

What the process that made one could not destroy, because it died or the provider was away,
is found by its attempt and tried again. Destroying one of these proves nothing: its attempt
has an outcome.
"""

import asyncio
from typing import Final, Protocol

import msgspec

from paceline_common import failpoints, ids, telemetry
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.keys import KeyDenied, SealBroken
from paceline_providers.base import Fence
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Destroyed, Gone, Prover, Unavailable
from paceline_sender.accounts import Accounts
from paceline_sender.transport import Account, Unusable

_AT_ONCE: Final = 50

log = telemetry.logger("sender.drafts")


class Provers(Protocol):
    """Gives access to mailboxes' drafts: `MailTransport.prover`."""

    def prover(self, account: Account) -> Prover | None: ...


async def prover(
    accounts: Accounts, transport: Provers, workspace_id: int, mailbox_id: int
) -> Prover | Unavailable:
    """Return who looks at a mailbox's drafts, or why nobody can.

    Raises `KeyServiceUnavailable` and what Postgres raises.
    """
    try:
        account = await accounts.load(workspace_id, mailbox_id)
        found = None if account is None else transport.prover(account)
    except (SealBroken, KeyDenied, Unusable) as error:
        return Unavailable(OutcomeClass.CONFIG, str(error))
    return found or Unavailable(None, "the mailbox is disconnected, or has no drafts")


class Drafts:
    """Knows which drafts are left over, and destroys them."""

    def __init__(
        self, db: Database, accounts: Accounts, transport: Provers, *, every_s: float
    ) -> None:
        self._db = db
        self._accounts = accounts
        self._transport = transport
        self._every_s = every_s
        self._queries = Queries("paceline_sender")

    async def forget(self, workspace_id: int, job_id: int, fence: Fence) -> None:
        """Note that a draft is gone."""
        async with self._db.transaction([workspace_id]) as tx:
            await tx.execute(
                self._queries["forget_draft"],
                {"workspace": workspace_id, "job": job_id, "draft_id": fence.draft_id},
            )

    async def destroy(
        self, workspace_id: int, mailbox_id: int, fence: Fence
    ) -> Destroyed | Gone | Unavailable:
        """See `proof.Prover.destroy`. Raises `KeyServiceUnavailable` and what Postgres raises."""
        found = await prover(self._accounts, self._transport, workspace_id, mailbox_id)
        return found if isinstance(found, Unavailable) else await found.destroy(fence)

    async def disarm(
        self, workspace_id: int, mailbox_id: int, fence: Fence
    ) -> Destroyed | Gone | Unavailable:
        """See `proof.Prover.disarm`. Raises `KeyServiceUnavailable` and what Postgres raises."""
        found = await prover(self._accounts, self._transport, workspace_id, mailbox_id)
        return found if isinstance(found, Unavailable) else await found.disarm(fence)

    async def run(self) -> None:
        """Tidy up from time to time."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.tidy()

    async def tidy(self) -> int:
        """Try to destroy some that are left over; return how many are gone."""
        async with self._db.transaction(worker=True) as tx:
            result = await tx.execute(self._queries["take_drafts"], {"limit": _AT_ONCE})
            rows = result.all()
        gone = 0
        for row in rows:
            fence = msgspec.convert(row.draft, Fence)
            match await self.destroy(row.workspace_id, row.mailbox_id, fence):
                case Destroyed() | Gone() | Unavailable(outcome_class=None):
                    failpoints.hit("sender.draft_destroyed")
                    await self.forget(row.workspace_id, row.job_id, fence)
                    gone += 1
                case Unavailable(outcome_class=found):
                    job = ids.encode("job", row.job_id)
                    log.warning("draft left over", job=job, outcome_class=found)
        return gone
