"""The verdict: pure rules over evidence and diary, one sentence per breach.

It shares no rule with what decides: limits are recomputed from what providers saw.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

from tests.chaos.diary import Diary, Mailbox
from tests.chaos.evidence import Evidence, Job, Submission, by_job

# A claim commits at most 50 ms before its slot.
LEAD_S: Final = 0.05
# What a provider's stamp may lag behind the first byte on a busy machine.
SLACK_S: Final = 0.1
_DAY_S: Final = 86_400.0
_FINAL: Final = frozenset({"sent", "bounced", "failed", "cancelled"})
_ENDS: Final = {
    "ordinary": frozenset({"finished"}),
    "unknown": frozenset({"bounced"}),
    "late": frozenset({"bounced", "finished"}),
    "reply": frozenset({"replied", "finished"}),
    "unsubscribe": frozenset({"unsubscribed", "finished"}),
    # Of a campaign whose follow-ups nobody else may send, and of one that is stopped.
    "loyal": frozenset({"finished", "stopped"}),
    "halted": frozenset({"finished", "stopped"}),
}


@dataclass(frozen=True, slots=True)
class Breach:
    """One thing that must not be; `rule` is the report's name for it."""

    rule: str
    what: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """A job still in doubt. `provable`: its provider could show whether it left."""

    what: str
    provable: bool


class Case:
    """Evidence and diary, indexed."""

    def __init__(self, diary: Diary, evidence: Evidence) -> None:
        self.diary = diary
        self.evidence = evidence
        self.accepted = by_job(evidence.submissions)
        self.jobs_of: dict[int, list[Job]] = defaultdict(list)
        for job in evidence.jobs.values():
            self.jobs_of[job.enrollment_id].append(job)
        self.enrolled = {(one.email, one.campaign): one for one in evidence.enrollments}
        self.email_of = {one.enrollment_id: one.email for one in evidence.enrollments}
        self.begun: dict[str, list[Submission]] = defaultdict(list)
        for one in evidence.submissions:
            self.begun[one.mailbox].append(one)

    def named(self, job: Job) -> str:
        """Name a job for people."""
        email = self.email_of.get(job.enrollment_id, "?")
        return f"job {job.job_id} (step {job.step} to {email}, {job.state})"


def check(diary: Diary, evidence: Evidence) -> tuple[list[Breach], list[Doubt]]:
    """Return every breach, and what is still in doubt."""
    case = Case(diary, evidence)
    breaches = [Breach(name, what) for name, rule in RULES for what in rule(case)]
    return breaches, _doubts(case)


def lost(case: Case) -> Iterator[str]:
    """A lead that was taken and is nowhere, waits for nothing, or whose sent message never was."""
    suppressed = {one.email for one in case.diary.suppressed}
    for lead in case.diary.leads:
        # One that was suppressed, or whose campaign was over, before it got there is refused, with
        # a receipt.
        refused = lead.email in suppressed or lead.kind == "halted"
        if (lead.email, lead.campaign) not in case.enrolled and not refused:
            yield f"{lead.email}: imported into {lead.campaign}, never enrolled"
    for job in case.evidence.jobs.values():
        if job.state == "sent" and job.job_id not in case.accepted:
            yield f"{case.named(job)}: no provider has it"
        if job.state not in _FINAL | {"in_doubt"}:
            yield f"{case.named(job)}: left behind, {job.reason or 'no reason'}"
    steps = {(lead.email, lead.campaign): lead.steps for lead in case.diary.leads}
    for one in case.evidence.enrollments:
        states = [job.state for job in case.jobs_of[one.enrollment_id]]
        if one.state == "active" and all(state in _FINAL for state in states):
            yield f"{one.email} in {one.campaign}: active with nothing ahead"
        wanted = steps.get((one.email, one.campaign), 1)
        if one.state == "finished" and states.count("sent") < wanted:
            yield f"{one.email} in {one.campaign}: finished after {states}"
    if case.evidence.outbox:
        yield f"{case.evidence.outbox} events were never published"


def doubled(case: Case) -> Iterator[str]:
    """A step that a provider took twice."""
    for job_id, taken in case.accepted.items():
        if len(taken) > 1:
            yield f"{_job(case, job_id)}: taken {len(taken)} times: {_names(taken)}"
    for job_id, copies in case.evidence.copies.items():
        if copies > 1:
            yield f"{_job(case, job_id)}: {copies} copies in one inbox"
    steps: Counter[tuple[int, int]] = Counter()
    for job_id in case.accepted:
        if job := case.evidence.jobs.get(job_id):
            steps[job.enrollment_id, job.step] += 1
    for (enrollment, step), count in steps.items():
        if count > 1:
            yield f"{case.email_of[enrollment]}: {count} jobs sent step {step}"


def over_limit(case: Case) -> Iterator[str]:
    """A mailbox that began more, or sooner, than it may; recomputed from what providers saw."""
    for mailbox in case.diary.mailboxes:
        begun = case.begun[mailbox.email]
        for before, after in pairwise(begun):
            gap = after.at - before.at
            if gap < mailbox.cadence_s:
                yield f"{mailbox.email}: {gap:.3f} s between {before.name} and {after.name}"
        yield from _caps(mailbox, begun)
        for one in begun:
            if mailbox.windows is not None and not _open(mailbox.windows, one.at):
                yield f"{mailbox.email}: outside its windows at {_clock(one.at)} ({one.name})"
    yield from _held(case)


def _caps(mailbox: Mailbox, begun: list[Submission]) -> Iterator[str]:
    for cap, unit, seconds in (
        (mailbox.hourly_cap, "hour", 3600.0),
        (mailbox.daily_cap, "day", _DAY_S),
    ):
        counts = Counter(one.at // seconds for one in begun)
        for start, count in counts.items():
            if cap is not None and count > cap:
                when = _clock(start * seconds)
                yield f"{mailbox.email}: {count} in the {unit} of {when}, not {cap}"
    if mailbox.ceiling is None:
        return
    for n, last in enumerate(begun):
        within = sum(one.at > last.at - _DAY_S for one in begun[: n + 1])
        if within > mailbox.ceiling:
            yield f"{mailbox.email}: {within} within 24 h at {_clock(last.at)}"


def _open(windows: list[tuple[int, int]], at: float) -> bool:
    minute = at % _DAY_S / 60
    return any(
        start <= minute < end if start < end else minute >= start or minute < end
        for start, end in windows
    )


def _held(case: Case) -> Iterator[str]:
    grace = {one.email: one.grace_s for one in case.diary.mailboxes}
    for held in case.diary.held:
        first = held.answered + LEAD_S + grace[held.mailbox] + SLACK_S
        until = held.lifted or float("inf")
        for one in case.begun[held.mailbox]:
            if first < one.at < until:
                late = one.at - held.answered
                yield f"{held.mailbox}: {one.name} began {late:.3f} s after it was suspended"


def after_suppression(case: Case) -> Iterator[str]:
    """A submission that began when the address was suppressed already."""
    slowest = max((one.grace_s for one in case.diary.mailboxes), default=0.0)
    since: dict[str, float] = {}
    for told in case.diary.suppressed:
        since[told.email] = min(told.answered, since.get(told.email, told.answered))
    for one in case.evidence.submissions:
        for email in {*one.recipients, _email(case, one.job_id)} & since.keys():
            late = one.at - since[email]
            if late > LEAD_S + slowest + SLACK_S:
                yield f"{email}: {one.name} began {late:.3f} s after its suppression"
    for tried in case.evidence.attempts:
        email = _email(case, tried.job_id)
        if tried.claimed_at is not None and email in since and tried.claimed_at > since[email]:
            late = tried.claimed_at - since[email]
            yield f"{email}: job {tried.job_id} was claimed {late:.3f} s after its suppression"


def unexplained(case: Case) -> Iterator[str]:
    """A message nobody ordered, one whose job says otherwise, a lead in a state nothing led to."""
    for one in case.evidence.submissions:
        if one.accepted and one.job_id not in case.evidence.jobs:
            yield f"{one.mailbox}: {one.name} to {', '.join(one.recipients)}: no job ordered it"
    for job_id, taken in case.accepted.items():
        job = case.evidence.jobs.get(job_id)
        if job is not None and job.state not in ("sent", "in_doubt"):
            yield f"{case.named(job)}: yet {_names(taken)} was taken"
    suppressed = {told.email for told in case.diary.suppressed}
    ordered = {(lead.email, lead.campaign) for lead in case.diary.leads}
    for lead in case.diary.leads:
        found = case.enrolled.get((lead.email, lead.campaign))
        if found is None or found.state == "active":
            continue
        allowed = _ENDS[lead.kind]
        if lead.email in suppressed:
            allowed |= {"suppressed", "unsubscribed"}
        if found.state not in allowed:
            yield f"{lead.email} ({lead.kind}) in {lead.campaign}: {found.state}, {found.reason}"
    for email, campaign in case.enrolled.keys() - ordered:
        yield f"{email} in {campaign}: nobody imported it"


RULES: Final[tuple[tuple[str, Callable[[Case], Iterator[str]]], ...]] = (
    ("lost", lost),
    ("doubled", doubled),
    ("over_limit", over_limit),
    ("after_suppression", after_suppression),
    ("unexplained", unexplained),
)


def _doubts(case: Case) -> list[Doubt]:
    by_email = {one.email: one for one in case.diary.mailboxes}
    found = []
    for job in case.evidence.jobs.values():
        if job.state != "in_doubt":
            continue
        mailbox = by_email.get(job.mailbox or "")
        truth = "left" if job.job_id in case.accepted else "did not leave"
        kind = mailbox.kind if mailbox else "?"
        found.append(
            Doubt(
                f"{case.named(job)} by {job.mailbox} ({kind}): it {truth}",
                mailbox is None or mailbox.proof,
            )
        )
    return found


def _email(case: Case, job_id: int | None) -> str:
    job = case.evidence.jobs.get(job_id) if job_id is not None else None
    return case.email_of.get(job.enrollment_id, "") if job else ""


def _job(case: Case, job_id: int) -> str:
    job = case.evidence.jobs.get(job_id)
    return case.named(job) if job else f"job {job_id}"


def _names(taken: list[Submission]) -> str:
    return ", ".join(f"{one.name} at {_clock(one.at)}" for one in taken)


def _clock(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"[:-3]
