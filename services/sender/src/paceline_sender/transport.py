"""The sender's view of `paceline_providers`: the only place that knows both vocabularies."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from weakref import WeakValueDictionary

import httpx
import msgspec

from paceline_common import failpoints, telemetry
from paceline_common.clock import Clock
from paceline_common.db.session import Database
from paceline_common.keys import KeyService
from paceline_common.tokens import SealedTokens
from paceline_providers import base
from paceline_providers.aadsts import Identity
from paceline_providers.base import (
    Accepted,
    Deferred,
    Fence,
    InDoubt,
    Milestone,
    Outcome,
    Provider,
    Reach,
    Rejected,
    ThreadHint,
    Unsent,
)
from paceline_providers.hosts import HostPolicy
from paceline_providers.oauth import Grant, GrantTokens, TokenEndpoint, TokenStore
from paceline_providers.proof import ApiProvider, Destroyed, Gone, Prover
from paceline_providers.registry import API_PROVIDERS, PROVIDERS
from paceline_providers.tls import context
from paceline_sender.domain.outcome import THROTTLE_HOLD_FROM, Answer, App
from paceline_sender.job import Session
from paceline_sender.pool import ConnectionPool, Lease, Limits
from paceline_sender.settings import SenderSettings

_MILESTONES: Final[dict[Milestone, str]] = {
    "mail_from": "sender.after_mail_from",
    "final_dot": "sender.after_final_dot",
}
# PROVIDERS §7: requests of one mailbox under way at the same time.
_CONCURRENCY: Final = 2
# Access tokens that are kept while no message of their mailbox is under way.
_KEPT_TOKENS: Final = 20_000

log = telemetry.logger("sender.transport")


@dataclass(frozen=True, slots=True)
class Account:
    """Where and as whom a mailbox submits. The credential lives as long as one batch.

    `credential_version` is the connect it belongs to; None for one that is not saved yet.
    `settings_version` is its row's.
    """

    workspace_id: int
    mailbox_id: int
    kind: str
    email: str
    smtp: Mapping[str, Any] | None
    oauth: Mapping[str, Any] | None
    credential: Mapping[str, Any] = field(repr=False)
    credential_version: int | None = None
    settings_version: int = 0

    @property
    def key(self) -> tuple[int, int]:
        """Workspace and mailbox."""
        return self.workspace_id, self.mailbox_id


class Unusable(Exception):
    """The stored settings or credential of a mailbox make no account; `str()` says what."""


@dataclass(eq=False)
class _Box:
    """What the messages of one mailbox, connected as it is now, have in common.

    It lives as long as one of them is under way.
    """

    tokens: GrantTokens | None
    provider: ApiProvider | None = None
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_CONCURRENCY))
    # What is done ahead of slots, or behind them, leaves one turn to the message whose slot it is.
    aside: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_CONCURRENCY - 1))


class MailTransport:
    """Opens every kind of mailbox. One per process; `close` ends its connections.

    HTTP connections are shared and kept alive. An access token is kept until shortly
    before its end; refresh token, app secret and password only while a message is under
    way. A mailbox that its provider has asked to wait is not tried before its time.
    """

    def __init__(
        self, settings: SenderSettings, clock: Clock, db: Database, keys: KeyService
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._db = db
        self._keys = keys
        self._hosts = HostPolicy(settings.host_allowlist)
        self._limits = Limits(
            settings.smtp_connections, settings.smtp_messages, settings.smtp_idle_s
        )
        self._pool = ConnectionPool(clock)
        self._boxes: WeakValueDictionary[tuple[int, int, int], _Box] = WeakValueDictionary()
        self._access: OrderedDict[tuple[int, int, int], tuple[str, datetime]] = OrderedDict()
        # Until when a mailbox, or all of an app, were asked to wait.
        self._resting: dict[tuple[int, int] | App, datetime] = {}
        self.http = httpx.AsyncClient(
            verify=context(settings.tls_ca_file),
            follow_redirects=False,
            limits=httpx.Limits(
                max_connections=settings.http_connections,
                max_keepalive_connections=settings.http_connections,
                keepalive_expiry=30.0,
            ),
        )

    async def close(self) -> None:
        """Take leave of what is open."""
        await self._pool.close()
        await self.http.aclose()

    # ---- one mailbox

    async def open(self, account: Account) -> Session | Answer:
        """Connect and sign in; an `unsent` answer says why that did not work.

        Waits while an SMTP host has as many connections of the mailbox as it may.
        """
        for who in _whose(account):
            resting = self._resting.get(who)
            if resting is not None:
                if resting > self._clock.now():
                    return Answer("unsent", "soft", "throttled", retry_at=resting)
                self._resting.pop(who, None)
        try:
            box = self._box(account)
            provider = self._provider(account, box)
        except Unusable as error:
            return Answer("unsent", "config", "settings_invalid", text=str(error))
        if account.kind in API_PROVIDERS:
            opened = await provider.open()
            if isinstance(opened, Unsent):
                return self._answer(account, opened)
            return _Session(self, account, box, opened, None)
        mark = (account.credential_version, account.settings_version, account.email)
        lease = await self._pool.take(account.key, mark, self._limits, provider.open)
        if isinstance(lease, Unsent):
            return self._answer(account, lease)
        return _Session(self, account, box, lease.session, lease)

    def provider(self, account: Account) -> Provider:
        """Return the account's way out; raise `Unusable`."""
        return self._provider(account, self._box(account))

    def prover(self, account: Account) -> Prover | None:
        """Return who looks for proof in the mailbox and destroys its drafts.

        None where only reading the mailbox can prove anything (SMTP). Raises `Unusable`.
        """
        if account.kind not in API_PROVIDERS:
            return None
        box = self._box(account)
        self._provider(account, box)
        return box.provider

    def tokens(self, account: Account) -> GrantTokens | None:
        """Return the account's tokens, None for one with a password. Raises `Unusable`."""
        return self._box(account).tokens

    def revoke_url(self, account: Account) -> str | None:
        """Return where the account's grant is revoked; None where no application may."""
        identity = (account.oauth or {}).get("provider")
        return self._settings.revoke_url("google") if identity == "google" else None

    def forget(self, account: Account) -> None:
        """Drop what is kept of a mailbox: it is being disconnected."""
        for key in [key for key in self._access if key[:2] == account.key]:
            del self._access[key]
        for key in [key for key in self._boxes if key[:2] == account.key]:
            self._boxes.pop(key, None)
        self._resting.pop(account.key, None)

    def _provider(self, account: Account, box: _Box) -> Provider:
        try:
            if (make_api := API_PROVIDERS.get(account.kind)) is not None:
                if box.provider is None:
                    if box.tokens is None:
                        raise Unusable(f"a mailbox of kind {account.kind} needs a grant")
                    box.provider = make_api(
                        account.oauth or {},
                        self.http,
                        box.tokens,
                        self._clock.now,
                        self._settings.api_url(account.kind),
                    )
                return box.provider
            if (make := PROVIDERS.get(account.kind)) is not None:
                return make(
                    account.smtp or {},
                    account.credential,
                    self._hosts,
                    self._settings.tls_ca_file,
                    box.tokens,
                )
        except msgspec.ValidationError as error:
            raise Unusable(str(error)) from None
        raise Unusable(f"no mailbox is of kind {account.kind!r}")

    def _box(self, account: Account) -> _Box:
        version = account.credential_version
        key = (*account.key, version) if version is not None else None
        box = self._boxes.get(key) if key is not None else None
        if box is None:
            box = _Box(self._grant_tokens(account, key))
            if key is not None:
                self._boxes[key] = box
        return box

    def _grant_tokens(
        self, account: Account, key: tuple[int, int, int] | None
    ) -> GrantTokens | None:
        oauth = account.credential.get("oauth")
        if oauth is None:
            return None
        settings = account.oauth or {}
        try:
            grant = Grant.of(oauth)
            identity = msgspec.convert(settings.get("provider"), Identity)
        except msgspec.ValidationError as error:
            raise Unusable(str(error)) from None
        store: TokenStore = _NoStore()
        if key is not None:
            store = _Store(
                SealedTokens(
                    self._db,
                    self._keys,
                    "send",
                    workspace_id=account.workspace_id,
                    mailbox_id=account.mailbox_id,
                    credential_version=key[2],
                )
            )
            if (kept := self._access.get(key)) is not None:
                grant = msgspec.structs.replace(grant, access_token=kept[0], expires_at=kept[1])
        endpoint = TokenEndpoint(
            identity, self._settings.token_url(identity, settings.get("tenant"))
        )
        return GrantTokens(self.http, endpoint, grant, store, self._clock.now, on_unsaved=_unsaved)

    def _remember(self, account: Account, box: _Box) -> None:
        if box.tokens is None or account.credential_version is None:
            return
        grant = box.tokens.grant
        if grant.access_token is None or grant.expires_at is None:
            return
        key = (*account.key, account.credential_version)
        self._access[key] = (grant.access_token, grant.expires_at)
        self._access.move_to_end(key)
        while len(self._access) > _KEPT_TOKENS:
            self._access.popitem(last=False)

    def _answer(self, account: Account, outcome: Outcome) -> Answer:
        found = answer(outcome, self._clock.now())
        if account.oauth is not None:
            found = replace(found, by_grant=True, credential_version=account.credential_version)
            if isinstance(outcome, Unsent | Deferred) and outcome.reach != "mailbox":
                found = replace(found, app=_app(account.oauth, outcome.reach))
        elif found.outcome_class == "auth":
            found = replace(found, credential_version=account.credential_version)
        wish = found.retry_at if found.outcome_class == "soft" else None
        # A longer wish becomes a gate, which a person may open again.
        if found.app is not None and found.outcome_class != "config":
            wish = found.retry_at
        if wish is not None and wish - self._clock.now() < THROTTLE_HOLD_FROM:
            self._resting[found.app or account.key] = wish
        return found


class _Session:
    """One message's turn in a mailbox, with its SMTP connection (`lease`) where it has one."""

    def __init__(
        self,
        transport: MailTransport,
        account: Account,
        box: _Box,
        session: base.Session,
        lease: Lease | None,
    ) -> None:
        self._transport = transport
        # The box and the session hold what of the credential is still needed.
        self._account = replace(account, credential={})
        self._box = box
        self._session = session
        self._lease = lease

    @property
    def makes_drafts(self) -> bool:
        return self._box.provider is not None and self._box.provider.capabilities.fence

    async def prepare(self, data: bytes, thread: ThreadHint | None) -> Fence | Answer | None:
        async with self._box.aside, self._box.turns:
            made = await self._session.prepare(data, thread=thread)
        if isinstance(made, Unsent | Rejected):
            return self._transport._answer(self._account, made)
        return made

    async def submit(
        self,
        envelope_from: str,
        recipient: str,
        data: bytes,
        *,
        before_mail_from: Callable[[], bool],
        thread: ThreadHint | None = None,
        fence: Fence | None = None,
    ) -> Answer:
        outcome: Outcome
        if self._lease is not None:
            outcome = await self._submit(
                envelope_from, recipient, data, before_mail_from, thread, fence
            )
        else:
            async with self._box.turns:
                outcome = await self._submit(
                    envelope_from, recipient, data, before_mail_from, thread, fence
                )
        return self._transport._answer(self._account, outcome)

    async def _submit(
        self,
        envelope_from: str,
        recipient: str,
        data: bytes,
        before_mail_from: Callable[[], bool],
        thread: ThreadHint | None,
        fence: Fence | None,
    ) -> Outcome:
        return await self._session.submit(
            envelope_from,
            recipient,
            data,
            before_mail_from=before_mail_from,
            on_milestone=lambda milestone: failpoints.hit(_MILESTONES[milestone]),
            thread=thread,
            fence=fence,
        )

    async def discard(self, fence: Fence) -> bool:
        if self._box.provider is None:
            return True
        async with self._box.aside, self._box.turns:
            return isinstance(await self._box.provider.destroy(fence), Destroyed | Gone)

    async def close(self) -> None:
        self._transport._remember(self._account, self._box)
        if self._lease is not None:
            await self._transport._pool.give_back(self._lease)
        else:
            await self._session.close()


@dataclass(frozen=True, slots=True)
class _Store:
    """Refreshed tokens in Postgres, with the places where a test may end the process."""

    tokens: SealedTokens

    async def load(self) -> Mapping[str, Any] | None:
        return await self.tokens.load()

    async def replace(self, seen_version: int, tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        failpoints.hit("sender.token_refreshed")
        stored = await self.tokens.replace(seen_version, tokens)
        failpoints.hit("sender.token_stored")
        return stored

    async def app_secret(self) -> str | None:
        return await self.tokens.app_secret()


class _NoStore:
    """For a mailbox that is not saved yet: its credential is all there is."""

    async def load(self) -> None:
        return None

    async def replace(self, seen_version: int, tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**tokens, "version": seen_version + 1}

    async def app_secret(self) -> None:
        return None


def _app(oauth: Mapping[str, Any], reach: Reach) -> App:
    tenant = str(oauth.get("tenant")) if reach == "tenant" else None
    return App(str(oauth.get("provider")), str(oauth.get("client_id")), tenant)


def _whose(account: Account) -> tuple[tuple[int, int] | App, ...]:
    """Return whose wishes to wait hold for a mailbox."""
    if account.oauth is None:
        return (account.key,)
    return (account.key, _app(account.oauth, "app"), _app(account.oauth, "tenant"))


def _unsaved(error: Exception) -> None:
    log.warning("refreshed tokens were not stored", **telemetry.describe_error(error))


def answer(outcome: Outcome, now: datetime) -> Answer:
    """Return a provider's outcome in the sender's words."""
    match outcome:
        case Accepted():
            return Answer(
                "accepted",
                code=outcome.code,
                text=outcome.text,
                provider_message_id=outcome.provider_message_id,
                message_id=outcome.message_id,
                thread_id=outcome.thread_id,
            )
        case Unsent(reason="held_back"):
            return Answer("unsent", reason="too_late")
        case Unsent():
            return Answer(
                "unsent",
                None if outcome.outcome_class is None else outcome.outcome_class.value,
                outcome.reason,
                outcome.code,
                outcome.status,
                outcome.text,
                retry_at=now + outcome.retry_after if outcome.retry_after else None,
            )
        case Deferred():
            return Answer(
                "deferred",
                outcome.outcome_class.value,
                code=outcome.code,
                status=outcome.status,
                text=outcome.text,
                retry_at=now + outcome.retry_after if outcome.retry_after else None,
                at_sender=outcome.phase == "mail" and outcome.code is not None,
            )
        case Rejected():
            return Answer(
                "rejected",
                outcome.outcome_class.value,
                code=outcome.code,
                status=outcome.status,
                text=outcome.text,
                # Without a code it is our own refusal, of the message.
                at_sender=outcome.phase == "mail" and outcome.code is not None,
            )
        case InDoubt():
            return Answer("in_doubt", "ambig", text=outcome.evidence)
