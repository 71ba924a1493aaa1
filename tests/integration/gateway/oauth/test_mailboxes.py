"""What a consent makes of a mailbox, in each way to ask for it, and whose app it goes through."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.integration.gateway.conftest import Peers, Tenant
from tests.integration.gateway.oauth.world import (
    ANN,
    APPS,
    PUBLIC,
    Browser,
    Twins,
    connected,
    flow,
    opened,
    state,
    use_app,
)

from paceline_common import ids
from paceline_common.keys import KeyDenied, KeyService, SealBroken
from paceline_gateway.parts import Parts

KIND = {"google": "gmail", "microsoft": "graph"}


@pytest.mark.parametrize("provider", ["google", "microsoft"])
async def test_one_consent_connects_a_mailbox_for_both_legs(
    tenant: Tenant,
    browser: Browser,
    twins: Twins,
    peers: Peers,
    sender_keys: KeyService,
    reply_keys: KeyService,
    provider: str,
) -> None:
    await use_app(tenant, provider)
    mailbox = await connected(
        tenant, browser, provider,
        mailbox={"timezone": "Europe/Berlin", "policy": {"daily_cap": 40}},
    )  # fmt: skip
    assert mailbox["kind"] == KIND[provider]
    assert (mailbox["email"], mailbox["display_name"]) == (ANN, "Ann North")
    assert (mailbox["smtp"], mailbox["imap"]) == (None, None)
    assert (mailbox["timezone"], mailbox["policy"]["daily_cap"]) == ("Europe/Berlin", 40)
    assert (
        mailbox["provider"] == {"google": "google_workspace", "microsoft": "microsoft365"}[provider]
    )
    for leg in ("send_grant", "read_grant"):
        assert mailbox[leg]["client_id"] == APPS[provider][0]
        assert mailbox[leg]["app"] == "workspace"
    # Both services were asked, with the leg's own seal.
    assert [leg for leg, _ in peers.asked] == ["send", "read"]
    for _, body in peers.asked:
        assert (body["kind"], body["credential_version"]) == (KIND[provider], None)
        assert body["oauth"]["provider"] == provider
    grants = [
        await opened(keys, tenant, mailbox, scope)
        for keys, scope in ((sender_keys, "send"), (reply_keys, "read"))
    ]
    assert grants[0] == grants[1]
    twin = twins.google if provider == "google" else twins.microsoft
    assert grants[0]["refresh_token"] in twin.identity.refresh
    assert grants[0]["access_token"] in twin.identity.access
    assert grants[0]["client_secret"] == APPS[provider][1]
    assert datetime.fromisoformat(grants[0]["expires_at"]) > datetime.now(UTC)
    assert {"oauth_app.set", "oauth.flow_started", "mailbox.connected"} <= set(tenant.audited())


async def test_two_consents_share_no_token(
    tenant: Tenant,
    browser: Browser,
    twins: Twins,
    peers: Peers,
    sender_keys: KeyService,
    reply_keys: KeyService,
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser, access="send_and_read", consents="separate")
    prefix = "https://www.googleapis.com/auth/gmail"
    assert [one for one in mailbox["send_grant"]["scopes"] if one.startswith(prefix)] == [
        f"{prefix}.send"
    ]
    assert [one for one in mailbox["read_grant"]["scopes"] if one.startswith(prefix)] == [
        f"{prefix}.readonly"
    ]
    send = await opened(sender_keys, tenant, mailbox, "send")
    read = await opened(reply_keys, tenant, mailbox, "read")
    assert send["refresh_token"] != read["refresh_token"]
    assert {send["refresh_token"], read["refresh_token"]} <= twins.google.identity.refresh.keys()
    assert twins.google.calls.count("authorize") == 2
    assert len(peers.asked) == 2
    # What the first consent left behind is gone.
    [row] = tenant.rows(
        "SELECT held, held_credential FROM gateway.oauth_flow WHERE workspace_id = %s",
        tenant.number,
    )
    assert row == {"held": None, "held_credential": None}


async def test_the_second_consent_must_be_of_the_same_account(
    tenant: Tenant, browser: Browser, twins: Twins
) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN, consents="separate")
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    second = await browser.step(back)
    other = second.headers["location"].replace("ann%40", "bob%40")
    page = await browser.open(other)
    assert (page.status, page.problem) == (409, "oauth_wrong_account")
    assert (await state(tenant, made))["state"] == "failed"
    [row] = tenant.rows(
        "SELECT held_credential FROM gateway.oauth_flow WHERE workspace_id = %s", tenant.number
    )
    assert row["held_credential"] is None


@pytest.mark.parametrize("provider", ["google", "microsoft"])
async def test_servers_can_be_signed_in_to_with_a_grant(
    tenant: Tenant, browser: Browser, peers: Peers, provider: str
) -> None:
    await use_app(tenant, provider)
    mailbox = await connected(tenant, browser, provider, access="servers")
    assert mailbox["kind"] == "smtp"
    hosts = {
        "google": ("smtp.gmail.com", "imap.gmail.com"),
        "microsoft": ("smtp.office365.com", "outlook.office365.com"),
    }[provider]
    assert (mailbox["smtp"]["host"], mailbox["imap"]["host"]) == hosts
    assert mailbox["smtp"]["auth"] == mailbox["imap"]["auth"] == "xoauth2"
    assert mailbox["smtp"]["username"] == ANN
    for leg in ("send_grant", "read_grant"):
        assert mailbox[leg]["provider"] == provider
    bodies = dict(peers.asked)
    assert bodies["send"]["smtp"]["auth"] == "xoauth2"
    assert bodies["read"]["imap"]["username"] == ANN
    assert bodies["send"]["oauth"]["account"]


async def test_servers_of_ones_own_are_signed_in_to_with_the_grant_too(
    tenant: Tenant, browser: Browser, peers: Peers
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(
        tenant, browser, access="servers",
        smtp={"host": "relay.north.test", "port": 587, "tls": "starttls", "auth": "oauthbearer"},
        imap={"host": "imap.north.test", "port": 993},
    )  # fmt: skip
    assert (mailbox["smtp"]["host"], mailbox["smtp"]["auth"]) == ("relay.north.test", "oauthbearer")
    assert (mailbox["imap"]["host"], mailbox["imap"]["auth"]) == ("imap.north.test", "xoauth2")


async def test_the_installations_app_serves_workspaces_without_their_own(
    tenant: Tenant, browser: Browser, admin: Any, tmp_path: Any, sender_keys: KeyService
) -> None:
    client_id, secret = APPS["google"]
    file = tmp_path / "secret"
    file.write_text(secret + "\n")
    refused = await flow(tenant, "google", 409, login_hint=ANN)
    assert refused["code"] == "oauth_app_missing"
    try:
        shown = await asyncio.to_thread(
            admin, "oauth-app", "set", "google", "--client-id", client_id,
            "--secret-file", str(file),
        )  # fmt: skip
        assert secret not in json.dumps(shown)
        listed = await asyncio.to_thread(admin, "oauth-app", "list")
        assert [(one["provider"], one["client_id"]) for one in listed] == [("google", client_id)]
        assert secret not in json.dumps(listed)
        [app] = [
            one for one in await tenant.call("GET", "/v1/oauth/apps") if one["provider"] == "google"
        ]
        assert (app["source"], app["client_id"]) == ("installation", client_id)
        assert app["redirect_uri"] == f"{PUBLIC}/oauth/callback/google"
        mailbox = await connected(tenant, browser)
        assert mailbox["send_grant"]["app"] == "installation"
        # The workspace's own comes first; its secret is not shown either.
        await use_app(tenant, "google", client_id="own.apps.test", client_secret="own-secret")
        apps = await tenant.call("GET", "/v1/oauth/apps")
        assert (apps[0]["source"], apps[0]["client_id"]) == ("workspace", "own.apps.test")
        assert "own-secret" not in json.dumps(apps)
        await tenant.call("DELETE", "/v1/oauth/apps/google", 204)
        await tenant.call("DELETE", "/v1/oauth/apps/google", 204)
        assert (await tenant.call("GET", "/v1/oauth/apps"))[0]["source"] == "installation"
    finally:
        await asyncio.to_thread(admin, "oauth-app", "remove", "google")
    stored = tenant.rows("SELECT client_secret FROM gateway.oauth_installation_app")
    assert stored == []


async def test_a_secret_in_the_database_is_sealed_for_its_place(
    tenant: Tenant, parts: Parts, sender_keys: KeyService
) -> None:
    await use_app(tenant, "google")
    [row] = tenant.rows(
        "SELECT client_secret FROM gateway.oauth_app WHERE workspace_id = %s", tenant.number
    )
    sealed = bytes(row["client_secret"])
    assert APPS["google"][1].encode() not in sealed
    where = {"table": "oauth_app", "row": "google"}
    assert (await parts.keys.open("gateway", tenant.number, sealed, **where)).decode() == APPS[
        "google"
    ][1]
    with pytest.raises(SealBroken):
        await parts.keys.open("gateway", tenant.number + 1, sealed, **where)
    with pytest.raises(KeyDenied):
        await sender_keys.open("gateway", tenant.number, sealed, **where)


async def test_a_flow_that_cannot_fit_is_refused_at_once(tenant: Tenant) -> None:
    await use_app(tenant, "google")
    for body in (
        {"leg": "send"},
        {"access": "full", "smtp": {"host": "x.test", "port": 465}},
        {"access": "servers", "smtp": {"host": "x.test", "port": 465, "auth": "plain"}},
        {"mailbox": {"policy": {"cadence_s": -1}}},
        {"mailbox": {"message": {"headers": [{"name": "Message-ID", "value": "x"}]}}},
        {"access": "everything"},
    ):
        refused = await flow(tenant, "google", 422, **body)
        assert refused["code"] in ("request_invalid", "policy_invalid", "header_refused")
    await flow(tenant, "google", 404, mailbox_id=ids.encode("mbx", 2**50))


async def test_a_failed_connection_test_saves_nothing_and_shows_the_words(
    tenant: Tenant, browser: Browser, peers: Peers
) -> None:
    await use_app(tenant, "google")
    peers.read = {
        "ok": False, "code": "not_read_back", "message": "signed in; no test message",
        "remedy": "Look into the spam folder.",
    }  # fmt: skip
    made = await flow(tenant, "google", login_hint=ANN)
    page = await browser.open(made["start_url"])
    assert (page.status, page.problem) == (422, "connection_test_failed")
    assert "Look into the spam folder." in page.text
    found = await state(tenant, made)
    assert found["problem"]["read"]["message"] == "signed in; no test message"
    assert tenant.rows("SELECT 1 FROM gateway.mailbox WHERE workspace_id = %s", tenant.number) == []
