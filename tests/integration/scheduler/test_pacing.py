"""The pacing loop on real Redis and Postgres: who sends when, and nobody over a limit."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from redis.asyncio import Redis
from tests.waiting import until

from paceline_common import events, ids
from paceline_scheduler.pacing.base import MailboxRecord, Place, Proposal
from paceline_scheduler.routes import class_of

from .conftest import DEMO_POLICY, WS, House, World, furnish


@asynccontextmanager
async def running(house: House) -> AsyncIterator[None]:
    task = asyncio.create_task(house.pacer.run())
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Sender:
    """A stand-in: claims each lease at its time and reports, in the sender's own role."""

    def __init__(self, world: World, house: House, outcome: str = "accepted") -> None:
        self._world = world
        self._house = house
        self._outcome = outcome
        self.refused: list[str] = []

    async def run(self) -> None:
        told: set[tuple[str, int]] = set()
        with self._world.login("sender") as connection, ThreadPoolExecutor(1) as thread:
            async with asyncio.TaskGroup() as sends:
                while True:
                    for body in await asyncio.to_thread(self._world.outbox, "send-scheduled"):
                        if (body.job_id, body.fence) not in told:
                            told.add((body.job_id, body.fence))
                            sends.create_task(self._at_its_time(thread, connection, body))
                    await asyncio.sleep(0.02)

    async def _at_its_time(
        self,
        thread: ThreadPoolExecutor,
        connection: "psycopg.Connection[Any]",
        body: events.SendScheduled,
    ) -> None:
        await asyncio.sleep((body.slot_at - datetime.now(UTC)).total_seconds())
        # Not on the loop: the pacer, which holds a row that this waits for, commits there.
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(thread, self._send, connection, body)

    def _send(self, connection: "psycopg.Connection[Any]", body: events.SendScheduled) -> None:
        job = ids.decode("job", body.job_id)
        found = connection.execute(
            "SELECT claimed, reason FROM scheduler.claim_send(%s, %s, %s)",
            ([WS], [job], [body.fence]),
        ).fetchone()
        assert found is not None
        if not found[0]:
            self.refused.append(found[1])
        connection.execute(
            "SELECT scheduler.finish_send(%s, %s, %s, %s, %s, %s)",
            ([WS], [job], [body.fence], [self._outcome if found[0] else "unsent"], [None], [None]),
        )


@asynccontextmanager
async def sending(sender: Sender) -> AsyncIterator[Sender]:
    task = asyncio.create_task(sender.run())
    try:
        yield sender
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def mailboxes(world: World, house: House, *numbers: int, **policy: Any) -> None:
    for number in numbers:
        world.mailbox(number, policy={**DEMO_POLICY, **policy})
    await house.handle(
        house.changes.mailbox_changed,
        *(
            world.delivery(
                events.MailboxChanged(
                    workspace_id=ids.encode("ws", WS),
                    mailbox_id=ids.encode("mbx", number),
                    version=1,
                )
            )
            for number in numbers
        ),
    )


def leads(world: World, count: int, **changes: Any) -> list[Any]:
    return [world.lead(f"lead{n}@x.test", **changes) for n in range(count)]


def sent_event(world: World, job: int) -> Any:
    mailbox, enrollment, campaign, step = world.one(
        "SELECT mailbox_id, enrollment_id, campaign_id, step FROM send_job WHERE job_id = %s", job
    )
    return world.delivery(
        events.Sent(
            workspace_id=ids.encode("ws", WS),
            job_id=ids.encode("job", job),
            mailbox_id=ids.encode("mbx", mailbox),
            enrollment_id=ids.encode("enr", enrollment),
            campaign_id=ids.encode("cmp", campaign),
            step=step,
            message_id="<m@x.test>",
            provider="smtp",
            sent_at=datetime.now(UTC),
        )
    )


def assert_limits(world: World, cadence: timedelta = timedelta(seconds=1)) -> None:
    """Recompute cadence and daily counts from the slots alone."""
    by_mailbox = defaultdict(list)
    for mailbox, slot_at, not_after in world.sql(
        "SELECT mailbox_id, slot_at, not_after FROM slot ORDER BY slot_at"
    ):
        by_mailbox[mailbox].append((slot_at, not_after))
    for slots in by_mailbox.values():
        for (_, earlier_end), (later, _) in itertools.pairwise(slots):
            assert later - earlier_end >= cadence


async def test_demo_pace_holds_and_no_mailbox_lags(world: World, house: House) -> None:
    await mailboxes(world, house, 1, 2, 3, 4)
    world.campaign()
    await house.enroll(*leads(world, 20))
    async with running(house), sending(Sender(world, house)) as sender:
        await until(
            lambda: world.one("SELECT count(*) FROM send_job WHERE state = 'sent'") == 20,
            within_s=30,
        )
    assert_limits(world)
    # A stand-in on a busy machine can miss 50 ms of grace; nothing else may go wrong.
    assert set(sender.refused) <= {"too_late"}
    assert len({mailbox for (mailbox,) in world.sql("SELECT mailbox_id FROM slot")}) == 4
    gaps = world.sql(
        "SELECT slot_at - lag(slot_at) OVER (PARTITION BY mailbox_id ORDER BY slot_at) FROM slot"
    )
    known = sorted(gap for (gap,) in gaps if gap is not None)
    assert known[len(known) // 2] < timedelta(seconds=1.5), "the pace itself is kept"
    ahead = world.sql("SELECT slot_at - reserved_at FROM slot")
    assert sorted(one for (one,) in ahead)[0] >= timedelta(milliseconds=150)
    assert world.one("SELECT max(outstanding) FROM mailbox_budget") == 0


async def test_follow_up_goes_from_the_mailbox_of_step_1_after_its_delay(
    world: World, house: House
) -> None:
    await mailboxes(world, house, 1, 2, 3)
    world.campaign(delays_s=(0, 1))
    await house.enroll(*leads(world, 6))
    async with running(house), sending(Sender(world, house)):
        told: set[int] = set()

        async def relay() -> bool:
            done = [
                job for (job,) in world.sql("SELECT job_id FROM send_job WHERE state = 'sent'")
                if job not in told
            ]  # fmt: skip
            for job in done:
                told.add(job)
                await house.handle(house.outcomes.sent, sent_event(world, job))
            return len(told) == 12

        await until(relay, "all sent and told", within_s=40)
    assert world.sql("SELECT DISTINCT state, reason FROM enrollment") == [
        ("finished", "sequence_finished")
    ]
    pairs = world.sql(
        "SELECT a.mailbox_id = b.mailbox_id, b.due_at - a.slot_at, b.slot_at >= b.due_at"
        " FROM send_job a JOIN send_job b USING (enrollment_id) WHERE a.step = 1 AND b.step = 2"
    )
    assert len(pairs) == 6
    for same, delay, due in pairs:
        assert same
        assert delay >= timedelta(seconds=1)
        assert due
    assert_limits(world)


async def test_repeated_sent_event_makes_one_follow_up(world: World, house: House) -> None:
    world.mailbox(1)
    world.campaign(delays_s=(0, 60))
    world.reserved(1)
    world.sql("UPDATE send_job SET state = 'sending'")
    world.sql("UPDATE send_job SET state = 'sent'")
    event = sent_event(world, 1)
    for _ in range(2):
        await house.handle(house.outcomes.sent, event)
    assert world.sql(
        "SELECT step, state, sticky, mailbox_id, pool_id FROM send_job ORDER BY step"
    ) == [(1, "sent", False, 1, 1), (2, "queued", True, 1, 1)]


@pytest.mark.parametrize("stop", ["bounced", "replied"])
async def test_stop_event_cancels_the_open_next_job(world: World, house: House, stop: str) -> None:
    world.mailbox(1)
    world.campaign(delays_s=(0, 60))
    world.reserved(1)
    world.sql("UPDATE send_job SET state = 'sending'")
    world.sql("UPDATE send_job SET state = 'sent'")
    await house.handle(house.outcomes.sent, sent_event(world, 1))
    common: dict[str, Any] = {
        "workspace_id": ids.encode("ws", WS),
        "job_id": ids.encode("job", 1),
        "mailbox_id": ids.encode("mbx", 1),
        "enrollment_id": ids.encode("enr", 1),
    }
    now = datetime.now(UTC)
    if stop == "bounced":
        body: events.Event = events.Bounced(
            **common, bounce_class="soft", source="dsn", occurred_at=now
        )
        await house.handle(house.outcomes.bounced, world.delivery(body))
    else:
        body = events.Replied(**common, inbound_id="inb_1", received_at=now)
        await house.handle(house.outcomes.replied, world.delivery(body))
    assert world.one("SELECT state FROM enrollment") == stop
    assert world.sql("SELECT state FROM send_job ORDER BY step") == [("sent",), ("cancelled",)]
    (finished,) = world.outbox("enrollment-finished")
    assert finished.state == stop


async def test_a_job_in_doubt_is_the_senders_issue_alone(world: World, house: House) -> None:
    world.reserved(1)
    body = events.SendInDoubt(
        workspace_id=ids.encode("ws", WS),
        job_id=ids.encode("job", 1),
        mailbox_id=ids.encode("mbx", 1),
        enrollment_id=ids.encode("enr", 1),
        message_id="<m@sender.test>",
        since=datetime.now(UTC),
    )
    await house.handle(house.outcomes.in_doubt, world.delivery(body))
    assert world.outbox("issue-raised") == []


async def test_stop_event_that_cannot_be_handled_holds_its_enrollment(
    world: World, house: House
) -> None:
    world.reserved(1)
    delivery = world.delivery(
        events.AuditRecorded(
            workspace_id=ids.encode("ws", WS), action="x", actor="x", subject="x",
            at=datetime.now(UTC),
        ),
        topic="replied",
        key=ids.encode("enr", 1),
    )  # fmt: skip
    async with house.db.transaction([WS]) as tx:
        await house.outcomes.suspend_unhandled(tx, delivery)
    assert world.one("SELECT scope, ref, reason FROM suspension") == (
        "enrollment", 1, "unhandled_replied",
    )  # fmt: skip
    assert world.one("SELECT state FROM send_job") == "queued"


def lie(world: World, mailbox: int) -> MailboxRecord:
    """Return what somebody may have edited Redis to say: no cap, no cadence, always open."""
    klass = class_of(7, 0, None, [70])
    lane = world.one("SELECT lanes FROM shard WHERE workspace_id = %s", WS).index([1, klass])
    places = (Place(lane, 1, "next_in_line"),)
    return MailboxRecord(mailbox, 0, 0, 0, 0, 0, 50, 250, 0, 2**43, 999, klass, places)


async def test_daily_cap_holds_whatever_redis_says(world: World, house: House) -> None:
    await mailboxes(world, house, 1, cadence_s=0.1, jitter_s=[0.05, 0.06], daily_cap=3)
    world.campaign()
    await house.enroll(*leads(world, 10))
    async with running(house), sending(Sender(world, house)):
        used = "SELECT count(*) FROM slot WHERE returned_at IS NULL"
        await until(lambda: world.one(used) == 3)
        record = lie(world, 1)
        for _ in range(5):
            await house.store.set_mailboxes(WS, [record])
            house.pacer._due[WS] = 0
            house.pacer.wake.set()
            await asyncio.sleep(0.1)
    assert world.one(used) == world.one("SELECT day_used FROM mailbox_budget") == 3
    assert world.one("SELECT count(*) FROM send_job WHERE state = 'queued'") == 7


async def test_closed_window_sends_nothing_and_keeps_its_leads(world: World, house: House) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=2)).weekday()
    await mailboxes(
        world, house, 1, windows=[{"days": [tomorrow], "start": "09:00", "end": "17:00"}]
    )
    world.campaign()
    await house.enroll(*leads(world, 3))
    async with running(house):
        await until(lambda: world.one("SELECT count(*) FROM pace_change") == 0)
        record = lie(world, 1)
        await house.store.set_mailboxes(WS, [record])
        house.pacer._due[WS] = 0
        await asyncio.sleep(0.5)
    assert world.one("SELECT count(*) FROM slot") == 0
    assert world.one("SELECT count(*) FROM send_job WHERE state = 'queued'") == 3


async def test_flushed_redis_is_rebuilt_without_a_slot_too_many(world: World, house: House) -> None:
    await mailboxes(world, house, 1, 2)
    world.campaign()
    await house.enroll(*leads(world, 8))
    async with running(house), sending(Sender(world, house)):
        await until(lambda: world.one("SELECT count(*) FROM slot") >= 3)
        async with Redis.from_url(world.stack.redis.url()) as admin:
            await admin.flushall()
        await until(
            lambda: world.one("SELECT count(*) FROM send_job WHERE state = 'sent'") == 8,
            within_s=30,
        )
    assert_limits(world)
    assert world.one("SELECT count(*) FROM slot WHERE returned_at IS NULL") == 8
    assert world.one("SELECT epoch FROM shard") >= 2


async def test_proposal_of_an_older_epoch_is_refused(world: World, house: House) -> None:
    await mailboxes(world, house, 1)
    world.campaign()
    await house.enroll(*leads(world, 1))
    await house.state.rebuild(WS)
    batch = await house.store.reserve(WS, [0.5], [0.5])
    assert batch is not None
    (proposed,) = batch.proposals
    world.sql("UPDATE mailbox_budget SET epoch = epoch + 1")
    assert await reason_of(house, proposed, batch.epoch) == "epoch"
    assert world.one("SELECT state FROM send_job") == "queued"
    assert world.one("SELECT count(*) FROM slot") == 0
    assert world.outbox("send-scheduled") == []


def proposal(job: int, slot_ms: int, mailbox: int = 1) -> Proposal:
    return Proposal(mailbox, job, 5, 1, slot_ms, slot_ms + 50, False, 0, 0)


async def reason_of(house: House, proposal: Proposal, epoch: int) -> str | None:
    async with house.db.transaction(worker=True) as tx:
        rows = await tx.execute(
            house.queries["reserve_slots"],
            {
                "workspaces": [WS],
                "epochs": [epoch],
                "mailboxes": [proposal.mailbox_id],
                "jobs": [proposal.job_id],
                "pools": [proposal.pool_id],
                "slots": [proposal.slot_ms],
                "not_afters": [proposal.not_after_ms],
                "draws": [0.5],
            },
        )
        row = rows.one_or_none()
        return None if row is None else str(row.reason)


async def test_postgres_refuses_each_lie_by_name(world: World, house: House) -> None:
    await mailboxes(world, house, 1)
    world.campaign()
    await house.enroll(*leads(world, 1))
    await house.state.rebuild(WS)
    epoch = world.one("SELECT epoch FROM mailbox_budget")
    job = world.one("SELECT job_id FROM send_job")

    async def verdict(change: str, back: str, ahead_ms: int = 500) -> str | None:
        world.sql(f"UPDATE mailbox_budget SET {change}")
        slot = await house.store.now_ms() + ahead_ms
        found = await reason_of(house, proposal(job, slot), epoch)
        world.sql(f"UPDATE mailbox_budget SET {back}")
        return found

    assert await verdict("outstanding = 1", "outstanding = 0") == "outstanding"
    assert await verdict("next_at = now() + interval '1 h'", "next_at = '-infinity'") == "cadence"
    assert await verdict("day_cap = 0", "day_cap = NULL") == "daily_cap"
    assert (
        await verdict(
            "hour_cap = 1, hour_used = 1, hour = date_trunc('hour', now() + interval '0.5 s')",
            "hour_cap = NULL, hour_used = 0",
        )
        == "hourly_cap"
    )
    assert (
        await verdict(
            "open_until = now(), open_from = now() - interval '1 s'",
            "open_from = '-infinity', open_until = 'infinity'",
        )
        == "stretch"
    )
    assert await verdict("is_active = false", "is_active = true") == "mailbox_inactive"
    # A clock ten minutes fast, and one that stepped back.
    assert await verdict("tz = tz", "tz = tz", ahead_ms=600_000) == "clock"
    assert await verdict("tz = tz", "tz = tz", ahead_ms=-600_000) == "job"
    world.sql("UPDATE send_job SET due_at = now() - interval '1 h'")
    assert await verdict("tz = tz", "tz = tz", ahead_ms=-600_000) == "clock"
    world.sql(
        "INSERT INTO suspension (workspace_id, scope, ref, reason, opened_by)"
        " VALUES (%s, 'campaign', 5, 'paused', 'x')",
        WS,
    )
    assert await verdict("tz = tz", "tz = tz") == "suspended:campaign"
    world.sql("DELETE FROM suspension")
    assert world.one("SELECT count(*) FROM slot") == 0
    assert await verdict("tz = tz", "tz = tz") is None
    assert await verdict("tz = tz", "tz = tz") == "job", "leased once"
    assert world.one("SELECT count(*) FROM slot") == 1
    (scheduled,) = world.outbox("send-scheduled")
    assert scheduled.job_id == ids.encode("job", job)
    assert scheduled.not_after - scheduled.slot_at == timedelta(milliseconds=50)


async def test_day_is_the_mailboxes_own(world: World, house: House) -> None:
    await mailboxes(world, house, 1)
    world.campaign()
    await house.enroll(*leads(world, 1))
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        world.sql(
            "UPDATE mailbox_budget SET tz = %s, day = '-infinity', day_used = 0, outstanding = 0,"
            " next_at = '-infinity', open_from = '-infinity'",
            zone,
        )
        world.sql(
            "UPDATE send_job SET state = 'queued', mailbox_id = NULL, pool_id = NULL,"
            " slot_at = NULL, not_after = NULL, fence = fence + 1"
        )
        epoch, job = world.one("SELECT b.epoch, j.job_id FROM mailbox_budget b, send_job j")
        slot = await house.store.now_ms() + 500
        assert await reason_of(house, proposal(job, slot), epoch) is None
        assert world.one(
            "SELECT day = (slot_at AT TIME ZONE %s)::date FROM slot ORDER BY fence DESC LIMIT 1",
            zone,
        )


async def test_unclaimed_lease_returns_with_its_capacity(world: World, house: House) -> None:
    world.reserved(2, slot="clock_timestamp() - interval '9 s'", grace="1 s")
    world.sql("UPDATE send_job SET not_after = clock_timestamp() WHERE job_id = 2")
    await house.pacer.sweep()
    assert world.sql("SELECT state, fence, reason FROM send_job ORDER BY job_id") == [
        ("queued", 2, "lease_expired"), ("reserved", 1, None),
    ]  # fmt: skip
    assert world.sql("SELECT outstanding, day_used FROM mailbox_budget ORDER BY mailbox_id") == [
        (0, 0), (1, 1),
    ]  # fmt: skip
    assert world.one("SELECT jobs FROM pace_change WHERE jobs IS NOT NULL") == [1]


async def test_paused_campaign_leaves_rotation_and_resumes_in_place(
    world: World, house: House
) -> None:
    await mailboxes(world, house, 1, cadence_s=0.2, jitter_s=[0.05, 0.06])
    world.campaign(5)
    world.campaign(6)
    await house.enroll(*leads(world, 12))
    await house.enroll(*(world.lead(f"other{n}@x.test", campaign=6) for n in range(12)))

    def count(campaign: int) -> int:
        return int(
            world.one(
                "SELECT count(*) FROM send_job WHERE campaign_id = %s AND state = 'sent'", campaign
            )
        )

    with world.login("gateway") as gateway:
        async with running(house), sending(Sender(world, house)):
            await until(lambda: count(5) >= 1 and count(6) >= 1)
            await asyncio.to_thread(
                gateway.execute,
                "SELECT scheduler.suspend(%s, 'campaign', 5, 'paused', NULL, 'tests', NULL)",
                (WS,),
            )
            paused_at = count(5)
            moved = count(6)
            await until(lambda: count(6) >= moved + 4)
            assert count(5) <= paused_at + 1, "one submission may have been under way"
            await asyncio.to_thread(
                gateway.execute,
                "SELECT scheduler.resume(%s, 'campaign', 5, 'paused', 'tests')",
                (WS,),
            )
            await until(lambda: count(5) == 12 and count(6) == 12, within_s=30)
    assert_limits(world, timedelta(milliseconds=200))


async def test_suspended_mailbox_waits_and_returns_by_itself(world: World, house: House) -> None:
    await mailboxes(world, house, 1, cadence_s=0.2, jitter_s=[0.05, 0.06])
    world.campaign()
    await house.enroll(*leads(world, 6))
    with world.login("sender") as sender:
        async with running(house), sending(Sender(world, house)):
            await until(lambda: world.one("SELECT count(*) FROM slot") >= 1)
            back = datetime.now(UTC) + timedelta(seconds=2)
            await asyncio.to_thread(
                sender.execute,
                "SELECT scheduler.suspend(%s, 'mailbox', 1, 'cooldown', %s, 'tests', NULL)",
                (WS, back),
            )
            held = datetime.now(UTC)
            await until(
                lambda: world.one("SELECT count(*) FROM send_job WHERE state = 'sent'") == 6,
                within_s=20,
            )
    between = world.sql(
        "SELECT 1 FROM slot WHERE returned_at IS NULL AND slot_at > %s AND slot_at < %s",
        held + timedelta(milliseconds=300),
        back,
    )
    assert between == []


async def test_stopped_campaign_ends_its_enrollments(world: World, house: House) -> None:
    await mailboxes(world, house, 1)
    world.campaign()
    await house.enroll(*leads(world, 5))
    world.sql("UPDATE gateway.campaign SET status = 'stopped'")
    await house.handle(
        house.changes.campaign_changed,
        world.delivery(
            events.CampaignChanged(
                workspace_id=ids.encode("ws", WS),
                campaign_id=ids.encode("cmp", 5),
                version=2,
                status="stopped",
            )
        ),
    )
    task = asyncio.create_task(house.settler.run())
    await until(lambda: world.one("SELECT count(*) FROM enrollment WHERE state = 'active'") == 0)
    task.cancel()
    assert world.sql("SELECT DISTINCT state, reason FROM send_job") == [
        ("cancelled", "campaign_stopped")
    ]
    assert len(world.outbox("enrollment-finished")) == 5


async def test_mailbox_whose_test_fails_is_held_until_the_same_leg_passes(
    world: World, house: House
) -> None:
    await mailboxes(world, house, 1)

    async def probe(leg: Any, ok: bool) -> None:
        body = events.MailboxProbed(
            workspace_id=ids.encode("ws", WS), mailbox_id=ids.encode("mbx", 1), leg=leg, ok=ok,
            probed_at=datetime.now(UTC),
        )  # fmt: skip
        await house.handle(house.changes.mailbox_probed, world.delivery(body))

    def open_reasons() -> list[str]:
        return [r for (r,) in world.sql("SELECT reason FROM suspension WHERE closed_at IS NULL")]

    await probe("send", False)
    await probe("read", True)
    assert open_reasons() == ["probe_send_failed"]
    await probe("send", True)
    assert open_reasons() == []


async def test_two_pacers_lease_each_job_once(world: World, house: House) -> None:
    await mailboxes(world, house, *range(1, 9), cadence_s=0.3, jitter_s=[0.05, 0.1])
    world.campaign()
    await house.enroll(*leads(world, 40))
    other = furnish(house.db, house.redis, seed=2)
    async with running(house), running(other), sending(Sender(world, house)):
        await until(
            lambda: world.one("SELECT count(*) FROM send_job WHERE state = 'sent'") == 40,
            within_s=40,
        )
    assert_limits(world, timedelta(milliseconds=300))
    assert world.one("SELECT count(*) FROM slot WHERE returned_at IS NULL") == 40
