"""Mailboxes that failed are tested again, until they work, or until only a person can help."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, ids, telemetry, topics
from paceline_common.address import without_addresses
from paceline_common.db import Database, Outbox, Queries
from paceline_common.db.outbox import Outgoing
from paceline_common.db.session import after_commit
from paceline_common.events import AuditRecorded, IssueRaised

GIVEN_UP: Final = "node_given_up"
_LOOK_S: Final = 5.0
_BATCH: Final = 20
# Longer than the client waits for an answer: nobody else asks meanwhile.
_LEASE_S: Final = 120
_ACTOR: Final = "recheck"

_log = telemetry.logger("scheduler.recheck")


@dataclass(frozen=True, slots=True)
class _Found:
    ok: bool
    code: str
    words: str


class Rechecker:
    """Asks the sender to sign in to failed mailboxes, when `node_recheck` says so.

    `sender` is a client of the sender's `/internal`. A test that passes closes
    the suspension it was made for, and no other.
    """

    def __init__(
        self, db: Database, queries: Queries, outbox: Outbox, sender: httpx.AsyncClient
    ) -> None:
        self._db = db
        self._queries = queries
        self._outbox = outbox
        self._sender = sender

    async def run(self) -> None:
        """Test until cancelled; closes the client then."""
        try:
            while True:
                if await self.look() < _BATCH:
                    await asyncio.sleep(_LOOK_S)
        finally:
            await self._sender.aclose()

    async def look(self) -> int:
        """Test the mailboxes whose time has come, a batch of them; return how many."""
        async with self._db.transaction(worker=True) as tx:
            arguments = {"most": _BATCH, "lease_s": _LEASE_S}
            due = (await tx.execute(self._queries["take_rechecks"], arguments)).all()
        if due:
            failpoints.hit("scheduler.after_rechecks_taken")
        found = await asyncio.gather(*(self._ask(row) for row in due))
        for row, answer in zip(due, found, strict=True):
            if answer is not None:
                await self._record(row, answer)
        return len(due)

    async def _ask(self, row: Row[Any]) -> _Found | None:
        workspace, mailbox = ids.encode("ws", row.workspace_id), ids.encode("mbx", row.mailbox_id)
        try:
            answer = await self._sender.post(f"/internal/recheck/{workspace}/{mailbox}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                return _Found(False, "unknown_mailbox", "the mailbox is disconnected")
            answer.raise_for_status()
            told = answer.json()
            return _Found(bool(told["ok"]), str(told["code"]), without_addresses(told["message"]))
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            # Nothing was learned of the mailbox: asked again when the lease is over.
            _log.warning(
                "no answer to a recheck", mailbox=mailbox, **telemetry.describe_error(error)
            )
            return None

    async def _record(self, row: Row[Any], found: _Found) -> None:
        key = {
            "workspace": row.workspace_id, "mailbox": row.mailbox_id, "reason": row.reason,
        }  # fmt: skip
        async with self._db.transaction([row.workspace_id]) as tx:
            if found.ok:
                gate = {"workspace": row.workspace_id, "scope": "mailbox", "ref": row.mailbox_id}
                # It deletes the recheck and records the end in the audit log.
                closed = await tx.scalar(
                    self._queries["resume"],
                    {**gate, "reason": row.reason, "closed_by": _ACTOR},
                )
                if closed:
                    await self._tell(tx, row, found, row.attempts + 1, None)
                after_commit(tx, "outbox", self._outbox.wake.set)
            else:
                noted = (
                    await tx.execute(self._queries["note_recheck"], {**key, "code": found.code})
                ).one_or_none()
                # None: somebody has resumed it meanwhile.
                if noted is not None:
                    await self._tell(
                        tx, row, found, noted.attempts, noted.db_now if noted.given_up else None
                    )
            failpoints.hit("scheduler.before_recheck_commit")
        _log.info(
            "mailbox rechecked", mailbox_id=row.mailbox_id, reason_code=row.reason,
            code=found.code,
        )  # fmt: skip

    async def _tell(
        self,
        tx: AsyncConnection,
        row: Row[Any],
        found: _Found,
        attempts: int,
        given_up: datetime | None,
    ) -> None:
        workspace, mailbox = ids.encode("ws", row.workspace_id), ids.encode("mbx", row.mailbox_id)
        at: datetime = row.db_now if given_up is None else given_up
        detail = {"reason": row.reason, "code": found.code, "attempt": str(attempts)}
        actions = ["mailbox.rechecked"]
        if given_up is not None:
            actions.append("mailbox.recheck_given_up")
        told = [
            Outgoing(
                topic=topics.AUDIT_RECORDED,
                key=workspace,
                subject=mailbox,
                body=AuditRecorded(
                    workspace_id=workspace, action=action, actor=_ACTOR, subject=mailbox, at=at,
                    detail=detail,
                ),
            )
            for action in actions
        ]  # fmt: skip
        if given_up is not None:
            told.append(
                Outgoing(
                    topic=topics.ISSUE_RAISED,
                    key=mailbox,
                    subject=mailbox,
                    body=IssueRaised(
                        workspace_id=workspace,
                        subject=mailbox,
                        code=GIVEN_UP,
                        severity="error",
                        detail=f"tested {attempts} times and still failing: {found.words}",
                        raised_at=at,
                    ),
                )
            )
        await self._outbox.add(tx, told)
