"""OAuth grants of mailboxes: refreshed once for all callers, stored by compare-and-set.

Google: developers.google.com/identity/protocols/oauth2. Microsoft:
learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow; it may give a new
refresh token with each refresh, and the newest is always kept. The flows that make a grant
are the gateway's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol

import httpx
import msgspec

from paceline_providers.aadsts import Identity, token_failure
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Now, TokenRefused, TokenUnavailable

# A token that is handed out must outlive the request it is for.
MARGIN: Final = timedelta(minutes=5)
# How long a process that refreshes at the same moment may take to store what it got.
_LOOKS_S: Final = (0.0, 1.0, 3.0)
_TIMEOUT: Final = httpx.Timeout(20.0, connect=10.0)
# RFC 6749 §5.1 recommends `expires_in` and does not require it.
_LIFETIME_S: Final = 3600


class Grant(msgspec.Struct, frozen=True):
    """What a mailbox's credential holds under `oauth`: the app, the tokens, what was granted.

    `expires_at` (aware) is the access token's end; without one it counts as ended.
    """

    client_id: str
    client_secret: str
    refresh_token: str
    access_token: str | None = None
    expires_at: datetime | None = None
    scopes: tuple[str, ...] = ()

    @classmethod
    def of(cls, oauth: Mapping[str, Any]) -> "Grant":
        """Read the credential's `oauth`; raise `msgspec.ValidationError` for another shape."""
        return msgspec.convert(oauth, cls)

    def with_tokens(self, tokens: "StoredTokens") -> "Grant":
        """Return the same grant with tokens that were stored."""
        return msgspec.structs.replace(
            self,
            refresh_token=tokens.refresh_token,
            access_token=tokens.access_token,
            expires_at=tokens.expires_at,
        )

    def __repr__(self) -> str:
        return f"Grant(client_id={self.client_id!r}, scopes={self.scopes!r})"


class StoredTokens(msgspec.Struct, frozen=True):
    """What a refresh changes; `version` grows with each one that was stored, from 1."""

    version: int
    refresh_token: str
    access_token: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"StoredTokens(version={self.version}, expires_at={self.expires_at})"


class TokenStore(Protocol):
    """Keeps the refreshed tokens of one mailbox for all processes of a service.

    Both give, and `replace` takes, the fields of `StoredTokens` as a mapping. Either may
    raise whatever its parts raise.
    """

    async def load(self) -> Mapping[str, Any] | None:
        """Return what is stored for the credential at hand, None when nothing is."""
        ...

    async def replace(self, seen_version: int, tokens: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store `tokens` if `seen_version` (0: nothing) is still the newest; return the newest.

        Whoever lost the race gets the winner's.
        """
        ...

    async def app_secret(self) -> str | None:
        """Return the app's newest secret, None where the credential's is the newest.

        May raise whatever its parts raise.
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Where tokens are refreshed: the operator's choice, never a user's."""

    identity: Identity
    url: str


async def refresh(
    http: httpx.AsyncClient, endpoint: TokenEndpoint, grant: Grant, now: Now
) -> Grant:
    """Return the grant with a new access token (RFC 6749 §6), and the newest refresh token.

    Raises `TokenRefused` when the grant is gone, `TokenUnavailable` otherwise.
    """
    asked = now()
    try:
        answer = await http.post(
            endpoint.url,
            data={
                "grant_type": "refresh_token",
                "refresh_token": grant.refresh_token,
                "client_id": grant.client_id,
                "client_secret": grant.client_secret,
            },
            timeout=_TIMEOUT,
            follow_redirects=False,
        )
    except httpx.RequestError as error:
        words = str(error) or type(error).__name__
        raise TokenUnavailable(f"the token endpoint does not answer: {words}") from None
    if answer.status_code != httpx.codes.OK:
        raise _refusal(endpoint.identity, answer)
    try:
        got = msgspec.json.decode(answer.content, type=_Answer)
    except msgspec.DecodeError:
        raise TokenUnavailable("the token endpoint's answer holds no access token") from None
    return msgspec.structs.replace(
        grant,
        refresh_token=got.refresh_token or grant.refresh_token,
        access_token=got.access_token,
        expires_at=asked + timedelta(seconds=got.expires_in),
    )


class _Answer(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: int = _LIFETIME_S
    refresh_token: str | None = None


def _refusal(identity: Identity, answer: httpx.Response) -> TokenRefused | TokenUnavailable:
    failure = token_failure(answer.status_code, answer.content, identity)
    wish = answer.headers.get("retry-after", "")
    if isinstance(failure, TokenUnavailable) and wish.isdecimal():
        after = timedelta(seconds=min(int(wish), 86_400))
        return TokenUnavailable(str(failure), failure.outcome_class, after)
    return failure


class GrantTokens:
    """`proof.Tokens` of one mailbox: one refresh for all who wait, in this process and others.

    An access token is given out until `MARGIN` before its end. Each refresh is made with the
    app's newest secret. A refusal of the grant is believed only when no other process has
    stored newer tokens meanwhile.
    `on_unsaved` is told when the store failed after a refresh: the token is used all the same.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        endpoint: TokenEndpoint,
        grant: Grant,
        store: TokenStore,
        now: Now,
        *,
        on_unsaved: Callable[[Exception], None] = lambda _: None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._endpoint = endpoint
        self._grant = grant
        self._store = store
        self._now = now
        self._on_unsaved = on_unsaved
        self._pause = pause
        self._version = 0
        self._renewal: asyncio.Task[None] | None = None

    @property
    def grant(self) -> Grant:
        """The grant with the newest tokens known here."""
        return self._grant

    async def newest(self) -> Grant:
        """Return the grant with the newest tokens that any process stored.

        Raises `TokenUnavailable` when they cannot be read.
        """
        await self._adopt_newer()
        return self._grant

    async def __call__(self, refused: str | None = None) -> str:
        """See `proof.Tokens`."""
        if not self._usable(refused):
            await self._joined(refused)
        if not self._usable(refused):
            # The renewal that was joined began before anyone knew of `refused`.
            await self._joined(refused)
        # A lifetime below the margin would never do; such a token is better than none.
        return self._grant.access_token or ""

    def _usable(self, refused: str | None) -> bool:
        token, end = self._grant.access_token, self._grant.expires_at
        return bool(token) and token != refused and end is not None and end - MARGIN > self._now()

    async def _joined(self, refused: str | None) -> None:
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew(refused))
            self._renewal.add_done_callback(self._renewed)
        # Whoever gives up waiting must not end it for the others.
        await asyncio.shield(self._renewal)

    def _renewed(self, task: "asyncio.Task[None]") -> None:
        self._renewal = None
        if not task.cancelled():
            # Its waiters may all be gone.
            task.exception()

    async def _renew(self, refused: str | None) -> None:
        await self._adopt_newer()
        if self._usable(refused):
            return
        try:
            fresh = await self._refreshed()
        except TokenRefused:
            # A refresh token that ends with its use looks revoked to whoever comes second.
            for pause_s in _LOOKS_S:
                await self._pause(pause_s)
                if await self._adopt_newer():
                    return
            raise
        tokens = {
            "refresh_token": fresh.refresh_token,
            "access_token": fresh.access_token,
            "expires_at": fresh.expires_at,
        }
        try:
            stored = await self._store.replace(self._version, tokens)
        except Exception as error:  # noqa: BLE001 - whatever it was, the token at hand works
            self._grant = fresh
            self._on_unsaved(error)
        else:
            self._adopt(stored)

    async def _refreshed(self) -> Grant:
        grant = await self._with_newest_secret()
        try:
            return await refresh(self._http, self._endpoint, grant, self._now)
        except TokenUnavailable as failure:
            if failure.outcome_class is not OutcomeClass.CONFIG:
                raise
            # It may have been set anew while the old one was on its way.
            newer = await self._with_newest_secret()
            if newer.client_secret == grant.client_secret:
                raise
        return await refresh(self._http, self._endpoint, newer, self._now)

    async def _with_newest_secret(self) -> Grant:
        try:
            secret = await self._store.app_secret()
        except Exception as error:
            # As with stored tokens; an older secret would be taken for a wrong one.
            raise TokenUnavailable(
                f"the app's secret cannot be read: {type(error).__name__}"
            ) from error
        if secret is None:
            return self._grant
        return msgspec.structs.replace(self._grant, client_secret=secret)

    async def _adopt_newer(self) -> bool:
        try:
            stored = await self._store.load()
        except Exception as error:
            # The store is a service's own: whatever fails in it, there is no token just now.
            raise TokenUnavailable(
                f"the stored tokens cannot be read: {type(error).__name__}"
            ) from error
        if stored is None or stored["version"] <= self._version:
            return False
        self._adopt(stored)
        return True

    def _adopt(self, stored: Mapping[str, Any]) -> None:
        tokens = msgspec.convert(stored, StoredTokens)
        self._version = tokens.version
        self._grant = self._grant.with_tokens(tokens)


Revocation = Literal["revoked", "already_gone", "not_supported", "failed"]


async def revoke(http: httpx.AsyncClient, url: str | None, token: str) -> tuple[Revocation, str]:
    """Revoke a refresh or access token (RFC 7009); return what became of it, and the words.

    `url` is None where the provider lets no application revoke a grant (Microsoft: the user
    does it at myapps.microsoft.com, an administrator in Entra). Never raises for a server.
    """
    if url is None:
        return "not_supported", "the provider lets no application revoke a grant"
    try:
        answer = await http.post(
            url, data={"token": token}, timeout=_TIMEOUT, follow_redirects=False
        )
    except httpx.RequestError as error:
        return "failed", str(error) or type(error).__name__
    if answer.is_success:
        return "revoked", f"{answer.status_code} revoked"
    # Google's word for a token that it does not honour any more.
    if answer.status_code == httpx.codes.BAD_REQUEST and "invalid_token" in answer.text:
        return "already_gone", answer.text[:500]
    return "failed", f"{answer.status_code} {answer.text[:500]}"
