"""What the suite asks of a source put before its mailbox; one class for each kind."""

import asyncio
import imaplib
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

import httpx
from tests.conformance.providers import gmail_stage, graph_stage
from tests.conformance.sources.accounts import FULL, SEND_ONLY, ApiAccount, GmailAccount, account
from tests.waiting import until

from paceline_local.stack import Stack
from paceline_providers.api import Api, ApiTimeouts
from paceline_providers.gmail import GmailProvider, GmailSettings
from paceline_providers.graph import GraphProvider, GraphSettings
from paceline_providers.proof import Tokens
from paceline_providers.tls import context
from paceline_reply.sources.api import Pace
from paceline_reply.sources.base import Source
from paceline_reply.sources.gmail import GmailSource
from paceline_reply.sources.graph import GraphSource
from paceline_reply.sources.imap import ImapSource, open_session
from paceline_reply.sources.imap_client import Endpoint


class Stage(Protocol):
    """One mailbox, and the source that reads it.

    `names_messages`: the source tells ids by which `known` messages are passed over;
    `reads_spam`: and what the provider takes for spam.
    """

    names_messages: bool
    reads_spam: bool

    def source(self) -> Source:
        """Return a source that was not opened yet."""
        ...

    def deliver(self, raw: bytes, *, ago_s: float = 0.0, spam: bool = False) -> str:
        """Let a message arrive, now or some time ago; return a name to remove it by."""
        ...

    def remove(self, name: str) -> None:
        """Delete a message for good."""
        ...

    async def forget(self) -> None:
        """Make every place so far one that is not known any more."""
        ...

    def refuse(self) -> None:
        """Let the credential be good no more."""
        ...

    def nobody_listens(self) -> Source:
        """Return a source for a port where nobody listens."""
        ...


async def _at_once(_: float) -> None:
    """Take no pause between tries."""


@dataclass
class ApiStage:
    account: ApiAccount
    provider: GmailProvider | GraphProvider
    pace: Pace
    names_messages: bool = True
    reads_spam: bool = True

    def source(self, provider: GmailProvider | GraphProvider | None = None) -> Source:
        match provider or self.provider:
            case GmailProvider() as gmail:
                return GmailSource(gmail, self.pace)
            case GraphProvider() as graph:
                return GraphSource(graph, self.pace)

    def deliver(self, raw: bytes, *, ago_s: float = 0.0, spam: bool = False) -> str:
        return self.account.deliver(raw, ago_s=ago_s, spam=spam)

    def remove(self, name: str) -> None:
        self.account.remove(name)

    async def forget(self) -> None:
        self.account.forget()

    def refuse(self) -> None:
        self.account.revoke()

    def nobody_listens(self) -> Source:
        return self.source(replace(self.provider, base_url="http://127.0.0.1:1"))

    def without_reading(self) -> Source:
        """Return a source whose grant allows sending only."""
        scopes = SEND_ONLY[self.account.kind]
        settings: GmailSettings | GraphSettings = GmailSettings(scopes)
        if isinstance(self.provider, GraphProvider):
            settings = GraphSettings(scopes)
        return self.source(replace(self.provider, settings=settings))  # type: ignore[arg-type]


@dataclass
class ImapStage:
    stack: Stack
    email: str
    password: str
    threads: ThreadPoolExecutor
    names_messages: bool = False
    reads_spam: bool = False

    def source(self) -> Source:
        return self._source(self.stack.ports["imap"])

    def deliver(self, raw: bytes, *, ago_s: float = 0.0, spam: bool = False) -> str:
        at = datetime.now(UTC) - timedelta(seconds=ago_s)
        with self._signed_in() as imap:
            assert imap.append("INBOX", None, imaplib.Time2Internaldate(at), raw)[0] == "OK"
            imap.select("INBOX", readonly=True)
            return str(imap.uid("SEARCH", "ALL")[1][0].split()[-1].decode())

    def remove(self, name: str) -> None:
        with self._signed_in() as imap:
            imap.select("INBOX")
            imap.uid("STORE", name, "+FLAGS", r"(\Deleted)")
            imap.expunge()

    async def forget(self) -> None:
        before = self._validity()
        box = self.stack.mailhost.maildir(self.email)
        # Dovecot's new UIDVALIDITY is the time in whole seconds.
        await until(lambda: int(datetime.now(UTC).timestamp()) > before)
        for path in [*box.glob("dovecot*"), *box.glob(".dovecot*")]:
            if path.is_file():
                path.unlink()
        assert self._validity() != before

    def refuse(self) -> None:
        self.stack.mailhost.add_user(self.email, secrets.token_hex(8))

    def nobody_listens(self) -> Source:
        return self._source(1)

    def _source(self, port: int) -> Source:
        endpoint = Endpoint("127.0.0.1", port, "none", self.email)

        async def resolve(host: str, _: int) -> list[str]:
            return [host]

        connect = partial(
            open_session, endpoint, self.password, resolve=resolve, tls=partial(context, None),
            threads=self.threads,
        )  # fmt: skip
        return ImapSource(connect, 600.0)

    def _signed_in(self) -> imaplib.IMAP4:
        imap = imaplib.IMAP4("127.0.0.1", self.stack.ports["imap"])
        imap.login(self.email, self.password)
        return imap

    def _validity(self) -> int:
        with self._signed_in() as imap:
            told = imap.status("INBOX", "(UIDVALIDITY)")[1][0]
            assert isinstance(told, bytes)
            return int(told.rpartition(b"UIDVALIDITY ")[2].rstrip(b")"))


@asynccontextmanager
async def imap(stack: Stack) -> AsyncIterator[ImapStage]:
    """Give an account of the local mail host."""
    email, password = f"rea-{secrets.token_hex(6)}@north.test", secrets.token_hex(8)
    stack.mailhost.add_user(email, password)
    with ThreadPoolExecutor(4) as threads:
        yield ImapStage(stack, email, password, threads)
    stack.mailhost.remove_users([email])


@asynccontextmanager
async def api(kind: str) -> AsyncIterator[ApiStage]:
    """Give an account of a twin, read with hasty timeouts."""
    hasty = ApiTimeouts(connect=1, write=1, read=1, total=2)
    async with account(kind, "ann@north.test") as one, httpx.AsyncClient(trust_env=False) as http:
        credential, shown = one.credential(*FULL[kind])
        tokens: Tokens
        provider: GmailProvider | GraphProvider
        scopes = tuple(shown["scopes"])
        if isinstance(one, GmailAccount):
            tokens = gmail_stage.TwinTokens(http, one.url, credential["oauth"])
            calls = Api(http, tokens, one.twin.now, hasty, _at_once)
            provider = GmailProvider(GmailSettings(scopes), calls, one.url)
        else:
            tokens = graph_stage.TwinTokens(http, one.url, credential["oauth"])
            calls = Api(http, tokens, one.twin.now, hasty, _at_once)
            provider = GraphProvider(GraphSettings(scopes), calls, one.url)
        yield ApiStage(one, provider, Pace(0.1, asyncio.Semaphore(4)))
