"""Throttled campaigns, operators' suspensions, health, and the hosts of recipients."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from paceline_common import events, ids
from paceline_common.db import Outbox
from paceline_scheduler.recipient_hosts import RecipientHosts
from paceline_scheduler.throttle import Throttler

from .conftest import DEMO_POLICY, WS, House, World


@pytest.fixture
def gateway(world: World) -> Iterator["psycopg.Connection[Any]"]:
    with world.login("gateway") as connection:
        yield connection


@pytest.fixture
def throttler(house: House) -> Throttler:
    return Throttler(house.db, house.queries, Outbox(house.db), house.ledger)


def suspend(
    connection: "psycopg.Connection[Any]",
    ref: int,
    reason: str,
    until: datetime | None = None,
    scope: str = "mailbox",
) -> None:
    connection.execute(
        "SELECT scheduler.suspend(%s, %s, %s, %s, %s, 'ann', 'words')",
        (WS, scope, ref, reason, until),
    )


def resume(
    connection: "psycopg.Connection[Any]", ref: int, reason: str, scope: str = "mailbox"
) -> int:
    row = connection.execute(
        "SELECT scheduler.resume(%s, %s, %s, %s, 'ann')", (WS, scope, ref, reason)
    ).fetchone()
    assert row is not None
    return int(row[0])


def throttled(world: World) -> list[tuple[int, str]]:
    """Return what the gateway sees."""
    with world.login("gateway") as connection:
        return connection.execute(
            "SELECT campaign_id, cause FROM scheduler.v_campaign_throttle"
            " WHERE since IS NOT NULL ORDER BY 1"
        ).fetchall()


async def fleet(world: World, house: House, policy: Any = None) -> None:
    for mailbox in (1, 2, 3):
        world.mailbox(mailbox, policy=policy or {**DEMO_POLICY, "health_floor": True})
    world.campaign()
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.refresh(tx, None)
    await house.enroll(world.lead("a@x.test"))


async def test_campaign_is_throttled_while_mailboxes_are_out_by_the_commonest_cause(
    world: World, house: House, throttler: Throttler, gateway: "psycopg.Connection[Any]"
) -> None:
    await fleet(world, house)
    assert await throttler.look() == 0
    assert throttled(world) == []
    suspend(gateway, 1, "cooldown", datetime.now(UTC) + timedelta(hours=1))
    assert await throttler.look() == 1
    assert throttled(world) == [(5, "cooldown")]
    since = world.one("SELECT throttled_since FROM campaign_policy")
    world.sql("UPDATE mailbox_budget SET health = 40 WHERE mailbox_id IN (2, 3)")
    assert await throttler.look() == 1
    assert throttled(world) == [(5, "health_below_floor")]
    assert world.one("SELECT throttled_since FROM campaign_policy") == since
    assert await throttler.look() == 0
    world.sql("UPDATE mailbox_budget SET health = 90")
    resume(gateway, 1, "cooldown")
    assert await throttler.look() == 1
    assert throttled(world) == []
    assert world.one("SELECT state FROM enrollment") == "active", "deferred, never failed"
    actions = [one.action for one in world.outbox("audit-recorded") if "campaign" in one.action]
    assert actions == ["campaign.throttled", "campaign.throttled", "campaign.throttle_ended"]
    noted = world.sql("SELECT reason, is_open FROM decision WHERE scope = 'campaign'"
                      " ORDER BY decision_id")  # fmt: skip
    assert noted == [("cooldown", False), ("health_below_floor", False), ("open", True)]


RESTRICTED = (
    "UPDATE mailbox_budget SET types = 4, policy = jsonb_build_object('campaign_types',"
    " jsonb_build_array('transactional')) WHERE mailbox_id = 1"
)


@pytest.mark.parametrize(
    ("statement", "cause"),
    [
        ("UPDATE mailbox_budget SET throttled_until = 'infinity' WHERE mailbox_id = 1",
         "throttled_cap"),
        ("UPDATE mailbox_budget SET types = 4 WHERE mailbox_id = 1", "stage_below"),
        (RESTRICTED, None),
        ("UPDATE mailbox_budget SET health = 69, health_floor = false WHERE mailbox_id = 1", None),
        ("UPDATE mailbox_budget SET health = 70 WHERE mailbox_id = 1", None),
        ("UPDATE mailbox_budget SET health = 10, is_active = false WHERE mailbox_id = 1", None),
        ("SELECT suspend(7, 'mailbox', 1, 'auth_failed', NULL, 'x', NULL)", "node_failed"),
        ("SELECT suspend(7, 'mailbox', 1, 'grant_revoked', NULL, 'x', NULL)", "grant_revoked"),
        ("SELECT suspend(7, 'mailbox', 1, 'paused', NULL, 'x', NULL)", None),
    ],
)  # fmt: skip
async def test_what_throttles(
    world: World, house: House, throttler: Throttler, statement: str, cause: str | None
) -> None:
    await fleet(world, house)
    world.sql("SET app.workspace_ids = '7'; " + statement)
    await throttler.look()
    assert throttled(world) == ([] if cause is None else [(5, cause)])


@pytest.mark.parametrize("why", ["nothing waits", "not running", "another pool"])
async def test_what_does_not_concern_a_campaign(
    world: World, house: House, throttler: Throttler, why: str
) -> None:
    await fleet(world, house)
    world.sql("UPDATE mailbox_budget SET health = 10 WHERE mailbox_id = 1")
    if why == "nothing waits":
        world.sql("UPDATE send_job SET due_at = now() + interval '1 day'")
    elif why == "not running":
        world.sql("UPDATE gateway.campaign SET status = 'paused'")
    else:
        world.sql("DELETE FROM gateway.pool_member WHERE mailbox_id = 1")
    await throttler.look()
    assert throttled(world) == []


async def test_health_that_falls_takes_leases_back_and_is_heeded_by_version(
    world: World, house: House, throttler: Throttler
) -> None:
    await fleet(world, house)

    def measured(version: int, score: int | None, stage: int = 5) -> Any:
        return world.delivery(
            events.MailboxHealthChanged(
                workspace_id=ids.encode("ws", WS), mailbox_id=ids.encode("mbx", 1),
                version=version, score=score, stage=stage, changed_at=datetime.now(UTC),
            )
        )  # fmt: skip

    await house.handle(house.changes.health_changed, measured(3, 90), measured(2, 10))
    health = "SELECT health, health_version FROM mailbox_budget WHERE mailbox_id = 1"
    assert world.one(health) == (90, 3)
    world.sql(
        "UPDATE send_job SET state = 'reserved', mailbox_id = 1, pool_id = 1, slot_at = now(),"
        " not_after = now() + interval '1 h'"
    )
    await house.handle(house.changes.health_changed, measured(2, 10))
    assert world.one("SELECT state FROM send_job") == "reserved"
    await house.handle(house.changes.health_changed, measured(4, 60))
    assert world.one(health) == (60, 4)
    assert world.one("SELECT state FROM send_job") == "queued"
    await throttler.look()
    assert throttled(world) == [(5, "health_below_floor")]


# ---- suspensions


@pytest.mark.parametrize("scope", ["mailbox", "domain", "pool", "campaign", "workspace"])
async def test_operators_suspension_of_every_scope_holds_ends_and_is_audited(
    world: World, house: House, gateway: "psycopg.Connection[Any]", scope: str
) -> None:
    await fleet(world, house)
    world.sql("DELETE FROM outbox")
    domain = world.one("SELECT DISTINCT domain_ref FROM mailbox_budget")
    assert domain == world.one("SELECT hashtextextended('send.test', 0)")
    ref = {"mailbox": 1, "domain": domain, "pool": 1, "campaign": 5, "workspace": WS}[scope]
    world.sql(
        "UPDATE send_job SET state = 'reserved', mailbox_id = 1, pool_id = 1, slot_at = now(),"
        " not_after = now() + interval '1 h'"
    )
    suspend(gateway, ref, "operator", scope=scope)
    suspend(gateway, ref, "cooldown", scope=scope)
    assert world.one("SELECT state FROM send_job") == "queued"
    assert resume(gateway, ref, "operator", scope) == 1
    assert world.sql("SELECT reason FROM suspension WHERE closed_at IS NULL") == [("cooldown",)]
    assert resume(gateway, ref, "operator", scope) == 0
    told = [(one.action, one.actor, one.detail["reason"]) for one in world.outbox("audit-recorded")]
    assert told == [
        ("suspension.opened", "ann", "operator"),
        ("suspension.opened", "ann", "cooldown"),
        ("suspension.closed", "ann", "operator"),
    ]


async def test_a_suspension_runs_out_by_itself_and_that_is_audited(
    world: World, house: House, gateway: "psycopg.Connection[Any]"
) -> None:
    await fleet(world, house)
    world.sql("DELETE FROM outbox")
    end = datetime.now(UTC)
    suspend(gateway, 1, "operator", end)
    suspend(gateway, 2, "operator", end + timedelta(hours=1))
    world.sql("DELETE FROM pace_change")
    for _ in range(2):
        await house.pacer.sweep()
    closed = world.sql("SELECT ref, closed_at, closed_by FROM suspension ORDER BY ref")
    assert closed == [(1, end, "expiry"), (2, None, None)]
    assert world.sql("SELECT scope, ref FROM pace_change") == [("mailbox", 1)]
    last = [(one.action, one.actor, one.subject) for one in world.outbox("audit-recorded")][2:]
    assert last == [("suspension.closed", "expiry", ids.encode("mbx", 1))]


# ---- hosts of recipients


class Mx:
    """Mail exchangers by domain; what is missing cannot be resolved."""

    def __init__(self, **known: Sequence[str]) -> None:
        self.known = {name.replace("_", "."): value for name, value in known.items()}
        self.asked: list[str] = []

    async def __call__(self, domain: str) -> Sequence[str] | None:
        self.asked.append(domain)
        return self.known.get(domain)


async def hosted(world: World, house: House, *emails: str) -> None:
    world.mailbox(1)
    world.campaign()
    await house.enroll(*(world.lead(email) for email in emails))
    await house.state.rebuild(WS)
    world.sql("DELETE FROM pace_change")


def hosts(world: World) -> dict[str, int | None]:
    return dict(
        world.sql(
            "SELECT DISTINCT split_part(l.email, '@', 2), a.host FROM lead l JOIN address a"
            " ON a.address_id = l.domain_id"
        )
    )


async def test_hosts_are_looked_up_once_where_a_campaign_matches_by_them(
    world: World, house: House
) -> None:
    await hosted(world, house, "a@g.test", "b@g.test", "c@m.test", "d@o.test", "e@away.test")
    mx = Mx(g_test=["aspmx.l.google.com."], m_test=["m.mail.protection.outlook.com."], o_test=[])
    looker = RecipientHosts(house.db, house.queries, house.shaper, lambda: None, mx)
    assert await looker.look() == 0, "nobody has a use for it"
    world.sql("UPDATE campaign_policy SET esp_match = 'strict'")
    assert await looker.look() == 4
    assert hosts(world) == {"g.test": 1, "m.test": 2, "o.test": 0, "away.test": None}
    told = [job for (told,) in world.sql("SELECT jobs FROM pace_change WHERE jobs IS NOT NULL")
            for job in told]  # fmt: skip
    mine = world.sql(
        "SELECT send_job.job_id FROM send_job JOIN enrollment USING (workspace_id, enrollment_id)"
        " JOIN lead USING (workspace_id, lead_id) WHERE email ~ '@[gm].test'"
    )
    assert sorted(told) == sorted(job for (job,) in mine)
    assert await looker.look() == 0
    assert sorted(mx.asked) == ["away.test", "g.test", "m.test", "o.test"]
    # What could not be resolved is asked again sooner than what was.
    world.sql("UPDATE address SET host_at = host_at - interval '2 h'")
    mx.known["away.test"] = ["mx.away.test."]
    assert await looker.look() == 1
    assert hosts(world)["away.test"] == 0
    world.sql("UPDATE address SET host_at = host_at - interval '8 days'")
    mx.known = {}
    assert await looker.look() == 4
    assert hosts(world)["g.test"] == 1, "what is known stays while nobody answers"


async def test_a_host_that_becomes_known_brings_its_rule(world: World, house: House) -> None:
    world.sql(
        "INSERT INTO gateway.shaping_rule (workspace_id, pattern, spacing_s)"
        " VALUES (%s, 'host:google', 60)",
        WS,
    )
    await hosted(world, house, "a@g.test", "b@g.test", "c@m.test")
    mx = Mx(g_test=["aspmx.l.google.com."], m_test=["mx.m.test."])
    looker = RecipientHosts(house.db, house.queries, house.shaper, lambda: None, mx)
    assert await looker.look() == 2
    assert await house.shaper.respread() == 1
    reasons = world.sql(
        "SELECT j.reason FROM send_job j JOIN enrollment USING (workspace_id, enrollment_id)"
        " JOIN lead USING (workspace_id, lead_id) ORDER BY email"
    )
    assert sorted(map(str, reasons)) == ["('recipient_spacing',)", "(None,)", "(None,)"]
    assert world.one("SELECT spacing_ms FROM recipient_budget") == 60_000


def test_policies_are_json(world: World) -> None:
    """The defaults of a recheck are those of the contract, each of its own."""
    for policy, found in (
        ({}, {"every_s": 900, "for_s": 86400}),
        ({"recheck": {"every_s": 60}}, {"every_s": 60, "for_s": 86400}),
        ({"recheck": None}, None),
    ):
        assert world.one("SELECT recheck_of(%s, 'auth_failed', NULL)", Jsonb(policy)) == found
