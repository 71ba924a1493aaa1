"""The pages of both sign-ins, met by a browser: accounts, boxes, declining, an admin's consent."""

from collections.abc import AsyncIterator

import pytest
from tests.twins.gmail.oauth import CLIENT_ID as GOOGLE_ID
from tests.twins.gmail.oauth import PREFIX
from tests.twins.gmail.server import GmailTwin
from tests.twins.gmail.server import running as gmail_running
from tests.twins.graph.oauth import CLIENT_ID as MICROSOFT_ID
from tests.twins.graph.server import GraphTwin
from tests.twins.graph.server import running as graph_running

from paceline_demo.browser import Browser, NoSuchButton, Page

ANN, BEN = "ann@north.test", "ben@south.test"
BACK = "https://paceline.test/oauth/back"
MODIFY, SEND = f"{PREFIX}gmail.modify", f"{PREFIX}gmail.send"
GOOGLE = {
    "client_id": GOOGLE_ID, "redirect_uri": BACK, "response_type": "code", "state": "s1",
    "scope": f"{MODIFY} {SEND} {PREFIX}userinfo.email openid", "access_type": "offline",
    "prompt": "consent",
}  # fmt: skip
MICROSOFT = {
    "client_id": MICROSOFT_ID, "redirect_uri": BACK, "response_type": "code", "state": "s1",
    "scope": "https://graph.microsoft.com/Mail.Send https://graph.microsoft.com/Mail.ReadWrite "
    "offline_access",
}  # fmt: skip


@pytest.fixture
async def gmail() -> AsyncIterator[tuple[GmailTwin, str]]:
    async with gmail_running() as (twin, url):
        twin.identity.interactive = True
        for email in (ANN, BEN):
            twin.add_mailbox(email)
        yield twin, f"{url}/o/oauth2/v2/auth"


@pytest.fixture
async def graph() -> AsyncIterator[tuple[GraphTwin, str]]:
    async with graph_running() as (twin, url):
        twin.identity.interactive = True
        for email in (ANN, BEN):
            twin.add_mailbox(email)
        yield twin, url


async def asked(url: str, query: dict[str, str], browser: Browser) -> Page:
    separator = "&".join(f"{name}={value}" for name, value in query.items())
    return await browser.open(f"{url}?{separator}")


def browsing() -> Browser:
    return Browser(stop_at=BACK)


async def test_google_lets_a_person_choose_the_account_and_untick_scopes(
    gmail: tuple[GmailTwin, str],
) -> None:
    _, url = gmail
    async with browsing() as browser:
        chooser = await asked(url, GOOGLE, browser)
        assert [form.buttons for form in chooser.forms] == [
            [("login_hint", ANN)], [("login_hint", BEN)],
        ]  # fmt: skip
        page = await browser.press(chooser, "login_hint", BEN)
        assert BEN in page.words
        assert {value for _, value in page.forms[0].boxes} == set(GOOGLE["scope"].split())
        back = await browser.press(page, "decision", "allow", without=(MODIFY, "openid"))
        # Who signs in is told in any case; what was unticked is not granted.
        assert back.query["scope"].split() == [SEND, f"{PREFIX}userinfo.email", "openid"]
        assert back.query["state"] == "s1"
        assert back.query["code"]


async def test_google_shows_the_hinted_account_at_once_and_takes_no_for_an_answer(
    gmail: tuple[GmailTwin, str],
) -> None:
    twin, url = gmail
    twin.identity.unticked[ANN] = frozenset({SEND})
    async with browsing() as browser:
        page = await asked(url, GOOGLE | {"login_hint": ANN}, browser)
        assert ("granted", SEND) not in page.forms[0].fields
        back = await browser.press(page, "decision", "deny")
        assert back.query == {"state": "s1", "error": "access_denied"}
        with pytest.raises(NoSuchButton):
            await browser.press(page, "decision", "maybe")


async def test_google_goes_nowhere_with_a_request_it_does_not_know(
    gmail: tuple[GmailTwin, str],
) -> None:
    twin, url = gmail
    twin.identity.redirect_uris.add("https://elsewhere.test/back")
    async with browsing() as browser:
        page = await asked(url, GOOGLE, browser)
        assert (page.status, page.forms) == (400, ())
        assert "redirect_uri_mismatch" in page.words
        page = await asked(url, GOOGLE | {"client_id": "x"}, browser)
        assert "invalid_client" in page.words


async def test_google_gives_a_refresh_token_again_only_when_it_asked_again(
    gmail: tuple[GmailTwin, str],
) -> None:
    twin, url = gmail
    twin.identity.interactive = False
    held = []
    async with browsing() as browser:
        for prompt in ("none", "none", "consent"):
            query = GOOGLE | {"login_hint": ANN, "prompt": prompt}
            code = (await asked(url, query, browser)).query["code"]
            form = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK}
            secret = twin.identity.clients[GOOGLE_ID]
            tokens = twin.identity.token(form, (GOOGLE_ID, secret))
            held.append("refresh_token" in tokens)
    assert held == [True, False, True]


async def test_microsoft_grants_all_of_it_or_nothing(graph: tuple[GraphTwin, str]) -> None:
    _, url = graph
    url += "/common/oauth2/v2.0/authorize"
    async with browsing() as browser:
        chooser = await asked(url, MICROSOFT, browser)
        page = await browser.press(chooser, "login_hint", ANN)
        assert page.forms[0].boxes == []
        assert "Mail.ReadWrite" in page.words
        back = await browser.press(page, "decision", "allow")
        assert back.query["code"]
        no = await browser.press(page, "decision", "deny")
        assert no.query["error"] == "access_denied"
        assert "AADSTS65004" in no.query["error_description"]


async def test_microsoft_asks_for_an_admin_first_where_the_tenant_wants_one(
    graph: tuple[GraphTwin, str],
) -> None:
    twin, url = graph
    twin.identity.needs_admin = True
    twin.identity.admins.add(BEN)
    authorize = f"{url}/common/oauth2/v2.0/authorize"
    admin = {name: MICROSOFT[name] for name in ("client_id", "redirect_uri", "state")}
    async with browsing() as browser:
        page = await asked(authorize, MICROSOFT | {"login_hint": ANN}, browser)
        assert "Need admin approval" in page.words
        back = await browser.press(page, "decision")
        assert back.query["error"] == "consent_required"
        assert "AADSTS90094" in back.query["error_description"]

        chooser = await asked(f"{url}/common/v2.0/adminconsent", admin, browser)
        page = await browser.press(chooser, "login_hint", BEN)
        declined = await browser.press(page, "decision", "deny")
        assert declined.query["error"] == "access_denied"
        agreed = await browser.press(page, "decision", "allow")
        assert (agreed.query["admin_consent"], agreed.query["state"]) == ("True", "s1")

        page = await asked(authorize, MICROSOFT | {"login_hint": ANN}, browser)
        assert (await browser.press(page, "decision", "allow")).query["code"]
