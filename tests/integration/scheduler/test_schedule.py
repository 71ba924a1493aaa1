"""`/internal`: schedule and capacity, with the rules that bind; refusals with stable codes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from paceline_common import ids
from paceline_common.http import Problem
from paceline_scheduler import api
from paceline_scheduler.explain import Explainer
from paceline_scheduler.schedule import Schedules

from .conftest import WS, House, World
from .test_explain import CAMPAIGN, MAILBOX, POOL, Scene, midnight, today

WORKSPACE = ids.encode("ws", WS)


@pytest.fixture
async def scene(world: World, house: House) -> Scene:
    return Scene(world, house)


@pytest.fixture
async def client(house: House) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(
        api.router(
            Explainer(house.db, house.queries, timedelta(days=30)),
            Schedules(house.db, house.queries),
        )
    )

    @app.exception_handler(Problem)
    async def problem(_request: Any, error: Problem) -> Any:
        return error.response()

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://scheduler") as made:
        yield made


async def get(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_next_slots_keep_the_cadence_and_stop_at_the_cap(
    scene: Scene, client: httpx.AsyncClient
) -> None:
    await scene.open({"cadence_s": 100, "jitter_s": [10, 20], "daily_cap": 8}, zone="UTC")
    scene.budget(day=today(), day_used=5)
    found = await get(client, f"/schedule/{WORKSPACE}/{MAILBOX}")
    slots = [datetime.fromisoformat(one) for one in found["next_slots"]]
    assert len(slots) == 10
    assert all(later - earlier >= timedelta(seconds=110) for earlier, later in pairwise(slots))
    assert sum(slot < midnight() for slot in slots) <= 3
    assert found["state"] == {
        "reason": "open", "until": None, "message": "The mailbox may send now.",
    }  # fmt: skip
    assert found["timezone"] == "UTC"


async def test_every_limit_says_what_is_left_and_when_it_resets(
    scene: Scene, client: httpx.AsyncClient
) -> None:
    scene.world.sql(
        "INSERT INTO gateway.domain_budget (workspace_id, domain, daily_max)"
        " VALUES (%s, 'send.test', 30)",
        WS,
    )
    await scene.open(
        {"daily_cap": 40, "ramp": {"curve": [[0, 25]]}, "hourly_cap": 9, "ceiling_24h": 90,
         "health_floor": True},
        zone="UTC",
    )  # fmt: skip
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    scene.budget(day=today(), day_used=6, hour=hour, hour_used=2)
    scene.world.sql("UPDATE account_budget SET hour = %s, hours[1] = 6, hours[3] = 4", hour)
    scene.world.sql("UPDATE domain_budget SET day = %s, day_used = 11", today())
    found = await get(client, f"/schedule/{WORKSPACE}/{MAILBOX}")
    told = {one["reason"]: one for one in found["limits"]}
    assert {reason: (one["used"], one["limit"], one["left"]) for reason, one in told.items()} == {
        "daily_cap": (6, 40, 34),
        "ramp_cap": (6, 25, 19),
        "probation_cap": (6, 25, 19),
        "hourly_cap": (2, 9, 7),
        "provider_ceiling": (10, 90, 80),
        "domain_budget": (11, 30, 19),
    }
    resets = {reason: datetime.fromisoformat(one["resets_at"]) for reason, one in told.items()}
    assert resets["daily_cap"] == resets["domain_budget"] == midnight()
    assert resets["hourly_cap"] == hour + timedelta(hours=1)
    # The oldest of the account counts in the hour two hours ago.
    assert resets["provider_ceiling"] == hour + timedelta(hours=23)
    assert found["effective_capacity"]["bound_by"] in {"probation_cap", "ramp_cap"}
    assert found["effective_capacity"]["per_day"] == 25


async def test_a_held_mailbox_says_so_and_has_no_slots(
    scene: Scene, client: httpx.AsyncClient
) -> None:
    await scene.open({})
    scene.suspend("mailbox", 1, "cooldown", midnight())
    found = await get(client, f"/schedule/{WORKSPACE}/{MAILBOX}")
    assert found["next_slots"] == []
    assert found["state"]["reason"] == "cooldown"
    assert datetime.fromisoformat(found["state"]["until"]) == midnight()


async def test_capacity_adds_up_and_names_what_binds(
    scene: Scene, client: httpx.AsyncClient
) -> None:
    await scene.open(
        {"daily_cap": 10}, {"daily_cap": 20}, {"campaign_types": ["nurture"], "daily_cap": 40},
        {"daily_cap": 80},
    )  # fmt: skip
    scene.suspend("mailbox", 4, "operator")
    pool = await get(client, f"/capacity/{WORKSPACE}", pool=POOL)
    assert (pool["per_day"], pool["bound_by"]) == (70, "daily_cap")
    campaign = await get(client, f"/capacity/{WORKSPACE}", campaign=CAMPAIGN)
    assert campaign["per_day"] == 30
    assert [(one["per_day"], one["bound_by"]) for one in campaign["mailboxes"]] == [
        (10, "daily_cap"), (20, "daily_cap"), (0, "type_restricted"), (0, "mailbox_suspended"),
    ]  # fmt: skip


async def test_what_mailboxes_share_is_counted_once(
    scene: Scene, client: httpx.AsyncClient
) -> None:
    scene.world.sql(
        "INSERT INTO gateway.domain_budget (workspace_id, domain, daily_max)"
        " VALUES (%s, 'send.test', 25)",
        WS,
    )
    await scene.open({"daily_cap": 20}, {"daily_cap": 20})
    pool = await get(client, f"/capacity/{WORKSPACE}", pool=POOL)
    assert (pool["per_day"], pool["bound_by"]) == (25, "domain_budget")


async def test_explain_over_http_has_the_contract_s_shape(
    scene: Scene, client: httpx.AsyncClient
) -> None:
    await scene.open({"daily_cap": 0})
    found = await get(client, f"/explain/{WORKSPACE}/{ids.encode('enr', 1)}")
    assert set(found) == {
        "enrollment_id", "at", "state", "reason", "message", "constraint", "eta", "release",
        "history",
    }  # fmt: skip
    assert found["constraint"] == {
        "scope": "mailbox", "ref": MAILBOX, "reason": "daily_cap_zero", "used": 0, "limit": 0,
        "until": None, "zone": "Europe/Paris",
    }  # fmt: skip
    assert found["release"] == {
        "action": "raise_daily_cap",
        "detail": f"raise the daily cap of mailbox {MAILBOX} above 0",
    }
    assert found["history"][0]["what"] == "enrolled"


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        (f"/explain/{WORKSPACE}/{ids.encode('enr', 99)}", {}, 404, "unknown_enrollment"),
        (f"/explain/{WORKSPACE}/enr_x", {}, 404, "unknown_enrollment"),
        (f"/explain/{WORKSPACE}/{ids.encode('enr', 1)}", {"at": "2020-01-01T00:00:00Z"}, 422,
         "at_not_recorded"),
        (f"/schedule/{WORKSPACE}/{ids.encode('mbx', 99)}", {}, 404, "unknown_mailbox"),
        (f"/capacity/{WORKSPACE}", {"pool": ids.encode("pool", 99)}, 404, "unknown_pool"),
        (f"/capacity/{WORKSPACE}", {"campaign": ids.encode("cmp", 99)}, 404, "unknown_campaign"),
        (f"/capacity/{WORKSPACE}", {}, 422, "capacity_of_one"),
    ],
)  # fmt: skip
async def test_refusals_have_stable_codes(
    scene: Scene,
    client: httpx.AsyncClient,
    path: str,
    query: dict[str, str],
    status: int,
    code: str,
) -> None:
    await scene.open({})
    answer = await client.get(path, params=query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
