"""Mailboxes that their provider limited: half their cap, enforced by Postgres, and an issue."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paceline_common import events, ids

from .conftest import WS, House, World
from .test_guards import propose, ready

NOW = datetime.now(UTC)


def about(world: World) -> dict[str, Any]:
    (job,) = world.sql("SELECT job_id, enrollment_id, campaign_id FROM send_job LIMIT 1")
    return {
        "workspace_id": ids.encode("ws", WS), "job_id": ids.encode("job", job[0]),
        "mailbox_id": ids.encode("mbx", 1), "enrollment_id": ids.encode("enr", job[1]),
        "campaign_id": ids.encode("cmp", job[2]), "step": 1,
    }  # fmt: skip


def deferred(
    world: World, outcome_class: Any = "limit", at: datetime = NOW, *, app_wide: bool = False
) -> Any:
    body = events.SendDeferred(
        **about(world), outcome_class=outcome_class, submitted=True, app_wide=app_wide
    )
    return world.delivery(body, time=at)


def limits(world: World) -> tuple[Any, ...]:
    row: tuple[Any, ...] = world.one(
        "SELECT limited_times, throttled_until FROM mailbox_budget WHERE mailbox_id = 1"
    )
    return row


def midnight_after(days: int) -> datetime:
    day = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=days + 1)


async def test_a_limit_halves_the_cap_that_postgres_enforces(world: World, house: House) -> None:
    (job,) = await ready(world, house, 1, daily_cap=8)
    await house.state.compile(WS, None)
    assert world.one("SELECT day_cap FROM mailbox_budget") == 8
    await house.handle(house.outcomes.deferred, deferred(world))
    # The old stretch, which Redis may still have, leases nothing; the pacer hears of it.
    assert await propose(house, [(1, job)]) == ["stretch"]
    assert (1,) in world.sql("SELECT ref FROM pace_change WHERE scope = 'mailbox'")
    await house.state.compile(WS, None)
    assert world.one("SELECT day_cap FROM mailbox_budget") == 4
    world.sql(
        "UPDATE mailbox_budget SET day = current_date, day_used = 4,"
        " open_from = '-infinity', open_until = 'infinity'"
    )
    assert await propose(house, [(1, job)]) == ["daily_cap"]
    assert limits(world) == (1, midnight_after(1))
    assert world.outbox("issue-raised") == []


async def test_the_same_limit_told_again_changes_nothing(world: World, house: House) -> None:
    await ready(world, house, 1, daily_cap=8)
    for _ in range(2):
        await house.handle(house.outcomes.deferred, deferred(world), deferred(world))
    assert limits(world) == (1, midnight_after(1))
    world.sql("UPDATE mailbox_budget SET open_from = '-infinity', open_until = 'infinity'")
    await house.handle(house.outcomes.deferred, deferred(world, at=NOW - timedelta(days=3)))
    assert world.one("SELECT open_from = '-infinity' FROM mailbox_budget")


async def test_a_provider_that_limits_again_and_again_is_an_issue(
    world: World, house: House
) -> None:
    await ready(world, house, 1, daily_cap=8)
    await house.handle(house.outcomes.deferred, deferred(world, at=NOW - timedelta(days=2)))
    assert world.outbox("issue-raised") == []
    await house.handle(house.outcomes.deferred, deferred(world))
    assert limits(world) == (2, midnight_after(7))
    (issue,) = world.outbox("issue-raised")
    assert (issue.code, issue.subject) == ("limited_repeatedly", ids.encode("mbx", 1))
    assert "half" in issue.detail


async def test_a_notice_that_comes_after_the_acceptance_limits_too(
    world: World, house: House
) -> None:
    await ready(world, house, 1, daily_cap=8)
    body = events.Bounced(**about(world), bounce_class="limit", source="dsn", occurred_at=NOW)
    await house.handle(house.outcomes.bounced, world.delivery(body, time=NOW))
    assert limits(world) == (1, midnight_after(1))


@pytest.mark.parametrize("outcome_class", ["soft", "auth", "config", "block", "unsent"])
async def test_nothing_else_throttles(world: World, house: House, outcome_class: str) -> None:
    await ready(world, house, 1, daily_cap=8)
    await house.handle(house.outcomes.deferred, deferred(world, outcome_class))
    # Nor what the provider says of the whole OAuth app.
    await house.handle(house.outcomes.deferred, deferred(world, app_wide=True))
    assert limits(world) == (0, None)
