"""The gateway's tables. Every tenant table carries `workspace_id` in its key, under RLS."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base
from paceline_gateway.domain.campaign import STATUSES

SCHEMA: Final = "gateway"

if TYPE_CHECKING:
    from sqlalchemy.orm import DeclarativeBase as Base
else:
    Base = declarative_base(SCHEMA)
COMMON = common_tables(Base)


def _created() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


def _in_workspace(*columns: str, of: str) -> ForeignKeyConstraint:
    """A foreign key within one workspace: `workspace_id` is part of it."""
    names = ("workspace_id", *columns)
    return ForeignKeyConstraint(names, [f"{SCHEMA}.{of}.{name}" for name in names])


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class Workspace(Base):
    """A tenant. `timezone` (IANA) is what its mailboxes have unless they say otherwise."""

    __tablename__ = "workspace"

    workspace_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    timezone: Mapped[str] = mapped_column(server_default="UTC")
    country: Mapped[str | None]
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = _created()


class ApiKey(Base):
    """An API key: its SHA-256, and a `hint` (its first characters) to recognise it by."""

    __tablename__ = "api_key"
    __table_args__ = (
        _in_workspace(of="workspace"),
        UniqueConstraint("key_hash"),
        CheckConstraint("octet_length(key_hash) = 32", name="key_hash"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    key_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    key_hash: Mapped[bytes]
    hint: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = _created()
    revoked_at: Mapped[datetime | None]


class Publisher(Base):
    """An external service with a topic of its own; the installation's, not a tenant's."""

    __tablename__ = "publisher"

    publisher: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = _created()


class PublisherWorkspace(Base):
    """A publisher may enroll leads into this workspace."""

    __tablename__ = "publisher_workspace"
    __table_args__ = (
        _in_workspace(of="workspace"),
        ForeignKeyConstraint(["publisher"], [f"{SCHEMA}.publisher.publisher"], ondelete="CASCADE"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    publisher: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = _created()


class Mailbox(Base):
    """A connected mailbox: settings and sealed credentials (one per scope), never opened here.

    `smtp` and `imap` hold host, port, tls and username. `timezone` null means
    the workspace's. A disconnected one (`deleted_at`) has no credentials any
    more; the row stays for its history. The `*_probe_*` columns tell the last test of each leg.
    """

    __tablename__ = "mailbox"
    __table_args__ = (
        _in_workspace(of="workspace"),
        UniqueConstraint("workspace_id", "email"),
        _one_of("kind", ("smtp",)),
        CheckConstraint("version > 0", name="version"),
        # Disconnecting destroys the credentials; a connected mailbox has both.
        CheckConstraint(
            "(deleted_at IS NULL) = (smtp_credential IS NOT NULL AND imap_credential IS NOT NULL)",
            name="credentials",
        ),
        CheckConstraint("deleted_at IS NULL OR NOT is_active", name="deleted"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    # Drawn before the row exists: the credential's seal names it.
    mailbox_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    email: Mapped[str]
    domain: Mapped[str]
    display_name: Mapped[str | None]
    reply_to: Mapped[str | None]
    kind: Mapped[str]
    is_active: Mapped[bool] = mapped_column(server_default=text("true"))
    timezone: Mapped[str | None]
    policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    smtp: Mapped[dict[str, Any]]
    imap: Mapped[dict[str, Any]]
    smtp_credential: Mapped[bytes | None]
    imap_credential: Mapped[bytes | None]
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    send_probe_ok: Mapped[bool | None]
    send_probe_code: Mapped[str | None]
    send_probed_at: Mapped[datetime | None]
    read_probe_ok: Mapped[bool | None]
    read_probe_code: Mapped[str | None]
    read_probed_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _created()


class Pool(Base):
    """A named set of mailboxes."""

    __tablename__ = "pool"
    __table_args__ = (_in_workspace(of="workspace"), UniqueConstraint("workspace_id", "name"))

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    created_at: Mapped[datetime] = _created()


class PoolMember(Base):
    """A mailbox of a pool; `position` (from 1) orders them."""

    __tablename__ = "pool_member"
    __table_args__ = (
        _in_workspace("pool_id", of="pool"),
        _in_workspace("mailbox_id", of="mailbox"),
        Index(None, "workspace_id", "mailbox_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    pool_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer)


class Campaign(Base):
    """A campaign. `version` counts every change to it, its steps and its tiers.

    `stickiness` says what follow-ups do when the mailbox of step 1 is gone.
    """

    __tablename__ = "campaign"
    __table_args__ = (
        _in_workspace(of="workspace"),
        _one_of("type", ("cold", "nurture", "transactional")),
        _one_of("status", STATUSES),
        _one_of("stickiness", ("wait", "reassign", "stop")),
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
    start_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _created()


class CampaignTier(Base):
    """A pool of one tier of a campaign; tiers and the pools within are ordered from 1."""

    __tablename__ = "campaign_tier"
    __table_args__ = (
        _in_workspace("campaign_id", of="campaign"),
        _in_workspace("pool_id", of="pool"),
        Index(None, "workspace_id", "pool_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(primary_key=True)
    tier: Mapped[int] = mapped_column(Integer, primary_key=True)
    pool_id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer)


class Step(Base):
    """A message of a campaign, sent `delay_s` after its predecessor (step 1: after enrollment)."""

    __tablename__ = "step"
    __table_args__ = (
        _in_workspace("campaign_id", of="campaign"),
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
    version: Mapped[int] = mapped_column(Integer, server_default=text("1"))


class LeadImport(Base):
    """A CSV upload. `row_count` counts data rows, good and bad; `error_count` the bad ones.

    `digest` is the file's SHA-256. What became of the good rows is the scheduler's
    to tell (`v_receipt`).
    """

    __tablename__ = "lead_import"
    __table_args__ = (
        _in_workspace("campaign_id", of="campaign"),
        UniqueConstraint("workspace_id", "idempotency_key"),
        _one_of("status", ("reading", "done")),
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
    created_at: Mapped[datetime] = _created()
    finished_at: Mapped[datetime | None]


class ImportError(Base):  # noqa: A001 - the table's name; nothing here raises the builtin
    """A row of an import that was not published, and why.

    `row` counts data rows from 1; `line` is where it ends in the file, from 1.
    """

    __tablename__ = "import_error"
    __table_args__ = (_in_workspace("import_id", of="lead_import"),)

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
    __table_args__ = (_in_workspace(of="workspace"),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[bytes]
    created_at: Mapped[datetime] = _created()


class Issue(Base):
    """Something that needs a person, folded by subject and code: `times` tells how often."""

    __tablename__ = "issue"
    __table_args__ = (
        _in_workspace(of="workspace"),
        UniqueConstraint("workspace_id", "subject", "code"),
        _one_of("severity", ("info", "warning", "error")),
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
