"""What requests and answers about mailboxes look like."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from paceline_gateway.api.suspensions import SuspensionOut
from paceline_gateway.api.types import Email, Name, Timezone
from paceline_gateway.domain.consent import OAuthProvider
from paceline_gateway.domain.provider import Provider
from paceline_gateway.mailbox_settings import MailboxSettings
from paceline_gateway.message_defaults import MessageDefaults, MessageDefaultsOut
from paceline_gateway.pacing import Capacity, Unknown
from paceline_gateway.servers import ServerIn, ServerOut
from paceline_providers.presets import presets


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MailboxIn(MailboxSettings):
    """A mailbox to connect by SMTP and IMAP.

    A `preset` of `GET /v1/presets` fills the servers that are left out; they are signed in to
    with `password`. Without one both servers are given.
    """

    email: Email
    preset: str | None = Field(default=None, max_length=50)
    password: SecretStr | None = Field(default=None, min_length=1, max_length=1000)
    smtp: ServerIn | None = None
    imap: ServerIn | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        servers = presets().get(self.preset) if self.preset else None
        if self.preset and servers is None:
            raise ValueError(f"preset: there is no {self.preset!r}; see GET /v1/presets")
        for name in ("smtp", "imap"):
            if getattr(self, name) is not None:
                continue
            filled = getattr(servers, name) if servers else None
            if filled is None:
                raise ValueError(f"{name}: needed, for no preset fills it")
            if self.password is None:
                raise ValueError("password: needed for the servers that the preset fills")
            made = ServerIn(
                host=filled.host, port=filled.port, tls=filled.tls, password=self.password
            )
            setattr(self, name, made)
        return self

    def servers(self) -> tuple[ServerIn, ServerIn]:
        """Return both servers, as given or as the preset fills them."""
        assert self.smtp is not None
        assert self.imap is not None
        return self.smtp, self.imap


class MailboxPatch(_In):
    """What to change; what is left out stays. A changed `smtp` or `imap` is tested first.

    `policy` changes the settings it names; null is a value there (mostly: off).
    `policy_reset` names settings that go back to their default, or `all`; it
    acts before `policy`. `timezone` null is the workspace's, `provider` null
    the one found by server and address.
    """

    display_name: Name | None = None
    reply_to: Email | None = None
    timezone: Timezone | None = None
    policy: dict[str, Any] | None = None
    policy_reset: list[str] | None = Field(default=None, max_length=50)
    provider: Provider | None = None
    is_active: bool | None = None
    message: MessageDefaults | None = None
    smtp: ServerIn | None = None
    imap: ServerIn | None = None


class GrantOut(BaseModel):
    """What a leg is signed in with instead of a password; tokens are never part of an answer.

    `app` says whose OAuth app it was given to, `client_id` which. docs/oauth-grants.md
    tells what the scopes allow.
    """

    provider: OAuthProvider
    scopes: list[str]
    account: str | None
    tenant: str | None
    app: Literal["workspace", "installation"]
    client_id: str


class LegOut(BaseModel):
    """What one leg of a connection test found: the server's exact words, and what to do."""

    ok: bool
    code: str
    message: str
    remedy: str | None


class TestOut(BaseModel):
    """A connection test; nothing was saved."""

    ok: bool
    send: LegOut
    read: LegOut


class LastTest(BaseModel):
    """The last test of a saved mailbox's leg."""

    ok: bool
    code: str | None
    at: datetime


class PaceOut(BaseModel):
    """Where a mailbox stands today, in its own zone: `next_at` is its next possible slot."""

    next_at: datetime | None
    day: str | None
    day_used: int
    day_cap: int | None


class MailboxOut(BaseModel):
    """A mailbox; secrets are never part of an answer.

    `policy` is what was set, `effective_policy` what holds with every default
    filled in. `capacity` is how many messages that allows today however high the
    cap, and what binds it; where it is null, `capacity_unknown` says why. `smtp` and `imap`
    are null behind an API, the grants with a password.
    """

    id: str
    email: str
    domain: str
    display_name: str | None
    reply_to: str | None
    kind: str
    provider: Provider
    provider_found: Provider
    is_active: bool
    timezone: str
    message: MessageDefaultsOut
    policy: dict[str, Any]
    effective_policy: dict[str, Any]
    capacity: Capacity | None
    capacity_unknown: Unknown | None
    smtp: ServerOut | None
    imap: ServerOut | None
    send_grant: GrantOut | None
    read_grant: GrantOut | None
    last_send_test: LastTest | None
    last_read_test: LastTest | None
    suspensions: list[SuspensionOut]
    pace: PaceOut | None
    version: int
    created_at: datetime
    updated_at: datetime
