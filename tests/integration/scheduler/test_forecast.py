"""Forecasts of what lies in Postgres, through the route."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.integration.scheduler.conftest import DEMO_POLICY, WS, House, World

from paceline_common import ids
from paceline_common.http import Problem
from paceline_scheduler import forecast

MINUTE: dict[str, Any] = {**DEMO_POLICY, "cadence_s": 60, "jitter_s": [0, 0], "grace_s": 0}


@pytest.fixture
async def ask(house: House) -> AsyncIterator[Any]:
    app = FastAPI()
    app.include_router(forecast.router(house.db, house.queries))
    app.add_exception_handler(Problem, lambda _request, problem: problem.response())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://scheduler") as client:

        async def post(campaign: int = 5, **question: Any) -> httpx.Response:
            body = {"campaign_id": ids.encode("cmp", campaign), "seeds": 3, **question}
            return await client.post(f"/forecast/{ids.encode('ws', WS)}", json=body)

        yield post


async def ready(world: World, house: House, mailboxes: int = 2, **campaign: Any) -> None:
    for number in range(1, mailboxes + 1):
        world.mailbox(number, policy=MINUTE)
    world.campaign(**campaign)
    async with house.db.transaction([WS]) as tx:
        await house.mailboxes.refresh(tx, None)


async def test_queued_leads_are_spread_over_the_mailboxes(
    world: World, house: House, ask: Any
) -> None:
    await ready(world, house)
    await house.enroll(*(world.lead(f"l{n}@x.test") for n in range(10)))
    started = datetime.now(UTC)
    answer = (await ask()).raise_for_status().json()
    finish = datetime.fromisoformat(answer["finish"]["p50"])
    assert timedelta(minutes=3) < finish - started < timedelta(minutes=6)
    counts = {(one["mailbox_id"], one["count"]) for one in answer["days"]}
    assert counts == {(ids.encode("mbx", 1), 5), (ids.encode("mbx", 2), 5)}
    assert answer["bottleneck"] == "cadence"


async def test_a_dry_run_of_a_draft_with_changes(world: World, house: House, ask: Any) -> None:
    await ready(world, house, 1, status="draft", delays_s=(0, 86_400))
    caps = {"*": {"daily_cap": 10}}
    answer = (await ask(what_if={"leads": 30, "add_mailboxes": 1, "caps": caps})).json()
    assert {one["mailbox_id"] for one in answer["days"]} == {ids.encode("mbx", 1), "new_1"}
    assert sum(one["count"] for one in answer["days"]) == 60
    assert all(one["count"] <= 10 for one in answer["days"])
    assert answer["bottleneck"] == "daily_cap"


async def test_a_scheduled_campaign_is_foretold_from_its_start_and_competes_from_then(
    world: World, house: House, ask: Any
) -> None:
    await ready(world, house, 1, status="draft")
    world.campaign(6)
    await house.enroll(*(world.lead(f"l{n}@x.test") for n in range(5)))
    await house.enroll(*(world.lead(f"m{n}@x.test", campaign=6) for n in range(8)))
    world.sql(
        "INSERT INTO suspension (workspace_id, scope, ref, reason, opened_by)"
        " VALUES (%s, 'campaign', 5, 'not_started', 'tests')",
        WS,
    )

    async def foretold(hours: int) -> tuple[float, float]:
        now = datetime.now(UTC)
        world.sql(
            "UPDATE gateway.campaign SET status = 'scheduled', start_at = %s"
            " WHERE (workspace_id, campaign_id) = (%s, 5)",
            now + timedelta(hours=hours),
            WS,
        )
        answers = [(await ask(campaign)).raise_for_status().json() for campaign in (5, 6)]
        finishes = [datetime.fromisoformat(one["finish"]["p50"]) - now for one in answers]
        return finishes[0] / timedelta(minutes=1), finishes[1] / timedelta(minutes=1)

    ours, other = await foretold(2)
    assert 124 < ours < 125
    assert 7 < other < 8, "nobody in its way"
    ours, other = await foretold(0)
    assert 8 < ours < 11, "either may have the first turn"
    assert 12 < other < 13, "both take turns"


async def test_many_jobs_are_counted_not_listed(world: World, house: House) -> None:
    await ready(world, house)
    world.reserved(3)
    world.sql(
        "INSERT INTO enrollment (workspace_id, enrollment_id, campaign_id, lead_id, address_id,"
        " domain_id) OVERRIDING SYSTEM VALUE"
        " SELECT workspace_id, 1000 + n, 100 + n, lead_id, address_id, domain_id"
        " FROM enrollment, generate_series(1, 30000) n WHERE enrollment_id = 1"
    )
    world.sql(
        "INSERT INTO send_job (workspace_id, enrollment_id, campaign_id, step, due_at, sticky,"
        " mailbox_id, pool_id) SELECT %s, 1000 + n, 5, 2, now() + n * interval '1 s', n %% 3 = 0,"
        " CASE WHEN n %% 3 = 0 THEN 1 END, 1 FROM generate_series(1, 30000) n",
        WS,
    )
    async with house.db.transaction([WS]) as tx:
        loaded = await forecast.load_snapshot(tx, house.queries, WS, 5)
    assert loaded is not None
    (campaign,) = loaded[0].campaigns
    assert sum(one.count for one in campaign.waiting) == 30_003
    assert sum(one.count for one in campaign.waiting if one.is_sent) == 3
    assert sum(one.count for one in campaign.waiting if one.mailbox_id == 1 and one.step == 2) == (
        10_000
    )
    assert len(campaign.waiting) < 100


async def test_a_suspended_mailbox_sends_nothing(world: World, house: House, ask: Any) -> None:
    await ready(world, house, 1)
    world.sql(
        "INSERT INTO suspension (workspace_id, scope, ref, reason, opened_by)"
        " VALUES (%s, 'mailbox', 1, 'node_failed', 'tests')",
        WS,
    )
    answer = (await ask(what_if={"leads": 3})).json()
    assert (answer["finish"], answer["bottleneck"]) == (None, "node_failed")


async def test_wrong_questions_are_refused(world: World, house: House, ask: Any) -> None:
    await ready(world, house, 1)
    assert (await ask(campaign=99)).status_code == 404
    broken = {"caps": {"*": {"windows": [{"days": [0]}]}}}
    assert (await ask(what_if=broken)).status_code == 422
    assert (await ask(what_if={"caps": {"nobody": {}}})).status_code == 422
