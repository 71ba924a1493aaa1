"""Accounts to read: the other side of each source, with the same handles on all of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol

from tests.twins.gmail import oauth as google
from tests.twins.gmail.mailbox import Mailbox as GmailMailbox
from tests.twins.gmail.server import GmailTwin
from tests.twins.gmail.server import running as running_gmail
from tests.twins.graph import oauth as microsoft
from tests.twins.graph.mailbox import Mailbox as GraphMailbox
from tests.twins.graph.server import GraphTwin
from tests.twins.graph.server import running as running_graph

READ_ONLY: Final = {
    "gmail": (f"{google.PREFIX}gmail.send", f"{google.PREFIX}gmail.readonly"),
    "graph": ("Mail.Send", "Mail.Read", "User.Read", "offline_access"),
}
FULL: Final = {
    "gmail": (f"{google.PREFIX}gmail.send", f"{google.PREFIX}gmail.modify"),
    "graph": ("Mail.Send", "Mail.ReadWrite", "User.Read", "offline_access"),
}
SEND_ONLY: Final = {
    "gmail": (f"{google.PREFIX}gmail.send",),
    "graph": ("Mail.Send", "User.Read", "offline_access"),
}


class ApiAccount(Protocol):
    """One account of a twin; `fetches` and `asks` name its operations, for faults and counts."""

    kind: str
    url: str
    fetches: str
    asks: str

    @property
    def email(self) -> str: ...

    @property
    def twin(self) -> GmailTwin | GraphTwin: ...

    def deliver(self, raw: bytes, *, ago_s: float = 0.0, spam: bool = False) -> str:
        """Let a message arrive, now or some time ago; return its id."""
        ...

    def send(self, raw: bytes) -> None:
        """Send a message from the account, as its owner or Paceline would."""
        ...

    def remove(self, message_id: str) -> None:
        """Delete a message for good."""
        ...

    def kept(self, message_id: str) -> bool:
        """Whether a message is neither deleted nor in the trash."""
        ...

    def forget(self) -> None:
        """Make every place in the mailbox one that the provider does not know any more."""
        ...

    def credential(self, *scopes: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the plaintext of a new grant's credential, and its `oauth` for the row."""
        ...

    def revoke(self) -> None:
        """Take the grant back at the provider."""
        ...

    def settings(self) -> dict[str, str]:
        """Return the service settings that lead to the twin."""
        ...


@dataclass
class GmailAccount:
    twin: GmailTwin
    mailbox: GmailMailbox
    url: str
    kind: str = "gmail"
    fetches: str = "users.messages.get"
    asks: str = "users.history.list"

    @property
    def email(self) -> str:
        return self.mailbox.email

    def deliver(self, raw: bytes, *, ago_s: float = 0.0, spam: bool = False) -> str:
        now, self.mailbox.now = self.mailbox.now, lambda: now() - timedelta(seconds=ago_s)
        try:
            return self.mailbox.receive(raw, ("SPAM",) if spam else ("INBOX", "UNREAD")).id
        finally:
            self.mailbox.now = now

    def send(self, raw: bytes) -> None:
        self.mailbox.send(raw, None)

    def remove(self, message_id: str) -> None:
        self.mailbox.remove(message_id)

    def kept(self, message_id: str) -> bool:
        one = self.mailbox.messages.get(message_id)
        return one is not None and "TRASH" not in one.labels

    def forget(self) -> None:
        self.mailbox.forget_history()

    def credential(self, *scopes: str) -> tuple[dict[str, Any], dict[str, Any]]:
        granted = self.twin.identity.grant(self.email, scopes)
        return _credential(
            "google", granted, google.CLIENT_ID, google.CLIENT_SECRET, granted["scope"].split()
        )

    def revoke(self) -> None:
        self.twin.identity.revoke_all(self.email)

    def settings(self) -> dict[str, str]:
        return {
            "google_token_url": f"{self.url}/token",
            "google_revoke_url": f"{self.url}/revoke",
            "gmail_api_url": self.url,
        }


@dataclass
class GraphAccount:
    twin: GraphTwin
    mailbox: GraphMailbox
    url: str
    kind: str = "graph"
    fetches: str = "mime"
    asks: str = "delta"

    @property
    def email(self) -> str:
        return self.mailbox.email

    def deliver(self, raw: bytes, *, ago_s: float = 0.0, spam: bool = False) -> str:
        now, self.mailbox.now = self.mailbox.now, lambda: now() - timedelta(seconds=ago_s)
        try:
            return self.mailbox.add_mime(raw, "junkemail" if spam else "inbox").immutable_id
        finally:
            self.mailbox.now = now

    def send(self, raw: bytes) -> None:
        self.mailbox.send_mail(raw)

    def remove(self, message_id: str) -> None:
        item = self.mailbox.find(message_id)
        self.mailbox.delete(item)
        self.mailbox.delete(item)

    def kept(self, message_id: str) -> bool:
        return any(
            one.immutable_id == message_id and one.folder != "deleteditems"
            for one in self.mailbox.listed(None)
        )

    def forget(self) -> None:
        self.mailbox.delta_epoch += 1

    def credential(self, *scopes: str) -> tuple[dict[str, Any], dict[str, Any]]:
        granted = self.twin.identity.grant(self.email, frozenset(scopes))
        return _credential(
            "microsoft", granted, microsoft.CLIENT_ID, microsoft.CLIENT_SECRET,
            granted["scope"].split(),
        )  # fmt: skip

    def revoke(self) -> None:
        self.twin.identity.revoke(self.email)

    def settings(self) -> dict[str, str]:
        return {"microsoft_login_url": self.url, "graph_api_url": self.url}


def _credential(
    provider: str, granted: dict[str, Any], client_id: str, secret: str, scopes: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    kept = {
        "client_id": client_id, "client_secret": secret,
        "access_token": granted["access_token"], "refresh_token": granted["refresh_token"],
        "scopes": scopes,
    }  # fmt: skip
    shown = {
        "provider": provider, "scopes": scopes, "tenant": None, "account": "1",
        "app": "installation", "client_id": client_id,
    }  # fmt: skip
    return {"oauth": kept}, shown


@asynccontextmanager
async def account(kind: str, email: str) -> AsyncIterator[ApiAccount]:
    """Start a twin with one account, until the block ends."""
    if kind == "gmail":
        async with running_gmail() as (gmail, url):
            yield GmailAccount(gmail, gmail.add_mailbox(email), url)
    else:
        async with running_graph() as (graph, url):
            yield GraphAccount(graph, graph.add_mailbox(email), url)
