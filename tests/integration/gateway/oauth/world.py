"""A person with a browser, the twins of both providers, and the gateway between them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from fastapi import FastAPI
from tests.integration.gateway.conftest import Tenant
from tests.twins.gmail import oauth as google_oauth
from tests.twins.gmail.server import GmailTwin
from tests.twins.graph import oauth as microsoft_oauth
from tests.twins.graph.server import GraphTwin

from paceline_common import ids
from paceline_common.clock import Clock
from paceline_common.keys import KeyService

ANN, BOB = "ann@north.test", "bob@north.test"
PUBLIC = "http://mail.paceline.test"
APPS = {
    "google": (google_oauth.CLIENT_ID, google_oauth.CLIENT_SECRET),
    "microsoft": (microsoft_oauth.CLIENT_ID, microsoft_oauth.CLIENT_SECRET),
}
_PROBLEM = re.compile(r'<code id="problem">([a-z_]+)</code>')


@dataclass
class Twins:
    """Both providers, and where they listen."""

    google: GmailTwin
    google_url: str
    microsoft: GraphTwin
    microsoft_url: str

    @property
    def settings(self) -> dict[str, Any]:
        """The gateway's settings that lead to them."""
        return {
            "google_auth_url": f"{self.google_url}/o/oauth2/v2/auth",
            "google_token_url": f"{self.google_url}/token",
            "google_revoke_url": f"{self.google_url}/revoke",
            "google_userinfo_url": f"{self.google_url}/v1/userinfo",
            "gmail_api_url": self.google_url,
            "microsoft_login_url": self.microsoft_url,
            "graph_api_url": self.microsoft_url,
        }


@dataclass(frozen=True)
class Page:
    """What the person saw last."""

    status: int
    text: str
    problem: str | None
    headers: httpx.Headers

    @classmethod
    def of(cls, answer: httpx.Response) -> "Page":
        found = _PROBLEM.search(answer.text)
        return cls(answer.status_code, answer.text, found and found[1], answer.headers)


@dataclass
class Browser:
    """A browser with its cookies; it keeps where it was sent."""

    app: FastAPI
    trail: list[str] = field(default_factory=list)
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.AsyncClient(
            mounts={PUBLIC: httpx.ASGITransport(self.app, raise_app_exceptions=False)},
            timeout=10,
        )

    async def open(self, url: str) -> Page:
        """Follow redirects to the end."""
        for _ in range(10):
            answer = await self.step(url)
            if not answer.is_redirect:
                return Page.of(answer)
            url = answer.headers["location"]
        raise AssertionError(f"no end of redirects: {self.trail}")

    async def step(self, url: str) -> httpx.Response:
        """Make one request."""
        self.trail.append(url)
        return await self.client.get(url)

    async def until(self, url: str, path: str) -> str:
        """Follow redirects up to the one that leads to `path` of the gateway; return it."""
        for _ in range(10):
            answer = await self.step(url)
            assert answer.is_redirect, answer.text
            url = answer.headers["location"]
            if urlsplit(url).path == path and url.startswith(PUBLIC):
                return url
        raise AssertionError(f"never came to {path}: {self.trail}")

    def asked(self, path: str) -> dict[str, str]:
        """Return the query of the last request whose path ends so."""
        for url in reversed(self.trail):
            if urlsplit(url).path.endswith(path):
                return {name: one[0] for name, one in parse_qs(urlsplit(url).query).items()}
        raise AssertionError(f"never went to {path}: {self.trail}")


async def use_app(tenant: Tenant, provider: str, **changes: Any) -> None:
    """Give the workspace an OAuth app of its own."""
    client_id, secret = APPS[provider]
    body = {"client_id": client_id, "client_secret": secret, **changes}
    await tenant.call("PUT", f"/v1/oauth/apps/{provider}", json=body)


async def flow(tenant: Tenant, provider: str, expect: int = 201, **body: Any) -> dict[str, Any]:
    """Start a flow."""
    made: dict[str, Any] = await tenant.call(
        "POST", f"/v1/oauth/{provider}/flows", expect, json=body
    )
    return made


async def state(tenant: Tenant, made: Mapping[str, Any]) -> dict[str, Any]:
    """Ask how a flow stands."""
    found: dict[str, Any] = await tenant.call("GET", f"/v1/oauth/flows/{made['id']}")
    return found


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


def suspend(tenant: Tenant, mailbox: dict[str, Any], reason: str) -> None:
    tenant.rows("SELECT set_config('app.workspace_ids', %s, false)", str(tenant.number))
    tenant.rows(
        "SELECT scheduler.suspend(%s, 'mailbox', %s, %s, NULL, 'sender', 'revoked')",
        tenant.number, ids.decode("mbx", mailbox["id"]), reason,
    )  # fmt: skip


async def only(tenant: Tenant) -> dict[str, Any]:
    [mailbox] = (await tenant.call("GET", "/v1/mailboxes"))["items"]
    found: dict[str, Any] = mailbox
    return found


class Later:
    """A clock that is ahead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_s = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now().timestamp() + self.ahead_s, UTC)

    def monotonic(self) -> float:
        return self._clock.monotonic()
