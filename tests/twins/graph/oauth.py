"""The Microsoft identity platform, v2.0, as far as connecting a mailbox needs it.

Error bodies as learn.microsoft.com/entra/identity-platform/v2-oauth2-auth-code-flow
shows them; codes as reference-error-codes does.
"""

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode
from uuid import NAMESPACE_DNS, uuid4, uuid5

from tests.twins import pages
from tests.twins.wire import Request, Response

CLIENT_ID: Final = "7f1c0a52-54c3-4a4e-9a0e-paceline0twin"
CLIENT_SECRET: Final = "twin~secret"
GRAPH: Final = "https://graph.microsoft.com/"
EVERYTHING: Final = frozenset({"Mail.Send", "Mail.ReadWrite", "User.Read", "offline_access"})

_WORDS: Final[Mapping[int, tuple[str, str]]] = {
    50011: ("invalid_request", "The redirect URI is not one of those configured."),
    50020: ("invalid_grant", "User account does not exist in tenant and cannot access the app."),
    50076: ("interaction_required", "You must use multi-factor authentication."),
    50079: ("interaction_required", "The user must enroll in multi-factor authentication."),
    50173: ("invalid_grant", "The provided grant has expired due to it being revoked."),
    53003: ("interaction_required", "Access has been blocked by Conditional Access policies."),
    54005: ("invalid_grant", "OAuth2 Authorization code was already redeemed."),
    65001: ("invalid_grant", "The user or administrator has not consented to use the application."),
    65004: ("access_denied", "User declined to consent to access the app."),
    65005: ("invalid_grant", "The application requested a scope that is not configured."),
    70000: ("invalid_grant", "The provided value for the 'code' or 'refresh_token' is not valid."),
    70008: ("invalid_grant", "The code or refresh token has expired due to inactivity."),
    90002: ("invalid_request", "Tenant not found."),
    90014: ("invalid_request", "The required field is missing from the credential."),
    90033: ("temporarily_unavailable", "A transient error has occurred. Please try again."),
    90090: ("server_error", "Graph service is unavailable."),
    90093: ("invalid_grant", "Calling principal cannot consent due to lack of permissions."),
    90094: ("invalid_grant", "An administrator of the organization must consent."),
    501481: ("invalid_grant", "The Code_Verifier does not match the code_challenge."),
    700016: ("unauthorized_client", "Application with identifier was not found in the directory."),
    700082: ("invalid_grant", "The refresh token has expired due to inactivity."),
    7000215: ("invalid_client", "Invalid client secret provided."),
    7000222: ("invalid_client", "The provided client secret keys for the app are expired."),
}  # fmt: skip


def object_id(email: str) -> str:
    """Return a user's id in the directory."""
    return str(uuid5(NAMESPACE_DNS, email))


class TokenError(Exception):
    """An AADSTS refusal, by number."""

    def __init__(self, number: int) -> None:
        super().__init__(str(number))
        self.number: Final = number


@dataclass(frozen=True)
class Access:
    """What an access token stands for."""

    email: str
    scopes: frozenset[str]
    expires_at: datetime


@dataclass(frozen=True)
class Grant:
    """What a refresh token stands for; it is good for that client alone."""

    email: str
    scopes: frozenset[str]
    client: str


@dataclass
class _Code:
    email: str
    scopes: frozenset[str]
    redirect_uri: str
    challenge: str | None
    client_id: str
    used: bool = False


@dataclass
class Identity:
    """Users' grants. Faults: `refuse_token` and `refuse_authorize` are AADSTS numbers by user.

    `interactive`: a person is shown pages; otherwise `login_hint` agrees at once. `admins`
    may consent for the tenant; with `needs_admin` nobody else's consent counts before one
    of them has. `rotates`: a refresh ends the refresh token that was used (Microsoft lets
    it live on; whoever stores the newest cannot tell).
    """

    now: Callable[[], datetime]
    known: Collection[str]
    clients: dict[str, str] = field(default_factory=lambda: {CLIENT_ID: CLIENT_SECRET})
    redirect_uris: set[str] = field(default_factory=set)
    interactive: bool = False
    tenant: str = "0a1b2c3d-0000-4000-8000-000000007717"
    needs_admin: bool = False
    admins: set[str] = field(default_factory=set)
    consented_apps: set[str] = field(default_factory=set)
    lifetime: timedelta = timedelta(seconds=3599)
    rotates: bool = False
    refuse_token: dict[str, int] = field(default_factory=dict)
    refuse_authorize: dict[str, int] = field(default_factory=dict)
    access: dict[str, Access] = field(default_factory=dict)
    refresh: dict[str, Grant] = field(default_factory=dict)
    refreshes: int = 0
    _codes: dict[str, _Code] = field(default_factory=dict)
    _ended: dict[str, int] = field(default_factory=dict)

    def grant(
        self, email: str, scopes: frozenset[str] = EVERYTHING, client: str = CLIENT_ID
    ) -> dict[str, Any]:
        """Give tokens as after a consent."""
        access, refresh = "EwB" + secrets.token_urlsafe(48), "M.C" + secrets.token_urlsafe(48)
        self.access[access] = Access(email, scopes, self.now() + self.lifetime)
        self.refresh[refresh] = Grant(email, scopes, client)
        seconds = int(self.lifetime.total_seconds())
        return {
            "token_type": "Bearer",
            "scope": " ".join(
                sorted(
                    scope if "://" in scope else GRAPH + scope
                    for scope in scopes
                    if scope not in ("offline_access", "openid", "profile", "email")
                )
            ),
            "expires_in": seconds,
            "ext_expires_in": seconds,
            "access_token": access,
            "refresh_token": refresh,
        }

    def id_token(self, email: str, client: str) -> str:
        """Tell who signed in (identity-platform/id-token-claims-reference); nobody signs it."""
        claims = {
            "aud": client, "iss": f"https://login.microsoftonline.com/{self.tenant}/v2.0",
            "tid": self.tenant, "oid": object_id(email), "sub": secrets.token_urlsafe(32),
            "preferred_username": email, "email": email, "name": "Ann North",
            "iat": int(self.now().timestamp()),
            "exp": int((self.now() + self.lifetime).timestamp()), "ver": "2.0",
        }  # fmt: skip
        parts = (json.dumps({"alg": "RS256", "typ": "JWT"}), json.dumps(claims), "twin")
        return ".".join(
            base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts
        )

    def revoke(self, email: str, number: int = 50173) -> None:
        """End every token of a user: password change, or an admin's revocation."""
        self.expire(email)
        for token, one in list(self.refresh.items()):
            if one.email == email:
                del self.refresh[token]
                self._ended[token] = number

    def tokens_of(self, email: str) -> list[str]:
        """Return every token that a user has given: secrets that nobody may show."""
        held = [token for token, one in self.access.items() if one.email == email]
        return held + [token for token, one in self.refresh.items() if one.email == email]

    def expire(self, email: str) -> None:
        """End a user's access tokens; refreshing still works."""
        self.access = {key: one for key, one in self.access.items() if one.email != email}

    def who(self, header: str | None) -> Access | None:
        """Return what a valid Authorization header stands for."""
        access = self.access.get((header or "").removeprefix("Bearer "))
        return access if access is not None and access.expires_at > self.now() else None

    def authorize(self, request: Request) -> Response:
        """Do GET of the authorization endpoint: the pages, or the way back at once."""
        query = request.query
        if (problem := self._problem(query)) is not None:
            return _page(problem)
        email = query.get("login_hint", "").lower()
        if not self.interactive:
            email = email or (next(iter(self.known)) if len(self.known) == 1 else "")
            return self._back(query, email, agrees=True)
        here = "/" + "/".join(request.path)
        if email not in self.known or query.get("prompt") == "select_account":
            return pages.accounts(here, query, self.known)
        if self._lacks_admin(query["client_id"], email):
            # The page offers nothing but the way back, which tells of a consent declined.
            return pages.consent(
                f"{here}/consent", {**query, "needs_admin": "1"}, "Need admin approval", email,
                {}, may_untick=False,
            )  # fmt: skip
        scopes = dict.fromkeys(query.get("scope", "").split(), True)
        return pages.consent(
            f"{here}/consent", query, query["client_id"], email, scopes, may_untick=False
        )

    def decide(self, form: Mapping[str, str]) -> Response:
        """Do what the consent page's form says: Microsoft grants all of it or nothing."""
        if (problem := self._problem(form)) is not None:
            return _page(problem)
        return self._back(
            form, form.get("login_hint", "").lower(), agrees=form.get("decision") == "allow"
        )

    def _problem(self, asked: Mapping[str, str]) -> int | None:
        """Return what is wrong with a request, when there is nowhere safe to go back to."""
        if asked.get("client_id") not in self.clients:
            return 700016
        if "redirect_uri" not in asked:
            return 90014
        if self.redirect_uris and asked["redirect_uri"] not in self.redirect_uris:
            return 50011
        return None

    def _lacks_admin(self, client: str, email: str) -> bool:
        return self.needs_admin and client not in self.consented_apps and email not in self.admins

    def _back(self, asked: Mapping[str, str], email: str, *, agrees: bool) -> Response:
        """Return the way back to the application, with a code or an error."""
        back = {"state": asked["state"]} if "state" in asked else {}
        number = self.refuse_authorize.get(email)
        if number is None and email not in self.known:
            number = 50020
        if number is None and self._lacks_admin(asked["client_id"], email):
            number = 90094
        if number is None and not agrees:
            number = 65004
        if number is not None:
            error, words = _WORDS[number]
            error = "consent_required" if number in (90093, 90094, 65001) else error
            back |= {"error": error, "error_description": f"AADSTS{number}: {words}"}
        else:
            code = "0.A" + secrets.token_urlsafe(32)
            self._codes[code] = _Code(
                email, _scopes(asked.get("scope", "")), asked["redirect_uri"],
                asked.get("code_challenge"), asked["client_id"],
            )  # fmt: skip
            back |= {"code": code, "session_state": str(uuid4())}
        return _redirect(asked["redirect_uri"], back)

    def admin_consent(self, request: Request) -> Response:
        """Do GET of the admin-consent endpoint: an admin says yes for the whole tenant."""
        query = request.query
        if (problem := self._problem(query)) is not None:
            return _page(problem)
        if not self.interactive:
            return self.decide_admin({**query, "decision": "allow"})
        here, admin = "/" + "/".join(request.path), query.get("login_hint", "").lower()
        if admin not in self.admins:
            return pages.accounts(here, query, sorted(self.admins))
        return pages.consent(
            f"{here}/consent", query, query["client_id"], admin,
            {"every permission the app is registered for": True}, may_untick=False,
        )  # fmt: skip

    def decide_admin(self, form: Mapping[str, str]) -> Response:
        """Do what the admin's page says (identity-platform/v2-admin-consent)."""
        if (problem := self._problem(form)) is not None:
            return _page(problem)
        back = {"state": form["state"]} if "state" in form else {}
        if form.get("decision") == "allow":
            self.consented_apps.add(form["client_id"])
            back |= {"admin_consent": "True", "tenant": str(uuid4())}
        else:
            error, words = _WORDS[65004]
            back |= {
                "admin_consent": "True", "error": error,
                "error_description": f"AADSTS65004: {words}",
            }  # fmt: skip
        return _redirect(form["redirect_uri"], back)

    def token(self, request: Request) -> Response:
        """Redeem a code or a refresh token."""
        form = dict(parse_qsl(request.body.decode()))
        authorization = request.headers.get("authorization", "")
        if authorization.startswith("Basic "):
            pair = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            form |= {"client_id": pair[0], "client_secret": pair[2]}
        try:
            return Response.of(200, self._redeem(form), {"Cache-Control": "no-store"})
        except TokenError as refusal:
            return token_error(refusal.number, self.now())

    def _redeem(self, form: Mapping[str, str]) -> dict[str, Any]:
        secret = self.clients.get(form.get("client_id", ""))
        if secret is None:
            raise TokenError(700016)
        if form.get("client_secret") != secret:
            raise TokenError(7000215)
        match form.get("grant_type"):
            case "authorization_code":
                return self._redeem_code(form)
            case "refresh_token":
                return self._redeem_refresh(form)
            case _:
                raise TokenError(90014)

    def _redeem_code(self, form: Mapping[str, str]) -> dict[str, Any]:
        code = self._codes.get(form.get("code", ""))
        if code is None:
            raise TokenError(70000)
        if code.used:
            raise TokenError(54005)
        if code.redirect_uri != form.get("redirect_uri") or code.client_id != form["client_id"]:
            raise TokenError(50011)
        if code.challenge is not None and code.challenge != _s256(form.get("code_verifier", "")):
            raise TokenError(501481)
        code.used = True
        self._refuse(code.email)
        granted = self.grant(code.email, code.scopes, code.client_id)
        if "offline_access" not in code.scopes:
            del self.refresh[granted.pop("refresh_token")]
        if "openid" in code.scopes:
            granted["id_token"] = self.id_token(code.email, code.client_id)
        return granted

    def _redeem_refresh(self, form: Mapping[str, str]) -> dict[str, Any]:
        token = form.get("refresh_token", "")
        if token in self._ended:
            raise TokenError(self._ended[token])
        held = self.refresh.get(token)
        if held is None or held.client != form["client_id"]:
            raise TokenError(70000)
        self._refuse(held.email)
        if self.rotates:
            del self.refresh[token]
            self._ended[token] = 70000
        self.refreshes += 1
        return self.grant(held.email, held.scopes, held.client)

    def _refuse(self, email: str) -> None:
        if email in self.refuse_token:
            raise TokenError(self.refuse_token[email])


def token_error(number: int, at: datetime) -> Response:
    """Return the token endpoint's refusal."""
    error, words = _WORDS.get(number, ("invalid_grant", "The request was refused."))
    trace, correlation = str(uuid4()), str(uuid4())
    status = (
        401 if error == "invalid_client" else 503 if error == "temporarily_unavailable" else 400
    )
    when = at.strftime("%Y-%m-%d %H:%M:%SZ")
    return Response.of(
        status,
        {
            "error": error,
            "error_description": f"AADSTS{number}: {words} Trace ID: {trace} "
            f"Correlation ID: {correlation} Timestamp: {when}",
            "error_codes": [number],
            "timestamp": when,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"https://login.microsoftonline.com/error?code={number}",
        },
    )


def _page(number: int) -> Response:
    """Return the page a user sees when there is nowhere safe to go back to."""
    return Response(
        400, f"AADSTS{number}: {_WORDS[number][1]}".encode(), {"Content-Type": "text/html"}
    )


def _redirect(uri: str, back: Mapping[str, str]) -> Response:
    joint = "&" if "?" in uri else "?"
    return Response(302, b"", {"Location": uri + joint + urlencode(back)})


def _scopes(asked: str) -> frozenset[str]:
    return frozenset(scope.removeprefix(GRAPH) for scope in asked.split())


def _s256(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")
