"""Shaping of recipient domains: rules become budgets, and waiting jobs are spread by them."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from paceline_common import events, ids

from .conftest import WS, House, World

MINUTE = timedelta(minutes=1)


def rule(
    world: World, pattern: str, *, spacing_s: float | None = None, daily_max: int | None = None
) -> None:
    world.sql(
        "INSERT INTO gateway.shaping_rule (workspace_id, pattern, spacing_s, daily_max)"
        " VALUES (%s, %s, %s, %s) ON CONFLICT (workspace_id, pattern) DO UPDATE"
        " SET spacing_s = excluded.spacing_s, daily_max = excluded.daily_max",
        WS, pattern, spacing_s, daily_max,
    )  # fmt: skip


def changed(world: World) -> Any:
    return world.delivery(events.WorkspaceChanged(workspace_id=ids.encode("ws", WS), version=2))


def jobs(world: World, domain: str = "big.test") -> list[Any]:
    """Return (due, reason) of a recipient domain's queued jobs, in order."""
    return world.sql(
        "SELECT j.due_at, j.reason FROM send_job j JOIN enrollment USING (workspace_id,"
        " enrollment_id) JOIN lead l USING (workspace_id, lead_id)"
        " WHERE l.email LIKE '%%@' || %s AND j.state = 'queued' ORDER BY due_at, j.job_id",
        domain,
    )


def budget(world: World, domain: str) -> Any:
    found = world.sql(
        "SELECT spacing_ms, day_cap FROM recipient_budget b JOIN lead l"
        " USING (workspace_id, domain_id) WHERE l.email LIKE '%%@' || %s LIMIT 1",
        domain,
    )
    return found[0] if found else None


def gaps(found: Sequence[Any]) -> list[timedelta]:
    dues = [due for due, _ in found]
    return [b - a for a, b in itertools.pairwise(dues)]


async def enter(world: World, house: House) -> None:
    """Tell of the jobs as the pacer does."""
    told = [job for (told,) in world.sql("DELETE FROM pace_change WHERE jobs IS NOT NULL"
            " RETURNING jobs") for job in told]  # fmt: skip
    await house.shaper.enter({WS: told})


async def enroll(world: World, house: House, count: int, domain: str = "big.test") -> None:
    first = world.one("SELECT count(*) FROM lead")
    await house.enroll(*(world.lead(f"p{first + n}@{domain}") for n in range(count)))
    await enter(world, house)


@pytest.fixture
def shaped(world: World) -> World:
    world.mailbox(1)
    world.campaign()
    return world


async def test_jobs_to_a_shaped_domain_are_spread_in_order(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", spacing_s=60)
    await enroll(world, house, 4)
    await enroll(world, house, 3, "other.test")
    found = jobs(world)
    assert [reason for _, reason in found] == [None, *["recipient_spacing"] * 3]
    assert gaps(found)[1:] == [MINUTE] * 2
    assert 0 <= (found[1][0] - found[0][0] - MINUTE).total_seconds() < 5
    assert [reason for _, reason in jobs(world, "other.test")] == [None] * 3
    assert budget(world, "other.test") is None
    # Whoever comes later goes behind them.
    await enroll(world, house, 2)
    again = jobs(world)
    assert again[:4] == found
    assert gaps(again)[1:] == [MINUTE] * 4


async def test_past_the_daily_maximum_jobs_go_to_the_next_local_days(
    shaped: World, house: House
) -> None:
    world = shaped
    zone = ZoneInfo("Asia/Kolkata")
    world.sql("UPDATE gateway.workspace SET timezone = %s", zone.key)
    rule(world, "big.test", daily_max=3)
    await enroll(world, house, 8)
    found = jobs(world)
    today = datetime.now(zone).date()
    assert [due.astimezone(zone).date() - today for due, _ in found] == [
        timedelta(days) for days in (0, 0, 0, 1, 1, 1, 2, 2)
    ]
    assert [reason for _, reason in found] == [None] * 3 + ["recipient_daily_max"] * 5
    midnight = datetime.combine(today + timedelta(1), datetime.min.time(), zone)
    assert found[3][0] == midnight
    # The last day has one place left.
    await enroll(world, house, 2)
    later = [due.astimezone(zone).date() - today for due, _ in jobs(world)[8:]]
    assert later == [timedelta(2), timedelta(3)]


async def test_spacing_holds_within_each_of_the_days(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", spacing_s=60, daily_max=3)
    world.sql("UPDATE gateway.workspace SET timezone = %s", _zone_at_noon())
    await enroll(world, house, 7)
    found = jobs(world)
    assert [gap == MINUTE for gap in gaps(found)][1:] == [True, False, True, True, False]
    assert [reason for _, reason in found] == [
        None, "recipient_spacing", "recipient_spacing", *["recipient_daily_max"] * 4,
    ]  # fmt: skip


def _zone_at_noon() -> str:
    """Name a zone where the day neither begins nor ends within hours."""
    hour = datetime.now(UTC).hour
    # POSIX signs: Etc/GMT-5 is five hours ahead.
    ahead = (12 - hour) % 24
    return f"Etc/GMT-{ahead}" if ahead <= 12 else f"Etc/GMT+{24 - ahead}"


async def test_what_was_sent_today_counts(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", daily_max=3)
    await enroll(world, house, 1)
    world.sql("UPDATE recipient_budget SET day = (now() AT TIME ZONE tz)::date, day_used = 3")
    await enroll(world, house, 1)
    assert [reason for _, reason in jobs(world)] == [None, "recipient_daily_max"]


async def test_own_rule_wins_over_the_hosts_and_that_over_everybodys(
    shaped: World, house: House
) -> None:
    world = shaped
    rule(world, "big.test", daily_max=5)
    rule(world, "host:google", spacing_s=30)
    rule(world, "*", spacing_s=10, daily_max=100)
    await enroll(world, house, 1, "big.test")
    await enroll(world, house, 1, "hosted.test")
    await enroll(world, house, 1, "small.test")
    assert budget(world, "hosted.test") == (10_000, 100), "not known yet"
    world.sql("UPDATE address SET host = 1 WHERE kind = 'domain' AND address_id IN ("
              " SELECT domain_id FROM lead WHERE email NOT LIKE '%%small.test')")  # fmt: skip
    await house.handle(house.changes.workspace_changed, changed(world))
    assert budget(world, "big.test") == (0, 5)
    assert budget(world, "hosted.test") == (30_000, None)
    assert budget(world, "small.test") == (10_000, 100)


async def test_a_follow_up_days_ahead_holds_up_nobody(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", spacing_s=60)
    await enroll(world, house, 1)
    world.sql("UPDATE send_job SET due_at = now() + interval '3 days'")
    await house.shaper.enter({WS: [1]})
    await enroll(world, house, 2)
    # Not even by one place.
    assert jobs(world)[0][0] < datetime.now(UTC) + MINUTE


async def test_what_waits_already_is_not_moved_again(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", spacing_s=60)
    await enroll(world, house, 3)
    before = jobs(world)
    numbers = [job for (job,) in world.sql("SELECT job_id FROM send_job WHERE reason IS NOT NULL")]
    await house.shaper.enter({WS: numbers})
    assert jobs(world) == before


async def test_refused_jobs_get_places_of_their_own_from_the_next_free_instant(
    shaped: World, house: House
) -> None:
    world = shaped
    rule(world, "big.test", spacing_s=60)
    await enroll(world, house, 3)
    # All of them have waited behind a closed window: now they are refused, batch by batch.
    world.sql("UPDATE send_job SET due_at = now() - interval '1 h', reason = NULL")
    world.sql("UPDATE recipient_budget SET next_at = date_trunc('second', now() + interval '60 s'),"
              " cursor_at = now() + interval '5 days'")  # fmt: skip
    next_at = world.one("SELECT next_at FROM recipient_budget")
    await house.shaper.again(WS, [2, 3])
    await house.shaper.again(WS, [1])
    places = dict(world.sql("SELECT job_id, due_at FROM send_job"))
    assert places == {2: next_at, 3: next_at + MINUTE, 1: next_at + 2 * MINUTE}
    assert [reason for _, reason in jobs(world)] == ["recipient_spacing"] * 3


async def test_refused_for_the_day_goes_to_the_next(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", daily_max=2)
    await enroll(world, house, 1)
    world.sql("UPDATE recipient_budget SET day = (now() AT TIME ZONE tz)::date, day_used = 2")
    await house.shaper.again(WS, [1])
    ((due, reason),) = jobs(world)
    tomorrow = datetime.now(UTC).date() + timedelta(1)
    assert (due, reason) == (
        datetime.combine(tomorrow, datetime.min.time(), UTC), "recipient_daily_max",
    )  # fmt: skip


async def test_a_daily_maximum_of_none_moves_a_job_once_a_day(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", daily_max=0)
    await enroll(world, house, 2)
    assert {due.date() - datetime.now(UTC).date() for due, _ in jobs(world)} == {timedelta(1)}


@pytest.mark.parametrize("relaxed", [True, False])
async def test_a_changed_rule_spreads_anew_and_tells_the_pacer(
    shaped: World, house: House, relaxed: bool
) -> None:
    world = shaped
    rule(world, "big.test", spacing_s=3600)
    await enroll(world, house, 4)
    order = [job for (job,) in world.sql("SELECT job_id FROM send_job ORDER BY due_at, job_id")]
    rule(world, "big.test", spacing_s=60 if relaxed else 7200)
    await house.handle(house.changes.workspace_changed, changed(world))
    assert world.one("SELECT is_stale FROM recipient_budget") is True
    assert await house.shaper.respread() == 1
    gap = MINUTE if relaxed else timedelta(hours=2)
    assert gaps(jobs(world))[1:] == [gap] * 2
    assert jobs(world)[3][0] < datetime.now(UTC) + 3 * gap + MINUTE
    assert [job for (job,) in world.sql("SELECT job_id FROM send_job ORDER BY due_at, job_id")] == (
        order
    )
    assert world.one("SELECT jobs FROM pace_change WHERE jobs IS NOT NULL") == order
    assert await house.shaper.respread() == 0


async def test_without_a_rule_any_more_everything_may_go(shaped: World, house: House) -> None:
    world = shaped
    rule(world, "big.test", spacing_s=3600, daily_max=2)
    await enroll(world, house, 4)
    world.sql("DELETE FROM gateway.shaping_rule")
    await house.handle(house.changes.workspace_changed, changed(world))
    await house.shaper.respread()
    assert all(reason is None and due <= datetime.now(UTC) for due, reason in jobs(world))


async def test_a_new_rule_spreads_what_waits_already_but_not_what_is_due_later(
    shaped: World, house: House
) -> None:
    world = shaped
    await enroll(world, house, 4)
    world.sql("UPDATE send_job SET due_at = now() + interval '3 days' WHERE job_id = 4")
    rule(world, "*", spacing_s=60)
    await house.handle(house.changes.workspace_changed, changed(world))
    await house.shaper.respread()
    found = jobs(world)
    assert [reason for _, reason in found] == [None, *["recipient_spacing"] * 2, None]
    assert found[3][0] > datetime.now(UTC) + timedelta(days=2)


async def test_the_pacer_never_sends_closer_than_the_rule(shaped: World, house: House) -> None:
    """End to end: with one spacing a second and two mailboxes the slots keep their distance."""
    world = shaped
    world.mailbox(2)
    rule(world, "big.test", spacing_s=1)
    await house.enroll(*(world.lead(f"p{n}@big.test") for n in range(4)))
    await house.pacer.tell_changes()
    seen: list[datetime] = []
    end = datetime.now(UTC) + timedelta(seconds=20)
    while len(seen) < 4 and datetime.now(UTC) < end:
        await house.pacer.tell_changes()
        await house.pacer.reserve_ready(float("inf"))
        seen = [at for (at,) in world.sql("SELECT slot_at FROM slot ORDER BY slot_at")]
        world.sql("UPDATE mailbox_budget SET outstanding = 0")
    assert len(seen) == 4
    assert all(b - a >= timedelta(seconds=1) for a, b in itertools.pairwise(seen))
