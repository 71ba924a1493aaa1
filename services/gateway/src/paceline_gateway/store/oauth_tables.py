"""The tables of connecting by OAuth: whose app it is, and each flow that a person goes through.

Codes, states and start links are kept as SHA-256 only; secrets are sealed.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from paceline_gateway.domain.consent import ACCESSES, OAUTH_PROVIDERS
from paceline_gateway.store.base import SCHEMA, Base, absent_or_json, created, in_workspace, one_of


class OAuthInstallationApp(Base):
    """The operator's OAuth app for all workspaces without their own; not a tenant's.

    `client_secret` is sealed under the gateway's key. `tenant` is Microsoft's; null: any.
    """

    __tablename__ = "oauth_installation_app"
    __table_args__ = (one_of("provider", OAUTH_PROVIDERS),)

    provider: Mapped[str] = mapped_column(primary_key=True)
    client_id: Mapped[str]
    client_secret: Mapped[bytes]
    tenant: Mapped[str | None]
    created_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()


class OAuthApp(Base):
    """A workspace's own OAuth app; as `OAuthInstallationApp`."""

    __tablename__ = "oauth_app"
    __table_args__ = (in_workspace(of="workspace"), one_of("provider", OAUTH_PROVIDERS))

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    client_id: Mapped[str]
    client_secret: Mapped[bytes]
    tenant: Mapped[str | None]
    created_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()


class OAuthSecret(Base):
    """The newest secret of an app that mailboxes were connected through, sealed for each leg.

    `set_at` is when the app's secret was set, there: a later one is never overwritten.
    """

    __tablename__ = "oauth_secret"
    __table_args__ = (in_workspace(of="workspace"), one_of("provider", OAUTH_PROVIDERS))

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    provider: Mapped[str] = mapped_column(primary_key=True)
    client_id: Mapped[str] = mapped_column(primary_key=True)
    send_sealed: Mapped[bytes]
    read_sealed: Mapped[bytes]
    set_at: Mapped[datetime]


class OAuthFlow(Base):
    """One attempt to connect a mailbox by consent, started by an API key.

    `legs` are the consents still to be given: `both`, `send`, `read`. `settings` are the
    mailbox's as asked for. `mailbox_id` is the one to reconnect, in the end the connected
    one. `held` and `held_credential` keep the first of two consents until the second.
    `problem` says why it failed.
    """

    __tablename__ = "oauth_flow"
    __table_args__ = (
        in_workspace(of="workspace"),
        in_workspace("key_id", of="api_key"),
        UniqueConstraint("start_hash"),
        one_of("provider", OAUTH_PROVIDERS),
        one_of("access", ACCESSES),
        one_of("app", ("workspace", "installation")),
        one_of("state", ("open", "waiting", "testing", "connected", "failed")),
        one_of("admin_consent", ("wanted", "given", "refused")),
        CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('connected', 'failed'))", name="finished"
        ),
        CheckConstraint(
            "(held IS NULL) = (held_credential IS NULL)"
            " AND (finished_at IS NULL OR held_credential IS NULL)",
            name="held",
        ),
        CheckConstraint("(problem IS NOT NULL) = (state = 'failed')", name="problem"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    flow_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    key_id: Mapped[int]
    provider: Mapped[str]
    access: Mapped[str]
    legs: Mapped[list[str]] = mapped_column(ARRAY(Text))
    app: Mapped[str]
    client_id: Mapped[str]
    login_hint: Mapped[str | None]
    settings: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    mailbox_id: Mapped[int | None]
    reconnects: Mapped[bool] = mapped_column(server_default=text("false"))
    state: Mapped[str] = mapped_column(server_default="open")
    start_hash: Mapped[bytes]
    admin_consent: Mapped[str | None]
    held: Mapped[dict[str, Any] | None] = absent_or_json()
    held_credential: Mapped[bytes | None]
    problem: Mapped[dict[str, Any] | None] = absent_or_json()
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = created()
    finished_at: Mapped[datetime | None]


class OAuthState(Base):
    """One trip to the provider, bound to one browser by its cookie; `used_at` when it came back."""

    __tablename__ = "oauth_state"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "flow_id"],
            [f"{SCHEMA}.oauth_flow.workspace_id", f"{SCHEMA}.oauth_flow.flow_id"],
            ondelete="CASCADE",
        ),
        UniqueConstraint("state_hash"),
        one_of("purpose", ("both", "send", "read", "admin")),
        Index(None, "workspace_id", "flow_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    state_hash: Mapped[bytes] = mapped_column(primary_key=True)
    flow_id: Mapped[int]
    purpose: Mapped[str]
    session_hash: Mapped[bytes]
    created_at: Mapped[datetime] = created()
    used_at: Mapped[datetime | None]
