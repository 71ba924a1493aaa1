"""Claim → provider → outcome.

The claim commits before MAIL FROM; the outcome, the scheduler's verdict and
the events commit together after the answer (`record`). Between the two lies
the only window in which a crash leaves a job in doubt.
"""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from paceline_common import failpoints, telemetry
from paceline_common.clock import Clock
from paceline_common.db.outbox import Outbox
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries, number_array, text_array
from paceline_common.telemetry import Metrics
from paceline_providers.base import Fence
from paceline_sender.batch import Batcher
from paceline_sender.domain.outcome import (
    REMEDIES,
    Answer,
    Decision,
    History,
    Hold,
    decide,
    trim,
)
from paceline_sender.domain.schedule import CLAIM_AHEAD, ClockReading, PostgresClock
from paceline_sender.job import HoldRequest, Job, Ready, Report
from paceline_sender.record import LINGER_S, Recorder, about_job, json_fence

# The event loop's timers have a grain of 1 ms: the last stretch is spent turning it over.
_SPIN_S: Final = 0.0015
# Refusals that mean the lease is somebody else's by now: there is nothing to give back.
_GONE: Final = frozenset({"stale_fence", "not_reserved", "unknown"})

log = telemetry.logger("sender.submit")


@dataclass(frozen=True, slots=True)
class _Verdict:
    claimed: bool
    reason: str
    reading: ClockReading
    message_id: str | None


class Submitter:
    """Takes ready messages to their end. One per process."""

    def __init__(
        self,
        db: Database,
        outbox: Outbox,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
        *,
        stopping: asyncio.Event,
        instance_id: str,
        jobs_per_batch: int,
    ) -> None:
        self._db = db
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._instance_id = instance_id
        self._queries = Queries("paceline_sender")
        self._claims = Batcher(self._claim, linger_s=LINGER_S, limit=jobs_per_batch, lanes=2)
        self._recorder = Recorder(db, outbox, clock, metrics, jobs_per_batch=jobs_per_batch)
        self._connect_failures: dict[tuple[int, int], int] = {}
        self.postgres_clock = PostgresClock()
        self.stopping = stopping

    # ---- one message

    async def submit(self, ready: Ready) -> bool:
        """Wait for the slot, claim, submit, record; return whether its draft is still needed.

        Once claimed it goes on to its end even while the process is stopping; before that,
        stopping gives the job back. The caller closes the session, and destroys a draft that
        is not needed: one that was neither sent nor may prove that it was not.
        """
        verdict = await self._claimed(ready)
        if isinstance(verdict, bool):
            return verdict
        failpoints.hit("sender.after_claim")
        await self._until(verdict.reading.reached(ready.job.slot_at))
        answer = await ready.session.submit(
            ready.envelope_from,
            ready.recipient,
            ready.data,
            before_mail_from=lambda: self._may_leave(ready.job, verdict.reading),
            thread=ready.thread,
            fence=ready.fence,
        )
        failpoints.hit("sender.before_outcome")
        decision = decide(answer, ready.history, self._clock.now(), self._rng)
        report = self._report(
            ready.job, answer, decision, ready.provider, ready.message_id, ready.fence, claimed=True
        )
        applied = await self.report(report)
        failpoints.hit("sender.after_outcome")
        return not (applied and report.leaves_draft)

    async def not_prepared(self, job: Job, answer: Answer, history: History, provider: str) -> None:
        """End an unclaimed try: its mailbox could not be opened, or took no draft of it."""
        mailbox = (job.workspace_id, job.mailbox_id)
        failures = self._connect_failures.get(mailbox, 0)
        history = History(history.deferrals, history.first_deferred_at, failures)
        decision = decide(answer, history, self._clock.now(), self._rng, claimed=False)
        # A hold starts the count anew; a wish to wait is no failed connection.
        if decision.hold is not None:
            self._connect_failures[mailbox] = 0
        elif answer.kind == "unsent" and answer.retry_at is None:
            self._connect_failures[mailbox] = failures + 1
        await self.report(self._report(job, answer, decision, provider, None, None, claimed=False))

    def seconds_until(self, instant: datetime) -> float:
        """Return the likely seconds until the Postgres clock shows `instant`; no promise.

        This machine's own clock is asked only before the first reading of the other.
        """
        now = self._clock.monotonic()
        reading = self.postgres_clock.best or ClockReading(self._clock.now(), now, now)
        return reading.estimate(instant) - now

    def prepared(self, job: Job) -> None:
        """Note that the job's mailbox could be signed in to."""
        self._connect_failures.pop((job.workspace_id, job.mailbox_id), None)

    async def report(self, report: Report) -> bool:
        """Record what became of a try: see `Recorder.report`."""
        return await self._recorder.report(report)

    # ---- before MAIL FROM

    async def _claimed(self, ready: Ready) -> _Verdict | bool:
        """Return the verdict of a claim, else whether the draft is still needed."""
        job = ready.job
        while True:
            if not await self._until_claim(job):
                await self.report(_given_back(ready, "sender_stopping"))
                return False
            failpoints.hit("sender.before_claim")
            try:
                verdict = await self._claims.put(ready)
            except Exception as error:  # noqa: BLE001 - whatever it was, the claim may have committed
                log.warning("claim failed", **about_job(job), **telemetry.describe_error(error))
                return not await self.report(_given_back(ready, "claim_failed", claimed=True))
            if verdict.claimed:
                if verdict.message_id == ready.message_id:
                    return verdict
                # Another attempt fixed another Message-ID after this one was loaded.
                return not await self.report(_given_back(ready, "message_id_changed", claimed=True))
            self._metrics.counter("paceline_claims_refused_total").labels(
                verdict.reason.partition(":")[0]
            ).inc()
            if verdict.reason == "too_early":
                # The estimate was wrong; the refusal has just corrected it.
                self.postgres_clock.forget()
                self.postgres_clock.learn(verdict.reading)
                continue
            log.info("claim refused", reason_code=verdict.reason, **about_job(job))
            if verdict.reason not in _GONE:
                await self.report(_refused(ready, verdict.reason))
            return False

    async def _until_claim(self, job: Job) -> bool:
        """Return True when it is time to claim, False when the process stops before."""
        wait_s = self.seconds_until(job.slot_at - CLAIM_AHEAD)
        if self.stopping.is_set():
            return False
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await self.stopping.wait()
            except TimeoutError:
                return True
            return False
        return True

    async def _until(self, at: float) -> None:
        left = at - self._clock.monotonic()
        if left > _SPIN_S:
            await asyncio.sleep(left - _SPIN_S)
        while self._clock.monotonic() < at:  # noqa: ASYNC110 - time is no event
            await asyncio.sleep(0)

    def _may_leave(self, job: Job, reading: ClockReading) -> bool:
        now = self._clock.monotonic()
        late = now - reading.reached(job.slot_at)
        if late < 0 or reading.latest(now) > job.not_after:
            return False
        self._metrics.histogram("paceline_slot_lateness_seconds").observe(late)
        return True

    async def _claim(self, batch: Sequence[Ready]) -> list[_Verdict]:
        jobs = [ready.job for ready in batch]
        async with self._db.transaction(job.workspace_id for job in jobs) as tx:
            asked = self._clock.monotonic()
            rows = await tx.execute(
                self._queries["claim_sends"],
                {
                    "workspaces": number_array(job.workspace_id for job in jobs),
                    "jobs": number_array(job.job_id for job in jobs),
                    "fences": number_array(job.fence for job in jobs),
                    "enrollments": number_array(job.enrollment_id for job in jobs),
                    "campaigns": number_array(job.campaign_id for job in jobs),
                    "steps": number_array(job.step for job in jobs),
                    "mailboxes": number_array(job.mailbox_id for job in jobs),
                    "providers": text_array(ready.provider for ready in batch),
                    "not_afters": text_array(job.not_after.isoformat() for job in jobs),
                    "message_ids": text_array(ready.message_id for ready in batch),
                    "subjects": text_array(ready.subject for ready in batch),
                    "references": text_array(_json_list(ready.references) for ready in batch),
                    "drafts": text_array(json_fence(ready.fence) for ready in batch),
                    "variants": text_array(ready.variant for ready in batch),
                    "instance": self._instance_id,
                },
            )
            answered = self._clock.monotonic()
            verdicts = {
                (row.workspace_id, row.job_id): _Verdict(
                    row.claimed,
                    row.reason or "",
                    ClockReading(row.db_now, asked, answered),
                    row.message_id,
                )
                for row in rows
            }
            failpoints.hit("sender.before_claim_commit")
        for verdict in verdicts.values():
            self.postgres_clock.learn(verdict.reading)
            break
        return [verdicts[job.workspace_id, job.job_id] for job in jobs]

    # ---- after the answer

    def _report(
        self,
        job: Job,
        answer: Answer,
        decision: Decision,
        provider: str,
        message_id: str | None,
        fence: Fence | None,
        *,
        claimed: bool,
    ) -> Report:
        text = trim(answer.text)
        return Report(
            job=job,
            outcome=decision.outcome,
            reason=decision.reason,
            claimed=claimed,
            provider=provider,
            message_id=message_id,
            outcome_class=decision.outcome_class,
            retry_at=decision.retry_at,
            code=answer.code,
            status=answer.status,
            text=text,
            provider_message_id=answer.provider_message_id,
            at=self._clock.now(),
            hold=_hold(decision.hold, text, answer.credential_version),
            sent_message_id=answer.message_id,
            thread_id=answer.thread_id,
            fence=fence,
        )


def _given_back(ready: Ready, reason: str, *, claimed: bool = False) -> Report:
    return Report(
        job=ready.job,
        outcome="unsent",
        reason=reason,
        claimed=claimed,
        provider=ready.provider,
        message_id=ready.message_id,
        fence=ready.fence,
    )


def _refused(ready: Ready, reason: str) -> Report:
    return Report(
        job=ready.job,
        outcome="refused",
        reason=reason,
        claimed=False,
        provider=ready.provider,
        message_id=ready.message_id,
        fence=ready.fence,
    )


def _hold(
    hold: Hold | None, text: str | None, credential_version: int | None
) -> HoldRequest | None:
    if hold is None:
        return None
    return HoldRequest(
        hold.reason, hold.until, text or REMEDIES[hold.reason], credential_version, hold.app
    )


def _json_list(items: Sequence[str]) -> str:
    return json.dumps(list(items))
