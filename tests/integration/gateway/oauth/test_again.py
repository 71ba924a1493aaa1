"""Connected mailboxes: reconnected, changed, disconnected."""

import asyncio
from typing import Any

from fastapi import FastAPI
from tests.integration.gateway.conftest import Peers, Tenant
from tests.integration.gateway.oauth.world import (
    ANN,
    BOB,
    Browser,
    Twins,
    column,
    connected,
    flow,
    only,
    state,
    suspend,
    use_app,
)


async def test_reconnecting_keeps_the_mailbox_and_lets_it_send_again(
    tenant: Tenant, browser: Browser, peers: Peers, twins: Twins
) -> None:
    await use_app(tenant, "google")
    before = await connected(tenant, browser, mailbox={"policy": {"daily_cap": 33}})
    old = bytes(column(tenant, before, "send_credential"))
    for reason in ("grant_revoked", "auth_failed"):
        suspend(tenant, before, reason)
    twins.google.identity.revoke_all(ANN)
    peers.asked.clear()
    after = await connected(tenant, browser, mailbox_id=before["id"], login_hint=None)
    assert after["id"] == before["id"]
    assert after["version"] == before["version"] + 1
    assert (after["policy"], after["created_at"]) == (before["policy"], before["created_at"])
    assert after["suspensions"] == []
    assert column(tenant, after, "send_credential_version") == 2
    assert column(tenant, after, "read_credential_version") == 2
    assert bytes(column(tenant, after, "send_credential")) != old
    assert "mailbox.reconnected" in tenant.audited()
    assert tenant.outbox("mailbox-changed")[-1]["version"] == after["version"]
    for role, view in (("sender", "v_mailbox_send"), ("reply", "v_mailbox_read")):
        [seen] = tenant.seen_by(role, f"SELECT * FROM gateway.{view}")
        assert (seen["kind"], seen["credential_version"]) == ("gmail", 2)
        assert seen["oauth"]["provider"] == "google"


async def test_another_account_cannot_take_a_mailbox_over(
    tenant: Tenant, browser: Browser, peers: Peers
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    peers.asked.clear()
    made = await flow(tenant, "google", mailbox_id=mailbox["id"], login_hint=BOB)
    page = await browser.open(made["start_url"])
    assert (page.status, page.problem) == (409, "oauth_wrong_account")
    found = (await state(tenant, made))["problem"]
    assert BOB in found["detail"]
    assert peers.asked == []
    assert column(tenant, mailbox, "send_credential_version") == 1


async def test_one_leg_alone_is_renewed_and_the_other_stays(
    tenant: Tenant, browser: Browser, peers: Peers
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    kept = bytes(column(tenant, mailbox, "read_credential"))
    peers.asked.clear()
    after = await connected(
        tenant, browser, mailbox_id=mailbox["id"], leg="send", access="send_and_read"
    )
    assert column(tenant, after, "send_credential_version") == 2
    assert column(tenant, after, "read_credential_version") == 1
    assert bytes(column(tenant, after, "read_credential")) == kept
    bodies = dict(peers.asked)
    assert bodies["send"]["credential_version"] is None
    assert bodies["read"]["credential_version"] == 1
    assert after["read_grant"] == mailbox["read_grant"]
    refused = await flow(
        tenant, "google", 409, mailbox_id=mailbox["id"], leg="send", access="servers"
    )
    assert refused["code"] == "oauth_reached_otherwise"


async def test_a_mailbox_with_a_password_may_change_to_its_providers_api_and_back(
    tenant: Tenant, browser: Browser
) -> None:
    await use_app(tenant, "google")
    mailbox = await tenant.mailbox(ANN)
    after = await connected(tenant, browser, mailbox_id=mailbox["id"])
    assert (after["id"], after["kind"], after["smtp"]) == (mailbox["id"], "gmail", None)
    server = {"host": "mail.sender.test", "port": 465, "password": "right-pass-word"}
    path = f"/v1/mailboxes/{mailbox['id']}"
    refused = await tenant.call("PATCH", path, 422, json={"smtp": server})
    assert refused["code"] == "servers_incomplete"
    back = await tenant.call("PATCH", path, json={"smtp": server, "imap": server | {"port": 993}})
    assert (back["kind"], back["smtp"]["host"]) == ("smtp", "mail.sender.test")
    assert (back["send_grant"], back["read_grant"]) == (None, None)
    assert column(tenant, back, "send_credential_version") == 3


async def test_a_mailbox_that_is_connected_is_not_connected_again(
    tenant: Tenant, browser: Browser
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    made = await flow(tenant, "google", login_hint=ANN)
    page = await browser.open(made["start_url"])
    assert (page.status, page.problem) == (409, "mailbox_exists")
    assert (await state(tenant, made))["problem"]["mailbox_id"] == mailbox["id"]


async def test_disconnecting_revokes_destroys_and_tells(
    tenant: Tenant, browser: Browser, peers: Peers
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    peers.scheduler = {"revoke": (200, {"result": "revoked", "message": "200 revoked"})}
    await tenant.call("DELETE", f"/v1/mailboxes/{mailbox['id']}", 204)
    revoked = [path for path, _ in peers.questions if "/revoke/" in path]
    assert revoked == [f"/internal/revoke/{tenant.id}/{mailbox['id']}"] * 2
    for leg in ("send", "read"):
        assert column(tenant, mailbox, f"{leg}_credential") is None
    [record] = [
        one for one in tenant.outbox("audit-recorded") if one["action"] == "mailbox.disconnected"
    ]
    assert record["detail"] == {"send": "revoked", "read": "revoked"}
    # It may come back, under its old id.
    again = await connected(tenant, browser)
    assert again["id"] == mailbox["id"]
    assert column(tenant, again, "send_credential_version") == 2


async def test_a_service_that_is_away_does_not_keep_anybody_from_leaving(
    tenant: Tenant, browser: Browser, peers: Peers
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    peers.scheduler = None
    await tenant.call("DELETE", f"/v1/mailboxes/{mailbox['id']}", 204)
    assert column(tenant, mailbox, "send_credential") is None
    [record] = [
        one for one in tenant.outbox("audit-recorded") if one["action"] == "mailbox.disconnected"
    ]
    assert record["detail"] == {"send": "failed", "read": "failed"}


async def test_a_grant_that_another_workspace_uses_is_not_revoked(
    tenants: Any, app: FastAPI, browser: Browser, stranger: Browser, peers: Peers
) -> None:
    one, other = await asyncio.to_thread(tenants), await asyncio.to_thread(tenants)
    peers.scheduler = {"revoke": (200, {"result": "revoked", "message": "200 revoked"})}
    for tenant, who in ((one, browser), (other, stranger)):
        await use_app(tenant, "google")
        mailbox = await connected(tenant, who)
    await one.call("DELETE", f"/v1/mailboxes/{(await only(one))['id']}", 204)
    assert not [path for path, _ in peers.questions if "/revoke/" in path]
    await other.call("DELETE", f"/v1/mailboxes/{mailbox['id']}", 204)
    assert len([path for path, _ in peers.questions if "/revoke/" in path]) == 2
