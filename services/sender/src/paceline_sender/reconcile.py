"""Tries without an answer: named in doubt once nobody can answer any more.

An instance writes its heartbeat every few seconds. A claimed try without an
outcome is abandoned when its instance has been silent for `dead_after`, or
when it is older than any submission can last. Naming one in doubt too early
does no harm: it is never tried again either way, and an answer that still
comes replaces the doubt.
"""

import asyncio
import contextlib

from paceline_common import failpoints, telemetry
from paceline_common.clock import Clock
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.telemetry import Metrics
from paceline_sender.domain.schedule import ClockReading
from paceline_sender.job import Job, Report
from paceline_sender.submit import Submitter

log = telemetry.logger("sender.reconcile")


class Reconciler:
    """Heartbeat of this instance, and the look at the others'."""

    def __init__(
        self,
        db: Database,
        submitter: Submitter,
        clock: Clock,
        metrics: Metrics,
        *,
        instance_id: str,
        beat_s: float,
        dead_after_s: float,
        submission_limit_s: float,
        reconcile_s: float,
    ) -> None:
        self._db = db
        self._submitter = submitter
        self._clock = clock
        self._metrics = metrics
        self._instance_id = instance_id
        self._beat_s = beat_s
        self._dead_after_s = dead_after_s
        self._submission_limit_s = submission_limit_s
        self._reconcile_s = reconcile_s
        self._queries = Queries("paceline_sender")
        self._beating_since: float | None = None
        self.drained = asyncio.Event()

    async def beat(self) -> None:
        """Say that this instance lives until `drained` is set: as long as it may hold a claim."""
        while not self.drained.is_set():
            try:
                await self.beat_once()
            except Exception as error:
                if classify(error) is not Fault.DEPENDENCY:
                    raise
                self._beating_since = None
                log.warning("heartbeat failed", **telemetry.describe_error(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._beat_s):
                    await self.drained.wait()

    async def beat_once(self) -> None:
        """Write one heartbeat; it also reads the Postgres clock."""
        async with self._db.transaction() as tx:
            asked = self._clock.monotonic()
            db_now = await tx.scalar(self._queries["beat"], {"instance": self._instance_id})
            answered = self._clock.monotonic()
        self._submitter.postgres_clock.learn(ClockReading(db_now, asked, answered))
        if self._beating_since is None:
            self._beating_since = answered

    async def run(self) -> None:
        """Look for abandoned tries from time to time."""
        while True:
            await asyncio.sleep(self._reconcile_s)
            # After an outage all heartbeats are old: the others get the time to beat again.
            since = self._beating_since
            if since is not None and self._clock.monotonic() - since >= self._dead_after_s:
                await self.reconcile()

    async def reconcile(self) -> int:
        """Name abandoned tries in doubt; return how many."""
        async with self._db.transaction(worker=True) as tx:
            result = await tx.execute(
                self._queries["find_abandoned"],
                {
                    "dead_after_s": self._dead_after_s,
                    "submission_limit_s": self._submission_limit_s,
                },
            )
            abandoned = result.all()
            await tx.execute(self._queries["forget_instances"])
        reports = [
            Report(
                job=Job(
                    workspace_id=row.workspace_id,
                    job_id=row.job_id,
                    fence=row.fence,
                    mailbox_id=row.mailbox_id,
                    kind="",
                    slot_at=row.claimed_at,
                    not_after=row.not_after,
                    enrollment_id=row.enrollment_id,
                    campaign_id=row.campaign_id,
                    step=row.step,
                ),
                outcome="in_doubt",
                outcome_class="ambig",
                reason="no_outcome",
                claimed=True,
                provider=row.provider,
                message_id=row.message_id,
                at=self._clock.now(),
            )
            for row in abandoned
        ]
        await asyncio.gather(*(self._submitter.report(report) for report in reports))
        if reports:
            failpoints.hit("sender.after_abandoned")
            self._metrics.counter("paceline_abandoned_total").inc(len(reports))
            log.error("tries without an answer are in doubt", count=len(reports))
        return len(reports)
