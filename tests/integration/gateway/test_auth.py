"""API keys: who gets in, and into what."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from paceline_common import ids
from paceline_gateway.domain import apikey

from .conftest import Tenant


@pytest.mark.parametrize(
    "key",
    ["", "pl_nonsense", apikey.issue(bytes(20))],
    ids=["empty", "malformed", "invented"],
)
async def test_a_wrong_key_is_a_problem_with_a_remedy(tenant: Tenant, key: str) -> None:
    answer = await tenant.http.get("/v1/pools", headers={"Authorization": f"Bearer {key}"})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "Bearer"
    problem = answer.json()
    assert problem["code"] == "unauthenticated"
    assert "Authorization" in problem["remedy"]


async def test_no_key_at_all(tenant: Tenant) -> None:
    del tenant.http.headers["Authorization"]
    assert (await tenant.http.get("/v1/pools")).status_code == 401


async def test_a_revoked_key_is_refused_at_once(tenant: Tenant, admin: Callable[..., Any]) -> None:
    await tenant.call("GET", "/v1/pools")
    (row,) = await asyncio.to_thread(admin, "key", "list", tenant.id)
    assert row["hint"].rstrip("…") in tenant.key
    await asyncio.to_thread(admin, "key", "revoke", row["key_id"])
    await tenant.call("GET", "/v1/pools", 401)
    assert "key.revoked" in tenant.audited()


async def test_scopes_limit_a_key(tenant: Tenant, admin: Callable[..., Any]) -> None:
    made = await asyncio.to_thread(
        admin, "key", "create", tenant.id, "--name", "crm", "--scope", "enroll"
    )
    campaign = await tenant.campaign()
    tenant.http.headers["Authorization"] = f"Bearer {made['key']}"
    refused = await tenant.call("GET", "/v1/pools", 403)
    assert (refused["code"], refused["needs"]) == ("forbidden", "read")
    await tenant.call("POST", "/v1/pools", 403, json={"name": "x"})
    leads = {"leads": [{"email": "a@lead.test"}]}
    await tenant.call("POST", f"/v1/campaigns/{campaign}/leads", 202, json=leads)


async def test_a_workspace_that_is_not_active(tenant: Tenant) -> None:
    tenant.rows(
        "UPDATE gateway.workspace SET is_active = false WHERE workspace_id = %s", tenant.number
    )
    assert (await tenant.call("GET", "/v1/pools", 403))["code"] == "workspace_inactive"


async def test_workspaces_do_not_see_each_other(tenants: Callable[[], Tenant]) -> None:
    one, other = await asyncio.to_thread(lambda: (tenants(), tenants()))
    mailbox = (await one.mailbox())["id"]
    pool = await one.pool(mailbox)
    campaign = await one.campaign(tiers=[[pool]])
    for path in ("mailboxes", "pools", "campaigns"):
        assert (await other.call("GET", f"/v1/{path}"))["items"] == []
    for path in (f"mailboxes/{mailbox}", f"pools/{pool}", f"campaigns/{campaign}"):
        assert (await other.call("GET", f"/v1/{path}", 404))["code"] == "not_found"
    await other.call("PATCH", f"/v1/mailboxes/{mailbox}", 404, json={"is_active": False})
    await other.call("DELETE", f"/v1/mailboxes/{mailbox}", 404)
    await other.call("POST", f"/v1/campaigns/{campaign}/pause", 404)
    await other.call("POST", "/v1/pools", 404, json={"name": "theirs", "mailboxes": [mailbox]})
    body = {"name": "theirs", "steps": [], "tiers": [[pool]]}
    await other.call("POST", "/v1/campaigns", 404, json=body)
    leads = {"leads": [{"email": "a@lead.test"}]}
    await other.call("POST", f"/v1/campaigns/{campaign}/leads", 404, json=leads)
    assert other.outbox("lead-enrolled") == []


async def test_an_id_of_another_kind_is_refused(tenant: Tenant) -> None:
    refused = await tenant.call("GET", f"/v1/mailboxes/{ids.encode('pool', 1)}", 422)
    assert refused["code"] == "request_invalid"
    await tenant.call("GET", "/v1/mailboxes/1", 422)
