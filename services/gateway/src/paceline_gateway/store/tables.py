"""The gateway's tables. Every tenant table carries `workspace_id` in its key, under RLS."""

from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Numeric,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from paceline_gateway.domain.campaign import STATUSES
from paceline_gateway.domain.provider import KINDS, PROVIDERS
from paceline_gateway.domain.routing import ESP_MATCHES, ROTATIONS, STICKINESSES
from paceline_gateway.store.base import (
    COMMON,
    SCHEMA,
    Base,
    absent_or_json,
    created,
    in_workspace,
    one_of,
)
from paceline_gateway.store.content_tables import Attachment, StepAttachment, Tracked
from paceline_gateway.store.oauth_tables import (
    OAuthApp,
    OAuthFlow,
    OAuthInstallationApp,
    OAuthSecret,
    OAuthState,
)

__all__ = [
    "COMMON", "Attachment", "OAuthApp", "OAuthFlow", "OAuthInstallationApp", "OAuthSecret",
    "OAuthState", "StepAttachment", "Tracked",
]  # fmt: skip

ENCODINGS: Final = ("quoted-printable", "base64")


class Workspace(Base):
    """A tenant. `timezone`, `country` and `region` are its mailboxes' unless they say otherwise.

    The next three say how hard leads may be pressed; `min_days_between` lies
    between two campaigns' messages to one lead. `headers`, [[name, value], …], go into
    each of its messages. `version` counts changes of all these.
    """

    __tablename__ = "workspace"
    __table_args__ = (
        CheckConstraint("min_days_between BETWEEN 0 AND 3650", name="min_days_between"),
        CheckConstraint("version > 0", name="version"),
    )

    workspace_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    country: Mapped[str | None]
    region: Mapped[str | None]
    parallel_campaigns: Mapped[bool] = mapped_column(server_default=text("false"))
    min_days_between: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    company_stop: Mapped[bool] = mapped_column(server_default=text("false"))
    headers: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = created()


class ApiKey(Base):
    """An API key: its SHA-256, and a `hint` (its first characters) to recognise it by."""

    __tablename__ = "api_key"
    __table_args__ = (
        in_workspace(of="workspace"),
        UniqueConstraint("key_hash"),
        CheckConstraint("octet_length(key_hash) = 32", name="key_hash"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    key_hash: Mapped[bytes]
    hint: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = created()
    revoked_at: Mapped[datetime | None]


class Publisher(Base):
    """An external service with a topic of its own; the installation's, not a tenant's."""

    __tablename__ = "publisher"

    publisher: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = created()


class PublisherWorkspace(Base):
    """A publisher may enroll leads into this workspace."""

    __tablename__ = "publisher_workspace"
    __table_args__ = (
        in_workspace(of="workspace"),
        ForeignKeyConstraint(["publisher"], [f"{SCHEMA}.publisher.publisher"], ondelete="CASCADE"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    publisher: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = created()


class Mailbox(Base):
    """A connected mailbox: settings and sealed credentials (one per scope), never opened here.

    `smtp` and `imap` hold host, port, tls and username; both are null where an
    API is used. `send_oauth` and `read_oauth` tell a leg's grant without its
    secrets: provider, scopes, tenant, account, app, client_id. A leg's
    `*_credential_version` grows when it is connected anew. `timezone` null means
    the workspace's. A disconnected one (`deleted_at`) has no credentials any
    more; the row stays for its history. The `*_probe_*` columns tell the last test of each leg.
    Its provider is the one that was set, else the one found by its server and
    address. `connected_at` is the last connect: day 0 of the ramp.
    """

    __tablename__ = "mailbox"
    __table_args__ = (
        in_workspace(of="workspace"),
        UniqueConstraint("workspace_id", "email"),
        one_of("kind", KINDS),
        one_of("provider_found", PROVIDERS),
        one_of("provider_set", PROVIDERS),
        CheckConstraint("version > 0", name="version"),
        # Disconnecting destroys the credentials; a connected mailbox has both.
        CheckConstraint(
            "(deleted_at IS NULL) = (send_credential IS NOT NULL AND read_credential IS NOT NULL)",
            name="credentials",
        ),
        CheckConstraint("deleted_at IS NULL OR NOT is_active", name="deleted"),
        one_of("encoding", ENCODINGS),
        CheckConstraint(
            "CASE WHEN kind = 'smtp' THEN smtp IS NOT NULL AND imap IS NOT NULL"
            " ELSE smtp IS NULL AND imap IS NULL"
            " AND send_oauth IS NOT NULL AND read_oauth IS NOT NULL END",
            name="reached",
        ),
        CheckConstraint(
            "send_credential_version > 0 AND read_credential_version > 0",
            name="credential_version",
        ),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    # Drawn before the row exists: the credential's seal names it.
    mailbox_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    email: Mapped[str]
    domain: Mapped[str]
    display_name: Mapped[str | None]
    reply_to: Mapped[str | None]
    kind: Mapped[str]
    provider_found: Mapped[str] = mapped_column(server_default="smtp")
    provider_set: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    timezone: Mapped[str | None]
    policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    smtp: Mapped[dict[str, Any] | None] = absent_or_json()
    imap: Mapped[dict[str, Any] | None] = absent_or_json()
    send_oauth: Mapped[dict[str, Any] | None] = absent_or_json()
    read_oauth: Mapped[dict[str, Any] | None] = absent_or_json()
    send_credential: Mapped[bytes | None]
    read_credential: Mapped[bytes | None]
    send_credential_version: Mapped[int] = mapped_column(server_default=text("1"))
    read_credential_version: Mapped[int] = mapped_column(server_default=text("1"))
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    send_probe_ok: Mapped[bool | None]
    send_probe_code: Mapped[str | None]
    send_probed_at: Mapped[datetime | None]
    read_probe_ok: Mapped[bool | None]
    read_probe_code: Mapped[str | None]
    read_probed_at: Mapped[datetime | None]
    # What it puts into its messages.
    signature_text: Mapped[str | None]
    signature_html: Mapped[str | None]
    headers: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    return_path: Mapped[str | None]
    encoding: Mapped[str] = mapped_column(server_default="quoted-printable")
    tracking_domain: Mapped[str | None]
    connected_at: Mapped[datetime] = created()
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()


class Pool(Base):
    """A named set of mailboxes, and how it picks among them."""

    __tablename__ = "pool"
    __table_args__ = (
        in_workspace(of="workspace"),
        UniqueConstraint("workspace_id", "name"),
        one_of("rotation", ROTATIONS),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    rotation: Mapped[str] = mapped_column(server_default="next_in_line")
    created_at: Mapped[datetime] = created()


class PoolMember(Base):
    """A mailbox of a pool; `position` (from 1) orders them.

    `weight` counts in the rotation `weighted`, `rank` (0 primary, 1.. backups) in `priority`.
    """

    __tablename__ = "pool_member"
    __table_args__ = (
        in_workspace("pool_id", of="pool"),
        in_workspace("mailbox_id", of="mailbox"),
        CheckConstraint("weight BETWEEN 1 AND 1000", name="weight"),
        CheckConstraint("rank BETWEEN 0 AND 100", name="rank"),
        Index(None, "workspace_id", "mailbox_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    weight: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    rank: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class Campaign(Base):
    """A campaign. `version` counts every change to it, its steps and its tiers.

    `stickiness` says what follow-ups do when the mailbox of step 1 is gone, and
    `reassign_after_s` how long they wait for it first. Of `tier_after_s` the n-th
    entry is the n-th tier's: how long past its due time a job waits there before
    it may leave for the next; null: for good.
    """

    __tablename__ = "campaign"
    __table_args__ = (
        in_workspace(of="workspace"),
        one_of("type", ("cold", "nurture", "transactional")),
        one_of("status", STATUSES),
        one_of("stickiness", STICKINESSES),
        one_of("esp_match", ESP_MATCHES),
        CheckConstraint("min_health BETWEEN 0 AND 100", name="min_health"),
        CheckConstraint("reassign_after_s >= 0", name="reassign_after_s"),
        CheckConstraint("0 <= ALL (tier_after_s)", name="tier_after_s"),
        CheckConstraint("status <> 'scheduled' OR start_at IS NOT NULL", name="scheduled_start"),
        # What the starter looks for.
        Index("campaign_due_idx", "start_at", postgresql_where=text("status = 'scheduled'")),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    type: Mapped[str] = mapped_column(server_default="cold")
    status: Mapped[str] = mapped_column(server_default="draft")
    stickiness: Mapped[str] = mapped_column(server_default="reassign")
    reassign_after_s: Mapped[int] = mapped_column(Integer, server_default=text("172800"))
    min_health: Mapped[int] = mapped_column(Integer, server_default=text("70"))
    esp_match: Mapped[str] = mapped_column(server_default="off")
    allow_parallel: Mapped[bool] = mapped_column(server_default=text("false"))
    tier_after_s: Mapped[list[int | None]] = mapped_column(
        ARRAY(Integer), server_default=text("'{}'::integer[]")
    )
    track_opens: Mapped[bool] = mapped_column(server_default=text("false"))
    track_clicks: Mapped[bool] = mapped_column(server_default=text("false"))
    start_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    created_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()


class CampaignTier(Base):
    """A pool of one tier of a campaign; tiers and the pools within are ordered from 1."""

    __tablename__ = "campaign_tier"
    __table_args__ = (
        in_workspace("campaign_id", of="campaign"),
        in_workspace("pool_id", of="pool"),
        Index(None, "workspace_id", "pool_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(primary_key=True)
    tier: Mapped[int] = mapped_column(Integer, primary_key=True)
    pool_id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer)


class Step(Base):
    """A message of a campaign, sent `delay_s` after its predecessor (step 1: after enrollment).

    With `variants` (objects of name, weight, subject, text, html) one of them is
    drawn for each job; without, the step's own content is sent.
    """

    __tablename__ = "step"
    __table_args__ = (
        in_workspace("campaign_id", of="campaign"),
        UniqueConstraint("workspace_id", "campaign_id", "position"),
        CheckConstraint("position > 0", name="position"),
        CheckConstraint("delay_s >= 0", name="delay_s"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    step_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    campaign_id: Mapped[int]
    position: Mapped[int] = mapped_column(Integer)
    delay_s: Mapped[int] = mapped_column(Integer)
    subject: Mapped[str]
    text_template: Mapped[str]
    html_template: Mapped[str | None]
    variants: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))


class ShapingRule(Base):
    """How gently recipients at `pattern` are written to.

    A domain, `host:google`, `host:microsoft`, or `*` (each domain without a
    rule of its own). `spacing_s` lies between two messages, `daily_max` is a day's most.
    """

    __tablename__ = "shaping_rule"
    __table_args__ = (
        in_workspace(of="workspace"),
        CheckConstraint("spacing_s > 0", name="spacing_s"),
        CheckConstraint("daily_max >= 0", name="daily_max"),
        CheckConstraint("spacing_s IS NOT NULL OR daily_max IS NOT NULL", name="limit"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    pattern: Mapped[str] = mapped_column(primary_key=True)
    spacing_s: Mapped[Decimal | None] = mapped_column(Numeric)
    daily_max: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()


class DomainBudget(Base):
    """How many messages a day all mailboxes of a sending domain may send together."""

    __tablename__ = "domain_budget"
    __table_args__ = (
        in_workspace(of="workspace"),
        CheckConstraint("daily_max >= 0", name="daily_max"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    domain: Mapped[str] = mapped_column(primary_key=True)
    daily_max: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()


class LeadImport(Base):
    """A CSV upload. `row_count` counts data rows, good and bad; `error_count` the bad ones.

    `digest` is the file's SHA-256. What became of the good rows is the scheduler's
    to tell (`v_receipt`).
    """

    __tablename__ = "lead_import"
    __table_args__ = (
        in_workspace("campaign_id", of="campaign"),
        UniqueConstraint("workspace_id", "idempotency_key"),
        one_of("status", ("reading", "done")),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    import_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    campaign_id: Mapped[int]
    idempotency_key: Mapped[str | None]
    digest: Mapped[bytes]
    filename: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default="reading")
    encoding: Mapped[str | None]
    delimiter: Mapped[str | None]
    mapping: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    row_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    error_count: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    created_at: Mapped[datetime] = created()
    finished_at: Mapped[datetime | None]


class ImportError(Base):  # noqa: A001 - the table's name; nothing here raises the builtin
    """A row of an import that was not published, and why.

    `row` counts data rows from 1; `line` is where it ends in the file, from 1.
    """

    __tablename__ = "import_error"
    __table_args__ = (in_workspace("import_id", of="lead_import"),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    import_id: Mapped[int] = mapped_column(primary_key=True)
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    line: Mapped[int] = mapped_column(Integer)
    field: Mapped[str | None]
    code: Mapped[str]
    message: Mapped[str]


class IdempotencyKey(Base):
    """A request that was answered: the same key with another body is refused."""

    __tablename__ = "idempotency_key"
    __table_args__ = (in_workspace(of="workspace"), Index(None, "created_at"))

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    created_at: Mapped[datetime] = created()


class Issue(Base):
    """Something that needs a person, folded by subject and code: `times` tells how often."""

    __tablename__ = "issue"
    __table_args__ = (
        in_workspace(of="workspace"),
        UniqueConstraint("workspace_id", "subject", "code"),
        one_of("severity", ("info", "warning", "error")),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    issue_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    subject: Mapped[str]
    code: Mapped[str]
    severity: Mapped[str]
    detail: Mapped[str]
    source: Mapped[str]
    times: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
