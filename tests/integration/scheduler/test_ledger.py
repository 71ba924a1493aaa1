"""The decision ledger: one row per state of a mailbox, one per reason of a job."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.scheduler.conftest import WS, World

from paceline_common.db import Database, Queries
from paceline_scheduler.ledger import Ledger, Noted

MONDAY = datetime(2026, 3, 2, 9, tzinfo=UTC)


@pytest.fixture
async def ledger(world: World) -> Any:
    world.sql("TRUNCATE decision")
    db = Database(world.settings("scheduler"))
    yield Ledger(db, Queries("paceline_scheduler"), timedelta(days=30))
    await db.close()


async def note(ledger: Ledger, *decisions: Noted) -> None:
    async with ledger._db.transaction([WS]) as tx:
        await ledger.note(tx, WS, decisions)


def rows(world: World, scope: str = "mailbox") -> Sequence[Any]:
    return world.sql(
        "SELECT ref, reason, times, is_open FROM decision WHERE scope = %s ORDER BY decision_id",
        scope,
    )


async def test_the_same_decision_again_writes_nothing(world: World, ledger: Ledger) -> None:
    closed = Noted("mailbox", 1, "outside_window", MONDAY, {"zone": "Europe/Paris"})
    await note(ledger, closed)
    before = world.sql("SELECT xmin, ctid FROM decision")
    for _ in range(5):
        await note(ledger, closed)
    assert world.sql("SELECT xmin, ctid FROM decision") == before


async def test_another_decision_closes_the_one_before(world: World, ledger: Ledger) -> None:
    await note(ledger, Noted("mailbox", 1, "outside_window", MONDAY))
    await note(ledger, Noted("mailbox", 1, "open", inputs={"day_cap": 50}))
    await note(ledger, Noted("mailbox", 1, "open", inputs={"day_cap": 65}))
    assert rows(world) == [
        (1, "outside_window", 1, False),
        (1, "open", 1, False),
        (1, "open", 1, True),
    ]


async def test_of_several_about_one_mailbox_the_last_holds(world: World, ledger: Ledger) -> None:
    await note(ledger, Noted("mailbox", 1, "open"), Noted("mailbox", 1, "daily_cap", MONDAY))
    assert rows(world) == [(1, "daily_cap", 1, True)]


async def test_refusals_of_a_job_are_counted_per_reason(world: World, ledger: Ledger) -> None:
    for reason in ("cadence", "outstanding", "cadence", "cadence"):
        await note(ledger, Noted("job", 9, reason))
    assert sorted(rows(world, "job")) == [(9, "cadence", 3, True), (9, "outstanding", 1, True)]


async def test_two_schedulers_that_note_at_once_leave_one_open_row(
    world: World, ledger: Ledger
) -> None:
    for turn in range(20):
        await asyncio.gather(
            *(
                note(ledger, *(Noted("mailbox", box, f"reason{turn}_{who}") for box in boxes))
                for who, boxes in enumerate((range(1, 30), range(29, 0, -1)))
            )
        )
    assert world.one("SELECT count(*) FROM decision WHERE is_open") == 29


async def test_old_decisions_go_and_what_is_in_force_stays(world: World, ledger: Ledger) -> None:
    await note(ledger, Noted("mailbox", 1, "open"), Noted("job", 9, "cadence"))
    await note(ledger, Noted("mailbox", 1, "daily_cap", MONDAY), Noted("job", 10, "cadence"))
    world.sql("UPDATE decision SET last_at = last_at - interval '31 days' WHERE ref <> 10")
    assert await ledger.trim() == 2
    assert rows(world) == [(1, "daily_cap", 1, True)]
    assert rows(world, "job") == [(10, "cadence", 1, True)]
