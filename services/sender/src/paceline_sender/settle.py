"""How a doubt ends: by proof, or by a person's word. One transaction, whoever asks.

The row of `send_job` is the one lock: what the attempt's own late answer, a proof and a person
say at the same moment is ordered by `scheduler.finish_send`, and the first one holds.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, StringConstraints
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, failpoints, ids, telemetry, topics
from paceline_common.address import without_addresses
from paceline_common.clock import Clock
from paceline_common.db.outbox import Outbox, Outgoing
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.http import Problem, ProblemType, public_id
from paceline_common.telemetry import Metrics
from paceline_providers.proof import Found
from paceline_sender.facts import facts
from paceline_sender.job import Job, Report, Verb

SettledAs = Literal["sent", "unsent", "failed"]

UNKNOWN_DOUBT: Final = ProblemType(
    "unknown_doubt",
    404,
    "The job was never in doubt",
    "Check the id; the send log says what became of the job.",
)
DOUBT_SETTLED: Final = ProblemType(
    "doubt_settled",
    409,
    "The doubt is settled already",
    "`settled_as` and `settled_by` say how, and by whom.",
)

# What the scheduler and the attempt are told.
_OUTCOMES: Final[dict[SettledAs, str]] = {
    "sent": "accepted", "unsent": "proven_unsent", "failed": "failed",
}  # fmt: skip
_ATTEMPT: Final[dict[SettledAs, Verb]] = {
    "sent": "accepted", "unsent": "unsent", "failed": "failed",
}  # fmt: skip

log = telemetry.logger("sender.settle")


@dataclass(frozen=True, slots=True)
class Doubt:
    """Which doubt: a job and the fence of the attempt."""

    workspace_id: int
    job_id: int
    fence: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a doubt ends.

    `reason` is a stable code, `by` the public id of who says so ("sender" for a proof), `why` in
    words. `found` has the ids and the time of a message that was found.
    """

    settled_as: SettledAs
    reason: str
    by: str
    why: str
    source: Literal["sent_mail", "inbound", "bounce", "draft", "person"]
    source_ip: str | None = None
    found: Found | None = None


def entry(at: datetime, source: str, finding: str, text: str | None = None) -> dict[str, Any]:
    """Return one entry of a doubt's evidence."""
    return {"at": at.isoformat(), "source": source, "finding": finding, "text": text}


class Settler:
    """Settles doubts; safe to ask twice, and from several processes at once."""

    def __init__(self, db: Database, outbox: Outbox, clock: Clock, metrics: Metrics) -> None:
        self._db = db
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._queries = Queries("paceline_sender")

    async def settle(self, doubt: Doubt, verdict: Verdict) -> datetime | None:
        """Settle it; return when, None if it had ended before."""
        async with self._db.transaction([doubt.workspace_id]) as tx:
            if not await self._tell_scheduler(tx, doubt, verdict):
                return None
            row = await self._close(tx, doubt, verdict.settled_as, verdict)
            if row is None:
                # The scheduler still had it in doubt, so this cannot be: nothing is committed.
                raise LookupError("a job in doubt has no open doubt")
            now = self._clock.now()
            await self._outbox.add(tx, [*self._facts(row, verdict, now), _audit(row, verdict, now)])
            failpoints.hit("sender.before_settle_commit")
        failpoints.hit("sender.after_settle")
        self._metrics.counter("paceline_doubts_settled_total").labels(
            verdict.settled_as, verdict.source
        ).inc()
        log.info(
            "doubt settled",
            workspace=ids.encode("ws", doubt.workspace_id),
            job=ids.encode("job", doubt.job_id),
            fence=doubt.fence,
            outcome=verdict.settled_as,
            reason_code=verdict.reason,
        )
        settled_at: datetime = row.settled_at
        return settled_at

    async def close_moot(self, doubt: Doubt) -> None:
        """Close a doubt whose job the scheduler no longer has in doubt at this fence."""
        async with self._db.transaction([doubt.workspace_id]) as tx:
            await self._close(tx, doubt, "moot", None)

    async def newest(self, workspace_id: int, job_id: int) -> Row[Any] | None:
        """Return the job's newest doubt, open or settled."""
        async with self._db.transaction([workspace_id]) as tx:
            found = await tx.execute(
                self._queries["find_doubt"], {"workspace": workspace_id, "job": job_id}
            )
            return found.one_or_none()

    async def _tell_scheduler(self, tx: AsyncConnection, doubt: Doubt, verdict: Verdict) -> bool:
        rows = await tx.execute(
            self._queries["finish_sends"],
            {
                "workspaces": [doubt.workspace_id],
                "jobs": [doubt.job_id],
                "fences": [doubt.fence],
                "outcomes": [_OUTCOMES[verdict.settled_as]],
                "reasons": [verdict.reason],
                "retry_ats": [None],
            },
        )
        return any(row.applied for row in rows)

    async def _close(
        self, tx: AsyncConnection, doubt: Doubt, settled_as: str, verdict: Verdict | None
    ) -> Row[Any] | None:
        found = verdict.found if verdict else None
        said = []
        if verdict:
            said.append(entry(self._clock.now(), verdict.source, verdict.reason, verdict.why))
        rows = await tx.execute(
            self._queries["settle_doubt"],
            {
                "workspace": doubt.workspace_id,
                "job": doubt.job_id,
                "fence": doubt.fence,
                "settled_as": settled_as,
                "settled_by": verdict.by if verdict else "scheduler",
                "why": verdict and verdict.why,
                "evidence": json.dumps(said),
                "outcome": verdict and _ATTEMPT[verdict.settled_as],
                "reason": verdict and verdict.reason,
                "provider_message_id": found and found.provider_message_id,
                "message_id": found and found.message_id,
                "thread_id": found and found.thread_id,
                "sent_at": found and found.sent_at,
            },
        )
        return rows.one_or_none()

    def _facts(self, row: Row[Any], verdict: Verdict, now: datetime) -> list[Outgoing]:
        found = verdict.found
        job = Job(
            workspace_id=row.workspace_id,
            job_id=row.job_id,
            fence=row.fence_no,
            mailbox_id=row.mailbox_id,
            kind="",
            slot_at=row.claimed_at,
            not_after=row.not_after,
            enrollment_id=row.enrollment_id,
            campaign_id=row.campaign_id,
            step=row.step,
        )
        # A deferral without a time: the request may have left, and its capacity stays spent.
        outcome: Verb = (
            "deferred" if verdict.settled_as == "unsent" else _ATTEMPT[verdict.settled_as]
        )
        return facts(
            Report(
                job=job,
                outcome=outcome,
                reason=verdict.reason,
                claimed=True,
                provider=row.provider,
                message_id=row.message_id,
                provider_message_id=found.provider_message_id if found else None,
                at=found.sent_at if found else row.claimed_at,
            ),
            now,
        )


def _audit(row: Row[Any], verdict: Verdict, now: datetime) -> Outgoing:
    workspace, job = ids.encode("ws", row.workspace_id), ids.encode("job", row.job_id)
    return Outgoing(
        topic=topics.AUDIT_RECORDED,
        key=workspace,
        subject=job,
        body=events.AuditRecorded(
            workspace_id=workspace,
            action="doubt.settled",
            actor=verdict.by,
            subject=job,
            at=now,
            source_ip=verdict.source_ip,
            detail={
                "as": verdict.settled_as,
                "reason": verdict.reason,
                # A person may name the recipient.
                "why": without_addresses(verdict.why),
                "fence": str(row.fence_no),
            },
        ),
    )


class SettleRequest(BaseModel):
    """A person's word about a job in doubt. `by`: their public id, for the audit trail."""

    workspace_id: Annotated[int, *public_id("ws")]
    job_id: Annotated[int, *public_id("job")]
    settle_as: SettledAs = Field(alias="as")
    why: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
    by: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    source_ip: str | None = None


class SettleAnswer(BaseModel):
    """What the doubt was settled as, and when."""

    job_id: str
    settled_as: str
    settled_at: datetime


def router(settler: Settler) -> APIRouter:
    """Return the route."""
    routes = APIRouter()

    @routes.post("/settle")
    async def settle(asked: SettleRequest) -> SettleAnswer:
        doubt = await settler.newest(asked.workspace_id, asked.job_id)
        if doubt is None:
            raise Problem(UNKNOWN_DOUBT)
        settled_at = None
        if doubt.settled_at is None:
            settled_at = await settler.settle(
                Doubt(asked.workspace_id, asked.job_id, doubt.fence_no),
                Verdict(
                    asked.settle_as,
                    f"settled_{asked.settle_as}",
                    asked.by,
                    asked.why,
                    "person",
                    asked.source_ip,
                ),
            )
        if settled_at is None:
            doubt = await settler.newest(asked.workspace_id, asked.job_id)
            raise Problem(
                DOUBT_SETTLED,
                settled_as=doubt and doubt.settled_as,
                settled_by=doubt and doubt.settled_by,
            )
        return SettleAnswer(
            job_id=ids.encode("job", asked.job_id),
            settled_as=asked.settle_as,
            settled_at=settled_at,
        )

    return routes
