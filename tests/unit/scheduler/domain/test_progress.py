"""How far an enrollment had come, from its jobs and leases alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paceline_scheduler.domain.progress import Job, Lease, current

T = datetime(2026, 3, 2, 9, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return T + timedelta(minutes=minutes)


def lease(fence: int, slot: float, returned: float | None = None) -> Lease:
    return Lease(
        fence, 1, at(slot), at(slot) + timedelta(seconds=2), at(slot - 1),
        None if returned is None else at(returned), {},
    )  # fmt: skip


def job(**changes: Any) -> Job:
    made = Job(
        job_id=1, step=1, state="queued", reason=None, due_at=T, updated_at=T, fence=1,
        is_deferred=False, sticky=False, mailbox_id=None, pool_id=None, domain_ref=None, zone=None,
    )  # fmt: skip
    return replace(made, **changes)


SENT = job(state="sent", updated_at=at(10.2), leases=[lease(1, 10)])


@pytest.mark.parametrize(
    ("minute", "phase"),
    [(0, "waiting"), (8.9, "waiting"), (9, "slot_reserved"), (9.99, "slot_reserved"),
     (10, "sending"), (10.19, "sending"), (10.2, "outcome_recorded"), (60, "outcome_recorded")],
)  # fmt: skip
def test_a_sent_job_was_waiting_reserved_and_sending_before(minute: float, phase: str) -> None:
    assert current([SENT], at(minute)).name == phase


def test_a_lease_given_back_leaves_it_waiting() -> None:
    made = job(fence=2, leases=[lease(1, 10, returned=10.5)])
    assert current([made], at(10.4)).name == "sending"
    assert current([made], at(10.5)).name == "waiting"


def test_a_refused_submission_waits_for_its_retry() -> None:
    made = job(fence=2, due_at=at(40), is_deferred=True, leases=[lease(1, 10)])
    assert current([made], at(10.01)).name == "sending"
    phase = current([made], at(20))
    assert (phase.name, phase.is_retry, phase.due_at) == ("waiting", True, at(40))


def test_the_next_step_begins_when_the_one_before_is_sent() -> None:
    follow_up = job(job_id=2, step=2, due_at=at(100), sticky=True, mailbox_id=1)
    for minute, expected in ((5, 1), (10.1, 1), (10.3, 2), (200, 2)):
        phase = current([SENT, follow_up], at(minute))
        assert phase.job is not None
        assert phase.job.job_id == expected
    assert current([SENT, follow_up], at(50)).due_at == at(100)


def test_in_doubt_is_known_from_when_it_became_so() -> None:
    made = job(state="in_doubt", updated_at=at(20), leases=[lease(1, 10)])
    assert current([made], at(15)).name == "sending"
    assert current([made], at(21)).name == "in_doubt"


@pytest.mark.parametrize(
    ("state", "phase"),
    [("queued", "waiting"), ("reserved", "slot_reserved"), ("sending", "sending"),
     ("in_doubt", "in_doubt"), ("sent", "outcome_recorded"), ("cancelled", "outcome_recorded")],
)  # fmt: skip
def test_the_present_is_the_last_job_s_row(state: str, phase: str) -> None:
    last = job(job_id=2, step=2, state=state, leases=[lease(1, 10)])
    found = current([SENT, last], None)
    assert (found.name, found.job) == (phase, last)


def test_without_jobs_it_waits_for_one() -> None:
    assert current([], None).job is None
