"""Explain: every reason an enrollment can have, with its numbers, now and in the past."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.waiting import until

from paceline_common import ids
from paceline_scheduler.domain.reason import REASONS
from paceline_scheduler.explain import Explainer, Explanation, NotRecordedError

from .conftest import DEMO_POLICY, WS, House, World
from .test_pacing import Sender, leads, running, sending

PARIS = "Europe/Paris"
# Rules of a mailbox with nothing in its way.
FREE: dict[str, Any] = {**DEMO_POLICY, "stage_gate": None}
# A stand-in on a busy machine keeps a second's grace.
PATIENT: dict[str, Any] = {"cadence_s": 0.3, "jitter_s": [1.0, 1.2], "grace_s": 1.0}
MAILBOX, CAMPAIGN, POOL = (ids.encode("mbx", 1), ids.encode("cmp", 5), ids.encode("pool", 1))


def today(zone: str = "UTC") -> Any:
    return datetime.now(ZoneInfo(zone)).date()


def midnight(zone: str = "UTC") -> datetime:
    """Return the end of the local day."""
    day = today(zone) + timedelta(days=1)
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)


@dataclass
class Scene:
    """A campaign of one step, its mailboxes, its leads; enrollment 1 is asked about."""

    world: World
    house: House

    async def open(
        self,
        *policies: dict[str, Any],
        zone: str = PARIS,
        enrolled: int = 1,
        steps: tuple[int, ...] = (0,),
        provider: str = "smtp",
        **campaign: Any,
    ) -> None:
        for number, policy in enumerate(policies, 1):
            self.world.mailbox(number, policy={**FREE, **policy}, timezone=zone, provider=provider)
        self.world.campaign(delays_s=steps)
        for name, value in campaign.items():
            self.world.sql(f"UPDATE gateway.campaign SET {name} = %s", value)
        await self.house.state.refresh(WS)
        if enrolled:
            await self.house.enroll(*leads(self.world, enrolled))
        await self.look()

    async def look(self) -> None:
        """Let the engine look at everything once, as it does when anything changes."""
        await self.house.state.rebuild(WS)

    async def enroll(self, count: int = 1) -> None:
        await self.house.enroll(*leads(self.world, count))

    def suspend(self, scope: str, ref: int, reason: str, until: datetime | None = None) -> None:
        self.world.sql(
            "SELECT set_config('app.workspace_ids', %s, false),"
            " suspend(%s, %s, %s, %s, %s, 'tests', NULL)",
            str(WS), WS, scope, ref, reason, until,
        )  # fmt: skip

    def resume(self, scope: str, ref: int, reason: str) -> None:
        self.world.sql(
            "SELECT set_config('app.workspace_ids', %s, false),"
            " resume(%s, %s, %s, %s, 'tests')",
            str(WS), WS, scope, ref, reason,
        )  # fmt: skip

    def job(self, **changes: Any) -> None:
        listed = ", ".join(f"{name} = %s" for name in changes)
        self.world.sql(f"UPDATE send_job SET {listed} WHERE enrollment_id = 1", *changes.values())

    def budget(self, **changes: Any) -> None:
        listed = ", ".join(f"{name} = %s" for name in changes)
        self.world.sql(f"UPDATE mailbox_budget SET {listed}", *changes.values())

    def follow_up(self) -> None:
        """Make the job of enrollment 1 one that only mailbox 1 may send."""
        self.job(sticky=True, mailbox_id=1, pool_id=1, step=2)

    def listed(self, enrollment: int = 1) -> Any:
        """Return the reason in the gateway's list."""
        with self.world.login("gateway") as connection:
            row = connection.execute(
                "SELECT reason FROM scheduler.v_enrollment WHERE enrollment_id = %s", [enrollment]
            ).fetchone()
        assert row is not None
        return row[0]

    async def explain(self, at: datetime | None = None, enrollment: int = 1) -> Explanation:
        explainer = Explainer(self.house.db, self.house.queries, timedelta(days=30))
        found = await explainer.explain(WS, enrollment, at)
        assert found is not None
        assert found.answer.reason in REASONS
        return found


@pytest.fixture
async def scene(world: World, house: House) -> Scene:
    return Scene(world, house)


@dataclass(frozen=True)
class Case:
    """A scene to set, and what is to be told of it."""

    reason: str
    make: Callable[[Scene], Awaitable[None]]
    scope: str = "mailbox"
    ref: str | None = MAILBOX
    used: int | None = None
    limit: int | None = None
    until: Callable[[], datetime] | None = None
    zone: str = PARIS
    action: str | None = None
    says: tuple[str, ...] = ()
    has_eta: bool = True
    # What the list of enrollments says: it looks less closely.
    listed: str | None = None
    enrollment: int = 1


async def outside_window(scene: Scene) -> None:
    day = (today(PARIS) + timedelta(days=2)).weekday()
    await scene.open({"windows": [{"days": [day], "start": "09:00", "end": "17:00"}]})


def opening() -> datetime:
    day = today(PARIS) + timedelta(days=2)
    return datetime(day.year, day.month, day.day, 9, tzinfo=ZoneInfo(PARIS)).astimezone(UTC)


async def blackout(scene: Scene) -> None:
    await scene.open({"blackouts": [str(today(PARIS))]})


async def never_opens(scene: Scene) -> None:
    await scene.open({"windows": []})


async def daily_cap(scene: Scene) -> None:
    await scene.open({"daily_cap": 120}, enrolled=0)
    scene.budget(day=today(PARIS), day_used=120)
    await scene.enroll()
    await scene.look()


async def daily_cap_zero(scene: Scene) -> None:
    await scene.open({"daily_cap": 0})


async def ramp_cap(scene: Scene) -> None:
    await scene.open({"ramp": {"curve": [[0, 7], [10, 100]]}}, enrolled=0)
    scene.budget(day=today(PARIS), day_used=7)
    await scene.enroll()
    await scene.look()


async def probation_cap(scene: Scene) -> None:
    await scene.open({"ramp": {"curve": [[0, 9]]}, "health_floor": True}, enrolled=0)
    scene.budget(day=today(PARIS), day_used=9)
    await scene.enroll()
    await scene.look()


async def throttled_cap(scene: Scene) -> None:
    await scene.open({"daily_cap": 10}, enrolled=0)
    until = datetime.now(UTC) + timedelta(days=3)
    scene.budget(day=today(PARIS), day_used=5, throttled_until=until)
    await scene.enroll()
    await scene.look()


def next_hour() -> datetime:
    now = datetime.now(UTC)
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


async def hourly_cap(scene: Scene) -> None:
    await scene.open({"hourly_cap": 6}, enrolled=0)
    hour = next_hour() - timedelta(hours=1)
    scene.budget(day=today(PARIS), day_used=6, hour=hour, hour_used=6)
    await scene.enroll()
    await scene.look()


async def provider_ceiling(scene: Scene) -> None:
    await scene.open({"ceiling_24h": 40}, enrolled=0)
    hour = next_hour() - timedelta(hours=3)
    scene.world.sql(
        "UPDATE account_budget SET hour = %s, hours[1] = 30, foreign_hours[1] = 10", hour
    )
    await scene.enroll()
    await scene.look()


async def domain_budget(scene: Scene) -> None:
    scene.world.sql(
        "INSERT INTO gateway.domain_budget (workspace_id, domain, daily_max)"
        " VALUES (%s, 'send.test', 3)",
        WS,
    )
    await scene.open({}, enrolled=0)
    scene.world.sql("UPDATE domain_budget SET day = %s, day_used = 3", today())
    await scene.enroll()
    await scene.look()


async def cadence(scene: Scene) -> None:
    await scene.open({"cadence_s": 600})
    scene.budget(next_at=datetime.now(UTC) + timedelta(seconds=500))


async def outstanding(scene: Scene) -> None:
    await scene.open({})
    scene.budget(outstanding=1)


async def in_queue(scene: Scene) -> None:
    await scene.open({"cadence_s": 60}, enrolled=4)


async def type_restricted(scene: Scene) -> None:
    await scene.open({"campaign_types": ["nurture"]})


async def stage_below(scene: Scene) -> None:
    await scene.open({"stage_gate": {"cold": 3}, "attested": False})


async def health_below(scene: Scene) -> None:
    await scene.open({"health_floor": True}, min_health=70)
    scene.budget(health=55)
    await scene.look()


async def esp_mismatch(scene: Scene) -> None:
    await scene.open({}, esp_match="strict")
    scene.world.sql("UPDATE address SET host = 1 WHERE kind = 'domain'")


async def spacing(scene: Scene) -> None:
    scene.world.sql(
        "INSERT INTO gateway.shaping_rule (workspace_id, pattern, spacing_s) VALUES (%s, '*', 900)",
        WS,
    )
    await scene.open({}, enrolled=2)
    scene.world.sql("UPDATE send_job SET due_at = now() + interval '15 min',"
                    " reason = 'recipient_spacing' WHERE enrollment_id = 1")  # fmt: skip


async def daily_max(scene: Scene) -> None:
    await scene.open({}, enrolled=1)
    scene.world.sql(
        "INSERT INTO recipient_budget (workspace_id, domain_id, tz, day_cap, day, day_used)"
        " SELECT workspace_id, domain_id, 'UTC', 1, %s, 1 FROM enrollment",
        today(),
    )
    scene.job(due_at=midnight(), reason="recipient_daily_max")


async def other_campaign(scene: Scene) -> None:
    await scene.open({}, enrolled=0)
    scene.world.campaign(6)
    await scene.house.state.refresh(WS)
    await scene.house.enroll(scene.world.lead("a@x.test", campaign=6))
    await scene.house.enroll(scene.world.lead("a@x.test", campaign=5))


async def min_days(scene: Scene) -> None:
    await scene.open({})
    scene.job(due_at=datetime.now(UTC) + timedelta(days=2), reason="min_days_between")


def held(scope: str, ref: int, reason: str, until: datetime | None = None) -> Any:
    async def make(scene: Scene) -> None:
        await scene.open({})
        scene.suspend(scope, ref, reason, until)
        await scene.look()

    return make


def held_follow_up(scope: str, ref: int, reason: str) -> Any:
    async def make(scene: Scene) -> None:
        await scene.open({}, steps=(0, 0))
        scene.follow_up()
        scene.suspend(scope, ref, reason)
        await scene.look()

    return make


async def domain_held(scene: Scene) -> None:
    await scene.open({})
    scene.suspend("domain", scene.world.one("SELECT domain_ref FROM mailbox_budget"), "bounces")
    await scene.look()


async def inactive(scene: Scene) -> None:
    await scene.open({})
    scene.world.sql("UPDATE gateway.mailbox SET is_active = false, version = version + 1")
    await scene.look()


async def no_steps(scene: Scene) -> None:
    await scene.open({}, steps=())


async def no_mailbox(scene: Scene) -> None:
    await scene.open({})
    scene.world.sql("DELETE FROM gateway.pool_member")


async def sender_gone(scene: Scene) -> None:
    await scene.open({}, steps=(0, 0), stickiness="wait")
    scene.follow_up()
    scene.world.sql("UPDATE gateway.mailbox SET is_active = false, version = version + 1")
    await scene.look()


async def not_due(scene: Scene) -> None:
    await scene.open({})
    scene.job(due_at=datetime.now(UTC) + timedelta(hours=3))


async def retry(scene: Scene) -> None:
    await scene.open({})
    scene.job(due_at=datetime.now(UTC) + timedelta(hours=1), first_deferred_at=datetime.now(UTC),
              reason="soft:421")  # fmt: skip


def in_state(state: str) -> Any:
    async def make(scene: Scene) -> None:
        await scene.open({}, enrolled=0)
        scene.world.reserved(1, slot="clock_timestamp() + interval '9 s'")
        path = {"reserved": (), "sending": ("sending",), "in_doubt": ("sending", "in_doubt"),
                "sent": ("sending", "sent")}  # fmt: skip
        for one in path[state]:
            scene.job(state=one)

    return make


def over(state: str, reason: str) -> Any:
    async def make(scene: Scene) -> None:
        await scene.open({})
        scene.world.sql(
            "UPDATE enrollment SET state = %s, reason = %s, finished_at = now()", state, reason
        )

    return make


SUSPENSIONS = {
    "workspace_suspended": ("workspace", WS, "operator", ids.encode("ws", WS)),
    "campaign_not_started": ("campaign", 5, "not_started", CAMPAIGN),
    "campaign_paused": ("campaign", 5, "paused", CAMPAIGN),
    "campaign_stopped": ("campaign", 5, "stopped", CAMPAIGN),
    "campaign_suspended": ("campaign", 5, "complaints", CAMPAIGN),
    "enrollment_suspended": ("enrollment", 1, "replied", ids.encode("enr", 1)),
}

CASES = [
    Case("outside_window", outside_window, until=opening, action="widen_windows",
         says=("09:00 Europe/Paris",), listed="waiting_in_queue"),
    Case("blackout", blackout, until=lambda: midnight(PARIS), action="lift_blackout",
         says=("until 00:00 Europe/Paris",)),
    Case("window_never_opens", never_opens, has_eta=False, action="widen_windows"),
    Case("daily_cap", daily_cap, used=120, limit=120, until=lambda: midnight(PARIS),
         action="raise_daily_cap",
         says=("daily cap 120 of 120 until 00:00 Europe/Paris",)),
    Case("daily_cap_zero", daily_cap_zero, used=0, limit=0, has_eta=False,
         action="raise_daily_cap"),
    Case("ramp_cap", ramp_cap, used=7, limit=7, until=lambda: midnight(PARIS),
         action="change_ramp"),
    Case("probation_cap", probation_cap, used=9, limit=9, until=lambda: midnight(PARIS),
         action="switch_health_floor_off"),
    Case("throttled_cap", throttled_cap, used=5, limit=5, until=lambda: midnight(PARIS),
         action="settle_issue"),
    Case("hourly_cap", hourly_cap, used=6, limit=6, until=next_hour, action="raise_hourly_cap"),
    Case("provider_ceiling", provider_ceiling, used=40, limit=40,
         until=lambda: next_hour() + timedelta(hours=22), action="add_mailbox"),
    Case("domain_budget", domain_budget, used=3, limit=3, until=midnight,
         action="raise_domain_budget"),
    Case("cadence", cadence, action="add_mailbox", says=("it is next of its campaign",)),
    Case("outstanding", outstanding, action="add_mailbox"),
    Case("waiting_in_queue", in_queue, action="add_mailbox", enrollment=4,
         says=("3 of its campaign before it",)),
    Case("lead_in_other_campaign", other_campaign, scope="enrollment", ref=ids.encode("enr", 1),
         zone="UTC", has_eta=False, action="stop_enrollment", listed="lead_in_other_campaign",
         enrollment=2),
    Case("type_restricted", type_restricted, has_eta=False, action="allow_type"),
    Case("stage_below", stage_below, used=0, limit=3, has_eta=False, action="attest"),
    Case("health_below_floor", health_below, used=55, limit=70, has_eta=False,
         action="lower_min_health"),
    Case("esp_mismatch", esp_mismatch, has_eta=False, action="prefer_esp"),
    Case("recipient_spacing", spacing, scope="recipient", ref=None, zone="UTC",
         action="change_shaping", listed="recipient_spacing"),
    Case("recipient_daily_max", daily_max, scope="recipient", ref=None, zone="UTC", used=1,
         limit=1, until=midnight, action="change_shaping", listed="recipient_daily_max"),
    Case("min_days_between", min_days, scope="recipient", ref=None, zone="UTC",
         action="lower_min_days", listed="min_days_between"),
    *(
        Case(code, held(scope, ref, reason), scope=scope, ref=public, zone="UTC", has_eta=False,
             listed=code)
        for code, (scope, ref, reason, public) in SUSPENSIONS.items()
    ),
    Case("pool_suspended", held("pool", 1, "operator"), has_eta=False, action="resume"),
    Case("mailbox_suspended", held("mailbox", 1, "operator"), has_eta=False, action="resume"),
    Case("cooldown", held("mailbox", 1, "cooldown", midnight()), until=midnight,
         action="resume"),
    Case("node_failed", held("mailbox", 1, "probe_send_failed"), has_eta=False,
         action="mend_mailbox"),
    Case("grant_revoked", held("mailbox", 1, "grant_revoked"), has_eta=False,
         action="reconnect_mailbox"),
    Case("domain_suspended", domain_held, has_eta=False, action="resume"),
    Case("mailbox_inactive", inactive, has_eta=False, action="activate_mailbox"),
    Case("mailbox_suspended", held_follow_up("mailbox", 1, "operator"),
         listed="mailbox_suspended", action="resume"),
    Case("pool_suspended", held_follow_up("pool", 1, "operator"), scope="pool", ref=POOL,
         has_eta=False, listed="pool_suspended"),
    Case("node_failed", held_follow_up("mailbox", 1, "auth_failed"), listed="node_failed",
         action="mend_mailbox"),
    Case("waiting_for_sender", sender_gone, has_eta=False, action="reassign",
         listed="waiting_for_sender"),
    Case("no_steps", no_steps, scope="campaign", ref=CAMPAIGN, zone="UTC", has_eta=False,
         action="add_step", listed="no_steps"),
    Case("no_mailbox", no_mailbox, scope="campaign", ref=CAMPAIGN, zone="UTC", has_eta=False,
         action="add_mailbox"),
    Case("waiting_for_due", not_due, scope="enrollment", ref=ids.encode("enr", 1), zone="UTC",
         listed="waiting_for_due"),
    Case("waiting_for_retry", retry, scope="enrollment", ref=ids.encode("enr", 1), zone="UTC",
         listed="waiting_for_retry"),
    Case("slot_reserved", in_state("reserved"), zone=PARIS, listed="slot_reserved"),
    Case("sending", in_state("sending"), has_eta=False, listed="sending"),
    Case("in_doubt", in_state("in_doubt"), has_eta=False, action="settle", listed="in_doubt"),
    Case("outcome_recorded", in_state("sent"), has_eta=False, listed="outcome_recorded"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[f"{n}-{case.reason}" for n, case in enumerate(CASES)])
async def test_each_reason_is_told_with_its_numbers(scene: Scene, case: Case) -> None:
    await case.make(scene)
    found = await scene.explain(enrollment=case.enrollment)
    told, bound = found.answer, found.answer.constraint
    assert told.reason == case.reason
    assert bound is not None
    assert (bound.scope, bound.ref) == (case.scope, case.ref)
    assert (bound.hold.used, bound.hold.limit) == (case.used, case.limit)
    assert bound.zone.key == case.zone
    if case.until is not None:
        assert bound.hold.until == case.until()
    if case.action is not None:
        assert told.action == case.action
        assert told.detail
    for one in case.says:
        assert one in told.message
    assert (told.eta is not None and told.eta.earliest is not None) == case.has_eta
    assert scene.listed(case.enrollment) == (case.listed or "waiting_in_queue")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("finished", "sequence_finished"), ("replied", "replied"), ("bounced", "hard_bounce"),
        ("unsubscribed", "unsubscribed"), ("suppressed", "manual"),
        ("stopped", "stopped_by_operator"), ("failed", "missing_variable"),
    ],
)  # fmt: skip
async def test_what_is_over_says_how_it_ended(scene: Scene, state: str, reason: str) -> None:
    await over(state, reason)(scene)
    found = await scene.explain()
    assert (found.state, found.answer.reason) == (state, state)
    assert found.answer.eta is None
    assert found.answer.constraint is None
    assert found.history[-1].what == state
    assert scene.listed() == reason


async def test_the_first_mailbox_to_open_binds_and_the_others_are_counted(scene: Scene) -> None:
    soon, late = (today(PARIS) + timedelta(days=n) for n in (1, 2))
    await scene.open(
        *({"blackouts": [{"from": str(today(PARIS)), "to": str(day)}]} for day in (late, soon)),
        {"daily_cap": 0},
    )
    told = (await scene.explain()).answer
    assert told.reason == "blackout"
    assert told.constraint is not None
    assert told.constraint.ref == ids.encode("mbx", 2)
    assert "of 3 mailboxes 2 blackout, 1 daily cap zero" in told.message
    # The day ends a day later than the first one's.
    assert told.eta is not None
    assert told.eta.earliest is not None
    assert told.eta.earliest >= midnight(PARIS) + timedelta(hours=23)


async def test_a_next_tier_is_an_end_of_waiting(scene: Scene) -> None:
    scene.world.mailbox(2, pool=2, policy=FREE)
    await scene.open({"daily_cap": 0}, enrolled=0)
    scene.world.sql(
        "INSERT INTO gateway.campaign_tier (workspace_id, campaign_id, tier, position, pool_id)"
        " VALUES (%s, 5, 2, 1, 2)",
        WS,
    )
    scene.world.sql("UPDATE gateway.campaign SET tier_after_s = '{3600}'")
    await scene.enroll()
    await scene.look()
    due = scene.world.one("SELECT due_at FROM send_job")
    told = (await scene.explain()).answer
    assert told.reason == "daily_cap_zero"
    assert told.eta is not None
    assert told.eta.earliest == due + timedelta(hours=1)
    scene.job(due_at=due - timedelta(hours=2))
    assert (await scene.explain()).answer.reason != "daily_cap_zero"


async def test_a_follow_up_waits_for_what_its_mailbox_waits_for(scene: Scene) -> None:
    await scene.open({"daily_cap": 4}, {}, steps=(0, 0), enrolled=0)
    scene.world.sql(
        "UPDATE mailbox_budget SET day = %s, day_used = 4 WHERE mailbox_id = 1", today(PARIS)
    )
    await scene.enroll()
    scene.follow_up()
    await scene.look()
    told = (await scene.explain()).answer
    assert told.reason == scene.listed() == "daily_cap"
    assert told.detail == f"raise the daily cap of mailbox {MAILBOX} above 4"


async def test_a_follow_up_of_a_failed_mailbox_knows_when_it_may_leave(scene: Scene) -> None:
    await scene.open({}, {}, steps=(0, 0), reassign_after_s=7200)
    scene.follow_up()
    scene.suspend("mailbox", 1, "node_failed")
    told = (await scene.explain()).answer
    opened = scene.world.one("SELECT opened_at FROM suspension WHERE scope = 'mailbox'")
    assert told.reason == "node_failed"
    assert told.eta is not None
    assert told.eta.earliest == opened + timedelta(hours=2)


async def test_a_follow_up_of_an_inactive_mailbox_knows_when_it_may_leave(scene: Scene) -> None:
    await sender_gone(scene)
    assert (await scene.explain()).answer.eta is None
    scene.world.sql("UPDATE campaign_policy SET stickiness = 'reassign', reassign_after_s = 3600")
    since = scene.world.one("SELECT inactive_since FROM mailbox_budget")
    told = (await scene.explain()).answer
    assert told.reason == "waiting_for_sender"
    assert told.eta is not None
    assert told.eta.earliest == since + timedelta(hours=1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE gateway.workspace SET is_active = false", "workspace_suspended"),
        ("UPDATE gateway.campaign SET status = 'draft'", "campaign_not_started"),
        ("UPDATE gateway.campaign SET status = 'archived'", "campaign_stopped"),
    ],
)
async def test_what_is_out_of_rotation_as_a_whole_says_so(
    scene: Scene, change: str, reason: str
) -> None:
    await scene.open({})
    scene.world.sql(change)
    assert (await scene.explain()).answer.reason == reason


async def test_a_large_fleet_is_told_from_a_part_of_it(scene: Scene) -> None:
    """More mailboxes than are looked at closely: all are counted, the first to open binds."""
    day = {"windows": [{"days": [(today() + timedelta(days=2)).weekday()], "start": "09:00",
                        "end": "17:00"}]}  # fmt: skip
    await scene.open(*[day] * 18, {**day, "campaign_types": ["nurture"]}, {"daily_cap": 3},
                     zone="UTC", enrolled=0)  # fmt: skip
    scene.budget(day=today(), day_used=3)
    await scene.enroll()
    await scene.look()
    for at in (None, datetime.now(UTC)):
        told = (await scene.explain(at)).answer
        assert told.reason == "daily_cap", at
        assert told.constraint is not None
        assert told.constraint.ref == ids.encode("mbx", 20)
        assert (
            "of 20 mailboxes 18 outside window, 1 daily cap, 1 type restricted" in told.message
        ), at


async def test_the_past_is_told_from_what_was_stored_then(scene: Scene) -> None:
    """Caps change, a campaign pauses and goes on; each instant keeps its own answer."""
    world, house = scene.world, scene.house
    await scene.open({**PATIENT, "daily_cap": 2}, enrolled=7)
    instants: dict[str, datetime] = {}

    def note(name: str) -> None:
        instants[name] = world.one("SELECT clock_timestamp()")

    async def change(cap: int) -> None:
        world.sql(
            "UPDATE gateway.mailbox SET version = version + 1,"
            " policy = jsonb_set(policy, '{daily_cap}', to_jsonb(%s::int))",
            cap,
        )
        async with house.db.transaction([WS]) as tx:
            await house.mailboxes.refresh(tx, None)
        world.sql("INSERT INTO pace_change (workspace_id, scope, ref) VALUES (%s, 'mailbox', 1)",
                  WS)  # fmt: skip
        house.pacer.wake.set()

    def sent(count: int) -> Callable[[], bool]:
        return lambda: world.one("SELECT count(*) FROM send_job WHERE state = 'sent'") == count

    def holds(limit: int) -> Callable[[], bool]:
        return lambda: world.sql(
            "SELECT 1 FROM decision WHERE is_open AND reason = 'daily_cap'"
            " AND inputs ->> 'limit' = %s", str(limit)
        ) != []  # fmt: skip

    async with running(house), sending(Sender(world, house)):
        await until(sent(2), within_s=60)
        await until(holds(2))
        note("two")
        await change(4)
        await until(sent(4), within_s=60)
        await until(holds(4))
        note("four")
        scene.suspend("campaign", 5, "paused")
        note("paused")
        await change(20)
        await until(
            lambda: not world.sql("SELECT 1 FROM decision WHERE is_open AND reason = 'daily_cap'")
        )
        scene.resume("campaign", 5, "paused")
        note("resumed")
        house.pacer.wake.set()
        await until(sent(7), within_s=60)
        note("sent")

    slots = (
        "SELECT j.enrollment_id, s.reserved_at, s.slot_at, s.not_after"
        " FROM slot s JOIN send_job j USING (job_id) WHERE s.returned_at IS NULL ORDER BY"
    )
    last = world.one(f"{slots} s.slot_at DESC LIMIT 1")[0]
    for name, cap in (("two", 2), ("four", 4)):
        found = await scene.explain(instants[name], last)
        bound = found.answer.constraint
        assert found.answer.reason == "daily_cap", name
        assert bound is not None
        assert (bound.hold.used, bound.hold.limit) == (cap, cap)
        assert bound.hold.until == midnight(PARIS)
        assert f"daily cap {cap} of {cap} until 00:00 Europe/Paris" in found.answer.message
        assert all(one.at <= instants[name] for one in found.history)
        before = 7 - cap - 1
        assert f"{before} of its campaign before it" in found.answer.message
    paused = await scene.explain(instants["paused"], last)
    assert paused.answer.reason == "campaign_paused"
    assert paused.history[-1].what == "suspended"
    assert (await scene.explain(instants["resumed"], last)).answer.reason in {
        "waiting_in_queue", "cadence", "outstanding",
    }  # fmt: skip
    over = await scene.explain(instants["sent"], last)
    assert over.answer.reason == "outcome_recorded"
    whats = [one.what for one in over.history]
    assert whats[0] == "enrolled"
    assert whats[-1] == "sent"
    assert "released" in whats
    # A machine at its limit leases late: the slot that was known the longest before its time.
    one, leased, slot, not_after = world.one(f"{slots} s.slot_at - s.reserved_at DESC LIMIT 1")
    reserved = await scene.explain(leased + (slot - leased) / 2, one)
    assert reserved.answer.reason == "slot_reserved"
    assert reserved.answer.eta is not None
    assert (reserved.answer.eta.earliest, reserved.answer.eta.latest) == (slot, not_after)
    assert (await scene.explain(slot, one)).answer.reason == "sending"


async def test_the_interval_told_holds_the_release(scene: Scene) -> None:
    await scene.open(PATIENT, PATIENT, enrolled=0)
    told: dict[int, Any] = {}
    async with running(scene.house), sending(Sender(scene.world, scene.house)):
        await scene.enroll(16)
        for number in range(16, 4, -1):
            told[number] = (await scene.explain(enrollment=number)).answer
        await until(
            lambda: scene.world.one("SELECT count(*) FROM send_job WHERE state = 'sent'") == 16,
            within_s=60,
        )
    slots = dict(
        scene.world.sql(
            "SELECT j.enrollment_id, s.slot_at FROM slot s JOIN send_job j USING (job_id)"
            " WHERE s.returned_at IS NULL"
        )
    )
    waited = {number: one for number, one in told.items() if one.reason == "waiting_in_queue"}
    assert len(waited) >= 4
    for number, one in waited.items():
        assert one.eta.earliest <= slots[number] <= one.eta.latest, (number, one)
        # An interval that says something: at 1.4 s each, 16 messages of two mailboxes.
        assert one.eta.latest - one.eta.earliest < timedelta(seconds=40)


async def test_other_campaigns_of_the_same_pool_share_it(scene: Scene) -> None:
    await scene.open({"cadence_s": 100}, enrolled=3)
    alone = (await scene.explain(enrollment=3)).answer.eta
    scene.world.campaign(6)
    await scene.house.state.refresh(WS)
    await scene.house.enroll(*(scene.world.lead(f"b{n}@x.test", campaign=6) for n in range(3)))
    shared = (await scene.explain(enrollment=3)).answer.eta
    assert alone is not None
    assert shared is not None
    assert alone.latest is not None
    assert shared.latest is not None
    assert shared.latest > alone.latest + timedelta(seconds=100)


async def test_instants_of_which_nothing_is_stored_are_refused(scene: Scene) -> None:
    await scene.open({})
    enrolled = scene.world.one("SELECT enrolled_at FROM enrollment")
    for at in (
        enrolled - timedelta(seconds=1),
        datetime.now(UTC) + timedelta(minutes=1),
    ):
        with pytest.raises(NotRecordedError):
            await scene.explain(at)
    scene.world.sql("UPDATE enrollment SET enrolled_at = now() - interval '60 days'")
    with pytest.raises(NotRecordedError, match="30 days"):
        await scene.explain(datetime.now(UTC) - timedelta(days=31))


async def test_another_workspace_sees_nothing(scene: Scene) -> None:
    await scene.open({})
    explainer = Explainer(scene.house.db, scene.house.queries, timedelta(days=30))
    assert await explainer.explain(8, 1) is None


async def test_the_pace_of_a_mailbox_says_what_it_waits_for(scene: Scene) -> None:
    await daily_cap(scene)
    with scene.world.login("gateway") as connection:
        row = connection.execute(
            "SELECT day, day_used, day_cap, hour_used, rolling_used, ceiling, reason, until"
            " FROM scheduler.v_mailbox_pace"
        ).fetchone()
    assert row == (today(PARIS), 120, 120, 0, None, None, "daily_cap", midnight(PARIS))
