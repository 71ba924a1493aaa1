"""The Gmail twin as a process of its own, driven over its control API alone."""

import base64
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from tests.conformance.providers.stage import RECIPIENT, SENDER, message
from tests.twins.gmail.oauth import CLIENT_ID, CLIENT_SECRET, PREFIX

from paceline_local.process import wait_until

ROOT = Path(__file__).parents[3]
ME = "gmail/v1/users/me"
SCOPES = f"{PREFIX}gmail.modify {PREFIX}userinfo.email openid"
BACK = "https://paceline.test/oauth/google"


@pytest.fixture(scope="module")
def twin() -> Iterator[str]:
    """Give the base URL of a twin in a process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.twins.gmail", "--port", str(port)],
        cwd=ROOT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/control/ready", trust_env=False).is_success
        except httpx.TransportError:
            return False

    try:
        assert wait_until(ready, 30)
        yield url
    finally:
        process.terminate()
        assert process.wait(10) == 0


@pytest.fixture
def http(twin: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=twin, trust_env=False) as client:
        yield client


def connected(http: httpx.Client, email: str, **more: str) -> dict[str, str]:
    """Go through the redirect flow as a browser and a gateway would; return the tokens."""
    asked = {
        "client_id": CLIENT_ID, "redirect_uri": BACK, "response_type": "code", "scope": SCOPES,
        "state": "s1", "login_hint": email, "access_type": "offline", "prompt": "consent",
        "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        "code_challenge_method": "S256",
    }  # fmt: skip
    page = http.get("/o/oauth2/v2/auth", params=asked)
    assert page.status_code == 302
    back = {
        key: value[0] for key, value in parse_qs(urlsplit(page.headers["location"]).query).items()
    }
    assert back["state"] == "s1"
    if "error" in back:
        return back
    form = {
        "grant_type": "authorization_code", "code": back["code"], "redirect_uri": BACK,
        "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
        # The example of RFC 7636, appendix B.
        "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    }  # fmt: skip
    found: dict[str, str] = http.post("/token", data=form | more).json()
    return found


def sent(http: httpx.Client, token: str, job: str) -> httpx.Response:
    raw = base64.urlsafe_b64encode(message(job)).decode()
    headers = {"Authorization": f"Bearer {token}"}
    return http.post(f"{ME}/messages/send", json={"raw": raw}, headers=headers)


def truth(http: httpx.Client) -> list[str]:
    return [one["job"] for one in http.get("/control/truth").json()["submissions"]]


def test_a_mailbox_is_connected_through_a_redirect_flow(http: httpx.Client) -> None:
    http.post("/control/mailboxes", json={"email": SENDER, "name": "Ann North"})
    tokens = connected(http, SENDER)
    assert tokens["scope"] == SCOPES
    who = http.get("/v1/userinfo", headers={"Authorization": f"Bearer {tokens['access_token']}"})
    assert (who.json()["email"], who.json()["name"]) == (SENDER, "Ann North")
    assert connected(http, SENDER, code_verifier="x" * 43)["error"] == "invalid_grant"
    assert connected(http, SENDER, client_secret="x")["error"] == "invalid_client"
    http.post(f"/control/mailboxes/{SENDER}/tokens", json={"do": "decline"})
    assert connected(http, SENDER)["error"] == "access_denied"
    http.post(f"/control/mailboxes/{SENDER}/tokens", json={"do": "agree"})
    unticked = {"do": "untick", "scopes": [f"{PREFIX}gmail.modify"]}
    http.post(f"/control/mailboxes/{SENDER}/tokens", json=unticked)
    assert "gmail.modify" not in connected(http, SENDER)["scope"]


def test_a_disconnected_mailbox_has_no_way_in(http: httpx.Client) -> None:
    http.post("/control/mailboxes", json={"email": "cyd@north.test"})
    tokens = connected(http, "cyd@north.test")
    assert http.post("/revoke", params={"token": tokens["refresh_token"]}).is_success
    form = {
        "grant_type": "refresh_token", "refresh_token": tokens["refresh_token"],
        "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
    }  # fmt: skip
    refused = http.post("/token", data=form)
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_grant")
    assert sent(http, tokens["access_token"], "job_c").status_code == 401
    assert "job_c" not in truth(http)


def test_truth_faults_clock_and_reports_are_reached_over_http(http: httpx.Client) -> None:
    http.post("/control/mailboxes", json={"email": RECIPIENT})
    token = http.post("/control/mailboxes", json={"email": "dan@north.test"}).json()["access_token"]
    fault = {"operation": "users.messages.send", "kind": "done_then_status", "status": 503}
    http.post("/control/faults", json=fault)
    assert sent(http, token, "job_1").status_code == 503
    assert sent(http, token, "job_2").status_code == 200
    assert truth(http) == ["job_1", "job_2"]
    submissions = http.get("/control/truth").json()["submissions"]
    late = http.post(
        "/control/mailboxes/dan@north.test/bounce", json={"id": submissions[0]["id"]}
    ).json()
    assert late["threadId"] == submissions[0]["thread_id"]
    headers = {"Authorization": f"Bearer {token}"}
    shown = http.get(f"{ME}/messages/{late['id']}", headers=headers).json()
    assert shown["payload"]["mimeType"] == "multipart/report"
    http.post("/control/mailboxes/dan@north.test/conduct", json={"sends_per_day": 2})
    assert sent(http, token, "job_3").status_code == 429
    http.post("/control/clock", json={"advance_s": 90_000})
    assert sent(http, token, "job_4").status_code == 401
    assert truth(http) == ["job_1", "job_2"]
