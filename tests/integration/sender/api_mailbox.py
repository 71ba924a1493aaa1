"""The world's mailbox behind an API: its twin, its grant, and the sender's real transport on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, Literal, cast

import msgspec
from psycopg.types.json import Jsonb
from tests.twins.gmail import oauth as google
from tests.twins.gmail import server as gmail
from tests.twins.graph import oauth as microsoft
from tests.twins.graph import server as graph

from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.keys import KeyService
from paceline_common.tokens import APP_TABLE, app_row
from paceline_sender.settings import SenderSettings
from paceline_sender.transport import MailTransport

from .conftest import World

ApiKind = Literal["gmail", "graph"]

FULL: dict[str, tuple[str, ...]] = {
    "gmail": (f"{google.PREFIX}gmail.modify",),
    "graph": ("Mail.Send", "Mail.ReadWrite", "offline_access"),
}
SEND_ONLY: dict[str, tuple[str, ...]] = {
    "gmail": (f"{google.PREFIX}gmail.send",),
    "graph": ("Mail.Send", "offline_access"),
}
SENDS = {"gmail": "users.drafts.send", "graph": "send"}
DRAFTS = {"gmail": "users.drafts.create", "graph": "createDraft"}
DELETES = {"gmail": "users.drafts.delete", "graph": "delete"}


@dataclass
class Api:
    """One twin with the world's mailbox in it."""

    kind: ApiKind
    twin: Any
    url: str
    world: World
    keys: KeyService
    mail: MailTransport

    @property
    def mailbox(self) -> Any:
        """The mailbox on the provider's side."""
        return self.twin.mailboxes[self.world.email]

    @property
    def identity(self) -> Any:
        """Who gives the tokens."""
        return self.twin.identity

    async def connect(
        self, scopes: tuple[str, ...] | None = None, *, access_lasts: timedelta = timedelta(hours=1)
    ) -> None:
        """Give the world's mailbox a grant, as the gateway does; a second call reconnects."""
        scopes = scopes or FULL[self.kind]
        world = self.world
        self.twin.add_mailbox(world.email)
        granted = self.identity.grant(
            world.email, scopes if self.kind == "gmail" else frozenset(scopes)
        )
        oauth = {
            "client_id": self.client_id,
            "client_secret": self.identity.clients[self.client_id],
            "refresh_token": granted["refresh_token"],
            "access_token": granted["access_token"],
            "expires_at": (datetime.now(UTC) + access_lasts).isoformat(),
            "scopes": list(scopes),
        }
        sealed = await self.keys.seal(
            "send", world.workspace_id, msgspec.json.encode({"oauth": oauth}),
            table="mailbox", row=world.mailbox_id,
        )  # fmt: skip
        world.rows(
            "UPDATE gateway.mailbox SET kind = %s, smtp = NULL, imap = NULL, send_oauth = %s,"
            " read_oauth = %s, send_credential = %s, version = version + 1,"
            " send_credential_version = send_credential_version"
            " + (kind <> 'smtp')::int WHERE mailbox_id = %s",
            self.kind, Jsonb(self.oauth(scopes)), Jsonb(self.oauth(scopes)), sealed,
            world.mailbox_id,
        )  # fmt: skip

    def oauth(self, scopes: tuple[str, ...]) -> dict[str, Any]:
        """What the gateway's view tells of the grant."""
        provider = "google" if self.kind == "gmail" else "microsoft"
        return {
            "provider": provider, "scopes": list(scopes), "tenant": None, "account": "1",
            "app": "workspace", "client_id": self.client_id,
        }  # fmt: skip

    @property
    def client_id(self) -> str:
        """The app that the mailbox is connected through."""
        return google.CLIENT_ID if self.kind == "gmail" else microsoft.CLIENT_ID

    async def set_app_secret(self, secret: str) -> None:
        """Set the app's secret in Paceline, as the gateway's API publishes it."""
        provider = "google" if self.kind == "gmail" else "microsoft"
        sealed = await self.keys.seal(
            "send", self.world.workspace_id, secret.encode(), table=APP_TABLE,
            row=app_row(provider, self.client_id),
        )  # fmt: skip
        self.world.rows(
            "INSERT INTO gateway.oauth_secret (workspace_id, provider, client_id, send_sealed,"
            " read_sealed, set_at) VALUES (%s, %s, %s, %s, 'x', now())"
            " ON CONFLICT (workspace_id, provider, client_id) DO UPDATE"
            " SET send_sealed = excluded.send_sealed",
            self.world.workspace_id, provider, self.client_id, sealed,
        )  # fmt: skip

    def expire(self) -> None:
        """Let the access token be too old."""
        self.identity.expire(self.world.email)

    def revoke(self) -> None:
        """Let the person take the grant back."""
        if self.kind == "gmail":
            self.identity.revoke_all(self.world.email)
        else:
            self.identity.revoke(self.world.email)

    def fail(self, operation: str, kind: str, **more: Any) -> None:
        """Let the next request of an operation go wrong."""
        self.twin.fail(operation, kind, **more)

    def sent(self) -> list[EmailMessage]:
        """The truth: what recipients get, in order."""
        return [
            cast("EmailMessage", message_from_bytes(one.raw, policy=policy.default))
            for one in self.twin.truth
        ]

    def calls(self, operation: str) -> int:
        """How often an operation was asked for."""
        return cast("list[str]", self.twin.calls).count(operation)

    def drafts(self) -> int:
        """How many drafts lie in the mailbox."""
        if self.kind == "gmail":
            return len(self.mailbox.drafts)
        return len(self.mailbox.listed("drafts"))


@asynccontextmanager
async def api(
    kind: ApiKind, world: World, keys: KeyService, own_keys: KeyService, settings: SenderSettings
) -> AsyncIterator[Api]:
    """Start a twin and a transport that knows it; the mailbox is not connected yet."""
    running = gmail.running if kind == "gmail" else graph.running
    async with running() as (twin, url):
        at_twin = settings.model_copy(
            update={
                "google_token_url": f"{url}/token",
                "google_revoke_url": f"{url}/revoke",
                "gmail_api_url": url,
                "microsoft_login_url": url,
                "graph_api_url": url,
            }
        )
        db = Database(settings)
        mail = MailTransport(at_twin, SystemClock(), db, own_keys)
        try:
            yield Api(kind, twin, url, world, keys, mail)
        finally:
            await mail.close()
            await db.close()
