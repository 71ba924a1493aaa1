"""The checker itself: each rule finds the breach that it is there for, and nothing else."""

import dataclasses

import pytest

from tests.chaos import broken
from tests.chaos.checker import check
from tests.chaos.controller import Plan
from tests.chaos.diary import Diary, Held, Lead, Mailbox, Suppressed
from tests.chaos.evidence import Attempt, Enrolled, Evidence, Job, Submission
from tests.chaos.report import Done, compose

T0 = 1_795_000_000.0
BOX = Mailbox("m1@north.test", "smtp", cadence_s=1.0, grace_s=1.0)


def submission(at: float = 10.0, job: int | None = 1, *, accepted: bool = True) -> Submission:
    return Submission("smtp", BOX.email, T0 + at, job, ("a@example.test",), accepted, f"at {at}")


def diary(**changes: object) -> Diary:
    lead = Lead("a@example.test", "ordinary", "short", 1)
    return dataclasses.replace(Diary(T0, "ws_1", [BOX], [lead]), **changes)  # type: ignore[arg-type]


def evidence(**changes: object) -> Evidence:
    """Return what a lead that got its one message leaves, with changes."""
    right = Evidence(
        submissions=[submission()],
        copies={1: 1},
        jobs={1: Job(1, 1, 1, "sent", None, BOX.email)},
        enrollments=[Enrolled(1, "a@example.test", "short", "finished", None, 1)],
        attempts=[Attempt(1, 1, T0 + 9.9, "accepted")],
    )
    return dataclasses.replace(right, **changes)  # type: ignore[arg-type]


def job(state: str) -> dict[int, Job]:
    return {1: Job(1, 1, 1, state, None, BOX.email)}


def enrolled(state: str, reason: str | None = None) -> list[Enrolled]:
    return [Enrolled(1, "a@example.test", "short", state, reason, 1)]


def breached(told: Diary, found: Evidence) -> set[str]:
    breaches, _ = check(told, found)
    return {one.rule for one in breaches}


def test_a_lead_that_got_its_message_breaches_nothing() -> None:
    assert check(diary(), evidence()) == ([], [])


@pytest.mark.parametrize(
    ("found", "rules"),
    [
        (evidence(submissions=[]), {"lost"}),
        (evidence(enrollments=[], jobs={}, submissions=[]), {"lost"}),
        (evidence(jobs=job("queued"), submissions=[], enrollments=enrolled("active")), {"lost"}),
        (evidence(jobs=job("failed"), submissions=[], enrollments=enrolled("active")), {"lost"}),
        (evidence(outbox=3), {"lost"}),
        (evidence(submissions=[submission(), submission(20)]), {"doubled"}),
        (evidence(copies={1: 2}), {"doubled"}),
        (evidence(submissions=[submission(), submission(20, None)]), {"unexplained"}),
        (evidence(jobs=job("cancelled"), enrollments=enrolled("stopped", "x")), {"unexplained"}),
        (evidence(enrollments=enrolled("bounced", "hard_bounce")), {"unexplained"}),
    ],
    ids=[
        "sent to nobody", "imported, never enrolled", "left behind", "active with nothing ahead",
        "never published", "taken twice", "two copies", "ordered by nobody", "cancelled, yet sent",
        "bounced without cause",
    ],
)  # fmt: skip
def test_each_breach_is_named(found: Evidence, rules: set[str]) -> None:
    assert breached(diary(), found) == rules


def test_a_second_job_of_one_step_is_a_double() -> None:
    jobs = job("sent") | {2: Job(2, 1, 1, "sent", None, BOX.email)}
    found = evidence(jobs=jobs, submissions=[submission(), submission(20, 2)])
    assert "doubled" in breached(diary(), found)


def test_a_submission_that_was_cut_off_is_no_double_but_counts_for_the_pace() -> None:
    cut = submission(8, None, accepted=False)
    assert breached(diary(), evidence(submissions=[cut, submission()])) == set()
    cut = submission(9.5, None, accepted=False)
    assert breached(diary(), evidence(submissions=[cut, submission()])) == {"over_limit"}


@pytest.mark.parametrize(
    ("limit", "breaks"),
    [
        ({"hourly_cap": 1}, True),
        ({"hourly_cap": 2}, False),
        ({"daily_cap": 1}, True),
        ({"ceiling": 1}, True),
        ({"ceiling": 2}, False),
        ({"windows": [(0, 1440)]}, False),
        ({"windows": []}, True),
    ],
)
def test_limits_are_counted_from_what_providers_saw(limit: dict[str, object], breaks: bool) -> None:
    box = dataclasses.replace(BOX, **limit)  # type: ignore[arg-type]
    begun = [submission(8, None, accepted=False), submission()]
    assert breached(diary(mailboxes=[box]), evidence(submissions=begun)) == (
        {"over_limit"} if breaks else set()
    )


@pytest.mark.parametrize(
    ("answered", "lifted", "breaks"), [(5.0, None, True), (5.0, 9.0, False), (9.5, None, False)]
)
def test_a_suspended_mailbox_begins_nothing(
    answered: float, lifted: float | None, breaks: bool
) -> None:
    held = Held(BOX.email, T0 + answered, None if lifted is None else T0 + lifted)
    assert breached(diary(held=[held]), evidence()) == ({"over_limit"} if breaks else set())


@pytest.mark.parametrize(
    ("answered", "claimed", "breaks"),
    # A claim that had committed before may still leave within its lease.
    [(8.0, 7.9, True), (9.95, 9.9, False), (9.5, 9.6, True)],
)
def test_nothing_begins_after_a_suppression(answered: float, claimed: float, breaks: bool) -> None:
    told = diary(suppressed=[Suppressed("a@example.test", T0, T0 + answered)])
    found = evidence(attempts=[Attempt(1, 1, T0 + claimed, "accepted")])
    assert breached(told, found) == ({"after_suppression"} if breaks else set())


def test_doubt_is_allowed_only_where_nothing_can_be_proven() -> None:
    found = evidence(
        jobs=job("in_doubt"), submissions=[], copies={}, enrollments=enrolled("active")
    )
    done = Done(1, {"x": 5}, {}, [], True, 1.0, 5)
    for proof, ok in ((False, True), (True, False)):
        box = dataclasses.replace(BOX, proof=proof)
        breaches, doubts = check(diary(mailboxes=[box]), found)
        report, findings = compose(done, found, breaches, doubts)
        assert (report["ok"], report["in_doubt_open"], len(findings)) == (ok, 1, 1)


@pytest.mark.parametrize(
    "change", [{"transitions": {"x": 4}}, {"crashed": ["sender"]}, {"rested": False}]
)
def test_a_run_is_not_ok_when_it_was_not_whole(change: dict[str, object]) -> None:
    done = dataclasses.replace(Done(1, {"x": 5}, {}, [], True, 1.0, 5), **change)  # type: ignore[arg-type]
    report, findings = compose(done, evidence(), [], [])
    assert not report["ok"]
    assert len(findings) == 1


@pytest.mark.parametrize(
    ("plan", "least"),
    [
        (Plan(500, 1), 5), (Plan(900, 1), 5), (Plan(250, 1), 2), (Plan(30, 1), 0),
        (Plan(500, 1, aim=["sender.after_claim"]), 0),
    ],
)  # fmt: skip
def test_a_whole_run_owes_each_transition_five_kills(plan: Plan, least: int) -> None:
    assert plan.least == least


@pytest.mark.parametrize("build", broken.load(), ids=lambda build: build.name)
def test_a_broken_build_can_still_be_planted(build: broken.Build) -> None:
    assert broken.stale(build) == []
