"""Connecting mailboxes by consent: the whole redirect flow against both providers' twins."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from tests.integration.gateway.conftest import Login, Peers, Tenant
from tests.integration.gateway.oauth_world import (
    APPS,
    PUBLIC,
    Browser,
    Twins,
    flow,
    state,
    use_app,
)
from tests.twins.gmail import server as gmail
from tests.twins.graph import server as graph
from tests.twins.wire import FaultKind

from paceline_common import ids
from paceline_common.clock import Clock
from paceline_common.keys import KeyDenied, KeyService, SealBroken
from paceline_gateway import oauth_flow
from paceline_gateway.app import build
from paceline_gateway.parts import Parts
from paceline_gateway.settings import GatewaySettings
from paceline_local.stack import Stack

ANN, BOB = "ann@north.test", "bob@north.test"
KIND = {"google": "gmail", "microsoft": "graph"}


@pytest.fixture
async def twins() -> AsyncIterator[Twins]:
    async with gmail.running() as (google, one), graph.running() as (microsoft, other):
        for twin in (google, microsoft):
            for email in (ANN, BOB):
                twin.add_mailbox(email)
        yield Twins(google, one, microsoft, other)


@pytest.fixture
async def app(
    stack: Stack, peers: Peers, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FastAPI]:
    for name, value in stack.env("gateway").items():
        monkeypatch.setenv(name, value)
    settings = GatewaySettings(
        http_port=0, sender_url=peers.url, reply_url=peers.url, scheduler_url=peers.url,
        **{"public_url": PUBLIC, **twins.settings},
    )  # fmt: skip
    service = build(settings)
    yield service.http
    parts: Parts = service.http.state.parts
    await parts.prober.close()
    await parts.pacing.close()
    await parts.oauth.close()
    parts.keys.close()
    await service.db.close()


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[Browser]:
    one = Browser(app)
    yield one
    await one.client.aclose()


@pytest.fixture
async def stranger(app: FastAPI) -> AsyncIterator[Browser]:
    one = Browser(app)
    yield one
    await one.client.aclose()


@pytest.fixture
async def reply_keys(stack: Stack, sender_keys: KeyService) -> AsyncIterator[KeyService]:
    env = stack.env("reply")
    secret = stack.passwords.get("reply", "paceline_keys_secret_id")
    async with KeyService(
        Login(env["PACELINE_KEYS_URL"], env["PACELINE_KEYS_ROLE_ID"], SecretStr(secret))
    ) as keys:
        yield keys


async def connected(
    tenant: Tenant, browser: Browser, provider: str = "google", **body: Any
) -> dict[str, Any]:
    """Connect a mailbox whole and return it."""
    made = await flow(tenant, provider, **{"login_hint": ANN, **body})
    page = await browser.open(made["start_url"])
    assert page.status == 200, page.text
    found = await state(tenant, made)
    assert found["state"] == "connected", found
    mailbox: dict[str, Any] = await tenant.call("GET", f"/v1/mailboxes/{found['mailbox_id']}")
    return mailbox


def column(tenant: Tenant, mailbox: dict[str, Any], name: str) -> Any:
    [row] = tenant.rows(
        f"SELECT {name} AS value FROM gateway.mailbox WHERE workspace_id = %s AND email = %s",
        tenant.number, mailbox["email"],
    )  # fmt: skip
    return row["value"]


async def opened(
    keys: KeyService, tenant: Tenant, mailbox: dict[str, Any], scope: Any
) -> dict[str, Any]:
    """Return a leg's grant as its service opens it."""
    plain = await keys.open(
        scope, tenant.number, bytes(column(tenant, mailbox, f"{scope}_credential")),
        table="mailbox", row=ids.decode("mbx", mailbox["id"]),
    )  # fmt: skip
    grant: dict[str, Any] = json.loads(plain)["oauth"]
    return grant


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


@pytest.mark.parametrize("provider", ["google", "microsoft"])
async def test_the_flow_is_bound_by_pkce_state_and_cookie(
    tenant: Tenant, browser: Browser, provider: str
) -> None:
    await use_app(tenant, provider)
    made = await flow(tenant, provider, login_hint=ANN)
    first = await browser.step(made["start_url"])
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "path=/oauth" in cookie
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["referrer-policy"] == "no-referrer"
    assert (await state(tenant, made))["state"] == "waiting"
    browser.trail.append(first.headers["location"])
    asked = browser.asked("auth" if provider == "google" else "authorize")
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    assert asked["redirect_uri"] == f"{PUBLIC}/oauth/callback/{provider}"
    # What is stored is good for nothing: digests only.
    rows = tenant.rows(
        "SELECT f.start_hash, s.state_hash, s.session_hash FROM gateway.oauth_flow AS f"
        " JOIN gateway.oauth_state AS s USING (workspace_id, flow_id) WHERE f.workspace_id = %s",
        tenant.number,
    )
    [session] = [one.value for one in browser.client.cookies.jar]
    token = made["start_url"].rpartition("/")[2]
    for secret in (token, asked["state"], session):
        assert all(secret.encode() not in bytes(value) for value in rows[0].values())
    assert (await browser.open(first.headers["location"])).status == 200
    # The cookie is gone with the flow.
    assert not list(browser.client.cookies.jar)


async def test_secure_cookies_where_the_gateway_is_reached_by_https(
    tenant: Tenant, parts: Parts, app: FastAPI
) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google")
    parts.settings.__dict__["public_url"] = "https://mail.paceline.test"
    answer = await tenant.http.get(urlsplit(made["start_url"]).path)
    assert "; secure" in answer.headers["set-cookie"].lower()
    assert "redirect_uri=https%3A%2F%2Fmail.paceline.test" in answer.headers["location"]


async def test_a_start_link_works_once(tenant: Tenant, browser: Browser, stranger: Browser) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN)
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    again = await stranger.open(made["start_url"])
    assert (again.status, again.problem) == (410, "oauth_link_used")
    assert (await stranger.open(f"{PUBLIC}/oauth/start/nonsense")).problem == "oauth_link_unknown"
    # The one who was first goes on undisturbed.
    assert (await browser.open(back)).status == 200


async def test_a_way_back_in_another_browser_changes_nothing(
    tenant: Tenant, browser: Browser, stranger: Browser, twins: Twins
) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN)
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    page = await stranger.open(back)
    assert (page.status, page.problem) == (403, "oauth_wrong_session")
    assert "token" not in twins.google.calls
    assert (await state(tenant, made))["state"] == "waiting"
    assert (await browser.open(back)).status == 200
    assert (await state(tenant, made))["state"] == "connected"


async def test_a_cookie_of_another_flow_is_not_good_enough(
    tenant: Tenant, browser: Browser, stranger: Browser
) -> None:
    await use_app(tenant, "google")
    backs = []
    for one, email in ((browser, ANN), (stranger, BOB)):
        made = await flow(tenant, "google", login_hint=email)
        backs.append(await one.until(made["start_url"], "/oauth/callback/google"))
    # A code smuggled into somebody else's flow: state and cookie are right, the code is not.
    code = dict(one.split("=") for one in urlsplit(backs[0]).query.split("&"))["code"]
    own = dict(one.split("=") for one in urlsplit(backs[1]).query.split("&"))["state"]
    page = await stranger.open(f"{PUBLIC}/oauth/callback/google?code={code}&state={own}")
    assert page.problem == "oauth_grant_refused"
    assert "Invalid code verifier" in page.text


async def test_a_replayed_way_back_changes_nothing(tenant: Tenant, browser: Browser) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN)
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    cookies = {one.name: one.value or "" for one in browser.client.cookies.jar}
    assert (await browser.open(back)).status == 200
    before = await state(tenant, made)
    for name, value in cookies.items():
        browser.client.cookies.set(name, value, path="/oauth")
    page = await browser.open(back)
    assert (page.status, page.problem) == (409, "oauth_state_used")
    assert await state(tenant, made) == before


async def test_an_unknown_state_is_none_of_ours(tenant: Tenant, browser: Browser) -> None:
    page = await browser.open(f"{PUBLIC}/oauth/callback/google?code=x&state=made-up")
    assert (page.status, page.problem) == (400, "oauth_state_unknown")
    # A state of one provider is not good at the other's address.
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN)
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    page = await browser.open(back.replace("/google", "/microsoft"))
    assert page.problem == "oauth_state_unknown"


class Later:
    """A clock that is ahead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now().timestamp() + self.ahead_s, UTC)

    def monotonic(self) -> float:
        return self._clock.monotonic()


async def test_a_flow_that_takes_too_long_is_over(
    tenant: Tenant, browser: Browser, parts: Parts, twins: Twins
) -> None:
    await use_app(tenant, "google")
    late = await flow(tenant, "google", login_hint=ANN)
    made = await flow(tenant, "google", login_hint=ANN)
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    clock = Later(parts.clock)
    parts.clock = clock
    clock.ahead_s = parts.settings.oauth_flow_s + 1
    page = await browser.open(back)
    assert (page.status, page.problem) == (410, "oauth_flow_expired")
    assert (await browser.open(late["start_url"])).problem == "oauth_flow_expired"
    found = await state(tenant, made)
    assert (found["state"], found["problem"]["code"]) == ("expired", "oauth_flow_expired")
    assert "token" not in twins.google.calls


async def test_what_nobody_finished_is_ended_and_forgotten(
    tenant: Tenant, browser: Browser, parts: Parts
) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN, consents="separate")
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    assert (await browser.step(back)).is_redirect
    held = "SELECT held_credential FROM gateway.oauth_flow WHERE workspace_id = %s"
    [row] = tenant.rows(held, tenant.number)
    assert row["held_credential"] is not None
    clock = Later(parts.clock)
    parts.clock = clock
    clock.ahead_s = parts.settings.oauth_flow_s + 60
    await oauth_flow.tidy(parts)
    [row] = tenant.rows(held, tenant.number)
    assert row["held_credential"] is not None, "somebody may be at the test still"
    before = await state(tenant, made)
    clock.ahead_s += 300
    await oauth_flow.tidy(parts)
    [row] = tenant.rows(held, tenant.number)
    assert row["held_credential"] is None
    after = await state(tenant, made)
    assert (after["state"], after["problem"]) == ("expired", before["problem"])
    clock.ahead_s += 31 * 86_400
    await oauth_flow.tidy(parts)
    assert tenant.rows(held, tenant.number) == []
    states = "SELECT 1 FROM gateway.oauth_state WHERE workspace_id = %s"
    assert tenant.rows(states, tenant.number) == []


async def test_a_providers_words_are_shown_as_words(tenant: Tenant, browser: Browser) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN)
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    own = dict(one.split("=") for one in urlsplit(back).query.split("&"))["state"]
    words = urlencode({"error": "access_denied", "error_description": "<script>alert(1)</script>"})
    page = await browser.open(f"{PUBLIC}/oauth/callback/google?state={own}&{words}")
    assert "<script>" not in page.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_a_revoked_key_takes_its_flows_along(
    tenant: Tenant, browser: Browser, twins: Twins
) -> None:
    await use_app(tenant, "google")
    made = await flow(tenant, "google", login_hint=ANN)
    back = await browser.until(made["start_url"], "/oauth/callback/google")
    tenant.rows(
        "UPDATE gateway.api_key SET revoked_at = now() WHERE workspace_id = %s", tenant.number
    )
    assert (await browser.open(back)).problem == "oauth_flow_expired"
    assert "token" not in twins.google.calls


@pytest.mark.parametrize("provider", ["google", "microsoft"])
async def test_a_person_who_declines_is_told_so(
    tenant: Tenant, browser: Browser, twins: Twins, provider: str
) -> None:
    await use_app(tenant, provider)
    twins.google.identity.declines.add(ANN)
    twins.microsoft.identity.refuse_authorize[ANN] = 65004
    made = await flow(tenant, provider, login_hint=ANN)
    page = await browser.open(made["start_url"])
    assert (page.status, page.problem) == (403, "oauth_access_denied")
    found = await state(tenant, made)
    assert (found["state"], found["problem"]["code"]) == ("failed", "oauth_access_denied")
    assert "access_denied" in found["problem"]["detail"]
    assert found["problem"]["remedy"]
    assert tenant.rows("SELECT 1 FROM gateway.mailbox WHERE workspace_id = %s", tenant.number) == []


async def test_what_was_unticked_is_named(tenant: Tenant, browser: Browser, twins: Twins) -> None:
    await use_app(tenant, "google")
    readonly = "https://www.googleapis.com/auth/gmail.readonly"
    twins.google.identity.unticked[ANN] = frozenset({readonly})
    made = await flow(tenant, "google", login_hint=ANN, access="send_and_read")
    page = await browser.open(made["start_url"])
    assert (page.status, page.problem) == (422, "oauth_scopes_missing")
    found = (await state(tenant, made))["problem"]
    assert readonly in found["detail"]
    assert "gmail.send" not in found["detail"]
    assert tenant.rows("SELECT 1 FROM gateway.mailbox WHERE workspace_id = %s", tenant.number) == []


async def test_without_a_refresh_token_nothing_is_saved(
    tenant: Tenant, browser: Browser, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use_app(tenant, "google")
    whole = twins.google.identity.grant
    monkeypatch.setattr(
        twins.google.identity, "grant", lambda *a, **more: whole(*a, **{**more, "offline": False})
    )
    made = await flow(tenant, "google", login_hint=ANN)
    assert (await browser.open(made["start_url"])).problem == "oauth_no_refresh_token"


@pytest.mark.parametrize("number", [90094, 65001])
async def test_where_an_administrator_has_to_consent_there_is_a_link_for_them(
    tenant: Tenant, browser: Browser, stranger: Browser, twins: Twins, number: int
) -> None:
    await use_app(tenant, "microsoft")
    twins.microsoft.identity.refuse_authorize[ANN] = number
    made = await flow(tenant, "microsoft", login_hint=ANN)
    page = await browser.open(made["start_url"])
    assert (page.status, page.problem) == (403, "oauth_admin_consent_required")
    found = await state(tenant, made)
    assert found["admin_consent"] == "wanted"
    assert f"AADSTS{number}" in found["problem"]["detail"]
    link = found["problem"]["admin_consent_url"]
    assert link in page.text
    # The administrator sits at another machine.
    given = await stranger.open(link)
    assert given.status == 200, given.text
    asked = stranger.asked("adminconsent")
    assert asked["client_id"] == APPS["microsoft"][0]
    assert "https://graph.microsoft.com/Mail.ReadWrite" in asked["scope"].split()
    assert (await state(tenant, made))["admin_consent"] == "given"
    assert "oauth.admin_consented" in tenant.audited()
    # From now on people of the organisation can connect.
    del twins.microsoft.identity.refuse_authorize[ANN]
    assert (await connected(tenant, browser, "microsoft"))["kind"] == "graph"


async def test_an_administrator_who_refuses_is_told_so_and_may_come_again(
    tenant: Tenant, browser: Browser, stranger: Browser, twins: Twins
) -> None:
    await use_app(tenant, "microsoft")
    twins.microsoft.identity.refuse_authorize[ANN] = 90094
    made = await flow(tenant, "microsoft", login_hint=ANN)
    await browser.open(made["start_url"])
    link = (await state(tenant, made))["problem"]["admin_consent_url"]
    answer = await stranger.step(link)
    asked = dict(one.split("=", 1) for one in urlsplit(answer.headers["location"]).query.split("&"))
    words = urlencode({
        "admin_consent": "True", "error": "access_denied",
        "error_description": "AADSTS65004: User declined to consent.",
    })  # fmt: skip
    back = f"{PUBLIC}/oauth/callback/microsoft?state={asked['state']}&{words}"
    # Nobody else can answer for them.
    assert (await browser.open(back)).problem == "oauth_wrong_session"
    page = await stranger.open(back)
    assert (page.status, page.problem) == (403, "oauth_admin_refused")
    assert "AADSTS65004" in page.text
    assert (await state(tenant, made))["admin_consent"] == "refused"
    assert (await stranger.open(link)).status == 200
    assert (await state(tenant, made))["admin_consent"] == "given"


async def test_only_a_flow_that_needs_one_has_an_admin_link(
    tenant: Tenant, stranger: Browser
) -> None:
    await use_app(tenant, "microsoft")
    made = await flow(tenant, "microsoft", login_hint=ANN)
    page = await stranger.open(f"{PUBLIC}/oauth/admin-consent/{made['id']}")
    assert (page.status, page.problem) == (404, "oauth_link_unknown")
    page = await stranger.open(f"{PUBLIC}/oauth/admin-consent/flow_nonsense")
    assert page.problem == "oauth_link_unknown"


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (53003, "oauth_grant_refused"),
        (7000215, "oauth_app_refused"),
        (7000222, "oauth_app_refused"),
        (90033, "oauth_provider_unavailable"),
        (90094, "oauth_admin_consent_required"),
    ],
)
async def test_a_refusal_at_the_token_endpoint_is_kept_in_its_own_words(
    tenant: Tenant, browser: Browser, twins: Twins, number: int, problem: str
) -> None:
    await use_app(tenant, "microsoft")
    twins.microsoft.identity.refuse_token[ANN] = number
    made = await flow(tenant, "microsoft", login_hint=ANN)
    assert (await browser.open(made["start_url"])).problem == problem
    found = (await state(tenant, made))["problem"]
    if problem != "oauth_provider_unavailable":
        assert f"AADSTS{number}" in found["detail"]
    assert found["remedy"]


async def test_a_wrong_app_secret_is_the_operators_to_mend(
    tenant: Tenant, browser: Browser
) -> None:
    await use_app(tenant, "google", client_secret="not-the-secret")
    made = await flow(tenant, "google", login_hint=ANN)
    page = await browser.open(made["start_url"])
    assert page.problem == "oauth_app_refused"
    assert "not-the-secret" not in page.text


async def test_a_provider_that_is_away_is_said_to_be(
    tenant: Tenant, browser: Browser, twins: Twins
) -> None:
    await use_app(tenant, "google")
    faults: list[tuple[str, FaultKind]] = [
        ("token", "reset_before"), ("token", "status"), ("userinfo", "reset_before"),
    ]  # fmt: skip
    for operation, kind in faults:
        twins.google.fail(operation, kind, status=503)
        made = await flow(tenant, "google", login_hint=ANN)
        page = await browser.open(made["start_url"])
        assert page.problem == "oauth_provider_unavailable", (operation, kind)
        assert (await state(tenant, made))["state"] == "failed"
    twins.google.fail("userinfo", "status", status=403)
    made = await flow(tenant, "google", login_hint=ANN)
    assert (await browser.open(made["start_url"])).problem == "oauth_profile_unreadable"


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


# ---- Again


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


def suspend(tenant: Tenant, mailbox: dict[str, Any], reason: str) -> None:
    tenant.rows("SELECT set_config('app.workspace_ids', %s, false)", str(tenant.number))
    tenant.rows(
        "SELECT scheduler.suspend(%s, 'mailbox', %s, %s, NULL, 'sender', 'revoked')",
        tenant.number, ids.decode("mbx", mailbox["id"]), reason,
    )  # fmt: skip


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


# ---- Disconnect


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
    await one.call("DELETE", f"/v1/mailboxes/{(await _only(one))['id']}", 204)
    assert not [path for path, _ in peers.questions if "/revoke/" in path]
    await other.call("DELETE", f"/v1/mailboxes/{mailbox['id']}", 204)
    assert len([path for path, _ in peers.questions if "/revoke/" in path]) == 2


async def _only(tenant: Tenant) -> dict[str, Any]:
    [mailbox] = (await tenant.call("GET", "/v1/mailboxes"))["items"]
    found: dict[str, Any] = mailbox
    return found
