"""Google's OAuth 2.0 as far as connecting a mailbox needs it (PROVIDERS §1.1).

developers.google.com/identity/protocols/oauth2/web-server and …/native-app (PKCE). There is
no id_token: who needs the address asks userinfo.
"""

import base64
import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import urlencode

from tests.twins import pages
from tests.twins.wire import Response

PREFIX: Final = "https://www.googleapis.com/auth/"
ALL_MAIL: Final = "https://mail.google.com/"
EVERYTHING: Final = (
    f"{PREFIX}gmail.modify", f"{PREFIX}gmail.send", f"{PREFIX}userinfo.email",
    f"{PREFIX}userinfo.profile", "openid",
)  # fmt: skip
CLIENT_ID: Final = "twin.apps.googleusercontent.com"
CLIENT_SECRET: Final = "GOCSPX-twin"
AUTHORIZE: Final = "/o/oauth2/v2/auth"
CONSENT: Final = "/o/oauth2/v2/auth/consent"
# The oldest one dies silently when there is another (PROVIDERS §1.1).
_MOST_REFRESH_TOKENS: Final = 100
# What a person who signs in gives away without being asked.
_ALWAYS: Final = frozenset(
    {"openid", "email", "profile", f"{PREFIX}userinfo.email", f"{PREFIX}userinfo.profile"}
)


class OAuthRefused(Exception):
    """The token endpoint's refusal (RFC 6749 §5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error: Final = error
        self.description: Final = description
        self.status: Final = status


class Now(Protocol):
    """Gives the twin's time."""

    def __call__(self) -> datetime: ...


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
    scopes: tuple[str, ...]
    client: str


@dataclass
class _Code:
    email: str
    scopes: tuple[str, ...]
    redirect_uri: str
    challenge: str | None
    offline: bool
    client: str


@dataclass
class Identity:
    """All accounts' grants.

    `interactive`: a person is shown pages; otherwise `login_hint` agrees at once.
    `unticked`: scopes that a user does not grant (pages show them unticked), by address;
    `declines`: users who say no altogether. `redirect_uris`: what an app may name, anything
    while there are none.
    """

    now: Now
    known: Collection[str]
    clients: dict[str, str] = field(default_factory=lambda: {CLIENT_ID: CLIENT_SECRET})
    redirect_uris: set[str] = field(default_factory=set)
    interactive: bool = False
    lifetime: timedelta = timedelta(seconds=3599)
    unticked: dict[str, frozenset[str]] = field(default_factory=dict)
    declines: set[str] = field(default_factory=set)
    access: dict[str, Access] = field(default_factory=dict)
    refresh: dict[str, Grant] = field(default_factory=dict)
    refreshes: int = 0
    _codes: dict[str, _Code] = field(default_factory=dict)

    def grant(
        self,
        email: str,
        scopes: tuple[str, ...] = EVERYTHING,
        *,
        offline: bool = True,
        client: str = CLIENT_ID,
    ) -> dict[str, Any]:
        """Give tokens as after a consent."""
        answer = self._access(email, scopes)
        if offline:
            answer["refresh_token"] = "1//" + secrets.token_urlsafe(48)
            self.refresh[answer["refresh_token"]] = Grant(email, scopes, client)
            held = [
                token
                for token, one in self.refresh.items()
                if (one.email, one.client) == (email, client)
            ]
            for token in held[:-_MOST_REFRESH_TOKENS]:
                del self.refresh[token]
        return answer

    def who(self, authorization: str | None) -> Access | None:
        """Return what a request's bearer token stands for, None when it is not good."""
        scheme, _, token = (authorization or "").partition(" ")
        access = self.access.get(token) if scheme.lower() == "bearer" else None
        return access if access and access.expires_at > self.now() else None

    def tokens_of(self, email: str) -> list[str]:
        """Return every token that an account has given: secrets that nobody may show."""
        held = [token for token, one in self.access.items() if one.email == email]
        return held + [token for token, one in self.refresh.items() if one.email == email]

    def expire(self, email: str) -> None:
        """Let every access token of an account be too old."""
        for token, one in list(self.access.items()):
            if one.email == email:
                del self.access[token]

    def revoke_all(self, email: str) -> None:
        """Let an account take its grants back."""
        self.expire(email)
        for token, one in list(self.refresh.items()):
            if one.email == email:
                del self.refresh[token]

    def authorize(self, asked: Mapping[str, str]) -> Response:
        """Do GET of the authorization endpoint: the pages, or the way back at once."""
        if (problem := self._problem(asked)) is not None:
            return pages.page(f"Error 400: {problem}", "", 400)
        email = asked.get("login_hint", "").lower()
        if not self.interactive:
            return self._back(asked, email, agrees=True)
        if email not in self.known or "select_account" in asked.get("prompt", ""):
            domain = asked.get("hd", "").lower()
            shown = [one for one in self.known if not domain or one.endswith(f"@{domain}")]
            return pages.accounts(AUTHORIZE, asked, shown)
        unticked = self.unticked.get(email, frozenset())
        scopes = {one: one not in unticked for one in asked["scope"].split()}
        return pages.consent(CONSENT, asked, asked["client_id"], email, scopes, may_untick=True)

    def decide(self, form: Mapping[str, str], granted: Collection[str]) -> Response:
        """Do what the consent page's form says: `granted` are the boxes left ticked."""
        if (problem := self._problem(form)) is not None:
            return pages.page(f"Error 400: {problem}", "", 400)
        email = form.get("login_hint", "").lower()
        left = frozenset(form["scope"].split()) - set(granted) - _ALWAYS
        return self._back(form, email, agrees=form.get("decision") == "allow", left=left)

    def _problem(self, asked: Mapping[str, str]) -> str | None:
        """Return what is wrong with a request, when there is nowhere safe to go back to."""
        missing = {"client_id", "redirect_uri", "response_type", "scope"} - asked.keys()
        if missing:
            return f"invalid_request: missing {', '.join(sorted(missing))}"
        if asked["client_id"] not in self.clients:
            return "invalid_client: The OAuth client was not found."
        if self.redirect_uris and asked["redirect_uri"] not in self.redirect_uris:
            return "redirect_uri_mismatch"
        if asked["response_type"] != "code":
            return "unsupported_response_type"
        if asked.get("code_challenge") and asked.get("code_challenge_method") != "S256":
            return "invalid_request: code_challenge_method must be S256"
        return None

    def _back(
        self,
        asked: Mapping[str, str],
        email: str,
        *,
        agrees: bool,
        left: frozenset[str] = frozenset(),
    ) -> Response:
        """Return the way back to the application, with a code or an error."""
        back = {"state": asked["state"]} if "state" in asked else {}
        if not agrees or email in self.declines or email not in self.known:
            back["error"] = "access_denied"
        else:
            left |= frozenset() if self.interactive else self.unticked.get(email, frozenset())
            scopes = tuple(one for one in asked["scope"].split() if one not in left)
            again = any(
                (one.email, one.client) == (email, asked["client_id"])
                for one in self.refresh.values()
            )
            code = "4/0" + secrets.token_urlsafe(32)
            self._codes[code] = _Code(
                email, scopes, asked["redirect_uri"], asked.get("code_challenge"),
                # A repeated grant brings no refresh token unless the user was asked again.
                asked.get("access_type") == "offline"
                and (not again or "consent" in asked.get("prompt", "")),
                asked["client_id"],
            )  # fmt: skip
            back |= {"code": code, "scope": " ".join(scopes)}
        joint = "&" if "?" in asked["redirect_uri"] else "?"
        return Response(302, headers={"Location": asked["redirect_uri"] + joint + urlencode(back)})

    def token(self, form: Mapping[str, str], basic: tuple[str, str] | None) -> dict[str, Any]:
        """Do POST /token for authorization_code and refresh_token."""
        client, secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        if self.clients.get(client) != secret:
            raise OAuthRefused("invalid_client", "The OAuth client was not found.", 401)
        match form.get("grant_type"):
            case "authorization_code":
                return self._redeem(form, client)
            case "refresh_token":
                found = self.refresh.get(form.get("refresh_token", ""))
                if found is None or found.client != client:
                    raise OAuthRefused("invalid_grant", "Token has been expired or revoked.")
                self.refreshes += 1
                return self._access(found.email, found.scopes)
            case other:
                raise OAuthRefused("unsupported_grant_type", f"Invalid grant_type: {other}")

    def revoke(self, token: str) -> None:
        """Do POST /revoke: an access token takes its refresh token along."""
        if token in self.access:
            self.revoke_all(self.access[token].email)
        elif token in self.refresh:
            self.revoke_all(self.refresh[token].email)
        else:
            raise OAuthRefused("invalid_token", "Token expired or revoked")

    def _redeem(self, form: Mapping[str, str], client: str) -> dict[str, Any]:
        code = self._codes.pop(form.get("code", ""), None)
        if code is None or code.client != client:
            raise OAuthRefused("invalid_grant", "Malformed auth code.")
        if form.get("redirect_uri") != code.redirect_uri:
            raise OAuthRefused("redirect_uri_mismatch", "Bad Request")
        if code.challenge is not None:
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != code.challenge:
                raise OAuthRefused("invalid_grant", "Invalid code verifier.")
        return self.grant(code.email, code.scopes, offline=code.offline, client=client)

    def _access(self, email: str, scopes: tuple[str, ...]) -> dict[str, Any]:
        token = "ya29." + secrets.token_urlsafe(48)
        self.access[token] = Access(email, frozenset(scopes), self.now() + self.lifetime)
        return {
            "access_token": token,
            "expires_in": int(self.lifetime.total_seconds()),
            "scope": " ".join(scopes),
            "token_type": "Bearer",
        }
