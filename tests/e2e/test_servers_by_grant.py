"""A mailbox on SMTP and IMAP servers that are signed in to with an OAuth grant, end to end.

Postfix and Dovecot take the access tokens of Gmail's twin: Dovecot asks the twin whose they
are. The person consents, both services sign in to the servers with what was granted, and go on
when a token has ended, and when the app's secret was changed.
"""

import shutil
import smtplib
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import httpx
import pytest
from tests.twins.gmail.oauth import CLIENT_ID
from tests.waiting import until

from paceline_demo.admin import Admin
from paceline_demo.api import Api, ApiRefused
from paceline_local.parts.mailhost import User
from paceline_local.stack import Stack

ANN, PASSWORD = "ann@north.test", "nobody-signs-in-with-this-5"
LEADS: Final = ("lea@example.test", "leo@example.test")
SECRET, ROTATED = "GOCSPX-servers", "GOCSPX-servers-2"
POLICY: Final = {
    "cadence_s": 1, "jitter_s": [0.3, 0.5], "grace_s": 0.3, "daily_cap": None, "ramp": None,
    "windows": None, "holidays": False, "health_floor": False, "cooldown": False,
    "stage_gate": None,
}  # fmt: skip
_until: Final = partial(until, within_s=90, every_s=0.25)


@pytest.fixture
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("servers") / "run")
    try:
        yield stack.up(keys="twin", twins=True)
    finally:
        stack.down()
        shutil.rmtree(stack.layout.state)


def identity(house: Stack, secret: str) -> None:
    told = {"interactive": False, "clients": {CLIENT_ID: secret}}
    house.twins["gmail"].control("POST", "identity", told)


def tokens(house: Stack, do: str) -> None:
    house.twins["gmail"].control("POST", f"mailboxes/{ANN}/tokens", {"do": do})


@pytest.mark.timeout(400)
async def test_a_mailbox_on_servers_is_connected_by_consent_sends_and_reads(house: Stack) -> None:
    house.mailhost.add_users([User(ANN, PASSWORD), *(User(lead, PASSWORD) for lead in LEADS)])
    house.twins["gmail"].control("POST", "mailboxes", {"email": ANN})
    identity(house, SECRET)
    admin = Admin(house.env("admin"))
    made = await admin.json("workspace", "create", "Servers")
    key = await admin.json("key", "create", made["workspace_id"], "--name", "servers")
    url = house.services["gateway"].url()
    api = Api(url, key["key"])
    headers = {"Authorization": f"Bearer {key['key']}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as http:

        async def set_app(secret: str) -> None:
            answer = await http.put(
                "/v1/oauth/apps/google", json={"client_id": CLIENT_ID, "client_secret": secret}
            )
            answer.raise_for_status()

        await set_app(SECRET)
        mailbox = await _connect(house, api)
        assert (mailbox["kind"], mailbox["smtp"]["auth"]) == ("smtp", "xoauth2")
        assert mailbox["imap"]["auth"] == "oauthbearer"
        campaign = await _campaign(api, mailbox["id"])

        # It sends, and what comes back is read.
        first = await _enroll(api, campaign, LEADS[0])
        await _until(lambda: _arrived(house, LEADS[0]), "the message is with its recipient")
        _answer(house, LEADS[0])
        await _until(partial(_state_is, api, first, "replied"), "the answer was read")

        # The tokens end, and the app's secret is another: nobody connects anything.
        identity(house, ROTATED)
        await set_app(ROTATED)
        tokens(house, "expire")
        await _enroll(api, campaign, LEADS[1])
        await _until(lambda: _arrived(house, LEADS[1]), "with a token of the new secret")
        assert (await api.get(f"/v1/mailboxes/{mailbox['id']}"))["suspensions"] == []

        # A grant that is taken back is said to be, in the server's terms.
        tokens(house, "revoke")
        tested = await api.post(f"/v1/mailboxes/{mailbox['id']}/test")
        assert (tested["ok"], tested["send"]["code"]) == (False, "auth_failed"), tested


async def _connect(house: Stack, api: Api) -> dict[str, Any]:
    ports = house.ports
    wanted = {
        "access": "servers", "login_hint": ANN, "mailbox": {"policy": POLICY},
        "smtp": {"host": "127.0.0.1", "port": ports["smtp_starttls"], "tls": "starttls"},
        "imap": {
            "host": "127.0.0.1", "port": ports["imaps"], "tls": "implicit", "auth": "oauthbearer",
        },
    }  # fmt: skip
    flow = await api.post("/v1/oauth/google/flows", wanted)
    async with httpx.AsyncClient(follow_redirects=True, timeout=120) as browser:
        page = await browser.get(flow["start_url"])
        assert page.status_code == 200, page.text
    found = await api.get(f"/v1/oauth/flows/{flow['id']}")
    assert found["state"] == "connected", found
    mailbox: dict[str, Any] = await api.get(f"/v1/mailboxes/{found['mailbox_id']}")
    return mailbox


async def _campaign(api: Api, mailbox: str) -> str:
    pool = await api.post("/v1/pools", {"name": "one", "mailboxes": [mailbox]})
    campaign = await api.post(
        "/v1/campaigns",
        {
            "name": "servers", "tiers": [[pool["id"]]],
            "steps": [
                {"delay_s": 0, "subject": "Hello", "text": "Good day.\n"},
                {"delay_s": 86_400, "subject": "", "text": "Again.\n"},
            ],
        },
    )  # fmt: skip
    await api.post(f"/v1/campaigns/{campaign['id']}/start")
    number: str = campaign["id"]
    return number


async def _enroll(api: Api, campaign: str, email: str) -> str:
    await api.post(f"/v1/campaigns/{campaign}/leads", {"leads": [{"email": email}]})

    async def enrolled() -> str | None:
        found = await api.all("/v1/enrollments", campaign_id=campaign, email=email)
        return found[0]["id"] if found else None

    number: str = await _until(enrolled, "enrolled")
    return number


async def _state_is(api: Api, enrollment: str, state: str) -> bool:
    try:
        return bool((await api.get(f"/v1/enrollments/{enrollment}"))["state"] == state)
    except ApiRefused:
        return False


def _arrived(house: Stack, email: str) -> list[Any]:
    box = house.mailhost.maildir(email)
    return [*box.glob("new/*"), *box.glob("cur/*")]


def _answer(house: Stack, lead: str) -> None:
    """Let a lead answer what it got."""
    (path,) = _arrived(house, lead)
    head = path.read_text(errors="replace").partition("\n\n")[0]
    (sent,) = [
        line.partition(":")[2].strip() for line in head.splitlines()
        if line.lower().startswith("message-id:")
    ]  # fmt: skip
    text = (
        f"From: {lead}\r\nTo: {ANN}\r\nSubject: Re: Hello\r\n"
        f"Message-ID: <answer-1@example.test>\r\nIn-Reply-To: {sent}\r\nReferences: {sent}\r\n"
        "\r\nYes, tell me more.\r\n"
    )
    with smtplib.SMTP("127.0.0.1", house.ports["smtp_in"], timeout=20) as smtp:
        smtp.sendmail(lead, [ANN], text.encode())
