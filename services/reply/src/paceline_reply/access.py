"""How a mailbox is read: its row, its opened credential, the tokens of its grant, the way in."""

import json
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakValueDictionary

import httpx
import msgspec

from paceline_common import failpoints, ids, telemetry
from paceline_common.clock import Clock
from paceline_common.db import Database, Queries
from paceline_common.keys import KeyDenied, KeyService, SealBroken
from paceline_common.tokens import SealedTokens, app_subject
from paceline_providers.classes import OutcomeClass
from paceline_providers.gmail import GmailProvider
from paceline_providers.graph import GraphProvider
from paceline_providers.oauth import Grant, GrantTokens, TokenEndpoint, TokenStore
from paceline_providers.proof import TOKENS_TRIED, TokenRefused, TokenUnavailable
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.api import Pace
from paceline_reply.sources.base import APP_REFUSED, Source, SourceError
from paceline_reply.sources.gmail import GmailSource
from paceline_reply.sources.graph import GraphSource
from paceline_reply.sources.imap import ImapSession, ImapSource, open_session
from paceline_reply.sources.imap_client import Contexts, Endpoint, Resolve

TABLE: Final = "mailbox"
ApiProvider = GmailProvider | GraphProvider
_QUERIES: Final = Queries("paceline_reply")
_log = telemetry.logger("access")


@dataclass(frozen=True, eq=False)
class Access:
    """One connect of a mailbox, opened. `email` is lower-case.

    `kind` is `imap` or an API's; behind an API `provider` is the way in, else `imap` is, with
    `password` or `tokens`. `names` are what no report may repeat.
    """

    workspace_id: int
    mailbox_id: int
    email: str
    kind: str
    oauth: Mapping[str, Any] | None = None
    imap: Endpoint | None = None
    password: str = field(default="", repr=False)
    tokens: GrantTokens | None = field(default=None, repr=False)
    provider: ApiProvider | None = field(default=None, repr=False)

    @property
    def app(self) -> str | None:
        """The OAuth app that the mailbox was connected through, as issues name it."""
        if self.oauth is None:
            return None
        return app_subject(str(self.oauth.get("provider")), str(self.oauth.get("client_id")))

    @property
    def names(self) -> tuple[str, ...]:
        """The mailbox's address and user name."""
        return (self.email,) if self.imap is None else (self.imap.username, self.email)


class Doors:
    """Opens mailboxes, for whoever reads, looks or tests.

    What is open of a grant is shared in this process: one refresh, and one place that keeps
    a provider's requests below what it allows.
    """

    def __init__(
        self,
        *,
        settings: ReplySettings,
        db: Database,
        keys: KeyService,
        clock: Clock,
        http: httpx.AsyncClient,
        resolve: Resolve,
        tls: Contexts,
    ) -> None:
        self._settings = settings
        self._db = db
        self._keys = keys
        self._clock = clock
        self._http = http
        self._resolve = resolve
        self._tls = tls
        self._open: WeakValueDictionary[tuple[int, int, int], Access] = WeakValueDictionary()

    async def load(self, workspace_id: int, mailbox_id: int) -> tuple[Access, bool] | None:
        """Return a connected mailbox, and whether it is active; None when there is none.

        Raises `SourceError("credential_unreadable")`, what Postgres raises, and
        `KeyServiceUnavailable`.
        """
        async with self._db.transaction([workspace_id]) as tx:
            key = {"workspace": workspace_id, "mailbox": mailbox_id}
            row = (await tx.execute(_QUERIES["load_mailbox"], key)).one_or_none()
        if row is None:
            return None
        connect = (workspace_id, mailbox_id, int(row.credential_version))
        found = self._open.get(connect)
        if found is None or row.kind not in ("gmail", "graph"):
            store = self._store(*connect)
            try:
                opened = await self._opened(workspace_id, mailbox_id, bytes(row.credential))
                found = self._access(
                    workspace_id, mailbox_id, row.email, row.kind, row.imap, row.oauth, opened,
                    store,
                )  # fmt: skip
            except (SealBroken, KeyDenied, msgspec.ValidationError) as error:
                raise SourceError("credential_unreadable", str(error)) from None
            self._open[connect] = found
        return found, bool(row.is_active)

    async def draft(
        self,
        *,
        workspace_id: int,
        mailbox_id: int,
        email: str,
        kind: str,
        imap: Mapping[str, Any] | None,
        oauth: Mapping[str, Any] | None,
        credential: bytes,
        credential_version: int | None,
    ) -> Access:
        """Return a mailbox as it would be saved; without a `credential_version`, which says that
        the credential is saved already, its tokens are kept nowhere.

        Raises `SealBroken`, `msgspec.ValidationError` and `KeyServiceUnavailable`.
        """
        opened = await self._opened(workspace_id, mailbox_id, credential)
        store: TokenStore = _Unkept()
        if credential_version is not None:
            store = self._store(workspace_id, mailbox_id, credential_version)
        return self._access(workspace_id, mailbox_id, email, kind, imap, oauth, opened, store)

    async def session(self, access: Access, threads: Executor) -> ImapSession:
        """Connect to a mailbox's IMAP server and sign in; raise `SourceError`."""
        assert access.imap is not None
        secret = access.password
        refused: str | None = None
        for attempt in range(1, TOKENS_TRIED + 1):
            if access.tokens is not None:
                secret = refused = await _token(access.tokens, refused)
            try:
                return await open_session(
                    access.imap, secret, resolve=self._resolve, tls=self._tls, threads=threads
                )
            except SourceError as error:
                # A server may end a token before its time.
                last = access.tokens is None or attempt == TOKENS_TRIED
                if last or error.code != "auth_failed":
                    raise
        raise AssertionError("the last attempt returns or raises")

    def source(self, access: Access, pace: Pace, threads: Executor) -> Source:
        """Return what reads a mailbox: an API at `pace`, IMAP in `threads`."""
        match access.provider:
            case GmailProvider() as provider:
                return GmailSource(provider, pace)
            case GraphProvider() as provider:
                return GraphSource(provider, pace)
            case None:
                return ImapSource(lambda: self.session(access, threads), self._settings.poll_s)

    def _store(self, workspace_id: int, mailbox_id: int, credential_version: int) -> TokenStore:
        return _Store(
            SealedTokens(
                self._db, self._keys, "read", workspace_id=workspace_id, mailbox_id=mailbox_id,
                credential_version=credential_version,
            )
        )  # fmt: skip

    async def _opened(self, workspace_id: int, mailbox_id: int, sealed: bytes) -> dict[str, Any]:
        opened = await self._keys.open("read", workspace_id, sealed, table=TABLE, row=mailbox_id)
        credential: dict[str, Any] = json.loads(opened)
        return credential

    def _access(
        self,
        workspace_id: int,
        mailbox_id: int,
        email: str,
        kind: str,
        imap: Mapping[str, Any] | None,
        oauth: Mapping[str, Any] | None,
        credential: Mapping[str, Any],
        store: TokenStore,
    ) -> Access:
        tokens = None
        if "oauth" in credential:
            tokens = self._tokens(workspace_id, mailbox_id, oauth or {}, credential, store)
        endpoint: Endpoint | None = None
        provider: ApiProvider | None = None
        now = self._clock.now
        settings = {"scopes": (oauth or {}).get("scopes", ())}
        match kind:
            case "gmail":
                provider = GmailProvider.of(
                    settings, self._http, _granted(tokens), now, self._settings.api_url(kind)
                )
            case "graph":
                provider = GraphProvider.of(
                    settings, self._http, _granted(tokens), now, self._settings.api_url(kind)
                )
            case _:
                kind, endpoint = "imap", Endpoint.of(imap or {})
        return Access(
            workspace_id, mailbox_id, email.lower(), kind, oauth, endpoint,
            credential.get("password", ""), tokens, provider,
        )  # fmt: skip

    def _tokens(
        self,
        workspace_id: int,
        mailbox_id: int,
        oauth: Mapping[str, Any],
        credential: Mapping[str, Any],
        store: TokenStore,
    ) -> GrantTokens:
        identity = oauth.get("provider")
        if identity not in ("google", "microsoft"):
            raise msgspec.ValidationError("a grant of neither Google nor Microsoft")
        url = self._settings.token_url(identity, oauth.get("tenant"))
        log = _log.bind(
            workspace=ids.encode("ws", workspace_id), mailbox=ids.encode("mbx", mailbox_id)
        )
        return GrantTokens(
            self._http,
            TokenEndpoint(identity, url),
            Grant.of(credential["oauth"]),
            store,
            self._clock.now,
            on_unsaved=lambda error: log.warning(
                "refreshed tokens were not kept", **telemetry.describe_error(error)
            ),
        )


class _Unkept:
    """Keeps tokens only as long as whoever refreshed them."""

    async def load(self) -> None:
        return None

    async def replace(self, seen_version: int, tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**tokens, "version": seen_version + 1}

    async def app_secret(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class _Store:
    """Refreshed tokens in Postgres, with the places where a test may end the process."""

    tokens: SealedTokens

    async def load(self) -> Mapping[str, Any] | None:
        return await self.tokens.load()

    async def replace(self, seen_version: int, tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        failpoints.hit("reply.token_refreshed")
        stored = await self.tokens.replace(seen_version, tokens)
        failpoints.hit("reply.token_stored")
        return stored

    async def app_secret(self) -> str | None:
        return await self.tokens.app_secret()


def _granted(tokens: GrantTokens | None) -> GrantTokens:
    if tokens is None:
        raise msgspec.ValidationError("the credential holds no grant")
    return tokens


async def _token(tokens: GrantTokens, refused: str | None) -> str:
    try:
        return await tokens(refused)
    except TokenRefused as refusal:
        raise SourceError("grant_revoked", str(refusal)) from None
    except TokenUnavailable as failure:
        config = failure.outcome_class is OutcomeClass.CONFIG
        code = APP_REFUSED if config else "connect_timeout"
        raise SourceError(code, str(failure), failure.retry_after) from None
