"""Mailboxes that are gone: what becomes of their follow-ups, and of what they had leased."""

import math
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.waiting import until

from paceline_scheduler.reroute import Rerouter

from .conftest import DEMO_POLICY, WS, House, World

REASON = "auth_failed"


@pytest.fixture
def sender(world: World) -> Iterator["psycopg.Connection[Any]"]:
    with world.login("sender") as connection:
        yield connection


def suspend(
    connection: "psycopg.Connection[Any]",
    mailbox: int,
    reason: str = REASON,
    scope: str = "mailbox",
) -> None:
    connection.execute(
        "SELECT scheduler.suspend(%s, %s, %s, %s, NULL, 'sender', 'words')",
        (WS, scope, mailbox, reason),
    )


async def follow_ups(
    world: World, house: House, *, count: int = 3, stickiness: str = "reassign", after_s: int = 60
) -> Rerouter:
    """Make follow-ups that wait for mailbox 1, with mailbox 2 in the same pool."""
    world.mailbox(1)
    world.mailbox(2)
    world.campaign(delays_s=(0, 60))
    world.sql(
        "UPDATE gateway.campaign SET stickiness = %s, reassign_after_s = %s", stickiness, after_s
    )
    await house.enroll(*(world.lead(f"p{n}@x.test") for n in range(count)))
    await house.state.rebuild(WS)
    world.sql("UPDATE enrollment SET mailbox_id = 1, pool_id = 1, step = 2")
    world.sql(
        "UPDATE send_job SET mailbox_id = 1, pool_id = 1, sticky = true, step = 2,"
        " due_at = now() - job_id * interval '1 s'"
    )
    world.sql("DELETE FROM pace_change")
    return Rerouter(house.db, house.queries, _Woken(), house.holds, lambda: None)  # type: ignore[arg-type]


class _Woken:
    """An outbox that nobody reads."""

    class wake:  # noqa: N801 - stands for an event
        @staticmethod
        def set() -> None: ...


def gone_for(world: World, seconds: int) -> None:
    """Turn the clock: everything that was suspended or deactivated is so much older."""
    world.sql("UPDATE suspension SET opened_at = opened_at - %s * interval '1 s',"
              " closed_at = closed_at - %s * interval '1 s'", seconds, seconds)  # fmt: skip
    world.sql("UPDATE mailbox_budget SET inactive_since = inactive_since - %s * interval '1 s'",
              seconds)  # fmt: skip


async def lease(
    world: World, house: House, count: int = 1, where: str = "true", *, forgetting: bool = False
) -> None:
    """Pace until `count` slots are taken; forget after each turn what is outstanding."""

    async def turn() -> bool:
        await house.pacer.tell_changes()
        await house.pacer.reserve_ready(math.inf)
        if forgetting:
            world.sql("UPDATE mailbox_budget SET outstanding = 0")
        return bool(world.one(f"SELECT count(*) FROM slot WHERE {where}") >= count)

    await until(turn, f"{count} slots where {where}")


def jobs(world: World) -> list[Any]:
    return world.sql(
        "SELECT job_id, state, sticky, mailbox_id, pool_id, due_at FROM send_job ORDER BY job_id"
    )


async def test_follow_ups_stay_until_the_mailbox_is_gone_long_enough(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    rerouter = await follow_ups(world, house)
    before = jobs(world)
    await rerouter.look()
    suspend(sender, 1)
    gone_for(world, 55)
    await rerouter.look()
    assert jobs(world) == before
    gone_for(world, 10)
    world.sql("DELETE FROM pace_change")
    await rerouter.look()
    assert jobs(world) == [
        (job, "queued", False, None, None, due) for job, _, _, _, _, due in before
    ]
    assert world.one("SELECT jobs FROM pace_change WHERE jobs IS NOT NULL") == [1, 2, 3]
    assert world.sql("SELECT DISTINCT mailbox_id, pool_id, state FROM enrollment") == [
        (None, None, "active")
    ]


async def test_reassigned_follow_ups_go_from_another_mailbox_in_their_order(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    rerouter = await follow_ups(world, house)
    suspend(sender, 1)
    gone_for(world, 120)
    await rerouter.look()
    await lease(world, house, 3, forgetting=True)
    slots = world.sql("SELECT job_id, mailbox_id FROM slot ORDER BY slot_at")
    assert slots == [(3, 2), (2, 2), (1, 2)]


async def test_suspensions_without_a_gap_count_as_one_absence(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    rerouter = await follow_ups(world, house)
    suspend(sender, 1, "connect_failed")
    gone_for(world, 50)
    suspend(sender, 1, "auth_failed")
    sender.execute("SELECT scheduler.resume(%s, 'mailbox', 1, 'connect_failed', 'x')", (WS,))
    gone_for(world, 20)
    await rerouter.look()
    assert [sticky for _, _, sticky, _, _, _ in jobs(world)] == [False] * 3


async def test_an_interruption_begins_the_absence_anew(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    rerouter = await follow_ups(world, house)
    suspend(sender, 1, "connect_failed")
    sender.execute("SELECT scheduler.resume(%s, 'mailbox', 1, 'connect_failed', 'x')", (WS,))
    gone_for(world, 500)
    suspend(sender, 1, "auth_failed")
    gone_for(world, 20)
    await rerouter.look()
    assert [sticky for _, _, sticky, _, _, _ in jobs(world)] == [True] * 3


async def test_a_paused_domain_and_a_deleted_mailbox_are_gone_too(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    rerouter = await follow_ups(world, house)
    domain = world.one("SELECT domain_ref FROM mailbox_budget WHERE mailbox_id = 1")
    suspend(sender, domain, "paused", scope="domain")
    gone_for(world, 50)
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.deactivate(tx, [(WS, 1)])
    sender.execute("SELECT scheduler.resume(%s, 'domain', %s, 'paused', 'x')", (WS, domain))
    gone_for(world, 20)
    await rerouter.look()
    assert [sticky for _, _, sticky, _, _, _ in jobs(world)] == [False] * 3


async def test_a_paused_campaign_is_no_absence(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    rerouter = await follow_ups(world, house)
    suspend(sender, 5, "paused", scope="campaign")
    gone_for(world, 500)
    await rerouter.look()
    assert [sticky for _, _, sticky, _, _, _ in jobs(world)] == [True] * 3


async def test_wait_waits_and_stop_ends_the_enrollment(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    rerouter = await follow_ups(world, house, stickiness="wait")
    suspend(sender, 1)
    gone_for(world, 10**6)
    await rerouter.look()
    assert [sticky for _, _, sticky, _, _, _ in jobs(world)] == [True] * 3
    world.sql("UPDATE campaign_policy SET stickiness = 'stop'")
    await rerouter.look()
    assert world.sql("SELECT DISTINCT state, reason FROM enrollment") == [
        ("stopped", "sender_gone")
    ]
    assert {state for _, state, _, _, _, _ in jobs(world)} == {"cancelled"}
    assert len(world.outbox("enrollment-finished")) == 3


@pytest.mark.parametrize("reroute", [True, False])
async def test_a_first_message_kept_by_greylisting_goes_elsewhere_at_once(
    world: World, house: House, sender: "psycopg.Connection[Any]", reroute: bool
) -> None:
    rerouter = await follow_ups(world, house, stickiness="wait")
    world.sql("UPDATE mailbox_budget SET policy = jsonb_build_object('reroute', %s)", reroute)
    world.sql("UPDATE enrollment SET mailbox_id = NULL, pool_id = NULL, step = 1"
              " WHERE enrollment_id IN (1, 2)")  # fmt: skip
    world.sql("UPDATE send_job SET step = 1, first_deferred_at = now()"
              " WHERE enrollment_id IN (1, 2)")  # fmt: skip
    suspend(sender, 1)
    await rerouter.look()
    kept = world.sql("SELECT enrollment_id FROM send_job WHERE sticky ORDER BY 1")
    assert kept == ([(3,)] if reroute else [(1,), (2,), (3,)])


async def test_a_failed_nodes_leases_keep_their_place_and_go_elsewhere_at_once(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    world.mailbox(1)
    world.mailbox(2)
    world.campaign()
    await house.enroll(*(world.lead(f"p{n}@x.test") for n in range(6)))
    world.sql("UPDATE send_job SET due_at = now() - (10 - job_id) * interval '1 s'")
    await house.state.rebuild(WS)
    await lease(world, house, 2)
    leased = dict(world.sql("SELECT mailbox_id, job_id FROM slot"))
    assert set(leased.values()) == {1, 2}
    due = world.one("SELECT due_at FROM send_job WHERE job_id = %s", leased[1])
    suspend(sender, 1)
    assert world.one(
        "SELECT state, mailbox_id, fence, due_at FROM send_job WHERE job_id = %s", leased[1]
    ) == ("queued", None, 2, due)
    world.sql("UPDATE mailbox_budget SET outstanding = 0")
    await lease(world, house, 7, forgetting=True)
    later = world.sql("SELECT job_id, mailbox_id FROM slot WHERE reserved_at >"
        " (SELECT opened_at FROM suspension) ORDER BY slot_at")  # fmt: skip
    assert later == [(job, 2) for job in (leased[1], 3, 4, 5, 6)]


async def test_a_node_told_not_to_reroute_keeps_what_it_had_leased(
    world: World, house: House, sender: "psycopg.Connection[Any]"
) -> None:
    world.mailbox(1, policy={**DEMO_POLICY, "reroute": False})
    world.campaign()
    await house.enroll(world.lead("a@x.test"))
    await house.state.rebuild(WS)
    await lease(world, house, 1)
    suspend(sender, 1)
    assert world.one("SELECT state, sticky, mailbox_id FROM send_job") == ("queued", True, 1)


@pytest.mark.parametrize("after_s", [2, None])
async def test_a_failed_nodes_leases_fall_to_the_next_tier_where_the_campaign_allows(
    world: World, house: House, sender: "psycopg.Connection[Any]", after_s: int | None
) -> None:
    """The only mailbox of the first tier fails with a lease: past the tier's time the job goes from
    the second tier, in its place; without one it waits, and goes from its own once that is back."""
    world.mailbox(1, pool=1)
    world.mailbox(2, pool=2)
    world.campaign(pool=1)
    world.sql("INSERT INTO gateway.campaign_tier (workspace_id, campaign_id, tier, position,"
              " pool_id) VALUES (%s, 5, 2, 1, 2)", WS)  # fmt: skip
    world.sql("UPDATE gateway.campaign SET tier_after_s = ARRAY[%s, NULL]::integer[]", after_s)
    await house.enroll(*(world.lead(f"p{n}@x.test") for n in range(2)))
    # In the order of their numbers, and due just now: the tier's time has not run out.
    world.sql("UPDATE send_job SET due_at = now() - (3 - job_id) * interval '1 ms'")
    await house.state.rebuild(WS)
    await lease(world, house, 1)
    (job, mailbox), *_ = world.sql("SELECT job_id, mailbox_id FROM slot ORDER BY reserved_at")
    assert (job, mailbox) == (1, 1)
    suspend(sender, 1)
    assert world.one("SELECT state FROM send_job WHERE job_id = 1") == "queued"
    if after_s is None:
        await lease(
            world, house, forgetting=True,
            where="EXISTS (SELECT FROM suspension WHERE opened_at < now() - interval '3 s')",
        )  # fmt: skip
        assert world.one("SELECT count(*) FROM slot WHERE mailbox_id = 2") == 0
        sender.execute("SELECT scheduler.resume(%s, 'mailbox', 1, %s, 'x')", (WS, REASON))
    await lease(world, house, 1, where="fence = 2", forgetting=True)
    due, slot, served, pool = world.sql(
        "SELECT j.due_at, s.slot_at, s.mailbox_id, j.pool_id FROM slot AS s JOIN send_job AS j"
        " USING (workspace_id, job_id) WHERE s.job_id = 1 AND s.fence = 2"
    )[0]
    if after_s is None:
        assert (served, pool) == (1, 1)
    else:
        assert (served, pool) == (2, 2)
        assert (slot - due).total_seconds() >= after_s
    # A lease of before is worth nothing.
    refused = sender.execute(
        "SELECT reason FROM scheduler.claim_send(%s, %s, %s)", ([WS], [1], [1])
    ).fetchall()
    assert refused == [("stale_fence",)]
