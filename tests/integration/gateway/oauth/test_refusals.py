"""What a person, an administrator or a provider refuses: kept in their words, with what to do."""

from urllib.parse import urlencode, urlsplit

import pytest
from tests.integration.gateway.conftest import Tenant
from tests.integration.gateway.oauth.world import (
    ANN,
    APPS,
    PUBLIC,
    Browser,
    Twins,
    connected,
    flow,
    state,
    use_app,
)
from tests.twins.wire import FaultKind


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
    cookies = {one.name: one.value or "" for one in stranger.client.cookies.jar}
    page = await stranger.open(back)
    assert (page.status, page.problem) == (403, "oauth_admin_refused")
    assert "AADSTS65004" in page.text
    assert (await state(tenant, made))["admin_consent"] == "refused"
    # An answer counts once, whatever it says the second time.
    for name, value in cookies.items():
        stranger.client.cookies.set(name, value, path="/oauth")
    again = f"{PUBLIC}/oauth/callback/microsoft?state={asked['state']}&admin_consent=True"
    assert (await stranger.open(again)).problem == "oauth_state_used"
    assert (await state(tenant, made))["admin_consent"] == "refused"
    stranger.client.cookies.clear()
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
