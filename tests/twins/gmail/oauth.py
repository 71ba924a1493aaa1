"""Google's OAuth 2.0 as far as connecting a mailbox needs it (PROVIDERS §1.1).

developers.google.com/identity/protocols/oauth2/web-server and …/native-app (PKCE). There is
no id_token: who needs the address asks userinfo.
"""

import base64
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

PREFIX: Final = "https://www.googleapis.com/auth/"
ALL_MAIL: Final = "https://mail.google.com/"
EVERYTHING: Final = (
    f"{PREFIX}gmail.modify", f"{PREFIX}gmail.send", f"{PREFIX}userinfo.email",
    f"{PREFIX}userinfo.profile", "openid",
)  # fmt: skip
CLIENT_ID: Final = "twin.apps.googleusercontent.com"
CLIENT_SECRET: Final = "GOCSPX-twin"


class OAuthRefused(Exception):
    """The token endpoint's refusal (RFC 6749 §5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error: Final = error
        self.description: Final = description
        self.status: Final = status


@dataclass(frozen=True)
class Access:
    """What an access token stands for."""

    email: str
    scopes: frozenset[str]
    expires_at: datetime


@dataclass
class _Code:
    email: str
    scopes: tuple[str, ...]
    redirect_uri: str
    challenge: str | None
    offline: bool


@dataclass
class Identity:
    """All accounts' grants.

    `unticked`: scopes that a user does not grant at the consent page, by address; `declines`:
    users who say no altogether.
    """

    now: Callable[[], datetime]
    known: Callable[[str], bool]
    clients: dict[str, str] = field(default_factory=lambda: {CLIENT_ID: CLIENT_SECRET})
    lifetime: timedelta = timedelta(seconds=3599)
    unticked: dict[str, frozenset[str]] = field(default_factory=dict)
    declines: set[str] = field(default_factory=set)
    access: dict[str, Access] = field(default_factory=dict)
    refresh: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    refreshes: int = 0
    _codes: dict[str, _Code] = field(default_factory=dict)

    def grant(
        self, email: str, scopes: tuple[str, ...] = EVERYTHING, *, offline: bool = True
    ) -> dict[str, Any]:
        """Give tokens as after a consent."""
        answer = self._access(email, scopes)
        if offline:
            answer["refresh_token"] = "1//" + secrets.token_urlsafe(48)
            self.refresh[answer["refresh_token"]] = (email, scopes)
        return answer

    def who(self, authorization: str | None) -> Access | None:
        """Return what a request's bearer token stands for, None when it is not good."""
        scheme, _, token = (authorization or "").partition(" ")
        access = self.access.get(token) if scheme.lower() == "bearer" else None
        return access if access and access.expires_at > self.now() else None

    def expire(self, email: str) -> None:
        """Let every access token of an account be too old."""
        for token, one in list(self.access.items()):
            if one.email == email:
                del self.access[token]

    def revoke_all(self, email: str) -> None:
        """Let an account take its grants back."""
        self.expire(email)
        for token, (owner, _) in list(self.refresh.items()):
            if owner == email:
                del self.refresh[token]

    def authorize(self, asked: Mapping[str, str]) -> str:
        """Return where the consent page leads: the user `login_hint` agrees at once."""
        missing = {"client_id", "redirect_uri", "response_type", "scope"} - asked.keys()
        if missing or asked["client_id"] not in self.clients or asked["response_type"] != "code":
            raise OAuthRefused("invalid_request", f"Missing or wrong: {sorted(missing)}")
        email = asked.get("login_hint", "").lower()
        back = {"state": asked["state"]} if "state" in asked else {}
        if email in self.declines or not self.known(email):
            back["error"] = "access_denied"
        else:
            unticked = self.unticked.get(email, frozenset())
            scopes = tuple(one for one in asked["scope"].split() if one not in unticked)
            code = "4/0" + secrets.token_urlsafe(32)
            if asked.get("code_challenge") and asked.get("code_challenge_method") != "S256":
                raise OAuthRefused("invalid_request", "code_challenge_method must be S256")
            self._codes[code] = _Code(
                email, scopes, asked["redirect_uri"], asked.get("code_challenge"),
                asked.get("access_type") == "offline",
            )  # fmt: skip
            back |= {"code": code, "scope": " ".join(scopes)}
        joint = "&" if "?" in asked["redirect_uri"] else "?"
        return asked["redirect_uri"] + joint + urlencode(back)

    def token(self, form: Mapping[str, str], basic: tuple[str, str] | None) -> dict[str, Any]:
        """Do POST /token for authorization_code and refresh_token."""
        client, secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        if self.clients.get(client) != secret:
            raise OAuthRefused("invalid_client", "The OAuth client was not found.", 401)
        match form.get("grant_type"):
            case "authorization_code":
                return self._redeem(form)
            case "refresh_token":
                found = self.refresh.get(form.get("refresh_token", ""))
                if found is None:
                    raise OAuthRefused("invalid_grant", "Token has been expired or revoked.")
                self.refreshes += 1
                return self._access(*found)
            case other:
                raise OAuthRefused("unsupported_grant_type", f"Invalid grant_type: {other}")

    def revoke(self, token: str) -> None:
        """Do POST /revoke: an access token takes its refresh token along."""
        if token in self.access:
            self.revoke_all(self.access[token].email)
        elif token in self.refresh:
            self.revoke_all(self.refresh[token][0])
        else:
            raise OAuthRefused("invalid_token", "Token expired or revoked")

    def _redeem(self, form: Mapping[str, str]) -> dict[str, Any]:
        code = self._codes.pop(form.get("code", ""), None)
        if code is None:
            raise OAuthRefused("invalid_grant", "Malformed auth code.")
        if form.get("redirect_uri") != code.redirect_uri:
            raise OAuthRefused("redirect_uri_mismatch", "Bad Request")
        if code.challenge is not None:
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != code.challenge:
                raise OAuthRefused("invalid_grant", "Invalid code verifier.")
        return self.grant(code.email, code.scopes, offline=code.offline)

    def _access(self, email: str, scopes: tuple[str, ...]) -> dict[str, Any]:
        token = "ya29." + secrets.token_urlsafe(48)
        self.access[token] = Access(email, frozenset(scopes), self.now() + self.lifetime)
        return {
            "access_token": token,
            "expires_in": int(self.lifetime.total_seconds()),
            "scope": " ".join(scopes),
            "token_type": "Bearer",
        }
