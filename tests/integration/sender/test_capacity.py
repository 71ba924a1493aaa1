"""A slot's capacity: given back once when nothing was submitted, spent when something was."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.waiting import until

from paceline_sender.domain.outcome import Answer

from .conftest import FakeTransport, Sender, World

NOTHING_LEFT = (0, 0, 0)
SPENT = (0, 1, 1)

CASES: list[tuple[str, Answer, str, tuple[int, int, int]]] = [
    ("accepted", Answer("accepted"), "sent", SPENT),
    ("soft", Answer("deferred", "soft", code=450), "queued", SPENT),
    ("limit", Answer("deferred", "limit", code=550), "queued", SPENT),
    ("auth", Answer("deferred", "auth", code=535), "queued", SPENT),
    ("sender", Answer("deferred", "config", code=550, at_sender=True), "queued", SPENT),
    ("hard", Answer("rejected", "hard", code=550), "bounced", SPENT),
    ("block", Answer("rejected", "block", code=554), "bounced", SPENT),
    ("message", Answer("rejected", "config", code=552), "failed", SPENT),
    ("in doubt", Answer("in_doubt", "ambig"), "in_doubt", SPENT),
    ("held back", Answer("unsent", reason="too_late"), "queued", NOTHING_LEFT),
    ("lost before", Answer("unsent", reason="connection_lost"), "queued", NOTHING_LEFT),
    ("grant gone", Answer("unsent", "auth", "auth_failed"), "queued", NOTHING_LEFT),
    ("throttled", Answer("unsent", "soft", "throttled"), "queued", NOTHING_LEFT),
]


@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize(
    ("answer", "state", "used"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_a_submission_costs_its_slot_unless_nothing_left(
    world: World,
    sender: Sender,
    transport: FakeTransport,
    answer: Answer,
    state: str,
    used: tuple[int, int, int],
    drafts: bool,
) -> None:
    transport.drafts = drafts
    transport.answers["bob@example.test"] = answer
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    assert world.used() == (1, 1, 1)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == state, state)
    assert world.used() == used
    await until(lambda: not sender.preparer._tasks, "tidied up")
    needed = answer.kind in ("accepted", "in_doubt")
    assert transport.discarded == (["draft-1"] if drafts and not needed else [])
    (attempt,) = world.attempts(job)
    assert (attempt["draft"] is not None) == drafts
    assert attempt["draft_left_at"] is None
    # Saying it again changes nothing.
    rows = world.rows(
        "SELECT applied FROM scheduler.finish_send(ARRAY[%s]::bigint[], ARRAY[%s]::bigint[],"
        " ARRAY[%s], ARRAY['unsent'], ARRAY['again'], ARRAY[now()])",
        job.workspace_id, job.job_id, job.fence,
    )  # fmt: skip
    assert rows == [{"applied": False}]
    assert world.used() == used


@pytest.mark.parametrize(
    "refusal",
    [
        Answer("unsent", "soft", "connect_refused"),
        Answer("unsent", "auth", "auth_failed", by_grant=True),
        Answer("unsent", "limit", "limited"),
        Answer("unsent", "config", "settings_invalid"),
    ],
    ids=lambda one: one.reason,
)
async def test_what_could_not_be_opened_costs_nothing(
    world: World, sender: Sender, transport: FakeTransport, refusal: Answer
) -> None:
    transport.refusal = refusal
    job = world.job(world.lead("bob@example.test"), in_ms=3000, grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "given back")
    assert world.used() == NOTHING_LEFT


async def test_a_draft_that_cannot_be_destroyed_now_is_noted_for_later(
    world: World, sender: Sender, transport: FakeTransport
) -> None:
    transport.drafts, transport.destroys = True, False
    transport.answers["bob@example.test"] = Answer("deferred", "soft", code=450)
    job = world.job(world.lead("bob@example.test"), grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "queued", "deferred")
    await until(lambda: bool(transport.discarded), "tried")
    (attempt,) = world.attempts(job)
    assert attempt["draft_left_at"] is not None


async def test_a_stopping_sender_gives_drafts_and_slots_back(
    world: World, make_sender: Callable[[Any], Sender], transport: FakeTransport
) -> None:
    transport.drafts = True
    stopping = make_sender(transport)
    await stopping.reconciler.beat_once()
    stopping.start()
    job = world.job(world.lead("bob@example.test"), in_ms=9000)
    stopping.preparer.hold([job])
    await until(lambda: bool(transport.made), "the draft is made")
    await stopping.stop()
    assert world.job_row(job)["state"] == "queued"
    assert world.used() == NOTHING_LEFT
    assert transport.discarded == transport.made


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
async def test_a_machine_whose_clock_is_an_hour_off_sends_in_time_all_the_same(
    world: World,
    make_sender: Callable[[Any], Sender],
    transport: FakeTransport,
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: int,
) -> None:
    transport.drafts = True
    sender = make_sender(transport)
    wrong = sender.submitter._clock.now

    def off() -> datetime:
        return wrong() + timedelta(seconds=ahead_s)

    monkeypatch.setattr(sender.submitter._clock, "now", off)
    assert sender.preparer._clock is sender.submitter._clock
    await sender.reconciler.beat_once()
    sender.start()
    job = world.job(world.lead("bob@example.test"), in_ms=1500, grace_ms=8000)
    sender.preparer.hold([job])
    await until(lambda: world.job_row(job)["state"] == "sent", "sent")
    ((_, _, _, at),) = transport.submitted
    assert job.slot_at <= at <= job.not_after
