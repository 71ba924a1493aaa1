"""How far an enrollment had come at an instant, from its jobs and their leases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from paceline_scheduler.domain.job import OPEN

Name = Literal["waiting", "slot_reserved", "sending", "in_doubt", "outcome_recorded"]

# A submission that came back is over by then: what it took is not stored.
_SUBMISSION: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Lease:
    """A slot, with the `numbers` that it was decided by."""

    fence: int
    mailbox_id: int
    slot_at: datetime
    not_after: datetime
    reserved_at: datetime
    returned_at: datetime | None
    numbers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its row has it, with its leases in order.

    `inactive_since`: its mailbox is inactive, since then.
    """

    job_id: int
    step: int
    state: str
    reason: str | None
    due_at: datetime
    updated_at: datetime
    fence: int
    is_deferred: bool
    sticky: bool
    mailbox_id: int | None
    pool_id: int | None
    domain_ref: int | None
    zone: str | None
    inactive_since: datetime | None = None
    leases: list[Lease] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Phase:
    """The job an enrollment was at, None without one; `due_at` differs from the job's in the past.

    `is_retry`: the recipient's server had refused it for now.
    """

    name: Name
    job: Job | None
    lease: Lease | None = None
    due_at: datetime | None = None
    is_retry: bool = False


def current(jobs: Sequence[Job], at: datetime | None) -> Phase:
    """Return where jobs, in the order of their steps, stand now (None) or stood `at`."""
    if not jobs:
        return Phase("waiting", None)
    if at is None:
        return _now(jobs[-1])
    for job in jobs[:-1]:
        phase = _then(job, at)
        # A job is made when the one before it is sent.
        if phase.name != "outcome_recorded":
            return phase
    return _then(jobs[-1], at)


def _now(job: Job) -> Phase:
    lease = job.leases[-1] if job.leases else None
    match job.state:
        case "queued":
            return Phase("waiting", job, None, job.due_at, job.is_deferred)
        case "reserved":
            return Phase("slot_reserved", job, lease)
        case "sending" | "in_doubt":
            return Phase(job.state, job, lease)
        case _:
            return Phase("outcome_recorded", job, lease)


def _then(job: Job, at: datetime) -> Phase:
    if job.state not in OPEN and job.updated_at <= at:
        return Phase("outcome_recorded", job, job.leases[-1] if job.leases else None)
    made = [one for one in job.leases if one.reserved_at <= at]
    if not made:
        # A due time that a later refusal moved says nothing of before.
        return Phase("waiting", job, None, job.due_at if not job.leases else min(job.due_at, at))
    lease = made[-1]
    if lease.returned_at is not None and lease.returned_at <= at:
        return Phase("waiting", job, None, min(job.due_at, at))
    if at < lease.slot_at:
        return Phase("slot_reserved", job, lease)
    if lease.fence == job.fence:
        doubtful = job.state == "in_doubt" and job.updated_at <= at
        return Phase("in_doubt" if doubtful else "sending", job, lease)
    if at < lease.not_after + _SUBMISSION:
        return Phase("sending", job, lease)
    later = [one for one in job.leases if one.reserved_at > at]
    due = later[0].reserved_at if later else job.due_at
    return Phase("waiting", job, None, due, is_retry=True)
