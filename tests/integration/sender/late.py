"""The answer of an attempt that others took for lost, recorded as its own process would."""

import asyncio
import random
import uuid
from datetime import UTC, datetime
from typing import Any

from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.db.outbox import Outbox
from paceline_common.telemetry import Metrics
from paceline_sender.job import Job, Report
from paceline_sender.metrics import METRICS
from paceline_sender.settings import SenderSettings
from paceline_sender.submit import Submitter


class LateAnswers:
    """A sender process that comes back after everybody gave it up."""

    def __init__(self, settings: SenderSettings) -> None:
        self._db = Database(settings)
        self._submitter = Submitter(
            self._db,
            Outbox(self._db),
            SystemClock(),
            Metrics(METRICS),
            random.Random(1),
            stopping=asyncio.Event(),
            instance_id=str(uuid.uuid4()),
            jobs_per_batch=10,
        )

    async def answer(self, job: Job, outcome: Any) -> None:
        """Record `outcome` of the job's claimed attempt."""
        await self._submitter.report(
            Report(
                job=job,
                outcome=outcome,
                outcome_class="hard" if outcome == "rejected" else None,
                reason="late",
                claimed=True,
                provider="smtp",
                at=datetime.now(UTC),
            )
        )

    async def accepted(self, job: Job) -> None:
        """Record that the provider took it."""
        await self.answer(job, "accepted")

    async def close(self) -> None:
        """Close the connections."""
        await self._db.close()
