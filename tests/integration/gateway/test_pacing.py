"""What the scheduler knows, asked through the gateway: it never guesses and never breaks."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from paceline_common import ids
from paceline_common.address import AddressHasher

from .conftest import Enrolled, Peers, Tenant, enroll, schedule_of

CAPACITY = {"per_day": 50, "bound_by": "ramp_cap", "parts": {"ramp_cap": 50, "cadence": 267}}


def explanation(enrollment: str) -> dict[str, Any]:
    return {
        "enrollment_id": enrollment,
        "at": "2026-11-20T15:00:00Z",
        "state": "active",
        "reason": "daily_cap",
        "message": "daily cap 120 of 120 until 00:00 Europe/Paris",
        "constraint": {
            "scope": "mailbox", "ref": "mbx_0000000000000001", "reason": "daily_cap", "used": 120,
            "limit": 120, "until": "2026-11-20T23:00:00Z", "zone": "Europe/Paris",
        },
        "eta": {"earliest": "2026-11-20T23:00:00Z", "latest": None},
        "release": {"action": "raise_daily_cap", "detail": "a cap of 121 would do"},
        "history": [
            {
                "at": "2026-11-20T14:00:00Z", "what": "held", "reason": "daily_cap",
                "inputs": {"used": 120},
            }
        ],
    }  # fmt: skip


@pytest.fixture
async def lead(tenant: Tenant, hasher: AddressHasher) -> Enrolled:
    return enroll(tenant, hasher, await tenant.ready_campaign(), "lead@lead.test")


async def test_an_enrollment_is_explained_now_and_in_the_past(
    tenant: Tenant, peers: Peers, lead: Enrolled
) -> None:
    peers.scheduler = {"explain": (200, explanation(lead.id))}
    path = f"/v1/enrollments/{lead.id}/explain"
    assert await tenant.call("GET", path) == explanation(lead.id)
    await tenant.call("GET", path, params={"at": "2026-11-20T16:00:00+01:00"})
    asked = f"/internal/explain/{tenant.id}/{lead.id}"
    assert [one for one, _ in peers.questions] == [
        asked, f"{asked}?at=2026-11-20T15%3A00%3A00%2B00%3A00"
    ]  # fmt: skip
    await tenant.call("GET", path, 422, params={"at": "2026-11-20T16:00:00"})
    peers.scheduler = {"explain": (422, {"detail": "older than the ledger's 30 days"})}
    refused = await tenant.call("GET", path, 422, params={"at": "2025-11-20T16:00:00Z"})
    assert refused["code"] == "pacing_question_invalid"
    assert refused["detail"] == "older than the ledger's 30 days"


async def test_a_mailbox_tells_its_next_slots_and_what_is_left(
    tenant: Tenant, peers: Peers
) -> None:
    mailbox = (await tenant.mailbox())["id"]
    schedule = schedule_of(mailbox, CAPACITY)
    # What a later scheduler says beside it is no reason to refuse.
    peers.scheduler = {"schedule": (200, schedule | {"mood": "fine"})}
    assert await tenant.call("GET", f"/v1/mailboxes/{mailbox}/schedule") == schedule
    assert await tenant.call("GET", f"/v1/mailboxes/{mailbox}/capacity") == CAPACITY


async def test_pools_and_campaigns_tell_what_their_mailboxes_can_send(
    tenant: Tenant, peers: Peers
) -> None:
    mailbox = (await tenant.mailbox())["id"]
    pool = await tenant.pool(mailbox)
    campaign = await tenant.campaign(tiers=[[pool]])
    each = {"mailbox_id": mailbox, "per_day": 50, "bound_by": "ramp_cap"}
    answer = {"per_day": 50, "bound_by": "ramp_cap", "mailboxes": [each]}
    # The scheduler's path has only the workspace behind `capacity`.
    peers.scheduler = {"capacity": (200, answer)}
    assert await tenant.call("GET", f"/v1/pools/{pool}/capacity") == answer
    assert await tenant.call("GET", f"/v1/campaigns/{campaign}/capacity") == answer
    assert [one for one, _ in peers.questions] == [
        f"/internal/capacity/{tenant.id}?pool={pool}",
        f"/internal/capacity/{tenant.id}?campaign={campaign}",
    ]


async def test_a_campaign_is_forecast_with_what_if(tenant: Tenant, peers: Peers) -> None:
    campaign = await tenant.ready_campaign()
    (mailbox,) = (await tenant.call("GET", "/v1/mailboxes"))["items"]
    answer = {
        "finish": {
            "p10": "2026-12-01T15:00:00Z", "p50": "2026-12-02T15:00:00Z",
            "p90": "2026-12-03T15:00:00Z",
        },
        "days": [{"date": "2026-11-20", "mailbox_id": mailbox["id"], "count": 50.0}],
        "bottleneck": "ramp_cap",
        "message": "the ramp binds until day 12",
        "seeds": 20,
    }  # fmt: skip
    peers.scheduler = {"forecast": (200, answer)}
    path = f"/v1/campaigns/{campaign}/forecast"
    assert await tenant.call("POST", path) == answer
    peers.questions.clear()
    what_if = {
        "add_mailboxes": 3,
        "caps": {"*": {"ramp": None}, mailbox["id"]: {"daily_cap": 90}},
        "leads": 1000,
    }
    assert await tenant.call("POST", path, json={"seeds": 5, "what_if": what_if}) == answer
    assert peers.questions == [
        (
            f"/internal/forecast/{tenant.id}",
            {"campaign_id": campaign, "seeds": 5, "what_if": what_if},
        )
    ]
    never = answer | {"finish": None, "days": [], "message": "no mailbox may send cold mail"}
    peers.scheduler = {"forecast": (200, never)}
    assert (await tenant.call("POST", path))["finish"] is None


async def test_a_forecast_of_what_cannot_be_is_refused_before_it_is_run(
    tenant: Tenant, peers: Peers
) -> None:
    path = f"/v1/campaigns/{await tenant.ready_campaign()}/forecast"
    (mailbox,) = (await tenant.call("GET", "/v1/mailboxes"))["items"]
    peers.questions.clear()
    body = {"what_if": {"caps": {mailbox["id"]: {"grace_s": 50}}}}
    refused = await tenant.call("POST", path, 422, json=body)
    (error,) = refused["errors"]
    assert (error["mailbox"], error["setting"]) == (mailbox["id"], "jitter_s")
    for unknown in (ids.encode("mbx", 2**40), "all"):
        await tenant.call("POST", path, 404, json={"what_if": {"caps": {unknown: {}}}})
    await tenant.call("POST", path, 422, json={"seeds": 0})
    assert peers.questions == []


async def test_a_scheduler_that_is_away_is_said_so_with_what_to_do(
    tenant: Tenant, peers: Peers, lead: Enrolled
) -> None:
    (mailbox,) = (await tenant.call("GET", "/v1/mailboxes"))["items"]
    (pool,) = (await tenant.call("GET", "/v1/pools"))["items"]
    (campaign,) = (await tenant.call("GET", "/v1/campaigns"))["items"]
    calls = [
        ("GET", f"/v1/enrollments/{lead.id}/explain"),
        ("GET", f"/v1/mailboxes/{mailbox['id']}/schedule"),
        ("GET", f"/v1/mailboxes/{mailbox['id']}/capacity"),
        ("GET", f"/v1/pools/{pool['id']}/capacity"),
        ("GET", f"/v1/campaigns/{campaign['id']}/capacity"),
        ("POST", f"/v1/campaigns/{campaign['id']}/forecast"),
    ]
    for method, path in calls:
        peers.scheduler = None
        away = await tenant.call(method, path, 503)
        assert away["code"] == "pacing_unavailable"
        assert away["remedy"]
        # Nobody heard of it there yet: the event is on its way.
        peers.scheduler = {}
        assert (await tenant.call(method, path, 404))["code"] == "pacing_pending"


async def test_nothing_is_asked_about_what_is_not_here(
    tenants: Callable[[], Tenant], peers: Peers, hasher: AddressHasher
) -> None:
    one, other = await asyncio.to_thread(lambda: (tenants(), tenants()))
    campaign = await one.ready_campaign()
    lead = enroll(one, hasher, campaign, "lead@lead.test")
    (mailbox,) = (await one.call("GET", "/v1/mailboxes"))["items"]
    (pool,) = (await one.call("GET", "/v1/pools"))["items"]
    peers.questions.clear()
    for method, path in (
        ("GET", f"/v1/enrollments/{lead.id}/explain"),
        ("GET", f"/v1/mailboxes/{mailbox['id']}/schedule"),
        ("GET", f"/v1/mailboxes/{mailbox['id']}/capacity"),
        ("GET", f"/v1/pools/{pool['id']}/capacity"),
        ("GET", f"/v1/campaigns/{campaign}/capacity"),
        ("POST", f"/v1/campaigns/{campaign}/forecast"),
    ):
        assert (await other.call(method, path, 404))["code"] == "not_found"
    assert peers.questions == []
