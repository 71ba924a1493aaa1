"""Each fault of each transport, to its end: the job's state once the reconciler has looked."""

import asyncio
import random
from datetime import UTC, datetime
from typing import Final

import pytest
from tests.conformance.providers.stage import RECIPIENT, SENDER, Case, message
from tests.conformance.providers.stages import STAGES

from paceline_local.process import wait_until
from paceline_providers.base import Fence, InDoubt, Outcome, Unsent
from paceline_sender.domain.outcome import History, decide
from paceline_sender.job import Job
from paceline_sender.transport import answer

from .test_proof import Bench, Kind, bench, token

__all__ = ["bench"]

# Under a lesser grant a definite answer means the same: only doubts end otherwise.
WHOLE: Final = ("smtp", "gmail-modify", "graph-readwrite")
CASES: Final = [
    (name, fault)
    for name, entry in STAGES.items()
    for fault, case in entry.cases.items()
    if name in WHOLE or case.outcome == "InDoubt"
]
BIG_BYTES: Final = 24_000_000
OF_A_REFUSAL: Final = {"hard": "bounced", "block": "bounced", "soft": "bounced", "config": "failed"}


# A refused sender is the mailbox's fault: it is held, and the job goes from another.
OF_THE_MAILBOX: Final = frozenset({"refused_sender"})


def state_of(fault: str, case: Case) -> str:
    """Return the state that a fault has to leave its job in."""
    if case.outcome == "Rejected" and fault not in OF_THE_MAILBOX:
        assert case.outcome_class is not None
        return OF_A_REFUSAL[case.outcome_class.value]
    return {"sent": "sent", "unsent": "queued", "in_doubt": "in_doubt"}[case.final]


def kind_of(name: str) -> Kind:
    found: dict[str, Kind] = {"smtp": "smtp", "gmail": "gmail", "graph": "graph"}
    return found[name.partition("-")[0]]


@pytest.mark.parametrize(("name", "fault"), CASES)
async def test_a_fault_leaves_its_job_in_the_state_that_can_be_proven(
    bench: Bench,
    name: str,
    fault: str,
) -> None:
    case: Case = STAGES[name].cases[fault]
    job = bench.lease()
    data = message(token(job), size=BIG_BYTES if case.big else 0)
    async with STAGES[name].start() as stage:
        if stage.prover is not None:
            bench.provider.stage = stage
        session = await stage.provider.open()
        assert not isinstance(session, Unsent), session
        fence = await session.prepare(data)
        assert fence is None or isinstance(fence, Fence)
        stage.strike(fault)
        outcome = await session.submit(
            SENDER, RECIPIENT, data, before_mail_from=lambda: True, fence=fence
        )
        await session.close()
        settle(bench, job, kind_of(name), fence, outcome)
        if isinstance(outcome, InDoubt):
            await bench.look()
            if case.later_s:
                assert bench.world.job_row(job)["state"] == "in_doubt"
                stage.pass_time(case.later_s)
                await bench.look()
        if fault == "done_later":
            assert await asyncio.to_thread(wait_until, stage.did_late, 10)
        row = bench.world.job_row(job)
        assert row["state"] == state_of(fault, case), bench.world.attempts(job)
        # What goes on its way again goes under a new fence.
        assert row["fence"] == job.fence + (row["state"] == "queued")
        assert [one.job for one in stage.taken()] == [token(job)] * case.taken


def settle(bench: Bench, job: Job, kind: Kind, fence: Fence | None, outcome: Outcome) -> None:
    """Record what an attempt came to."""
    if isinstance(outcome, InDoubt):
        bench.lose(job, kind, fence)
        return
    now = datetime.now(UTC)
    decision = decide(answer(outcome, now), History(), now, random.Random(1))
    bench.world.rows(
        "UPDATE scheduler.send_job SET state = 'sending' WHERE workspace_id = %s AND job_id = %s",
        job.workspace_id, job.job_id,
    )  # fmt: skip
    assert bench.finish(job, decision.outcome, decision.reason)
