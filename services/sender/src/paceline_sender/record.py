"""After the answer: attempt, the scheduler's verdict, suspensions and events, in one commit.

Of answers and doubts about one job the scheduler's row decides, one after the other. What fails is
tried until it is committed: an answer is lost to no error.
"""

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, telemetry
from paceline_common.clock import Clock
from paceline_common.db.outbox import Outbox, Outgoing
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries, number_array, text_array
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.telemetry import Metrics
from paceline_providers.base import Fence
from paceline_sender.apps import AppHolds
from paceline_sender.batch import Batcher
from paceline_sender.facts import facts, issue
from paceline_sender.job import HoldRequest, Job, Report

LINGER_S: Final = 0.002
_RETRY_S: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_BUG_TRIES: Final = 5

log = telemetry.logger("sender.record")


class Recorder:
    """Writes down what became of tries, many at once. One per process."""

    def __init__(
        self, db: Database, outbox: Outbox, clock: Clock, metrics: Metrics, *, jobs_per_batch: int
    ) -> None:
        self._db = db
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._queries = Queries("paceline_sender")
        self._reports = Batcher(self._finish, linger_s=LINGER_S, limit=jobs_per_batch, lanes=2)
        self._apps = AppHolds(db, outbox, clock)

    async def report(self, report: Report) -> bool:
        """Record what became of a try; return whether the scheduler's job was still this one's.

        Returns when it is committed, however long that takes.
        """
        applied = await self._reports.put(report)
        if report.hold is not None and report.hold.reason == "app_limited":
            await self._apps.hold(report.job, report.hold)
        self._metrics.counter("paceline_sends_total").labels(
            report.outcome, report.outcome_class or ""
        ).inc()
        return applied

    async def _finish(self, batch: Sequence[Report]) -> list[bool]:
        # One after the other, so that the job's row decides between an answer
        # and a doubt; of two in one transaction both would count as applied.
        first: dict[tuple[int, int], Report] = {}
        again: list[Report] = []
        for report in batch:
            place = (report.job.workspace_id, report.job.job_id)
            if place in first:
                again.append(report)
            else:
                first[place] = report
        applied = await self._finish_each_job(list(first.values()))
        late = iter(await self._finish(again)) if again else iter(())
        return [
            report.job.key in applied
            if first[report.job.workspace_id, report.job.job_id] is report
            else next(late)
            for report in batch
        ]

    async def _finish_each_job(self, batch: Sequence[Report]) -> set[tuple[int, int, int]]:
        for attempt in itertools.count():
            try:
                return await self._record(batch)
            except Exception as error:  # noqa: BLE001 - an answer must not be lost to any of them
                about = {"count": len(batch), **telemetry.describe_error(error)}
                if classify(error) is not Fault.DEPENDENCY:
                    if len(batch) > 1:
                        alone = [self._finish_each_job([report]) for report in batch]
                        return set().union(*await asyncio.gather(*alone))
                    if attempt >= _BUG_TRIES:
                        # Its attempt stays open: the reconciler names it in doubt.
                        log.error("outcome given up", **about, **about_job(batch[0].job))
                        break
                log.warning("outcome not recorded yet", attempt=attempt + 1, **about)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
        return set()

    async def _record(self, batch: Sequence[Report]) -> set[tuple[int, int, int]]:
        jobs = [report.job for report in batch]
        async with self._db.transaction(job.workspace_id for job in jobs) as tx:
            # Gates before jobs: the order in which every transaction locks them.
            outgoing: list[Outgoing] = []
            for report in sorted(batch, key=lambda one: (one.job.workspace_id, one.job.mailbox_id)):
                if report.hold is not None:
                    outgoing += await self._suspend(tx, report, report.hold)
            applied = await self._tell_scheduler(tx, batch)
            # A lease that was somebody else's by the time it was given back is no try of ours.
            told = [
                report
                for report in batch
                if report.claimed
                or report.hold
                or report.outcome != "unsent"
                or report.job.key in applied
            ]
            await tx.execute(
                self._queries["record_outcomes"],
                {
                    "workspaces": number_array(report.job.workspace_id for report in told),
                    "jobs": number_array(report.job.job_id for report in told),
                    "fences": number_array(report.job.fence for report in told),
                    "claimed": number_array(report.claimed for report in told),
                    "enrollments": number_array(report.job.enrollment_id for report in told),
                    "campaigns": number_array(report.job.campaign_id for report in told),
                    "steps": number_array(report.job.step for report in told),
                    "mailboxes": number_array(report.job.mailbox_id for report in told),
                    "providers": text_array(report.provider for report in told),
                    "outcomes": text_array(report.outcome for report in told),
                    "classes": text_array(report.outcome_class for report in told),
                    "reasons": text_array(report.reason for report in told),
                    "codes": number_array(report.code for report in told),
                    "statuses": text_array(report.status for report in told),
                    "texts": text_array(report.text for report in told),
                    "provider_message_ids": text_array(
                        report.provider_message_id for report in told
                    ),
                    "sent_ats": text_array(_instant(report.at) for report in told),
                    "drafts": text_array(json_fence(report.fence) for report in told),
                    # Of one that is in doubt whatever its answer, the draft is the only proof.
                    "left_drafts": number_array(
                        report.leaves_draft and (report.job.key in applied or not report.claimed)
                        for report in told
                    ),
                    "sent_message_ids": text_array(report.sent_message_id for report in told),
                    "thread_ids": text_array(report.thread_id for report in told),
                },
            )
            for report in batch:
                if report.job.key in applied:
                    outgoing += facts(report, self._clock.now())
            await self._outbox.add(tx, outgoing)
            failpoints.hit("sender.before_outcome_commit")
        return applied

    async def _tell_scheduler(
        self, tx: AsyncConnection, batch: Sequence[Report]
    ) -> set[tuple[int, int, int]]:
        # A refused claim left the job reserved: it goes back like any unsent one.
        applied = await self._finish_sends(
            tx, batch, ["unsent" if one.outcome == "refused" else one.outcome for one in batch]
        )
        # Somebody took this attempt for lost and named it in doubt. It lives, and says itself that
        # nothing was accepted: there is no better witness.
        late = [
            one
            for one in batch
            if one.claimed and one.outcome in ("unsent", "deferred") and one.job.key not in applied
        ]
        if late:
            applied |= await self._finish_sends(tx, late, ["proven_unsent"] * len(late))
        return applied

    async def _finish_sends(
        self, tx: AsyncConnection, batch: Sequence[Report], outcomes: Sequence[str]
    ) -> set[tuple[int, int, int]]:
        jobs = [report.job for report in batch]
        rows = await tx.execute(
            self._queries["finish_sends"],
            {
                "workspaces": number_array(job.workspace_id for job in jobs),
                "jobs": number_array(job.job_id for job in jobs),
                "fences": number_array(job.fence for job in jobs),
                "outcomes": text_array(outcomes),
                "reasons": text_array(report.reason for report in batch),
                "retry_ats": text_array(_instant(report.retry_at) for report in batch),
            },
        )
        done = {(row.workspace_id, row.job_id) for row in rows if row.applied}
        return {job.key for job in jobs if (job.workspace_id, job.job_id) in done}

    async def _suspend(
        self, tx: AsyncConnection, report: Report, hold: HoldRequest
    ) -> list[Outgoing]:
        job = report.job
        # The scheduler writes the audit record of its gates itself.
        suspended = await tx.scalar(
            self._queries["suspend"],
            {
                "workspace": job.workspace_id,
                "mailbox": job.mailbox_id,
                "reason": hold.reason,
                "until": hold.until,
                "detail": hold.detail,
                "credential_version": hold.credential_version,
            },
        )
        if suspended is None:
            log.info("connected anew meanwhile", reason_code=hold.reason, **about_job(job))
            return []
        now = self._clock.now()
        log.warning("mailbox suspended", reason_code=hold.reason, **about_job(job))
        return [issue(job.workspace, job.mailbox, hold, now, job.traceparent)]


def json_fence(fence: Fence | None) -> str | None:
    """Return a fence as `attempt.draft` holds it."""
    return None if fence is None else json.dumps(asdict(fence))


def about_job(job: Job) -> dict[str, str | int]:
    """Return what logs say of a job."""
    return {
        "workspace": job.workspace,
        "job": job.public_id,
        "mailbox": job.mailbox,
        "fence": job.fence,
    }


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
