"""`reserve_slots.sql`: no limit is passed whatever is proposed, and all is given back once."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from paceline_common import ids
from paceline_scheduler.mailboxes import Health

from .conftest import DEMO_POLICY, WS, House, World
from .test_pacing import leads, mailboxes

OTHER = 8


async def propose(
    house: House,
    pairs: Sequence[tuple[int, int]],
    *,
    workspaces: Sequence[int] | None = None,
    ahead_ms: Sequence[int] | int = 500,
    pool: int = 1,
) -> list[Any]:
    """Propose (mailbox, job) pairs, all at once; return the rows' reasons."""
    now_ms = await house.store.now_ms()
    count = len(pairs)
    spaces = list(workspaces or [WS] * count)
    slots = [
        now_ms + (ahead_ms if isinstance(ahead_ms, int) else ahead_ms[n]) for n in range(count)
    ]
    async with house.db.transaction(worker=True) as tx:
        rows = await tx.execute(
            house.queries["reserve_slots"],
            {
                "workspaces": spaces,
                "epochs": [1] * count,
                "mailboxes": [mailbox for mailbox, _ in pairs],
                "jobs": [job for _, job in pairs],
                "pools": [pool] * count,
                "slots": slots,
                "not_afters": [slot + 50 for slot in slots],
                "draws": [0.5] * count,
            },
        )
        refused = {row.n: row.reason for row in rows}
        return [refused.get(n + 1) for n in range(count)]


async def ready(world: World, house: House, count: int, **policy: Any) -> list[int]:
    """Make `count` mailboxes, open at all times, with as many queued jobs; return the jobs."""
    await mailboxes(world, house, *range(1, count + 1), **policy)
    world.campaign()
    await house.enroll(*leads(world, count))
    await house.state.rebuild(WS)
    world.sql("UPDATE mailbox_budget SET open_from = '-infinity', open_until = 'infinity'")
    return [job for (job,) in world.sql("SELECT job_id FROM send_job ORDER BY job_id")]


def shape(world: World, **columns: Any) -> None:
    """Give the recipients' domain a budget."""
    domain = world.one("SELECT address_id FROM address WHERE kind = 'domain'")
    given = {"spacing_ms": 0, "day_cap": None, **columns}
    world.sql(
        "INSERT INTO recipient_budget (workspace_id, domain_id, tz, spacing_ms, day_cap)"
        " VALUES (%s, %s, 'UTC', %s, %s)",
        WS, domain, given["spacing_ms"], given["day_cap"],
    )  # fmt: skip


def budget_domain(world: World, cap: int, tz: str = "UTC") -> None:
    world.sql(
        "INSERT INTO domain_budget (workspace_id, domain_ref, domain, tz, day_cap)"
        " VALUES (%s, hashtextextended('send.test', 0), 'send.test', %s, %s)",
        WS, tz, cap,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE mailbox_budget SET types = 6", "type_restricted"),
        ("UPDATE mailbox_budget SET health = 69, health_floor = true", "health_below_floor"),
        ("UPDATE mailbox_budget SET health = 70, health_floor = true", None),
        ("UPDATE mailbox_budget SET health = NULL, health_floor = true", None),
        ("UPDATE mailbox_budget SET health = 1, health_floor = false", None),
        ("DELETE FROM campaign_policy", "campaign"),
        ("UPDATE mailbox_budget SET hour = date_trunc('hour', now()) + interval '2 h'", "stretch"),
        ("UPDATE mailbox_budget SET day = now()::date + 2", "stretch"),
        # Its account is not counted yet.
        ("UPDATE mailbox_budget SET ceiling = 5", "rollover"),
    ],
)
async def test_what_redis_proposes_against_a_rule_is_refused(
    world: World, house: House, change: str, reason: str | None
) -> None:
    (job,) = await ready(world, house, 1)
    world.sql(change)
    assert await propose(house, [(1, job)]) == [reason]
    assert world.one("SELECT count(*) FROM slot") == (reason is None)


async def test_ceiling_of_an_account_holds_within_a_batch_and_over_24_hours(
    world: World, house: House
) -> None:
    jobs = await ready(world, house, 4, ceiling_24h=3)
    world.sql("DELETE FROM account_budget")
    world.sql("UPDATE mailbox_budget SET account_ref = 5")
    # One an hour ago, one 24 hours ago, and one that has left the count.
    world.sql(
        "INSERT INTO account_budget (account_ref, hour, hours, foreign_hours) VALUES"
        " (5, date_trunc('hour', now()) - interval '1 h',"
        " array_fill(0, ARRAY[23]) || ARRAY[1, 7], ARRAY[1] || array_fill(0, ARRAY[24]))"
    )
    pairs = [(n + 1, job) for n, job in enumerate(jobs)]
    assert await propose(house, pairs) == [None] + ["provider_ceiling"] * 3
    hours, outside = world.one("SELECT hours, foreign_hours FROM account_budget")
    assert (hours[0], hours[24], sum(hours), outside[1], sum(outside)) == (1, 1, 2, 1, 1)
    assert world.one("SELECT rolling_used, ceiling, account_ref FROM slot") == (3, 3, 5)


async def test_ceiling_of_an_account_is_shared_by_two_workspaces(
    world: World, house: House
) -> None:
    world.workspace(OTHER)
    policy = {**DEMO_POLICY, "ceiling_24h": 1}
    world.mailbox(1, policy=policy, email="sam.one@gmail.com", provider="gmail_consumer")
    world.mailbox(
        2, workspace=OTHER, policy=policy, email="samone+x@googlemail.com",
        provider="gmail_consumer",
    )  # fmt: skip
    for workspace, campaign in ((WS, 5), (OTHER, 6)):
        world.campaign(campaign, workspace=workspace)
        await house.enroll(world.lead("a@x.test", workspace=workspace, campaign=campaign))
        async with house.db.transaction([workspace]) as tx:
            await house.mailboxes.refresh(tx, None)
        await house.state.rebuild(workspace)
    world.sql("UPDATE mailbox_budget SET open_from = '-infinity', open_until = 'infinity'")
    first, second = (job for (job,) in world.sql("SELECT job_id FROM send_job ORDER BY 1"))
    assert await propose(house, [(1, first), (2, second)], workspaces=[WS, OTHER]) == [
        None, "provider_ceiling",
    ]  # fmt: skip
    assert await propose(house, [(2, second)], workspaces=[OTHER]) == ["provider_ceiling"]


async def test_budget_of_a_sending_domain_holds_within_a_batch(world: World, house: House) -> None:
    jobs = await ready(world, house, 4)
    budget_domain(world, 2)
    pairs = [(n + 1, job) for n, job in enumerate(jobs)]
    assert await propose(house, pairs) == [None, None, "domain_budget", "domain_budget"]
    assert await propose(house, pairs[2:]) == ["domain_budget"] * 2
    assert world.one("SELECT day_used FROM domain_budget") == 2


async def test_maximum_of_a_recipients_domain_holds_within_a_batch(
    world: World, house: House
) -> None:
    jobs = await ready(world, house, 4)
    shape(world, day_cap=3)
    pairs = [(n + 1, job) for n, job in enumerate(jobs)]
    assert await propose(house, pairs) == [None, None, None, "recipient_daily_max"]
    assert await propose(house, pairs[3:]) == ["recipient_daily_max"]
    assert world.one("SELECT day_used FROM recipient_budget") == 3


async def test_spacing_of_a_recipients_domain_holds_between_submissions(
    world: World, house: House
) -> None:
    first, second = await ready(world, house, 2)
    shape(world, spacing_ms=1000)
    assert await propose(house, [(1, first), (2, second)]) == [None, "recipient_spacing"]
    # The first may begin as late as its not-after.
    assert world.one("SELECT next_at - not_after = interval '1 s' FROM recipient_budget, slot")
    assert await propose(house, [(2, second)], ahead_ms=900) == ["recipient_spacing"]
    assert await propose(house, [(2, second)], ahead_ms=2500) == [None]


async def test_one_job_or_one_mailbox_twice_in_a_batch_is_leased_once(
    world: World, house: House
) -> None:
    first, second = await ready(world, house, 2)
    assert await propose(house, [(1, first), (2, first)]) == [None, "job"]
    world.sql("UPDATE mailbox_budget SET next_at = '-infinity'")
    assert await propose(house, [(2, second), (2, second)]) == [None, "job"]
    assert world.sql("SELECT outstanding, day_used FROM mailbox_budget") == [(1, 1), (1, 1)]
    assert world.one("SELECT count(*) FROM slot") == 2


async def test_mailbox_proposed_twice_gets_one_slot(world: World, house: House) -> None:
    first, second = await ready(world, house, 2)
    world.sql("UPDATE mailbox_budget SET max_outstanding = 4")
    assert await propose(house, [(1, first), (1, second)]) == [None, "outstanding"]
    assert world.one("SELECT outstanding FROM mailbox_budget WHERE mailbox_id = 1") == 1


async def test_what_another_scheduler_leases_meanwhile_counts(world: World, house: House) -> None:
    first, second = await ready(world, house, 2, ceiling_24h=1)
    world.sql("UPDATE account_budget SET account_ref = 5 WHERE account_ref ="
              " (SELECT min(account_ref) FROM account_budget)")  # fmt: skip
    world.sql("UPDATE mailbox_budget SET account_ref = 5")
    budget_domain(world, 1)
    with psycopg.connect(world.stack.dsn()) as connection:
        connection.execute(
            "UPDATE scheduler.account_budget SET hour = date_trunc('hour', now()),"
            " hours[1] = 1 WHERE account_ref = 5"
        )
        waiting = asyncio.create_task(propose(house, [(1, first), (2, second)]))
        while not await asyncio.to_thread(
            world.one,
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
        ):
            assert not waiting.done()
        connection.commit()
    assert await waiting == ["provider_ceiling"] * 2


async def test_each_budget_gets_its_slot_back_once_in_its_own_bucket(
    world: World, house: House
) -> None:
    jobs = await ready(world, house, 3, ceiling_24h=100)
    world.sql("UPDATE mailbox_budget SET account_ref = 5")
    world.sql("INSERT INTO account_budget (account_ref) VALUES (5)")
    budget_domain(world, 100)
    shape(world, day_cap=100)
    pairs = [(n + 1, job) for n, job in enumerate(jobs)]
    assert await propose(house, pairs) == [None] * 3

    def counts() -> Any:
        return world.one(
            "SELECT (SELECT hours[1] FROM account_budget WHERE account_ref = 5),"
            " (SELECT hours[2] FROM account_budget WHERE account_ref = 5),"
            " (SELECT day_used FROM domain_budget), (SELECT day_used FROM recipient_budget)"
        )

    def unsent(job: int) -> None:
        with world.login("sender") as sender:
            sender.execute(
                "SELECT scheduler.finish_send(%s, %s, %s, %s, %s, %s)",
                ([WS], [job], [1], ["unsent"], [None], [None]),
            )

    assert counts() == (3, 0, 3, 3)
    unsent(jobs[0])
    unsent(jobs[0])
    assert counts() == (2, 0, 2, 2)
    # An hour and a day later.
    world.sql(
        "UPDATE account_budget SET hour = hour + interval '1 h', hours = 9 || hours[1:24]"
        " WHERE account_ref = 5"
    )
    world.sql("UPDATE domain_budget SET day = day + 1, day_used = 7")
    unsent(jobs[1])
    assert counts() == (9, 1, 7, 1)
    world.sql("UPDATE recipient_budget SET day = day + 1, day_used = 8")
    world.sql(
        "UPDATE account_budget SET hour = hour + interval '30 h',"
        " hours = array_fill(0, ARRAY[25]) WHERE account_ref = 5"
    )
    unsent(jobs[2])
    assert counts() == (0, 0, 7, 8)


async def test_slots_of_one_account_go_back_at_once_each_to_its_own_hour(
    world: World, house: House
) -> None:
    jobs = await ready(world, house, 3, ceiling_24h=100)
    world.sql("UPDATE mailbox_budget SET account_ref = 5")
    world.sql("INSERT INTO account_budget (account_ref) VALUES (5)")
    assert await propose(house, [(n + 1, job) for n, job in enumerate(jobs)]) == [None] * 3
    # The last one's slot lies an hour before the others'.
    world.sql("ALTER TABLE slot DISABLE TRIGGER USER")
    world.sql("UPDATE slot SET hour = hour - interval '1 h' WHERE job_id = %s", jobs[2])
    world.sql("ALTER TABLE slot ENABLE TRIGGER USER")
    world.sql("UPDATE account_budget SET hours = ARRAY[9, 9] || hours[3:25] WHERE account_ref = 5")
    world.sql(
        "SELECT requeue_jobs(%s::bigint[], %s::bigint[], ARRAY[1, 1, 1], 'x')", [WS] * 3, jobs
    )
    assert world.one("SELECT hours[1:3] FROM account_budget WHERE account_ref = 5") == [7, 8, 0]


async def test_budget_that_comes_later_gets_nothing_back(world: World, house: House) -> None:
    (job,) = await ready(world, house, 1)
    assert await propose(house, [(1, job)]) == [None]
    budget_domain(world, 5)
    world.sql("UPDATE domain_budget SET day = now()::date, day_used = 1")
    world.sql("SELECT requeue_jobs(ARRAY[%s::bigint], ARRAY[%s::bigint], ARRAY[1], 'x')", WS, job)
    assert world.one("SELECT day_used FROM domain_budget") == 1


async def test_a_young_mailbox_of_unknown_health_is_held_to_its_first_days_cap(
    world: World, house: House
) -> None:
    (job,) = await ready(
        world, house, 1, ramp="default", health_floor=True, windows=None, daily_cap=400
    )
    await house.state.compile(WS, [1])
    assert world.one("SELECT day_cap FROM mailbox_budget") == 50
    world.sql("UPDATE mailbox_budget SET day = now()::date, day_used = 50, next_at = '-infinity'")
    assert await propose(house, [(1, job)]) == ["daily_cap"]
    (reason,) = await held(world, house)
    assert reason in ("ramp_cap", "probation_cap")


async def held(world: World, house: House) -> list[str]:
    """Compile all and return what the open decisions say of the mailboxes."""
    await house.state.compile(WS, None)
    rows = world.sql("SELECT reason FROM decision WHERE scope = 'mailbox' AND is_open ORDER BY ref")
    return [reason for (reason,) in rows]


async def test_health_below_the_floor_takes_leases_back_and_an_older_version_changes_nothing(
    world: World, house: House
) -> None:
    jobs = await ready(world, house, 2, health_floor=True)
    assert await propose(house, [(1, jobs[0]), (2, jobs[1])]) == [None, None]

    async def measure(version: int, score: int | None, stage: int = 3) -> set[Any]:
        async with house.db.transaction([WS]) as tx:
            return await house.mailboxes.apply_health(tx, [Health(WS, 1, version, score, stage)])

    assert await measure(3, 40) == {(WS, 1)}
    assert world.sql("SELECT state, fence, reason FROM send_job ORDER BY job_id") == [
        ("queued", 2, "not_admitted"), ("reserved", 1, None),
    ]  # fmt: skip
    assert world.one("SELECT outstanding, health FROM mailbox_budget WHERE mailbox_id = 1") == (
        0, 40,
    )  # fmt: skip
    assert await measure(2, 90) == set()
    assert await measure(3, 90) == set()
    assert world.one("SELECT health FROM mailbox_budget WHERE mailbox_id = 1") == 40
    world.sql("UPDATE mailbox_budget SET next_at = '-infinity'")
    assert await propose(house, [(1, jobs[0])]) == ["stretch"]
    assert await measure(4, 90) == {(WS, 1)}


async def test_attested_mailbox_sends_cold_until_its_measured_stage_is_too_low(
    world: World, house: House
) -> None:
    (job,) = await ready(world, house, 1, stage_gate={"cold": 3, "nurture": 2})
    assert world.one("SELECT types, stage FROM mailbox_budget") == (7, 0)
    assert await propose(house, [(1, job)]) == [None]

    async def measure(version: int, stage: int) -> int:
        async with house.db.transaction([WS]) as tx:
            await house.mailboxes.apply_health(tx, [Health(WS, 1, version, None, stage)])
        return int(world.one("SELECT types FROM mailbox_budget"))

    assert await measure(1, 2) == 6
    assert world.one("SELECT state, reason FROM send_job") == ("queued", "not_admitted")
    # New settings do not bring the attestation's stage back.
    world.sql(
        "UPDATE gateway.mailbox SET version = version + 1, policy = policy || '{\"daily_cap\": 9}'"
    )
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.refresh(tx, [1])
    assert world.one("SELECT types, policy ->> 'daily_cap' FROM mailbox_budget") == (6, "9")
    assert await measure(2, 3) == 7


async def test_type_that_the_owner_takes_away_takes_its_leases_back(
    world: World, house: House
) -> None:
    (job,) = await ready(world, house, 1)
    assert await propose(house, [(1, job)]) == [None]
    world.sql(
        "UPDATE gateway.mailbox SET version = version + 1,"
        ' policy = policy || \'{"campaign_types": ["nurture"]}\''
    )
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.refresh(tx, [1])
    assert world.one("SELECT state, reason FROM send_job") == ("queued", "not_admitted")
    assert world.one("SELECT types, open_from = 'infinity' FROM mailbox_budget") == (2, True)


async def test_campaign_that_asks_for_more_health_takes_its_leases_back(
    world: World, house: House
) -> None:
    (job,) = await ready(world, house, 1, health_floor=True)
    world.sql("UPDATE mailbox_budget SET health = 75")
    assert await propose(house, [(1, job)]) == [None]
    world.sql("UPDATE gateway.campaign SET min_health = 80, version = version + 1")
    async with house.db.transaction([WS]) as tx:
        await house.campaigns.refresh(tx, None)
    assert world.one("SELECT state, reason FROM send_job") == ("queued", "not_admitted")


async def test_stretch_compiled_of_older_settings_is_not_written(
    world: World, house: House
) -> None:
    await ready(world, house, 1)
    world.sql("UPDATE mailbox_budget SET revision = revision + 1, open_until = 'infinity',"
              " open_from = 'infinity'")  # fmt: skip
    revision = world.one("SELECT revision FROM mailbox_budget")
    now = datetime.now(UTC)
    for offset, written in ((-1, False), (0, True)):
        async with house.db.transaction([WS]) as tx:
            await tx.execute(
                house.queries["set_stretches"],
                {
                    "workspace": WS, "mailboxes": [1], "revisions": [revision + offset],
                    "open_froms": [now], "open_untils": [now + timedelta(hours=1)],
                    "day_caps": [7],
                },
            )  # fmt: skip
        assert world.one("SELECT open_from < 'infinity' FROM mailbox_budget") is written


async def test_new_budget_of_a_domain_counts_what_was_sent_today(
    world: World, house: House
) -> None:
    (job,) = await ready(world, house, 1)
    assert await propose(house, [(1, job)]) == [None]
    world.sql(
        "INSERT INTO gateway.domain_budget (workspace_id, domain, daily_max)"
        " VALUES (%s, 'send.test', 1)", WS,
    )  # fmt: skip
    async with house.db.transaction([WS]) as tx:
        await house.budgets.refresh(tx)
    assert world.one("SELECT day_cap, day_used FROM domain_budget") == (1, 1)
    assert world.one("SELECT open_from = 'infinity' FROM mailbox_budget") is True
    assert await held(world, house) == ["domain_budget"]
    world.sql("DELETE FROM gateway.domain_budget")
    async with house.db.transaction([WS]) as tx:
        await house.budgets.refresh(tx)
    assert world.one("SELECT day_cap, day_used FROM domain_budget") == (None, 1)


async def test_zone_of_the_workspace_reaches_its_mailboxes(world: World, house: House) -> None:
    await ready(world, house, 1)
    world.sql("UPDATE gateway.workspace SET timezone = 'Asia/Tokyo'")
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.refresh(tx, None)
    assert world.one("SELECT tz FROM mailbox_budget") == "Asia/Tokyo"
    before = world.one("SELECT revision FROM mailbox_budget")
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.refresh(tx, None)
    assert world.one("SELECT revision FROM mailbox_budget") == before, "nothing is new"


async def test_deleted_mailbox_gives_its_lease_back_and_remembers_since_when(
    world: World, house: House
) -> None:
    (job,) = await ready(world, house, 1)
    assert await propose(house, [(1, job)]) == [None]
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.deactivate(tx, [(WS, 1)])
    assert world.one("SELECT state FROM send_job") == "queued"
    assert world.one("SELECT is_active, inactive_since <= now() FROM mailbox_budget") == (
        False, True,
    )  # fmt: skip
    assert ids.decode("job", ids.encode("job", job)) == job
    assert await held(world, house) == ["mailbox_inactive"]
