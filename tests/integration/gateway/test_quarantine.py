"""Quarantine: a tenant sees its own events, repairs a lead and replays it once."""

import asyncio
import json
from collections.abc import Callable

from paceline_common import ids

from .conftest import Tenant


def quarantined(
    tenant: Tenant, body: object, *, topic: str = "lead-enrolled.crm", service: str = "scheduler",
    workspace: bool = True,
) -> str:  # fmt: skip
    offset = tenant.rows(f"SELECT coalesce(max(offset_), 0) + 1 AS next FROM {service}.quarantine")[
        0
    ]["next"]
    (row,) = tenant.rows(
        f"INSERT INTO {service}.quarantine (workspace_id, topic, partition, offset_, event_id,"
        " source, type, headers, body, digest, reason_code, reason, attempts)"
        " VALUES (%s, %s, 0, %s, 'e1', '/crm', 'paceline.lead-enrolled.v1', '[]', %s, %s,"
        " 'malformed', 'Expected `str` - at `$.email`', 3) RETURNING quarantine_id",
        tenant.number if workspace else None, topic, offset,
        body if isinstance(body, bytes) else json.dumps(body).encode(), bytes(32),
    )  # fmt: skip
    return ids.encode("qua", row["quarantine_id"])


async def test_a_repaired_lead_is_replayed_once(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    entry = quarantined(tenant, {"campaign_id": campaign, "email": 7})
    (found,) = (await tenant.call("GET", "/v1/quarantine"))["items"]
    assert (found["id"], found["service"], found["replayable"]) == (entry, "scheduler", True)
    assert json.loads(found["body"])["email"] == 7
    assert "$.email" in found["reason"]
    path = f"/v1/quarantine/{entry}/replay"
    refused = await tenant.call("POST", path, 422)
    assert refused["code"] == "quarantine_body_invalid"
    for wrong in ({"email": "x"}, {"campaign_id": campaign, "email": "x"}, {"mail": "a@b.test"}):
        await tenant.call("POST", path, 422, json={"lead": wrong})
    lead = {"campaign_id": campaign, "email": "ann@lead.test", "workspace_id": "ws_theirs"}
    replayed = await tenant.call("POST", path, 202, json={"lead": lead})
    assert await tenant.call("POST", path, 202, json={"lead": lead}) == replayed
    events = tenant.outbox("lead-enrolled")
    assert {one["event_id"] for one in events} == {replayed["event_id"]}
    assert (events[0]["replay_of"], events[0]["workspace_id"]) == (entry, tenant.id)
    assert "quarantine.replayed" in tenant.audited()
    tenant.rows("UPDATE scheduler.quarantine SET settled_at = now(), settled_by = %s"
                " WHERE workspace_id = %s", replayed["event_id"], tenant.number)  # fmt: skip
    settled = await tenant.call("POST", path, 409, json={"lead": lead})
    assert settled["code"] == "quarantine_settled"
    assert (await tenant.call("GET", "/v1/quarantine?settled=false"))["items"] == []


async def test_an_event_may_be_replayed_as_it_came(tenant: Tenant) -> None:
    campaign = await tenant.campaign()
    body = {"workspace_id": tenant.id, "campaign_id": campaign, "email": "ann@lead.test"}
    entry = quarantined(tenant, body)
    await tenant.call("POST", f"/v1/quarantine/{entry}/replay", 202)
    (event,) = tenant.outbox("lead-enrolled")
    assert event["email"] == "ann@lead.test"


async def test_other_topics_and_other_tenants_are_not_replayed(
    tenants: Callable[[], Tenant], tenant: Tenant
) -> None:
    other = await asyncio.to_thread(tenants)
    theirs = quarantined(other, {"email": "x"})
    installation = quarantined(tenant, b"\xff", workspace=False)
    stop = quarantined(tenant, b"\xff\xfe", topic="bounced")
    elsewhere = quarantined(tenant, {}, topic="issue-raised", service="gateway")
    seen = {one["id"]: one for one in (await tenant.call("GET", "/v1/quarantine"))["items"]}
    assert set(seen) == {stop, elsewhere}
    assert not any(one["replayable"] for one in seen.values())
    refused = await tenant.call("POST", f"/v1/quarantine/{stop}/replay", 409)
    assert refused["code"] == "quarantine_not_replayable"
    for hidden in (theirs, installation):
        await tenant.call("GET", f"/v1/quarantine/{hidden}", 404)
        await tenant.call("POST", f"/v1/quarantine/{hidden}/replay", 404)
    found = await tenant.call("GET", f"/v1/quarantine/{elsewhere}?service=gateway")
    assert found["topic"] == "issue-raised"
    tenant.rows(
        "DELETE FROM scheduler.quarantine WHERE quarantine_id = %s", ids.decode("qua", installation)
    )


async def test_pages_go_through_all_services(tenant: Tenant) -> None:
    made = [quarantined(tenant, {}, service=name) for name in ("gateway", "scheduler", "reply")]
    made.insert(1, quarantined(tenant, {}))
    seen: list[tuple[str, str]] = []
    query = "limit=1"
    while True:
        page = await tenant.call("GET", f"/v1/quarantine?{query}")
        seen += [(one["service"], one["id"]) for one in page["items"]]
        if page["next_cursor"] is None:
            break
        query = f"limit=1&cursor={page['next_cursor']}"
    assert [service for service, _ in seen] == ["gateway", "scheduler", "scheduler", "reply"]
    assert sorted(entry for _, entry in seen) == sorted(made)
