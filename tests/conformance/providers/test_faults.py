"""Each fault of each provider: its outcome, the other side's truth, and what proof makes of it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from tests.conformance.providers.stage import RECIPIENT, SENDER, Case, Final, Stage, message
from tests.conformance.providers.stages import STAGES

from paceline_local.process import wait_until
from paceline_providers.base import (
    Accepted,
    Deferred,
    Fence,
    InDoubt,
    Outcome,
    Provider,
    Rejected,
    Unsent,
)
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Destroyed, Found

CASES = [(name, fault) for name, entry in STAGES.items() for fault in entry.cases]
BIG_BYTES = 24_000_000
LATE_S = 10.0


async def settled(stage: Stage, outcome: Outcome, job: str, since: datetime) -> Final:
    """Return what is known with every proof that can be had, as the reconciler would."""
    if isinstance(outcome, Accepted):
        return "sent"
    if not isinstance(outcome, InDoubt):
        return "unsent"
    if stage.prover is not None:
        if isinstance(await stage.prover.find_sent(RECIPIENT, job, since), Found):
            return "sent"
        if outcome.fence is not None:
            if isinstance(await stage.prover.destroy(outcome.fence), Destroyed):
                return "unsent"
            # It may have been sent between the two looks.
            if isinstance(await stage.prover.find_sent(RECIPIENT, job, since), Found):
                return "sent"
    return "in_doubt"


@pytest.mark.parametrize(("name", "fault"), CASES)
async def test_a_fault_has_its_outcome_and_its_end(name: str, fault: str) -> None:
    case: Case = STAGES[name].cases[fault]
    job, since = "job_1.ws_1.mac", datetime.now(UTC) - timedelta(minutes=1)
    data = message(job, size=BIG_BYTES if case.big else 0)
    async with STAGES[name].start() as stage:
        session = await stage.provider.open()
        assert not isinstance(session, Unsent), session
        fence = await session.prepare(data)
        assert isinstance(fence, Fence) == stage.capabilities.fence, fence
        stage.strike(fault)
        outcome = await session.submit(
            SENDER, RECIPIENT, data, before_mail_from=lambda: True, fence=fence
        )
        await session.close()
        assert type(outcome).__name__ == case.outcome, outcome
        if isinstance(outcome, InDoubt):
            assert outcome.fence == fence
            assert outcome.evidence
        if isinstance(outcome, Deferred | Rejected):
            assert outcome.outcome_class is case.outcome_class
        if case.retry_after_s is not None:
            assert isinstance(outcome, Deferred)
            assert outcome.retry_after is not None
            assert abs(outcome.retry_after.total_seconds() - case.retry_after_s) < 30
        final = await settled(stage, outcome, job, since)
        if case.later_s:
            # What is not shown yet proves nothing, and leaves the fence's destruction unproven.
            assert final == "in_doubt"
            stage.pass_time(case.later_s)
            final = await settled(stage, outcome, job, since)
        assert final == case.final
        if fault == "done_later":
            assert await asyncio.to_thread(wait_until, stage.did_late, LATE_S)
        assert [one.job for one in stage.taken()] == [job] * case.taken


@pytest.mark.parametrize("name", STAGES)
def test_what_is_refused_or_unsent_was_never_taken(name: str) -> None:
    for case in STAGES[name].cases.values():
        if case.outcome in ("Deferred", "Rejected", "Unsent") or case.final == "unsent":
            assert case.taken == (1 if case.lies else 0)
        if case.final == "sent":
            assert case.taken == 1


@pytest.mark.parametrize("name", STAGES)
async def test_a_certificate_of_another_name_is_told_and_nothing_leaves(name: str) -> None:
    async with STAGES[name].start() as stage:
        async with stage.named(right=True) as provider:
            assert not isinstance(await _opened(provider), Unsent)
        async with stage.named(right=False) as provider:
            outcome = await _opened(provider)
        assert isinstance(outcome, Unsent)
        assert (outcome.reason, outcome.outcome_class) == ("tls_failed", OutcomeClass.CONFIG)
        assert "127.0.0.1" in outcome.text


async def _opened(provider: Provider) -> Outcome:
    """Submit a message; a provider that connects ahead of it is opened for it."""
    session = await provider.open()
    if isinstance(session, Unsent):
        return session
    outcome = await session.submit(
        SENDER, RECIPIENT, message("job_1"), before_mail_from=lambda: True
    )
    await session.close()
    return outcome
