"""Campaigns: what may be changed when, and a gate that is shut whenever it does not run."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.waiting import until

from paceline_common import ids
from paceline_gateway import lifecycle
from paceline_gateway.parts import Parts

from .conftest import Tenant


def reasons(campaign: dict[str, Any]) -> list[str]:
    return [one["reason"] for one in campaign["suspensions"]]


async def test_a_draft_is_held_back_until_it_is_started(tenant: Tenant) -> None:
    campaign = await tenant.ready_campaign()
    path = f"/v1/campaigns/{campaign}"
    draft = await tenant.call("GET", path)
    assert (draft["status"], reasons(draft)) == ("draft", ["not_started"])
    started = await tenant.call("POST", f"{path}/start")
    assert started["campaign"]["status"] == "running"
    assert reasons(started["campaign"]) == []
    assert started["campaign"]["started_at"] is not None
    again = await tenant.call("POST", f"{path}/start")
    assert again["campaign"]["version"] == started["campaign"]["version"]


async def test_pause_resume_and_stop_move_the_gate_with_the_status(tenant: Tenant) -> None:
    path = f"/v1/campaigns/{await tenant.ready_campaign()}"
    await tenant.call("POST", f"{path}/start")
    paused = await tenant.call("POST", f"{path}/pause")
    assert (paused["status"], reasons(paused)) == ("paused", ["paused"])
    resumed = await tenant.call("POST", f"{path}/resume")
    assert (resumed["status"], reasons(resumed)) == ("running", [])
    stopped = await tenant.call("POST", f"{path}/stop")
    assert (stopped["status"], reasons(stopped)) == ("stopped", ["stopped"])
    refused = await tenant.call("POST", f"{path}/resume", 409)
    assert refused["code"] == "campaign_state"
    assert refused["status_now"] == "stopped"
    assert refused["allowed"] == ["paused", "auto_paused"]
    archived = await tenant.call("POST", f"{path}/archive")
    assert archived["status"] == "archived"
    statuses = [one["status"] for one in tenant.outbox("campaign-changed")]
    assert statuses == ["draft", "running", "paused", "running", "stopped", "archived"]
    versions = [one["version"] for one in tenant.outbox("campaign-changed")]
    assert versions == sorted(set(versions))
    assert [a for a in tenant.audited() if a.startswith("campaign.")] == [
        "campaign.start", "campaign.pause", "campaign.resume", "campaign.stop",
    ]  # fmt: skip


async def test_a_paused_campaign_says_so_and_loses_no_lead(tenant: Tenant) -> None:
    path = f"/v1/campaigns/{await tenant.ready_campaign()}"
    await tenant.call("POST", f"{path}/start")
    await tenant.call("POST", f"{path}/pause")
    taken = await tenant.call(
        "POST", f"{path}/leads", 202, json={"leads": [{"email": "ann@lead.test"}]}
    )
    assert (len(taken["accepted"]), taken["errors"]) == (1, [])
    assert [one["email"] for one in tenant.outbox("lead-enrolled")] == ["ann@lead.test"]
    refused = await tenant.call("POST", f"{path}/start", 409)
    assert (refused["code"], refused["status_now"]) == ("campaign_state", "paused")
    assert refused["remedy"]


async def test_the_view_shows_tiers_in_order(tenant: Tenant) -> None:
    pools = [await tenant.pool(name=name) for name in ("one", "two", "three")]
    campaign = await tenant.campaign(tiers=[[pools[2], pools[0]], [pools[1]]])
    numbers = [ids.decode("pool", pool) for pool in pools]
    (row,) = tenant.seen_by(
        "scheduler", "SELECT * FROM gateway.v_campaign WHERE campaign_id = %s",
        ids.decode("cmp", campaign),
    )  # fmt: skip
    assert row["tiers"] == [
        {"pools": [numbers[2], numbers[0]], "after_s": None},
        {"pools": [numbers[1]], "after_s": None},
    ]
    assert (row["status"], row["stickiness"]) == ("draft", "reassign")


async def test_a_tier_is_left_after_its_time(tenant: Tenant) -> None:
    one, two = [await tenant.pool(name=name) for name in ("one", "two")]
    campaign = await tenant.campaign(tiers=[{"pools": [one], "after_s": 3600}, [two]])
    path = f"/v1/campaigns/{campaign}"
    tiers = [{"pools": [one], "after_s": 3600}, {"pools": [two], "after_s": None}]
    assert (await tenant.call("GET", path))["tiers"] == tiers
    (row,) = tenant.seen_by("scheduler", "SELECT tiers FROM gateway.v_campaign")
    assert [tier["after_s"] for tier in row["tiers"]] == [3600, None]
    # What an answer says can be sent again as it is.
    tiers.reverse()
    assert (await tenant.call("PATCH", path, json={"tiers": tiers}))["tiers"] == tiers
    (row,) = tenant.seen_by("scheduler", "SELECT tiers FROM gateway.v_campaign")
    assert [tier["after_s"] for tier in row["tiers"]] == [None, 3600]
    await tenant.call("PATCH", path, 422, json={"tiers": [{"pools": [one], "after_s": -1}]})
    await tenant.call("PATCH", path, 422, json={"tiers": [{"pools": []}]})


async def test_tiers_from_before_there_were_deadlines_are_never_left(tenant: Tenant) -> None:
    pool = await tenant.pool()
    campaign = await tenant.campaign(tiers=[[pool]])
    tenant.rows(
        "UPDATE gateway.campaign SET tier_after_s = '{}' WHERE workspace_id = %s", tenant.number
    )
    found = await tenant.call("GET", f"/v1/campaigns/{campaign}")
    assert found["tiers"] == [{"pools": [pool], "after_s": None}]
    (row,) = tenant.seen_by("scheduler", "SELECT tiers FROM gateway.v_campaign")
    assert row["tiers"] == [{"pools": [ids.decode("pool", pool)], "after_s": None}]


async def test_how_a_campaign_chooses_mailboxes(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    path = f"/v1/campaigns/{campaign}"
    settings = {
        "stickiness": "reassign", "reassign_after_s": 172_800, "min_health": 70,
        "esp_match": "off", "allow_parallel": False,
    }  # fmt: skip
    found = await tenant.call("GET", path)
    assert {name: found[name] for name in settings} == settings
    changes = {
        "stickiness": "wait", "reassign_after_s": 60, "min_health": 0, "esp_match": "strict",
        "allow_parallel": True,
    }  # fmt: skip
    found = await tenant.call("PATCH", path, json=changes)
    assert {name: found[name] for name in changes} == changes
    (row,) = tenant.seen_by("scheduler", "SELECT * FROM gateway.v_campaign")
    assert {name: row[name] for name in changes} == changes
    for wrong in ({"min_health": 101}, {"esp_match": "on"}, {"reassign_after_s": -1}):
        await tenant.call("PATCH", path, 422, json=wrong)
    made = await tenant.campaign(name="born so", **changes)
    found = await tenant.call("GET", f"/v1/campaigns/{made}")
    assert {name: found[name] for name in changes} == changes


async def test_a_throttled_campaign_says_why(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    path = f"/v1/campaigns/{campaign}"
    found = await tenant.call("GET", path)
    assert (found["throttled"], found["throttle"]) == (False, None)
    tenant.rows(
        "INSERT INTO scheduler.campaign_policy"
        " (workspace_id, campaign_id, version, type, throttle_cause, throttled_since)"
        " VALUES (%s, %s, 1, 1, 'health_below_floor', '2026-11-20T09:00Z')"
        " ON CONFLICT (workspace_id, campaign_id) DO UPDATE"
        " SET throttle_cause = excluded.throttle_cause, throttled_since = excluded.throttled_since",
        tenant.number, ids.decode("cmp", campaign),
    )  # fmt: skip
    found = await tenant.call("GET", path)
    assert found["throttled"] is True
    assert found["throttle"] == {"cause": "health_below_floor", "since": "2026-11-20T09:00:00Z"}
    assert found["status"] == "draft"


async def test_a_campaign_without_steps_or_mailboxes_cannot_start(tenant: Tenant) -> None:
    campaign = await tenant.campaign(steps=[], tiers=[[await tenant.pool()]])
    refused = await tenant.call("POST", f"/v1/campaigns/{campaign}/start", 422)
    assert refused["code"] == "campaign_not_ready"
    assert {one["code"] for one in refused["findings"]} == {"no_steps", "no_mailboxes"}
    assert (await tenant.call("GET", f"/v1/campaigns/{campaign}"))["status"] == "draft"


async def test_deactivated_mailboxes_do_not_count(tenant: Tenant) -> None:
    mailbox = (await tenant.mailbox())["id"]
    campaign = await tenant.campaign(tiers=[[await tenant.pool(mailbox)]])
    await tenant.call("PATCH", f"/v1/mailboxes/{mailbox}", json={"is_active": False})
    checked = await tenant.call("POST", f"/v1/campaigns/{campaign}/check")
    assert checked["ok"] is False
    assert [one["code"] for one in checked["findings"]] == ["no_active_mailbox"]


async def test_invalid_liquid_is_refused_when_it_is_written(tenant: Tenant) -> None:
    body = {"name": "x", "steps": [{"subject": "Hi", "text": "{{ first_name"}]}
    refused = await tenant.call("POST", "/v1/campaigns", 422, json=body)
    assert refused["code"] == "template_invalid"
    assert refused["where"] == "steps[1].text"


async def test_a_variable_that_leads_may_lack_is_a_warning(tenant: Tenant) -> None:
    steps = [{"subject": "Hi {{ first_name }}", "text": 'at {{ company | default: "yours" }}'}]
    campaign = await tenant.ready_campaign(steps=steps)
    checked = await tenant.call("POST", f"/v1/campaigns/{campaign}/check")
    assert checked["ok"] is True
    (warning,) = checked["findings"]
    assert (warning["code"], warning["where"]) == ("missing_variable", "steps[1].subject")
    assert "first_name" in warning["message"]
    started = await tenant.call("POST", f"/v1/campaigns/{campaign}/start")
    assert started["warnings"] == [warning]


async def test_steps_may_change_but_not_vanish_once_started(tenant: Tenant) -> None:
    steps = [{"subject": "One", "text": "one"}, {"delay_s": 60, "text": "two"}]
    campaign = await tenant.ready_campaign(steps=steps)
    path = f"/v1/campaigns/{campaign}"
    before = await tenant.call("GET", path)
    await tenant.call("POST", f"{path}/start")
    steps[1] = {"delay_s": 120, "text": "two, better"}
    changed = await tenant.call("PATCH", path, json={"steps": [*steps, {"text": "three"}]})
    assert [one["version"] for one in changed["steps"]] == [1, 2, 1]
    assert changed["steps"][1]["id"] == before["steps"][1]["id"]
    refused = await tenant.call("PATCH", path, 409, json={"steps": steps[:1]})
    assert refused["code"] == "steps_in_use"
    assert len((await tenant.call("GET", path))["steps"]) == 3


async def test_a_pool_in_use_is_not_deleted(tenant: Tenant) -> None:
    pool = await tenant.pool()
    campaign = await tenant.campaign(tiers=[[pool]])
    refused = await tenant.call("DELETE", f"/v1/pools/{pool}", 409)
    assert (refused["code"], refused["campaigns"]) == ("pool_in_use", [campaign])
    await tenant.call("PATCH", f"/v1/campaigns/{campaign}", json={"tiers": []})
    await tenant.call("DELETE", f"/v1/pools/{pool}", 204)
    await tenant.call("GET", f"/v1/pools/{pool}", 404)


async def test_a_changed_pool_is_a_change_of_its_campaigns(tenant: Tenant) -> None:
    pool = await tenant.pool()
    campaign = await tenant.campaign(tiers=[[pool]])
    before = len(tenant.outbox("campaign-changed"))
    mailbox = (await tenant.mailbox())["id"]
    changed = await tenant.call("PATCH", f"/v1/pools/{pool}", json={"mailboxes": [mailbox]})
    assert changed["mailboxes"] == [mailbox]
    events = tenant.outbox("campaign-changed")
    assert len(events) == before + 1
    assert events[-1]["campaign_id"] == campaign


async def test_a_pool_name_is_unique_in_its_workspace(tenant: Tenant) -> None:
    await tenant.pool(name="same")
    assert (await tenant.call("POST", "/v1/pools", 409, json={"name": "same"}))[
        "code"
    ] == "name_taken"


async def test_a_start_in_the_future_waits_for_its_time(tenant: Tenant, parts: Parts) -> None:
    campaign = await tenant.ready_campaign()
    path = f"/v1/campaigns/{campaign}"
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    scheduled = await tenant.call("POST", f"{path}/start", json={"start_at": soon})
    assert scheduled["campaign"]["status"] == "scheduled"
    assert reasons(scheduled["campaign"]) == ["not_started"]
    await lifecycle.start_due(parts)
    assert (await tenant.call("GET", path))["status"] == "scheduled"
    _set_start(tenant, campaign)
    await asyncio.gather(*(lifecycle.start_due(parts) for _ in range(3)))
    running = await tenant.call("GET", path)
    assert (running["status"], reasons(running)) == ("running", [])
    assert tenant.audited().count("campaign.start") == 1


async def test_a_scheduled_start_is_on_time_however_seldom_it_is_looked(
    tenant: Tenant, parts: Parts
) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    path = f"/v1/campaigns/{await tenant.ready_campaign(start_at=soon)}"
    assert (await tenant.call("POST", f"{path}/start"))["campaign"]["status"] == "scheduled"
    seldom = parts.settings.model_copy(update={"scheduled_start_every_s": 3600})
    looking = asyncio.create_task(lifecycle.start_when_due(replace(parts, settings=seldom)))

    async def started() -> bool:
        return bool((await tenant.call("GET", path))["status"] == "running")

    try:
        await until(started, "started")
    finally:
        looking.cancel()


async def test_a_scheduled_start_that_became_impossible_is_an_issue(
    tenant: Tenant, parts: Parts
) -> None:
    campaign = await tenant.ready_campaign(
        start_at=(datetime.now(UTC) + timedelta(hours=1)).isoformat()
    )
    path = f"/v1/campaigns/{campaign}"
    assert (await tenant.call("POST", f"{path}/start"))["campaign"]["status"] == "scheduled"
    (mailbox,) = (await tenant.call("GET", "/v1/mailboxes"))["items"]
    await tenant.call("DELETE", f"/v1/mailboxes/{mailbox['id']}", 204)
    _set_start(tenant, campaign)
    await lifecycle.start_due(parts)
    assert (await tenant.call("GET", path))["status"] == "draft"
    (issue,) = (await tenant.call("GET", "/v1/issues"))["items"]
    assert (issue["code"], issue["subject"]) == ("scheduled_start_refused", campaign)
    assert "mailbox" in issue["detail"]


async def test_a_schedule_can_be_taken_back(tenant: Tenant) -> None:
    path = f"/v1/campaigns/{await tenant.ready_campaign()}"
    at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    await tenant.call("POST", f"{path}/start", json={"start_at": at})
    await tenant.call("PATCH", path, 409, json={"start_at": None})
    assert (await tenant.call("POST", f"{path}/unschedule"))["status"] == "draft"
    assert (await tenant.call("PATCH", path, json={"start_at": None}))["start_at"] is None
    await tenant.call("PATCH", path, 422, json={"start_at": "2030-01-01T00:00:00"})


async def test_lists_by_cursor_hold_each_thing_once(tenant: Tenant) -> None:
    made = [await tenant.campaign(name=f"c{i}") for i in range(5)]
    seen: list[str] = []
    query = "limit=2"
    while True:
        page = await tenant.call("GET", f"/v1/campaigns?{query}")
        seen += [one["id"] for one in page["items"]]
        if page["next_cursor"] is None:
            break
        # A row that comes meanwhile moves none of the others.
        await tenant.campaign(name="late")
        query = f"limit=2&cursor={page['next_cursor']}"
    assert seen == made[::-1]
    await tenant.call("GET", "/v1/campaigns?limit=201", 422)
    wrong = await tenant.call("GET", "/v1/campaigns?cursor=abc", 422)
    assert wrong["code"] == "cursor_invalid"


def _set_start(tenant: Tenant, campaign: str) -> None:
    tenant.rows(
        "UPDATE gateway.campaign SET start_at = now() - interval '1 s'"
        " WHERE workspace_id = %s AND campaign_id = %s",
        tenant.number, ids.decode("cmp", campaign),
    )  # fmt: skip
