"""What operators hold back: at once, by every scope, and never by anybody else's reason."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paceline_common import ids
from paceline_common.address import AddressHasher

from .conftest import Tenant, enroll

PATH = "/v1/suspensions"


async def suspend(tenant: Tenant, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = await tenant.call(
        "POST", PATH, 201, json={"reason": "on holiday", **body}
    )
    return made


async def listed(tenant: Tenant, **query: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await tenant.call("GET", PATH, params=query))["items"]
    return items


async def test_every_scope_can_be_held_back_and_let_go(tenant: Tenant) -> None:
    mailbox = (await tenant.mailbox())["id"]
    pool = await tenant.pool(mailbox)
    campaign = await tenant.campaign(tiers=[[pool]])
    wished: list[tuple[dict[str, str], str, int]] = [
        ({"scope": "mailbox", "id": mailbox}, mailbox, ids.decode("mbx", mailbox)),
        ({"scope": "pool", "id": pool}, pool, ids.decode("pool", pool)),
        ({"scope": "campaign", "id": campaign}, campaign, ids.decode("cmp", campaign)),
        ({"scope": "workspace"}, tenant.id, tenant.number),
        ({"scope": "domain", "domain": "Sender.test"}, "sender.test", domain_ref(tenant)),
    ]
    for body, ref, number in wished:
        made = await suspend(tenant, **body)
        assert (made["scope"], made["ref"], made["reason"]) == (body["scope"], ref, "operator")
        assert (made["detail"], made["closed_at"]) == ("on holiday", None)
        (row,) = tenant.rows(
            "SELECT scope, ref, closed_at FROM scheduler.suspension WHERE workspace_id = %s"
            " AND reason = 'operator' ORDER BY suspension_id DESC LIMIT 1",
            tenant.number,
        )
        assert (row["scope"], row["ref"], row["closed_at"]) == (body["scope"], number, None)
        assert (await listed(tenant, reason="operator", state="open"))[0] == made
        await tenant.call("DELETE", f"{PATH}/{made['id']}", 204)
        await tenant.call("DELETE", f"{PATH}/{made['id']}", 204)
        assert await listed(tenant, reason="operator", state="open") == []
        (closed, *_) = await listed(tenant, reason="operator", state="closed")
        assert (closed["id"], closed["scope"]) == (made["id"], body["scope"])
        assert closed["closed_at"]
    actions = [
        row["action"]
        for row in tenant.rows(
            "SELECT convert_from(body, 'UTF8')::jsonb ->> 'action' AS action FROM scheduler.outbox"
            " WHERE workspace_id = %s AND topic = 'audit-recorded'"
            " AND convert_from(body, 'UTF8')::jsonb #>> '{detail,reason}' = 'operator' ORDER BY id",
            tenant.number,
        )
    ]
    assert actions == ["suspension.opened", "suspension.closed"] * 5


def domain_ref(tenant: Tenant) -> int:
    (row,) = tenant.rows("SELECT hashtextextended('sender.test', 0) AS ref")
    number: int = row["ref"]
    return number


async def test_other_reasons_stay_untouched(tenant: Tenant) -> None:
    mailbox = (await tenant.mailbox())["id"]
    tenant.seen_by(
        "sender",
        "SELECT scheduler.suspend(%s, 'mailbox', %s, 'auth_failed', NULL, 'sender', '535')",
        tenant.number, ids.decode("mbx", mailbox),
    )  # fmt: skip
    (fault,) = await listed(tenant, scope="mailbox")
    assert (fault["reason"], fault["detail"], fault["opened_by"]) == (
        "auth_failed",
        "535",
        "sender",
    )
    refused = await tenant.call("DELETE", f"{PATH}/{fault['id']}", 409)
    assert (refused["code"], refused["reason"]) == ("suspension_not_yours", "auth_failed")
    mine = await suspend(tenant, scope="mailbox", id=mailbox)
    shown = (await tenant.call("GET", f"/v1/mailboxes/{mailbox}"))["suspensions"]
    assert [one["reason"] for one in shown] == ["auth_failed", "operator"]
    await tenant.call("DELETE", f"{PATH}/{mine['id']}", 204)
    (left,) = await listed(tenant, state="open", scope="mailbox")
    assert left["id"] == fault["id"]


async def test_held_twice_is_held_once_until_the_later_end(tenant: Tenant) -> None:
    mailbox = (await tenant.mailbox())["id"]
    soon, later = (datetime.now(UTC) + timedelta(hours=hours) for hours in (1, 2))
    one = await suspend(tenant, scope="mailbox", id=mailbox, until=later.isoformat())
    two = await suspend(tenant, scope="mailbox", id=mailbox, until=soon.isoformat())
    assert two["id"] == one["id"]
    assert datetime.fromisoformat(two["until"]) == later
    assert (await suspend(tenant, scope="mailbox", id=mailbox))["until"] is None
    assert len(await listed(tenant, scope="mailbox")) == 1


async def test_what_has_run_out_is_closed(tenant: Tenant) -> None:
    mailbox = (await tenant.mailbox())["id"]
    made = await suspend(tenant, scope="mailbox", id=mailbox)
    tenant.rows(
        "UPDATE scheduler.suspension SET opened_at = now() - interval '2 h',"
        " until = now() - interval '1 h' WHERE workspace_id = %s AND reason = 'operator'",
        tenant.number,
    )
    assert await listed(tenant, state="open") == []
    (ran_out,) = await listed(tenant, state="closed")
    assert (ran_out["id"], ran_out["closed_at"]) == (made["id"], ran_out["until"])
    assert (await tenant.call("GET", f"/v1/mailboxes/{mailbox}"))["suspensions"] == []


async def test_no_reserved_job_is_left_behind_the_gate(
    tenant: Tenant, hasher: AddressHasher
) -> None:
    campaign = await tenant.ready_campaign()
    lead = enroll(tenant, hasher, campaign, "lead@lead.test")
    await suspend(tenant, scope="workspace")
    # The campaign itself says nothing of it: its own gate is the one of the start.
    found = await tenant.call("GET", f"/v1/campaigns/{campaign}")
    assert [one["reason"] for one in found["suspensions"]] == ["not_started"]
    (job,) = tenant.rows(
        "SELECT state FROM scheduler.send_job WHERE workspace_id = %s AND job_id = %s",
        tenant.number, lead.job_id,
    )  # fmt: skip
    assert job["state"] == "queued"


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "mailbox"},
        {"scope": "domain", "id": "mbx_0000000000000000"},
        {"scope": "domain", "domain": "no domain"},
        {"scope": "workspace", "id": "ws_0000000000000000"},
        {"scope": "enrollment", "id": "enr_0000000000000000"},
        {"scope": "workspace", "reason": " "},
        {"scope": "workspace", "until": "2020-01-01T00:00:00Z"},
        {"scope": "workspace", "until": "2099-01-01T00:00:00"},
    ],
    ids=str,
)
async def test_what_is_not_said_rightly_is_refused(tenant: Tenant, body: dict[str, str]) -> None:
    refused = await tenant.call("POST", PATH, 422, json={"reason": "on holiday", **body})
    assert refused["code"] == "request_invalid"
    assert await listed(tenant) == []


async def test_other_workspaces_things_do_not_exist(tenants: Callable[[], Tenant]) -> None:
    one, other = await asyncio.to_thread(lambda: (tenants(), tenants()))
    mailbox = (await one.mailbox())["id"]
    pool, campaign = await one.pool(mailbox), await one.campaign()
    made = await suspend(one, scope="mailbox", id=mailbox)
    for body in (
        {"scope": "mailbox", "id": mailbox},
        {"scope": "pool", "id": pool},
        {"scope": "campaign", "id": campaign},
        {"scope": "campaign", "id": pool},
        {"scope": "domain", "domain": "sender.test"},
    ):
        await other.call("POST", PATH, 404, json={"reason": "mischief", **body})
    await other.call("DELETE", f"{PATH}/{made['id']}", 404)
    assert await listed(other) == []
    assert len(await listed(one, state="open", scope="mailbox")) == 1
