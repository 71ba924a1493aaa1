"""Contact pressure: one campaign at a time, days between two, and the stop of a company."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.waiting import until

from paceline_common import events, ids

from .conftest import WS, House, World

DAY = timedelta(days=1)


def contact(
    world: World, *, parallel: bool = False, min_days: int = 0, company: bool = False
) -> None:
    world.sql(
        "UPDATE gateway.workspace SET parallel_campaigns = %s, min_days_between = %s,"
        " company_stop = %s",
        parallel, min_days, company,
    )  # fmt: skip


def held(world: World) -> list[tuple[int, int]]:
    """Return (campaign, lead) of those who wait, in the order they came."""
    return world.sql(
        "SELECT campaign_id, lead_id FROM enrollment WHERE contact_hold AND state = 'active'"
        " ORDER BY enrollment_id"
    )


def jobs(world: World, campaign: int) -> list[Any]:
    return world.sql(
        "SELECT state, reason, due_at FROM send_job WHERE campaign_id = %s ORDER BY job_id",
        campaign,
    )


def sent(world: World, campaign: int, at: datetime | None = None) -> Any:
    """Send the open job of a campaign's one lead, and return the event."""
    job, enrollment, step = world.one(
        "UPDATE send_job SET state = 'reserved', mailbox_id = 1, pool_id = 1, slot_at = now(),"
        " not_after = now() WHERE campaign_id = %s AND state = 'queued'"
        " RETURNING job_id, enrollment_id, step",
        campaign,
    )
    for state in ("sending", "sent"):
        world.sql("UPDATE send_job SET state = %s WHERE job_id = %s", state, job)
    return world.delivery(
        events.Sent(
            workspace_id=ids.encode("ws", WS),
            job_id=ids.encode("job", job),
            mailbox_id=ids.encode("mbx", 1),
            enrollment_id=ids.encode("enr", enrollment),
            campaign_id=ids.encode("cmp", campaign),
            step=step,
            message_id="<m@x>",
            provider="smtp",
            sent_at=at or datetime.now(UTC),
        )
    )


def replied(world: World, email: str) -> Any:
    enrollment = world.one(
        "SELECT min(enrollment_id) FROM enrollment JOIN lead USING (workspace_id, lead_id)"
        " WHERE email = %s",
        email,
    )
    return world.delivery(
        events.Replied(
            workspace_id=ids.encode("ws", WS),
            job_id=ids.encode("job", 1),
            mailbox_id=ids.encode("mbx", 1),
            enrollment_id=ids.encode("enr", enrollment),
            inbound_id=ids.encode("inb", 1),
            received_at=datetime.now(UTC),
        )
    )


@pytest.fixture
def campaigns(world: World) -> World:
    world.mailbox(1)
    for campaign in (5, 6, 8):
        world.campaign(campaign)
    return world


async def test_lead_of_another_campaign_waits_and_goes_on_when_that_is_done(
    campaigns: World, house: House
) -> None:
    world = campaigns
    await house.enroll(world.lead("a@x.test", campaign=5))
    await house.enroll(world.lead("a@x.test", campaign=6), world.lead("b@x.test", campaign=6))
    assert held(world) == [(6, 1)]
    assert len(jobs(world, 6)) == 1
    assert await house.holds.sweep() == 0, "the first is still at it"
    await house.handle(house.outcomes.sent, sent(world, 5))
    assert await house.holds.sweep() == 1
    assert held(world) == []
    assert [(state, reason) for state, reason, _ in jobs(world, 6)] == [("queued", None)] * 2
    told = [job for (told,) in world.sql("SELECT jobs FROM pace_change WHERE jobs IS NOT NULL")
            for job in told]  # fmt: skip
    assert world.one("SELECT max(job_id) FROM send_job") in told


async def test_who_ends_wakes_who_waits(campaigns: World, house: House) -> None:
    world = campaigns
    await house.enroll(world.lead("a@x.test", campaign=5), world.lead("a@x.test", campaign=6))
    running = asyncio.create_task(house.holds.run())
    try:
        await asyncio.sleep(0)
        await house.handle(house.outcomes.sent, sent(world, 5))
        await until(lambda: not held(world), "woken")
    finally:
        running.cancel()
    assert len(jobs(world, 6)) == 1


async def test_those_who_wait_go_one_at_a_time_in_their_order(
    campaigns: World, house: House
) -> None:
    world = campaigns
    for campaign in (8, 5, 6):
        await house.enroll(world.lead("a@x.test", campaign=campaign))
    assert [campaign for campaign, _ in held(world)] == [5, 6]
    await house.handle(house.outcomes.sent, sent(world, 8))
    assert await house.holds.sweep() == 1
    assert [campaign for campaign, _ in held(world)] == [6]
    await house.handle(house.outcomes.sent, sent(world, 5))
    assert await house.holds.sweep() == 1
    assert held(world) == []


@pytest.mark.parametrize("allowed", ["campaign", "workspace"])
async def test_parallel_campaigns_share_a_lead_where_allowed(
    campaigns: World, house: House, allowed: str
) -> None:
    world = campaigns
    await house.enroll(world.lead("a@x.test", campaign=5))
    if allowed == "workspace":
        contact(world, parallel=True)
    else:
        world.sql("UPDATE gateway.campaign SET allow_parallel = true WHERE campaign_id = 6")
    await house.enroll(world.lead("a@x.test", campaign=6))
    assert held(world) == []
    assert len(jobs(world, 6)) == 1


async def test_a_campaign_beside_others_does_not_hold_them_up(
    campaigns: World, house: House
) -> None:
    world = campaigns
    world.sql("UPDATE gateway.campaign SET allow_parallel = true WHERE campaign_id = 5")
    await house.enroll(world.lead("a@x.test", campaign=5))
    await house.enroll(world.lead("a@x.test", campaign=6))
    assert held(world) == []


async def test_permission_given_later_lets_who_waits_go_on(campaigns: World, house: House) -> None:
    world = campaigns
    await house.enroll(world.lead("a@x.test", campaign=5), world.lead("a@x.test", campaign=6))
    assert held(world) == [(6, 1)]
    contact(world, parallel=True)
    assert await house.holds.release([WS], None) == 1
    assert held(world) == []


async def test_a_campaign_begins_days_after_another_ones_last_message(
    campaigns: World, house: House
) -> None:
    world = campaigns
    contact(world, min_days=3)
    at = datetime.now(UTC) - DAY
    await house.enroll(world.lead("a@x.test", campaign=5), world.lead("a@x.test", campaign=6))
    await house.handle(house.outcomes.sent, sent(world, 5, at))
    assert world.one("SELECT contacted_at, contacted_campaign_id FROM lead") == (at, 5)
    await house.holds.sweep()
    await house.enroll(world.lead("a@x.test", campaign=8))
    ((state, reason, due),) = jobs(world, 6)
    assert (state, reason, due) == ("queued", "min_days_between", at + 3 * DAY)
    # At enrollment just as at release; a lead nobody wrote to goes at once.
    world.sql("UPDATE enrollment SET state = 'stopped', reason = 'x', finished_at = now()")
    world.sql("DELETE FROM enrollment WHERE campaign_id = 8")
    await house.enroll(world.lead("a@x.test", campaign=8), world.lead("b@x.test", campaign=8))
    (_, reason, due), (_, other, _) = jobs(world, 8)
    assert (reason, due, other) == ("min_days_between", at + 3 * DAY, None)


async def test_days_that_are_over_hold_nobody(campaigns: World, house: House) -> None:
    world = campaigns
    contact(world, min_days=3)
    await house.enroll(world.lead("a@x.test", campaign=5), world.lead("a@x.test", campaign=6))
    await house.handle(house.outcomes.sent, sent(world, 5, datetime.now(UTC) - 4 * DAY))
    await house.holds.sweep()
    ((_, reason, due),) = jobs(world, 6)
    assert reason is None
    assert due <= datetime.now(UTC)


async def test_an_older_event_does_not_turn_back_when_a_lead_was_contacted(
    campaigns: World, house: House
) -> None:
    world = campaigns
    contact(world, parallel=True)
    now = datetime.now(UTC)
    await house.enroll(world.lead("a@x.test", campaign=5), world.lead("a@x.test", campaign=6))
    await house.handle(house.outcomes.sent, sent(world, 5, now))
    await house.handle(house.outcomes.sent, sent(world, 6, now - DAY))
    assert world.one("SELECT contacted_at, contacted_campaign_id FROM lead") == (now, 5)


async def test_steps_that_come_later_give_no_job_to_those_who_wait(
    world: World, house: House
) -> None:
    world.mailbox(1)
    world.campaign(5)
    world.campaign(6, delays_s=())
    await house.enroll(world.lead("a@x.test", campaign=5))
    await house.enroll(world.lead("a@x.test", campaign=6), world.lead("b@x.test", campaign=6))
    world.step(6, 1, 0)
    await house.settler.settle(WS, 6)
    assert len(jobs(world, 6)) == 1
    assert held(world) == [(6, 1)]


async def test_reply_stops_the_company_where_the_workspace_wants_it(
    campaigns: World, house: House
) -> None:
    world = campaigns
    contact(world, company=True)
    await house.enroll(
        world.lead("ann@acme.test"), world.lead("bob@acme.test"), world.lead("eve@other.test"),
        world.lead("bob@acme.test", campaign=6),
    )  # fmt: skip
    await house.handle(house.outcomes.replied, replied(world, "ann@acme.test"))
    found = world.sql(
        "SELECT l.email, e.campaign_id, e.state, e.reason FROM enrollment e JOIN lead l"
        " USING (workspace_id, lead_id) ORDER BY email, campaign_id"
    )
    assert found == [
        ("ann@acme.test", 5, "replied", "human_reply"),
        ("bob@acme.test", 5, "stopped", "company_replied"),
        ("bob@acme.test", 6, "stopped", "company_replied"),
        ("eve@other.test", 5, "active", None),
    ]
    told = {one.enrollment_id: one.reason for one in world.outbox("enrollment-finished")}
    assert sorted(told.values()) == ["company_replied", "company_replied", "human_reply"]
    assert world.one("SELECT count(*) FROM send_job WHERE state = 'queued'") == 1


@pytest.mark.parametrize(("company", "domain"), [(False, "acme.test"), (True, "gmail.com")])
async def test_reply_stops_nobody_else_unless_asked_and_never_at_free_mail(
    campaigns: World, house: House, company: bool, domain: str
) -> None:
    world = campaigns
    contact(world, company=company)
    await house.enroll(world.lead(f"ann@{domain}"), world.lead(f"bob@{domain}"))
    await house.handle(house.outcomes.replied, replied(world, f"ann@{domain}"))
    assert world.sql("SELECT state FROM enrollment ORDER BY state") == [("active",), ("replied",)]


async def test_company_stop_is_the_workspaces_own(campaigns: World, house: House) -> None:
    world = campaigns
    contact(world, company=True)
    world.workspace(8)
    world.sql("UPDATE gateway.workspace SET company_stop = true")
    world.mailbox(2, workspace=8, pool=2)
    world.campaign(9, workspace=8, pool=2)
    await house.enroll(
        world.lead("ann@acme.test"), world.lead("bob@acme.test", workspace=8, campaign=9)
    )
    await house.handle(house.outcomes.replied, replied(world, "ann@acme.test"))
    assert world.one("SELECT state FROM enrollment WHERE workspace_id = 8") == "active"


@pytest.mark.timeout(180)
async def test_two_campaigns_racing_for_a_lead_never_both_have_it(
    campaigns: World, house: House
) -> None:
    """Enrollments of the same leads into three campaigns at once, in any order and batches, while
    those that have one end: never two at a time, nobody forgotten."""
    world = campaigns
    rng = random.Random(7)
    leads = [f"p{n}@x.test" for n in range(40)]
    for turn in range(12):
        asked = [(lead, campaign) for lead in leads for campaign in (5, 6, 8)]
        rng.shuffle(asked)
        names = [(f"t{turn}-{lead}", campaign) for lead, campaign in asked]
        batches = [names[n : n + 15] for n in range(0, len(names), 15)]
        await asyncio.gather(
            *(
                house.enroll(*(world.lead(name, campaign=campaign) for name, campaign in batch))
                for batch in batches
            ),
            _end_some(world, house, rng),
            house.holds.sweep(),
        )
        worst = world.one(
            "SELECT max(n) FROM (SELECT count(*) AS n FROM enrollment WHERE state = 'active'"
            " AND NOT contact_hold GROUP BY lead_id) x"
        )
        assert worst == 1, "two campaigns have one lead"

    # Those that go on end at once: in the end everybody has had their turn.
    async def all_ended() -> bool:
        world.sql(
            "SELECT finish_enrollments(array_agg(workspace_id), array_agg(enrollment_id),"
            " array_agg('stopped'::text), array_agg('x'::text)) FROM enrollment"
            " WHERE state = 'active' AND NOT contact_hold"
        )
        return await house.holds.sweep() == 0

    await until(all_ended, "all have had their turn", within_s=60)
    assert world.one("SELECT count(*) FROM enrollment WHERE state = 'active'") == 0
    assert world.one("SELECT count(*) FROM enrollment WHERE job_id IS NULL"
                     " AND NOT contact_hold") == 0  # fmt: skip
    assert world.one("SELECT count(*) FROM enrollment") == 12 * 40 * 3


async def _end_some(world: World, house: House, rng: random.Random) -> None:
    for _ in range(5):
        async with house.db.transaction([WS]) as tx:
            found = await tx.exec_driver_sql(
                "SELECT enrollment_id FROM scheduler.enrollment WHERE state = 'active'"
                " ORDER BY random() LIMIT 20"
            )
            numbers = sorted(found.scalars(), key=lambda _: rng.random())
            if numbers:
                await tx.execute(
                    house.queries["finish_enrollments"],
                    {
                        "workspaces": [WS] * len(numbers),
                        "enrollments": numbers,
                        "states": ["stopped"] * len(numbers),
                        "reasons": ["x"] * len(numbers),
                    },
                )
        await house.holds.sweep()
