"""The way there and back is good for one browser, once, and for a while."""

from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from tests.integration.gateway.conftest import Tenant
from tests.integration.gateway.oauth.world import (
    ANN,
    BOB,
    PUBLIC,
    Browser,
    Later,
    Twins,
    flow,
    state,
    use_app,
)

from paceline_gateway import oauth_flow
from paceline_gateway.parts import Parts


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
    [session] = [one.value or "" for one in browser.client.cookies.jar]
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
