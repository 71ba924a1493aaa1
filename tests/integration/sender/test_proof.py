"""Submissions in doubt, on the scheduler's real functions and providers' twins: proof, no guess."""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

import pytest
from tests.conformance.providers import gmail_stage, graph_stage
from tests.conformance.providers.stage import RECIPIENT, SENDER, Stage, message
from tests.waiting import until

from paceline_common import failpoints
from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.db.outbox import Outbox
from paceline_common.telemetry import Metrics
from paceline_providers.base import Accepted, Fence, InDoubt, Outcome, Unsent
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Destroyed, Found, Gone, NotSeen, Unavailable
from paceline_sender.domain import message as wording
from paceline_sender.doubts import Doubts, Patience
from paceline_sender.failpoints import FAILPOINTS
from paceline_sender.job import Job
from paceline_sender.metrics import METRICS
from paceline_sender.sentmail import Away
from paceline_sender.settings import SenderSettings
from paceline_sender.settle import Doubt, Settler, Verdict

from .conftest import World
from .late import LateAnswers

Kind = Literal["gmail", "graph", "smtp"]
MAC = "1.mac"


class FixedMac:
    """A key service that needs no server."""

    async def mac(self, messages: Any) -> list[str]:
        return [MAC for _ in messages]


@dataclass
class Provider:
    """One mailbox's twin as the reconciler meets it: reply looks, the sender destroys."""

    stage: Any = None
    answers: list[Any] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    destroyed: list[Fence] = field(default_factory=list)
    looking: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.looking.set()

    async def find(
        self, workspace_id: int, mailbox_id: int, recipient: str, job_token: str, since: datetime
    ) -> Found | NotSeen | Unavailable | Away:
        self.looked.append(job_token)
        await self.looking.wait()
        if self.answers:
            return cast("NotSeen", self.answers.pop(0))
        if self.stage is None:
            return NotSeen()
        return cast("NotSeen", await self.stage.prover.find_sent(recipient, job_token, since))

    async def disarm(
        self, workspace_id: int, mailbox_id: int, fence: Fence
    ) -> Destroyed | Gone | Unavailable:
        self.destroyed.append(fence)
        return cast("Gone", await self.stage.prover.disarm(fence))


def token(job: Job) -> str:
    return wording.job_token(job.workspace, job.public_id, MAC)


@dataclass
class Bench:
    """A world with jobs in doubt, and the parts that look at them."""

    world: World
    provider: Provider
    doubts: Doubts
    settler: Settler
    db: Database
    metrics: Metrics

    def lease(self, ended_s: float = 60.0) -> Job:
        """Make a job whose lease ended `ended_s` ago."""
        enrollment = self.world.lead(RECIPIENT)
        return self.world.job(enrollment, in_ms=-int(ended_s * 1000) - 2000, grace_ms=2000)

    def in_doubt(self, kind: Kind) -> Job:
        """Make a job whose claim ended a minute ago without an answer; it had no draft."""
        job = self.lease()
        self.lose(job, kind, None)
        return job

    def lose(self, job: Job, kind: Kind, fence: Fence | None) -> None:
        """Claim a job as if in time, and name it in doubt."""
        world = self.world
        args = (job.workspace_id, job.job_id)
        world.rows(
            "UPDATE scheduler.send_job SET state = 'sending' WHERE workspace_id = %s"
            " AND job_id = %s", *args,
        )  # fmt: skip
        message_id = f"<{job.public_id}@north.test>"
        world.rows(
            "INSERT INTO sender.message (workspace_id, job_id, enrollment_id, campaign_id, step,"
            " mailbox_id, message_id, subject, references_)"
            " VALUES (%s, %s, %s, %s, 1, %s, %s, 'Hello', '{}')",
            *args, job.enrollment_id, job.campaign_id, job.mailbox_id, message_id,
        )  # fmt: skip
        draft = None if fence is None else json.dumps(
            {"kind": fence.kind, "draft_id": fence.draft_id,
             "provider_message_id": fence.provider_message_id}
        )  # fmt: skip
        world.rows(
            "INSERT INTO sender.attempt (workspace_id, job_id, fence, attempt_no, enrollment_id,"
            " campaign_id, step, mailbox_id, provider, message_id, instance_id, claimed_at,"
            " not_after, draft) VALUES (%s, %s, %s, 1, %s, %s, 1, %s, %s, %s, gen_random_uuid(),"
            " %s, %s, %s)",
            *args, job.fence, job.enrollment_id, job.campaign_id, job.mailbox_id, kind, message_id,
            job.slot_at, job.not_after, draft,
        )  # fmt: skip
        assert self.finish(job, "in_doubt", "no_outcome")
        world.rows(
            "UPDATE sender.attempt SET outcome = 'in_doubt', outcome_class = 'ambig',"
            " reason = 'no_outcome', finished_at = now() WHERE workspace_id = %s AND job_id = %s",
            job.workspace_id, job.job_id,
        )  # fmt: skip

    def finish(self, job: Job, outcome: str, reason: str | None = None) -> bool:
        self.world.rows("SELECT set_config('app.workspace_ids', %s, false)", str(job.workspace_id))
        row = self.world.one(
            "SELECT applied FROM scheduler.finish_send(%s, %s, %s, %s, %s, %s)",
            [job.workspace_id], [job.job_id], [job.fence], [outcome], [reason], [None],
        )  # fmt: skip
        return bool(row["applied"])

    def row(self, job: Job) -> dict[str, Any]:
        return self.world.one(
            "SELECT * FROM sender.doubt WHERE workspace_id = %s AND job_id = %s",
            job.workspace_id, job.job_id,
        )  # fmt: skip

    def findings(self, job: Job) -> list[tuple[str, str]]:
        return [(one["source"], one["finding"]) for one in self.row(job)["evidence"]]

    async def look(self) -> int:
        """Look now, whenever the next look was to be."""
        self.world.rows(
            "UPDATE sender.doubt SET next_look_at = now() WHERE workspace_id = %s"
            " AND settled_at IS NULL",
            self.world.workspace_id,
        )
        return await self.doubts.look()

    def audits(self) -> list[Any]:
        return [one for one in self.world.events("audit-recorded") if one.action == "doubt.settled"]


def build(
    world: World, settings: SenderSettings, provider: Provider, destroy_after_s: float = 30.0
) -> Bench:
    db = Database(settings)
    metrics = Metrics(METRICS)
    clock = SystemClock()
    instance_id = str(uuid.uuid4())
    world.rows("INSERT INTO sender.instance (instance_id) VALUES (%s)", instance_id)
    settler = Settler(db, Outbox(db), clock, metrics)
    wait = timedelta(seconds=destroy_after_s)
    doubts = Doubts(
        db, Outbox(db), clock, metrics, random.Random(1),
        settler=settler, sent_mail=provider, drafts=provider, keys=FixedMac(),
        patience=Patience(
            timedelta(minutes=1), {"gmail": wait, "graph": wait}, 0.05, 30.0, timedelta(days=7)
        ),
        instance_id=instance_id,
    )  # fmt: skip
    return Bench(world, provider, doubts, settler, db, metrics)


@pytest.fixture
async def bench(world: World, settings: SenderSettings) -> AsyncIterator[Bench]:
    # What earlier tests left open would be looked at as well.
    world.rows(
        "UPDATE sender.doubt SET settled_at = now(), settled_as = 'moot', settled_by = 'tests'"
        " WHERE settled_at IS NULL"
    )
    made = build(world, settings, Provider())
    yield made
    await made.db.close()


STARTS: dict[str, Callable[[], Any]] = {
    "gmail": gmail_stage.ENTRIES["gmail-modify"].start,
    "graph": graph_stage.ENTRIES["graph-readwrite"].start,
}


@pytest.fixture(params=["gmail", "graph"])
async def fenced(request: pytest.FixtureRequest, bench: Bench) -> AsyncIterator[Bench]:
    """A bench in front of a twin whose grant allows drafts."""
    async with STARTS[request.param]() as stage:
        bench.provider.stage = stage
        yield bench


def kind_of(bench: Bench) -> Kind:
    return "gmail" if isinstance(bench.provider.stage, gmail_stage.GmailStage) else "graph"


async def attempt(bench: Bench, fault: str | None, *, ended_s: float = 60.0) -> Job:
    """Submit by a draft and lose the answer by `fault`; None: the request never leaves."""
    stage: Stage = bench.provider.stage
    job = bench.lease(ended_s)
    session = await stage.provider.open()
    assert not isinstance(session, Unsent)
    data = message(token(job))
    fence = await session.prepare(data)
    assert isinstance(fence, Fence)
    if fault is not None:
        stage.strike(fault)
        assert isinstance(await submit(bench, job, fence), InDoubt)
    bench.lose(job, kind_of(bench), fence)
    return job


async def submit(bench: Bench, job: Job, fence: Fence) -> Outcome:
    """Make the send request of a draft."""
    session = await bench.provider.stage.provider.open()
    outcome: Outcome = await session.submit(
        SENDER, RECIPIENT, message(token(job)), before_mail_from=lambda: True, fence=fence
    )
    return outcome


def draft_of(bench: Bench, job: Job) -> Fence:
    return Fence(**bench.world.attempts(job)[0]["draft"])


async def test_a_message_found_among_sent_mail_is_sent(fenced: Bench) -> None:
    job = await attempt(fenced, "reset_after")
    assert await fenced.look() == 1
    world = fenced.world
    assert world.job_row(job)["state"] == "sent"
    doubt = fenced.row(job)
    assert (doubt["settled_as"], doubt["settled_by"]) == ("sent", "sender")
    assert fenced.findings(job) == [("attempt", "no_outcome"), ("sent_mail", "proven_sent")]
    (tried,) = world.attempts(job)
    assert (tried["outcome"], tried["reason"]) == ("accepted", "proven_sent")
    sent = world.message(job)
    assert sent["provider_message_id"] == tried["provider_message_id"] is not None
    assert sent["submitted_at"] is not None
    assert (sent["thread_id"] is not None, sent["thread_mailbox_id"]) == (True, job.mailbox_id)
    (event,) = world.events("sent")
    assert (event.job_id, event.provider_message_id) == (job.public_id, sent["provider_message_id"])
    (audit,) = fenced.audits()
    assert (audit.actor, audit.detail["as"], audit.subject) == ("sender", "sent", job.public_id)
    assert fenced.provider.destroyed == [], "nothing was touched"
    assert await fenced.look() == 0, "what is settled is not looked at again"


async def test_what_recipients_see_is_kept_where_the_provider_rewrote_it(fenced: Bench) -> None:
    fenced.provider.stage.rewrite_message_ids()
    job = await attempt(fenced, "reset_after")
    await fenced.look()
    own, seen = (fenced.world.message(job)[name] for name in ("message_id", "sent_message_id"))
    assert own == f"<{job.public_id}@north.test>"
    assert seen is not None
    assert seen != own
    (event,) = fenced.world.events("sent")
    assert event.message_id == seen


async def test_a_destroyed_draft_is_unsent_and_queued_with_its_place(fenced: Bench) -> None:
    job = await attempt(fenced, None)
    before = fenced.world.job_row(job)
    budget = "SELECT day_used, outstanding FROM scheduler.mailbox_budget WHERE mailbox_id = %s"
    spent = fenced.world.one(budget, job.mailbox_id)
    await fenced.look()
    row = fenced.world.job_row(job)
    assert (row["state"], row["fence"], row["reason"]) == ("queued", job.fence + 1, "proven_unsent")
    assert row["due_at"] == before["due_at"], "its place in the queue"
    assert fenced.world.one(budget, job.mailbox_id) == spent, "capacity stays spent"
    (tried,) = fenced.world.attempts(job)
    assert (tried["outcome"], tried["draft_left_at"] is not None) == ("unsent", True)
    doubt = fenced.row(job)
    assert (doubt["settled_as"], doubt["settled_by"]) == ("unsent", "sender")
    assert ("draft", "destroying") in fenced.findings(job)
    (event,) = fenced.world.events("send-deferred")
    assert (event.outcome_class, event.submitted) == ("unsent", True)
    assert fenced.world.message(job)["submitted_at"] is None
    assert fenced.provider.stage.taken() == []


async def test_a_late_send_of_a_destroyed_draft_finds_nothing_to_send(fenced: Bench) -> None:
    job = await attempt(fenced, None)
    await fenced.look()
    assert fenced.world.job_row(job)["state"] == "queued"
    late = await submit(fenced, job, draft_of(fenced, job))
    assert not isinstance(late, Accepted)
    assert fenced.provider.stage.taken() == []


async def test_a_draft_is_not_touched_before_lease_and_timeout_are_over(fenced: Bench) -> None:
    job = await attempt(fenced, None, ended_s=5)
    await fenced.look()
    assert fenced.world.job_row(job)["state"] == "in_doubt"
    assert fenced.provider.destroyed == []
    due = fenced.row(job)["next_look_at"]
    # It comes back as soon as it may, not at the next regular look.
    assert abs((due - job.not_after).total_seconds() - 30.0) < 1


async def test_a_draft_merely_seen_proves_nothing(fenced: Bench) -> None:
    """It stands there for all to see, and yet its request is only late."""
    job = await attempt(fenced, None, ended_s=5)
    for _ in range(4):
        await fenced.look()
    row = fenced.world.job_row(job)
    assert (row["state"], row["fence"]) == ("in_doubt", job.fence)
    assert isinstance(await submit(fenced, job, draft_of(fenced, job)), Accepted)
    await fenced.look()
    assert fenced.world.job_row(job)["state"] == "sent"
    assert [one.job for one in fenced.provider.stage.taken()] == [token(job)]


async def test_mail_that_shows_late_is_waited_for_and_a_draft_that_is_gone_proves_nothing(
    fenced: Bench,
) -> None:
    stage: Stage = fenced.provider.stage
    stage.hide_sent(3600)
    job = await attempt(fenced, "reset_after")
    await fenced.look()
    assert fenced.world.job_row(job)["state"] == "in_doubt"
    assert ("draft", "gone") in fenced.findings(job)
    assert fenced.row(job)["looks"] == 1
    stage.pass_time(3700)
    await fenced.look()
    assert fenced.world.job_row(job)["state"] == "sent"
    assert len(stage.taken()) == 1


async def test_a_draft_that_somebody_deleted_leaves_the_doubt_open(fenced: Bench) -> None:
    job = await attempt(fenced, None)
    fence = draft_of(fenced, job)
    mailbox = fenced.provider.stage.mailbox
    if kind_of(fenced) == "gmail":
        mailbox.delete_draft(fence.draft_id)
    else:
        mailbox.items.clear()
    for looks in (1, 2):
        await fenced.look()
        row = fenced.world.job_row(job)
        assert (row["state"], row["fence"]) == ("in_doubt", job.fence)
        assert fenced.row(job)["looks"] == looks


async def test_a_grant_that_is_gone_proves_nothing(fenced: Bench) -> None:
    job = await attempt(fenced, None)
    fenced.provider.stage.expire_sign_in()
    fenced.provider.stage.revoke_sign_in()
    await fenced.look()
    assert fenced.world.job_row(job)["state"] == "in_doubt"
    assert ("sent_mail", "unavailable") in fenced.findings(job)
    assert ("draft", "unavailable") in fenced.findings(job)


def arrived(bench: Bench, job: Job, kind: str, matched_by: str) -> None:
    bench.world.rows(
        "INSERT INTO reply.inbound_message (workspace_id, mailbox_id, kind, message_id, digest,"
        " job_id, enrollment_id, matched_by, received_at)"
        " VALUES (%s, %s, %s, %s, sha256(%s::text::bytea), %s, %s, %s, now())",
        job.workspace_id, job.mailbox_id, kind, f"<{kind}@example.test>", str(job.job_id),
        job.job_id, job.enrollment_id, matched_by,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["human", "auto_reply", "dsn", "complaint", "unsubscribe"])
async def test_what_only_this_message_can_have_caused_proves_it_sent(
    bench: Bench, kind: str
) -> None:
    job = bench.in_doubt("smtp")
    arrived(bench, job, kind, "references")
    await bench.look()
    assert bench.world.job_row(job)["state"] == "sent"
    assert bench.row(job)["evidence"][-1]["source"] == "inbound"
    (event,) = bench.world.events("sent")
    assert event.sent_at == job.slot_at
    assert bench.provider.looked == []


async def test_an_answer_matched_by_address_alone_may_be_an_earlier_steps(bench: Bench) -> None:
    job = bench.in_doubt("smtp")
    arrived(bench, job, "human", "address")
    await bench.look()
    assert bench.world.job_row(job)["state"] == "in_doubt"


async def test_a_report_that_bounce_counted_proves_it_sent(bench: Bench) -> None:
    job = bench.in_doubt("smtp")
    bench.world.rows(
        "INSERT INTO bounce.bounce (workspace_id, source, state, mailbox_id, job_id, enrollment_id,"
        " inbound_id, part, bounce_class, occurred_at)"
        " VALUES (%s, 'dsn', 'counted', %s, %s, %s, 1, 0, 'hard', now())",
        job.workspace_id, job.mailbox_id, job.job_id, job.enrollment_id,
    )  # fmt: skip
    await bench.look()
    assert bench.world.job_row(job)["state"] == "sent"


async def test_without_any_proof_it_stays_and_is_looked_for_ever_less_often(bench: Bench) -> None:
    job = bench.in_doubt("smtp")
    waits = []
    for _ in range(6):
        await bench.look()
        row = bench.row(job)
        waits.append((row["next_look_at"] - datetime.now(UTC)).total_seconds() / 60)
    state = bench.world.job_row(job)
    assert (state["state"], state["fence"]) == ("in_doubt", job.fence)
    assert row["looks"] == 6
    expected = (5, 15, 60, 60, 60, 60)
    assert all(0.75 * e <= wait <= 1.25 * e for e, wait in zip(expected, waits, strict=True)), waits
    bench.world.rows("UPDATE sender.doubt SET since = now() - interval '2 days'")
    await bench.look()
    days = (bench.row(job)["next_look_at"] - datetime.now(UTC)).total_seconds() / 86400
    assert 0.75 <= days <= 1.25


async def test_a_look_at_nothing_because_reply_is_away_does_not_count(bench: Bench) -> None:
    job = bench.in_doubt("smtp")
    bench.provider.answers += [Away("ConnectError")] * 3
    for _ in range(3):
        await bench.look()
    row = bench.row(job)
    assert row["looks"] == 0
    assert row["next_look_at"] - datetime.now(UTC) < timedelta(minutes=6)
    assert bench.findings(job)[1:] == [("sent_mail", "away")] * 3


async def test_a_providers_wish_to_wait_is_heeded(bench: Bench) -> None:
    job = bench.in_doubt("smtp")
    wish = timedelta(hours=3)
    bench.provider.answers.append(Unavailable(OutcomeClass.LIMIT, "slow down", wish))
    await bench.look()
    assert bench.row(job)["next_look_at"] - datetime.now(UTC) > wish - timedelta(minutes=1)


async def test_evidence_is_kept_and_capped(bench: Bench) -> None:
    job = bench.in_doubt("smtp")
    for _ in range(55):
        await bench.look()
    evidence = bench.row(job)["evidence"]
    assert len(evidence) == 50
    assert evidence[-1]["finding"] == "not_seen"
    assert [one["at"] for one in evidence] == sorted(one["at"] for one in evidence)


async def test_a_doubt_of_24_hours_raises_its_issue_again_once_and_ages_are_measured(
    bench: Bench,
) -> None:
    jobs = [bench.in_doubt("smtp") for _ in range(2)]
    await bench.doubts.alarm()
    assert bench.world.events("issue-raised") == []
    bench.world.rows(
        "UPDATE sender.doubt SET since = now() - interval '25 h' WHERE job_id = %s", jobs[0].job_id
    )
    for _ in range(2):
        await bench.doubts.alarm()
    (issue,) = bench.world.events("issue-raised")
    assert (issue.subject, issue.code, issue.severity) == (
        jobs[0].public_id, "send_in_doubt", "error",
    )  # fmt: skip
    registry = bench.metrics.registry
    assert registry.get_sample_value("paceline_in_doubt", {"age": "older"}) == 1
    assert registry.get_sample_value("paceline_in_doubt", {"age": "quarter"}) == 1
    oldest = registry.get_sample_value("paceline_in_doubt_oldest_seconds")
    assert oldest is not None
    assert 25 * 3600 <= oldest < 25 * 3600 + 60


async def test_two_processes_never_look_at_one_doubt_at_once(
    bench: Bench, settings: SenderSettings
) -> None:
    jobs = [bench.in_doubt("smtp") for _ in range(5)]
    other = build(bench.world, settings, bench.provider)
    bench.world.rows("UPDATE sender.doubt SET next_look_at = now() WHERE settled_at IS NULL")
    bench.provider.looking.clear()
    try:
        looks = [asyncio.create_task(one.doubts.look()) for one in (bench, other, bench, other)]
        await until(lambda: len(bench.provider.looked) == len(jobs), "all looked at")
        bench.provider.looking.set()
        assert sum(await asyncio.gather(*looks)) == len(jobs)
    finally:
        bench.provider.looking.set()
        await other.db.close()
    assert sorted(bench.provider.looked) == sorted(token(job) for job in jobs)


async def test_a_doubt_is_held_by_a_living_process_and_free_when_it_falls_silent(
    bench: Bench, settings: SenderSettings
) -> None:
    job = bench.in_doubt("smtp")
    other = build(bench.world, settings, bench.provider)
    bench.provider.looking.clear()
    stuck = asyncio.create_task(bench.look())
    try:
        await until(lambda: len(bench.provider.looked) == 1, "one looks")
        assert await asyncio.wait_for(other.look(), 20) == 0
        bench.world.rows(
            "UPDATE sender.instance SET beat_at = now() - interval '1 min' WHERE instance_id ="
            " (SELECT looking_by FROM sender.doubt WHERE job_id = %s)",
            job.job_id,
        )
        second = asyncio.create_task(other.look())
        await until(lambda: len(bench.provider.looked) == 2, "another looks")
        bench.provider.looking.set()
        assert await second == 1
        await stuck
    finally:
        bench.provider.looking.set()
        await other.db.close()


async def test_a_look_that_fails_lets_go_of_its_doubt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    job, fine = bench.in_doubt("smtp"), bench.in_doubt("smtp")
    find = bench.provider.find
    monkeypatch.setattr(
        bench.provider, "find",
        lambda *asked: broken() if asked[3] == token(job) else find(*asked),
    )  # fmt: skip
    assert await bench.look() == 2
    row = bench.row(job)
    assert (row["looks"], row["looking_by"]) == (0, None)
    assert row["next_look_at"] - datetime.now(UTC) < timedelta(minutes=2)
    assert bench.row(fine)["looks"] == 1


async def test_a_doubt_whose_job_moved_on_is_closed_without_effect(bench: Bench) -> None:
    job = bench.in_doubt("smtp")
    assert bench.finish(job, "failed", "settled elsewhere")
    state = bench.world.job_row(job)
    await bench.look()
    assert bench.row(job)["settled_as"] == "moot"
    assert bench.world.job_row(job) == state
    assert bench.world.events("sent") == []


@pytest.mark.parametrize(
    "point", ["before_destroy", "after_destroy", "before_settle_commit", "after_settle"]
)
@pytest.mark.parametrize("left", [False, True])
async def test_a_crash_anywhere_in_a_look_leads_to_the_same_end(
    fenced: Bench, settings: SenderSettings, point: str, left: bool
) -> None:
    """`left`: the request did leave, and was taken."""
    job = await attempt(fenced, "reset_after" if left else None)
    if left:
        # Hidden at first, so that the draft is tried as well.
        fenced.provider.answers.append(NotSeen())
    failpoints.configure(f"sender.{point}=raise@1", extra_names=frozenset(FAILPOINTS))
    try:
        await fenced.look()
    finally:
        failpoints.configure("")
    # Its process is gone, and with it what it held.
    fenced.world.rows("UPDATE sender.instance SET beat_at = now() - interval '1 min'")
    other = build(fenced.world, settings, fenced.provider)
    for _ in range(2):
        await other.look()
    await other.db.close()
    row = fenced.world.job_row(job)
    expected = ("sent", job.fence) if left else ("queued", job.fence + 1)
    assert (row["state"], row["fence"]) == expected, fenced.findings(job)
    assert len(fenced.provider.stage.taken()) == left
    assert len(fenced.audits()) == 1
    assert len(fenced.world.events("sent")) == left


# ---- the attempt's own answer, late


async def test_a_persons_word_and_a_late_answer_never_both_hold(
    bench: Bench, settings: SenderSettings
) -> None:
    """Raced on real rows: whichever comes first holds, and all tables tell the same."""
    late = LateAnswers(settings)
    rng = random.Random(5)
    held: dict[str, int] = {"person": 0, "answer": 0}
    try:
        for _ in range(60):
            job = bench.in_doubt("smtp")
            said = rng.choice(("sent", "unsent", "failed"))
            verdict = Verdict(said, f"settled_{said}", "key_x", "seen", "person")  # type: ignore[arg-type]
            doubt = Doubt(job.workspace_id, job.job_id, job.fence)
            # An answer lingers a little, for its group commit: now one is ahead, now the other.
            head_start_s = rng.uniform(0, 0.008)

            async def says(doubt: Doubt = doubt, verdict: Verdict = verdict) -> None:
                await asyncio.sleep(head_start_s)  # noqa: B023 - of this round
                await bench.settler.settle(doubt, verdict)

            await asyncio.gather(says(), late.accepted(job))
            row, tried, closed = (
                bench.world.job_row(job), bench.world.attempts(job)[0], bench.row(job),
            )  # fmt: skip
            if closed["settled_by"] == "answer":
                held["answer"] += 1
                assert (row["state"], tried["outcome"]) == ("sent", "accepted")
            else:
                held["person"] += 1
                ends = {"sent": ("sent", "accepted"), "unsent": ("queued", "unsent"),
                        "failed": ("failed", "failed")}  # fmt: skip
                assert (row["state"], tried["outcome"]) == ends[said]
            assert closed["settled_at"] is not None
        assert len(bench.audits()) == held["person"]
    finally:
        await late.close()
    assert min(held.values()) > 5, f"no race: {held}"


async def test_the_living_attempts_late_refusal_to_send_is_proof(
    bench: Bench, settings: SenderSettings
) -> None:
    late = LateAnswers(settings)
    try:
        for outcome, state in (
            ("unsent", "queued"),
            ("deferred", "queued"),
            ("rejected", "bounced"),
        ):
            job = bench.in_doubt("smtp")
            await late.answer(job, outcome)
            row, closed = bench.world.job_row(job), bench.row(job)
            assert (row["state"], closed["settled_by"]) == (state, "answer")
            assert row["fence"] == job.fence + (state == "queued")
            assert bench.world.attempts(job)[0]["outcome"] == outcome
    finally:
        await late.close()


async def test_doubts_settled_long_ago_go_and_open_ones_stay_however_old(bench: Bench) -> None:
    old, lately, unsettled = (bench.in_doubt("smtp") for _ in range(3))
    for job, days in ((old, 8), (lately, 6)):
        bench.world.rows(
            "UPDATE sender.doubt SET since = now() - interval '9 days', settled_as = 'moot',"
            " settled_by = 'tests', settled_at = now() - make_interval(days => %s)"
            " WHERE workspace_id = %s AND job_id = %s",
            days, job.workspace_id, job.job_id,
        )  # fmt: skip
    bench.world.rows(
        "UPDATE sender.doubt SET since = now() - interval '1 year' WHERE workspace_id = %s"
        " AND job_id = %s", unsettled.workspace_id, unsettled.job_id,
    )  # fmt: skip
    assert await bench.doubts.trim() >= 1
    left = bench.world.rows(
        "SELECT job_id FROM sender.doubt WHERE workspace_id = %s ORDER BY job_id",
        bench.world.workspace_id,
    )
    assert [row["job_id"] for row in left] == [lately.job_id, unsettled.job_id]


async def test_an_answer_after_the_doubt_was_settled_changes_nothing(
    bench: Bench, settings: SenderSettings
) -> None:
    late = LateAnswers(settings)
    job = bench.in_doubt("smtp")
    doubt = Doubt(job.workspace_id, job.job_id, job.fence)
    assert await bench.settler.settle(
        doubt, Verdict("failed", "settled_failed", "key_x", "seen", "person")
    )
    before = (bench.world.job_row(job), bench.row(job), bench.world.attempts(job))
    try:
        for outcome in ("unsent", "deferred", "accepted", "in_doubt"):
            await late.answer(job, outcome)
    finally:
        await late.close()
    assert (bench.world.job_row(job), bench.row(job), bench.world.attempts(job)) == before
    assert (
        await bench.settler.settle(
            doubt, Verdict("sent", "settled_sent", "key_y", "seen", "person")
        )
        is None
    )
