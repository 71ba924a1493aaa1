"""Health on the real parts: what sends and bounces make of a mailbox, told once, and cooldown."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from tests.integration.bounce.test_classify import rejected, report, store
from tests.integration.reply.world import World

from paceline_bounce import consumers
from paceline_bounce.classify import Classifier
from paceline_bounce.health import Counted, Health, Hold, Volume
from paceline_common import events, ids
from paceline_common.clock import ManualClock
from paceline_common.db import Database
from paceline_common.kafka.subscribe import Delivery

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def deliveries(world: World, number: int, at: datetime) -> list[Delivery[Any]]:
    workspace = ids.encode("ws", world.workspace_id)
    bodies = [
        events.Sent(
            workspace_id=workspace,
            job_id=ids.encode("job", n + 1),
            mailbox_id=ids.encode("mbx", world.mailbox_id),
            message_id=f"<{n}@north.test>",
            provider="smtp",
            sent_at=at,
        )
        for n in range(number)
    ]
    return [
        Delivery(
            topic="sent", partition=0, offset=n, key="k", event_id=str(uuid.uuid4()), source="s",
            workspace_id=world.workspace_id, time=at, body=body, digest=b"",
        )
        for n, body in enumerate(bodies)
    ]  # fmt: skip


async def send(health: Health, db: Database, world: World, number: int, at: datetime) -> None:
    async with db.transaction([world.workspace_id]) as tx:
        await consumers.sent(health).handler(tx, deliveries(world, number, at))


async def record(
    health: Health,
    db: Database,
    world: World,
    *volumes: Volume,
    at: datetime,
    refused: bool = False,
) -> None:
    """Count something that no event brings yet, or that comes in other ways as well."""
    async with db.transaction([world.workspace_id]) as tx:
        await health.record(
            tx,
            [
                Counted(world.workspace_id, world.mailbox_id, one, at, refused=refused)
                for one in volumes
            ],
        )


async def view(db: Database, world: World) -> Any:
    """The published row, as bounce's own login sees it."""
    async with db.transaction([world.workspace_id]) as tx:
        found = await tx.execute(text("SELECT * FROM bounce.v_mailbox_health"))
        return found.mappings().one()


def told(world: World) -> list[tuple[int, int | None, int]]:
    return [
        (one.version, one.score, one.stage)
        for one in world.events("mailbox-health-changed", "bounce")
    ]


def cooldowns(world: World) -> list[tuple[datetime, str, str]]:
    return [
        (row["until"], row["opened_by"], row["detail"])
        for row in world.rows(
            "SELECT until, opened_by, detail FROM scheduler.suspension WHERE workspace_id = %s"
            " AND (scope, ref, reason) = ('mailbox', %s, 'cooldown') AND closed_at IS NULL",
            world.workspace_id, world.mailbox_id,
        )
    ]  # fmt: skip


def expire(world: World) -> None:
    """Let the open suspensions run out, as a day does."""
    world.rows(
        "UPDATE scheduler.suspension SET until = opened_at WHERE workspace_id = %s",
        world.workspace_id,
    )


async def test_twenty_clean_sends_make_a_mailbox_known_at_about_85(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    await send(health, db, world, 19, clock.now())
    row = await view(db, world)
    assert (row["overall_score"], row["current_stage"], row["version"]) == (None, 1, 1)

    clock.advance(HOUR / 60)
    await send(health, db, world, 1, clock.now())

    row = await view(db, world)
    assert (row["overall_score"], row["current_stage"], row["version"]) == (85, 1, 2)
    assert (row["bounce_rate_7d"], row["complaint_rate_7d"]) == (0, 0)
    assert (row["reputation_score"], row["daily_send_limit"]) == (None, None)
    assert row["warmup_progress"] == 0
    assert row["updated_at"] == clock.now()
    assert told(world) == [(1, None, 1), (2, 85, 1)]
    last = world.events("mailbox-health-changed", "bounce")[-1]
    assert last.mailbox_id == ids.encode("mbx", world.mailbox_id)
    assert last.changed_at == clock.now()


async def test_hard_bounces_drop_it_once_however_often_they_are_delivered(
    classifier: Classifier, health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    await send(health, db, world, 98, clock.now())
    before = told(world)
    refusals = [rejected(world, await world.sent()) for _ in range(2)]

    for batch in (refusals, refusals, [refusals[0]]):
        async with db.transaction([world.workspace_id]) as tx:
            await classifier.refused(tx, batch)

    assert before[-1][1:] == (91, 2)
    # 2 of 100 hard: 2.5/200 costs 12.5; stage 2 stays, for 70 is enough.
    assert told(world) == [*before, (before[-1][0] + 1, 81, 2)]
    row = await view(db, world)
    assert row["bounce_rate_7d"] == 0.02
    assert row["version"] == before[-1][0] + 1


async def test_the_same_sent_event_again_counts_once(
    db: Database, health: Health, clock: ManualClock, world: World
) -> None:
    # The wrapper drops what its inbox knows: this subscription must ask for it.
    assert consumers.sent(health).dedupe


async def test_nothing_is_told_when_nothing_changed(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    await send(health, db, world, 1_000, clock.now())
    before = told(world)

    await send(health, db, world, 1, clock.now())

    assert told(world) == before


async def test_a_report_and_a_refusal_count_once_each_in_their_columns(
    classifier: Classifier, health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    sents = [await world.sent() for _ in range(3)]
    await send(health, db, world, 2, clock.now())
    returned = store(world, world.sample("dsn-postfix-unknown-user", sents[0]))
    await report(classifier, db, world, returned)
    await report(classifier, db, world, returned)
    async with db.transaction([world.workspace_id]) as tx:
        await classifier.refused(
            tx, [rejected(world, sents[1], "block"), rejected(world, sents[2], "auth")]
        )

    totals = world.one(
        "SELECT sum(sent) AS sent, sum(hard) AS hard, sum(block) AS block, sum(soft) AS soft,"
        " sum(other) AS other, sum(limited) AS limited, sum(refused) AS refused"
        " FROM bounce.mailbox_day WHERE workspace_id = %s",
        world.workspace_id,
    )
    assert totals == {
        "sent": 2, "hard": 1, "block": 1, "soft": 0, "other": 1, "limited": 0, "refused": 1,
    }  # fmt: skip
    kept = world.one(
        "SELECT delivered, recent_sends FROM bounce.mailbox_health WHERE workspace_id = %s",
        world.workspace_id,
    )
    # Two accepted, one of them returned; the refused block is a send as well.
    assert kept == {"delivered": 1, "recent_sends": 3}


async def test_refusals_are_sends_that_make_a_mailbox_known_but_deliver_nothing(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    soft: Sequence[Volume] = ["soft"] * 20
    await record(health, db, world, *soft, at=clock.now(), refused=True)

    assert told(world) == [(1, 85, 0)]


async def test_five_hard_refusals_cool_the_mailbox_down(
    classifier: Classifier, clock: ManualClock, db: Database, world: World
) -> None:
    refusals = [rejected(world, await world.sent()) for _ in range(5)]
    async with db.transaction([world.workspace_id]) as tx:
        await classifier.refused(tx, refusals[:4])
    assert cooldowns(world) == []

    async with db.transaction([world.workspace_id]) as tx:
        await classifier.refused(tx, refusals)

    detail = "5 hard bounces within the last 50 sends"
    assert cooldowns(world) == [(clock.now() + DAY, "bounce", detail)]
    assert len(world.suppressed()) == 5


async def test_a_share_of_a_day_cools_down_at_the_send_that_makes_it_one(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    await record(health, db, world, "hard", "hard", at=clock.now(), refused=True)
    await send(health, db, world, 17, clock.now())
    assert cooldowns(world) == []

    await send(health, db, world, 1, clock.now())

    assert cooldowns(world) == [
        (clock.now() + DAY, "bounce", "2 of 20 sends of 24 hours bounced hard")
    ]


async def test_cooldown_doubles_and_late_reports_neither_double_nor_shorten_it(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    five: Sequence[Volume] = ["hard"] * 5
    await record(health, db, world, *five, at=clock.now(), refused=True)
    first = cooldowns(world)
    assert first[0][0] == clock.now() + DAY

    clock.advance(HOUR)
    await record(health, db, world, *five, at=clock.now())  # on what went out before
    await record(health, db, world, *five, at=clock.now() - 2 * HOUR, refused=True)
    assert cooldowns(world) == first

    clock.advance(DAY)
    expire(world)
    await record(health, db, world, *five, at=clock.now(), refused=True)
    second = cooldowns(world)
    assert second[0][0] == clock.now() + 2 * DAY

    # A complaint's day ends earlier: the longer one holds.
    await record(health, db, world, "complaint", at=clock.now())
    assert cooldowns(world) == second


async def test_a_complaint_cools_down_for_a_day(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    await send(health, db, world, 100, clock.now())

    await record(health, db, world, "complaint", at=clock.now())

    assert cooldowns(world) == [(clock.now() + DAY, "bounce", "a recipient complained")]
    row = await view(db, world)
    assert row["complaint_rate_7d"] == 0.01
    assert row["overall_score"] == 36  # 60 for the complaint, 4 for what is not known yet


async def test_a_mailbox_recovers_as_days_leave_its_window_and_an_event_tells_it(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    start = clock.now()
    await send(health, db, world, 40, start)
    four: Sequence[Volume] = ["block"] * 4
    await record(health, db, world, *four, at=start, refused=True)
    low = told(world)[-1]
    clock.advance(DAY)
    await send(health, db, world, 20, clock.now())
    assert await due(health, db, world) is False

    before = told(world)[-1]
    clock.advance(start.replace(hour=0, minute=0, second=0, microsecond=0) + 14 * DAY - clock.now())
    assert await due(health, db, world)

    after = told(world)[-1]
    assert (low[1], before[1]) < (after[1], after[1])
    assert after == (before[0] + 1, 85, 2)
    assert (await view(db, world))["overall_score"] == 85

    # Nothing left in the window: unknown again, not 0 or 100; then nothing moves any more.
    clock.advance(DAY)
    assert await due(health, db, world)
    assert told(world)[-1] == (after[0] + 1, None, 2)
    clock.advance(30 * DAY)
    assert await due(health, db, world)
    assert await due(health, db, world) is False
    assert told(world)[-1][0] == after[0] + 1


async def look(health: Health, db: Database, world: World) -> None:
    """Have the mailbox's event read, as after a change of its settings."""
    changed = events.MailboxChanged(
        workspace_id=ids.encode("ws", world.workspace_id),
        mailbox_id=ids.encode("mbx", world.mailbox_id),
        version=2,
    )
    delivery: Delivery[Any] = Delivery(
        topic="mailbox-changed", partition=0, offset=0, key="k", event_id=str(uuid.uuid4()),
        source="s", workspace_id=world.workspace_id, time=datetime.now(UTC), body=changed,
        digest=b"",
    )  # fmt: skip
    async with db.transaction([world.workspace_id]) as tx:
        await consumers.mailbox_changed(health).handler(tx, [delivery])


async def test_an_attested_mailbox_begins_at_stage_3_and_one_early_bounce_costs_it_nothing(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    world.set_policy()
    await record(health, db, world, "hard", at=clock.now(), refused=True)
    await send(health, db, world, 9, clock.now())

    assert told(world) == [(1, None, 3)]


async def test_an_attested_mailbox_falls_by_its_rates_and_is_back_when_they_left_the_window(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    world.set_policy(cooldown=False)
    start = clock.now()
    await send(health, db, world, 10, start)
    three: Sequence[Volume] = ["hard"] * 3
    await record(health, db, world, *three, at=start)
    assert told(world) == [(1, None, 3), (2, None, 2)]

    clock.advance(DAY - HOUR)
    await record(health, db, world, "hard", at=clock.now())
    assert told(world)[-1] == (2, None, 2)

    # A fortnight of silence: nothing speaks against it any more.
    clock.advance(15 * DAY)
    assert await due(health, db, world)
    assert told(world) == [(1, None, 3), (2, None, 2), (3, None, 3)]


async def test_an_attestation_counts_from_its_event_on_and_so_does_its_withdrawal(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    await look(health, db, world)
    assert told(world) == []
    await send(health, db, world, 60, clock.now())
    known = told(world)[-1]
    assert known[2] == 2

    world.set_policy(attested=True)
    await look(health, db, world)
    await look(health, db, world)
    assert told(world)[-1] == (known[0] + 1, known[1], 3)

    world.set_policy(attested=False)
    await look(health, db, world)
    assert told(world)[-1] == (known[0] + 2, known[1], 2)


async def test_where_cooldown_is_off_none_starts_and_all_else_goes_on(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    world.set_policy(attested=False, cooldown=False)
    five: Sequence[Volume] = ["hard"] * 5
    await send(health, db, world, 15, clock.now())
    await record(health, db, world, *five, at=clock.now(), refused=True)
    await record(health, db, world, "complaint", at=clock.now())

    assert cooldowns(world) == []
    assert told(world) == [(1, None, 1), (2, 43, 1), (3, 0, 1)]
    kept = world.one(
        "SELECT recent_sends, cardinality(recent_hard) AS hard, cooldown_since"
        " FROM bounce.mailbox_health WHERE workspace_id = %s",
        world.workspace_id,
    )
    assert kept == {"recent_sends": 20, "hard": 5, "cooldown_since": None}

    # Switched on, it rests upon what it has counted.
    world.set_policy(attested=False)
    await send(health, db, world, 1, clock.now())
    assert cooldowns(world) == [
        (clock.now() + DAY, "bounce", "5 hard bounces within the last 50 sends")
    ]


async def test_a_hold_for_the_providers_limit_is_no_cooldown(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    world.set_policy(cooldown=False)
    until = clock.now() + DAY
    hold = Hold(world.workspace_id, world.mailbox_id, "provider_limit", until, None)
    async with db.transaction([world.workspace_id]) as tx:
        await health.record(tx, [], [hold])

    opened = world.one(
        "SELECT reason, until FROM scheduler.suspension WHERE workspace_id = %s",
        world.workspace_id,
    )
    assert opened == {"reason": "provider_limit", "until": until}


async def due(health: Health, db: Database, world: World) -> bool:
    """Recompute all that is due; tell whether the world's mailbox was."""
    before = (await view(db, world))["updated_at"]
    while await health.recompute(db):
        pass
    return bool((await view(db, world))["updated_at"] != before)


async def test_mailboxes_of_two_workspaces_in_one_batch_keep_to_themselves(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    other = await World.create(world.stack, world.sql, world.gateway_keys, world.sender_keys)
    async with db.transaction([world.workspace_id, other.workspace_id]) as tx:
        await consumers.sent(health).handler(
            tx, [*deliveries(other, 30, clock.now()), *deliveries(world, 20, clock.now())]
        )

    assert (await view(db, world))["overall_score"] == 85
    assert (await view(db, other))["overall_score"] == 86
    assert told(world) == [(1, 85, 1)]
    assert told(other) == [(1, 86, 3)]  # attested, as it is unless somebody says otherwise
    other.close()


async def test_two_consumers_of_one_mailbox_lose_no_count(
    health: Health, clock: ManualClock, db: Database, world: World
) -> None:
    await asyncio.gather(
        *(send(health, db, world, 10, clock.now()) for _ in range(4)),
        *(record(health, db, world, "block", at=clock.now(), refused=True) for _ in range(4)),
    )

    kept = world.one(
        "SELECT recent_sends, delivered, version FROM bounce.mailbox_health"
        " WHERE workspace_id = %s",
        world.workspace_id,
    )
    assert (kept["recent_sends"], kept["delivered"]) == (44, 40)
    assert [version for version, _, _ in told(world)] == list(range(1, kept["version"] + 1))
