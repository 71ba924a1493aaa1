"""Google's and Microsoft's sign-in as a flow needs it: where to send a person, what comes back.

Google: developers.google.com/identity/protocols/oauth2/web-server. Microsoft:
learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow and …/v2-admin-consent.
The protocol's own rules (RFC 6749, RFC 7636) are Authlib's.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

import httpx
from authlib.common.urls import add_params_to_uri, url_decode
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jws
from joserfc.errors import JoseError

from paceline_common.clock import Clock
from paceline_common.http import ProblemType
from paceline_gateway import problems
from paceline_gateway.domain.consent import Grant, Leg, OAuthProvider
from paceline_gateway.settings import GatewaySettings
from paceline_providers import tls
from paceline_providers.aadsts import TokenRule, rule_for

_TIMEOUT: Final = httpx.Timeout(20.0, connect=10.0)
# RFC 6749 §5.1 recommends `expires_in` and does not require it.
_LIFETIME_S: Final = 3600
# A guest has another organisation's mailbox, not one here.
_GUEST: Final = "#EXT#"
# Microsoft's refusals that an administrator's consent would mend.
_NEEDS_ADMIN: Final = ("admin-consent", "no-consent")
_DECLINED: Final = "AADSTS65004"


@dataclass(frozen=True, slots=True)
class App:
    """An OAuth app with its opened secret, set at `set_at`; `source` says whose it is."""

    provider: OAuthProvider
    source: str
    client_id: str
    client_secret: str = field(repr=False)
    tenant: str | None
    set_at: datetime


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a code was exchanged for; `scopes` are those that were granted."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_at: datetime
    scopes: tuple[str, ...]
    claims: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Profile:
    """Whose mailbox it is. `tenant`: Google's hosted domain, Microsoft's tenant id."""

    account: str
    email: str
    name: str | None
    tenant: str | None


class OAuthFailed(Exception):
    """The flow ends here: `words` are the provider's own, `remedy` says what to do."""

    def __init__(self, kind: ProblemType, words: str, remedy: str | None = None) -> None:
        super().__init__(kind.code)
        self.kind: Final = kind
        self.words: Final = words
        self.remedy: Final = remedy or kind.remedy


def verifier(session: str, state: str) -> str:
    """Return the PKCE verifier (RFC 7636 §4.1) of one trip.

    It follows from what the browser's cookie holds, so that it lies nowhere else.
    """
    made = hmac.digest(session.encode(), b"pkce/" + state.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()


def refusal(provider: OAuthProvider, error: str, description: str) -> OAuthFailed:
    """Return what an OAuth `error`, of a redirect or the token endpoint, means for a flow."""
    rule = rule_for(error, description, provider)
    words = f"{error}: {description}" if description else error
    return OAuthFailed(_kind(provider, rule, error, description), words, rule.sentence)


def _kind(provider: OAuthProvider, rule: TokenRule, error: str, description: str) -> ProblemType:
    if rule.name == "declined" or _DECLINED in description:
        return problems.OAUTH_ACCESS_DENIED
    if provider == "microsoft" and rule.name in _NEEDS_ADMIN:
        return problems.OAUTH_ADMIN_CONSENT_REQUIRED
    match rule.whose:
        case "app":
            return problems.OAUTH_APP_REFUSED
        case "nobody":
            return problems.OAUTH_PROVIDER_UNAVAILABLE
        case _:
            return problems.OAUTH_GRANT_REFUSED


class OAuthClient:
    """Speaks with both providers; the addresses are the operator's settings."""

    def __init__(self, settings: GatewaySettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._http = httpx.AsyncClient(
            verify=tls.context(settings.tls_ca_file), timeout=_TIMEOUT, follow_redirects=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def redirect_uri(self, provider: OAuthProvider) -> str:
        """Return where the provider sends people back; the app has to list it, letter by letter."""
        return f"{self._settings.public_url.rstrip('/')}/oauth/callback/{provider}"

    def authorize_url(
        self, app: App, grant: Grant, leg: Leg, *, state: str, session: str, login_hint: str | None
    ) -> str:
        """Return where a person consents to `leg`."""
        extra = {
            "code_challenge": create_s256_code_challenge(verifier(session, state)),
            "code_challenge_method": "S256",
        }
        if login_hint:
            extra["login_hint"] = login_hint
        if app.provider == "google":
            # Without `consent` a repeated grant comes without a refresh token.
            extra |= {"access_type": "offline", "prompt": "consent"}
            url = self._settings.google_auth_url
        else:
            if not login_hint:
                extra["prompt"] = "select_account"
            tenant = quote(app.tenant or "common", safe="")
            url = f"{self._settings.microsoft_login_url}/{tenant}/oauth2/v2.0/authorize"
        made: str = prepare_grant_uri(
            url,
            client_id=app.client_id,
            response_type="code",
            redirect_uri=self.redirect_uri(app.provider),
            scope=" ".join(grant.asked(leg)),
            state=state,
            **extra,
        )
        return made

    def admin_consent_url(self, app: App, grant: Grant, state: str) -> str:
        """Return where an administrator consents for the whole Microsoft organisation."""
        tenant = quote(app.tenant or "organizations", safe="")
        scopes = (*grant.scopes("both"), "https://graph.microsoft.com/User.Read")
        asked = {
            "client_id": app.client_id,
            "scope": " ".join(scopes),
            "redirect_uri": self.redirect_uri("microsoft"),
            "state": state,
        }
        base = f"{self._settings.microsoft_login_url}/{tenant}/v2.0/adminconsent"
        made: str = add_params_to_uri(base, list(asked.items()))
        return made

    async def exchange(
        self, app: App, grant: Grant, leg: Leg, *, code: str, state: str, session: str
    ) -> Tokens:
        """Return what a code is good for; raise `OAuthFailed`. A code can be exchanged once."""
        asked = self._clock.now()
        form = prepare_token_request(
            "authorization_code",
            code=code,
            redirect_uri=self.redirect_uri(app.provider),
            client_id=app.client_id,
            client_secret=app.client_secret,
            code_verifier=verifier(session, state),
            scope=" ".join(grant.asked(leg)),
        )
        answer = await self._ask(
            "POST",
            self._settings.token_url(app.provider, app.tenant),
            data=dict(url_decode(form)),
        )
        told = _object(answer)
        if answer.status_code != httpx.codes.OK:
            if told is None or answer.status_code >= 500:
                words = f"the token endpoint answered {answer.status_code}"
                raise OAuthFailed(problems.OAUTH_PROVIDER_UNAVAILABLE, words)
            error, description = (
                str(told.get(name, "")) for name in ("error", "error_description")
            )
            raise refusal(app.provider, error, description)
        if told is None or not isinstance(told.get("access_token"), str):
            words = "the token endpoint's answer holds no access token"
            raise OAuthFailed(problems.OAUTH_PROVIDER_UNAVAILABLE, words)
        granted = tuple(str(told.get("scope", "")).split())
        if missing := grant.missing(leg, granted):
            raise OAuthFailed(problems.OAUTH_SCOPES_MISSING, f"not granted: {', '.join(missing)}")
        if not told.get("refresh_token"):
            raise OAuthFailed(problems.OAUTH_NO_REFRESH_TOKEN, "the answer holds no refresh token")
        return Tokens(
            access_token=told["access_token"],
            refresh_token=str(told["refresh_token"]),
            expires_at=asked + timedelta(seconds=_seconds(told.get("expires_in"))),
            scopes=granted,
            claims=_claims(told.get("id_token")),
        )

    async def profile(self, provider: OAuthProvider, grant: Grant, tokens: Tokens) -> Profile:
        """Return whose account it is; raise `OAuthFailed`."""
        if provider == "google":
            found = await self._read(self._settings.google_userinfo_url, tokens)
            return _profile(
                found.get("sub"), found.get("email"), found.get("name"), found.get("hd")
            )
        claims, tenant = tokens.claims, tokens.claims.get("tid")
        if grant.kind == "smtp":
            # The token is for Outlook's servers; Graph would not take it.
            email = claims.get("email") or claims.get("preferred_username")
            return _profile(
                claims.get("oid") or claims.get("sub"), email, claims.get("name"), tenant
            )
        found = await self._read(f"{self._settings.graph_api_url}/v1.0/me", tokens)
        email = found.get("mail") or found.get("userPrincipalName")
        return _profile(found.get("id"), email, found.get("displayName"), tenant)

    async def _read(self, url: str, tokens: Tokens) -> dict[str, Any]:
        answer = await self._ask(
            "GET", url, headers={"Authorization": f"Bearer {tokens.access_token}"}
        )
        found = _object(answer)
        if answer.status_code != httpx.codes.OK or found is None:
            words = f"{answer.status_code} {answer.text[:500]}"
            raise OAuthFailed(problems.OAUTH_PROFILE_UNREADABLE, words)
        return found

    async def _ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        try:
            return await self._http.request(method, url, **more)
        except httpx.RequestError as error:
            words = str(error) or type(error).__name__
            raise OAuthFailed(
                problems.OAUTH_PROVIDER_UNAVAILABLE, f"no answer from the provider: {words}"
            ) from None


def _profile(account: Any, email: Any, name: Any, tenant: Any) -> Profile:
    if not account or not email or "@" not in str(email) or _GUEST in str(email):
        words = f"the account has no mailbox address of its own: {email or 'none'}"
        raise OAuthFailed(problems.OAUTH_PROFILE_UNREADABLE, words)
    return Profile(str(account), str(email), str(name) if name else None, tenant or None)


def _object(answer: httpx.Response) -> dict[str, Any] | None:
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _claims(id_token: Any) -> Mapping[str, Any]:
    """Return an id token's claims.

    It came straight from the token endpoint over TLS, which stands for its signature
    (OpenID Connect Core §3.1.3.7).
    """
    if not isinstance(id_token, str):
        return {}
    try:
        found = json.loads(jws.extract_compact(id_token.encode()).payload)
    except (JoseError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _seconds(value: Any) -> int:
    try:
        return max(0, int(value))
    except (TypeError, ValueError):
        return _LIFETIME_S
