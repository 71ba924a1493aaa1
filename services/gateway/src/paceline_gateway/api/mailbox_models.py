"""What requests and answers about mailboxes look like."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from paceline_gateway.api.suspensions import SuspensionOut
from paceline_gateway.api.types import Email, Name, Timezone
from paceline_gateway.connect import ServerIn, Tls
from paceline_gateway.domain.provider import Provider
from paceline_gateway.pacing import Capacity, Unknown


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MailboxIn(_In):
    """A mailbox to connect."""

    email: Email
    display_name: Name | None = None
    reply_to: Email | None = None
    timezone: Timezone | None = Field(default=None, description="The workspace's if left out.")
    policy: dict[str, Any] = Field(
        default_factory=dict, description="What differs from the defaults; see `effective_policy`."
    )
    provider: Provider | None = Field(
        default=None, description="Found by server and address if left out."
    )
    already_in_use: bool = Field(
        default=True,
        description="Whether people already write from it. If so, stage 3 is attested and cold "
        "mail may start (policy `attested`); if not, it starts at stage 0 and has to warm up.",
    )
    smtp: ServerIn
    imap: ServerIn


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
    smtp: ServerIn | None = None
    imap: ServerIn | None = None


class ServerOut(BaseModel):
    """A server without its password."""

    host: str
    port: int
    tls: Tls
    username: str


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
    cap, and what binds it; where it is null, `capacity_unknown` says why.
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
    policy: dict[str, Any]
    effective_policy: dict[str, Any]
    capacity: Capacity | None
    capacity_unknown: Unknown | None
    smtp: ServerOut
    imap: ServerOut
    last_send_test: LastTest | None
    last_read_test: LastTest | None
    suspensions: list[SuspensionOut]
    pace: PaceOut | None
    version: int
    created_at: datetime
    updated_at: datetime
