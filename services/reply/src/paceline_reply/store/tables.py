"""Reply's tables: where each mailbox was read to, what arrived there, who answered."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base
from paceline_common.tokens import token_table

Base = declarative_base("reply")
COMMON = common_tables(Base)
OauthToken = token_table(Base)


class Cursor(Base):  # type: ignore[misc, valid-type]
    """A mailbox to read, the place whose effects are committed, and which process reads it.

    `place` is its source's own: null when nothing was read so far, and mail older
    than `connected_at` is none of ours. What was received before `read_at` has been
    read. The mailbox is `reader`'s, an instance, until `reader_until`.
    """

    __tablename__ = "cursor"
    __table_args__ = (
        CheckConstraint("(reader IS NULL) = (reader_until IS NULL)", name="reader"),
        CheckConstraint("place IS NOT NULL OR read_at IS NULL", name="read"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]
    is_active: Mapped[bool]
    connected_at: Mapped[datetime]
    place: Mapped[dict[str, Any] | None]
    read_at: Mapped[datetime | None]
    reader: Mapped[str | None] = mapped_column(Uuid)
    reader_until: Mapped[datetime | None]


class Instance(Base):  # type: ignore[misc, valid-type]
    """A running reply process; its `beat_at` stops when it does. Not a tenant's row.

    It holds the advisory lock ('reply.instance', instance_id) while it lives.
    """

    __tablename__ = "instance"

    instance_id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    beat_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))


class InboundMessage(Base):  # type: ignore[misc, valid-type]
    """A message that arrived; once per mailbox, Message-ID and digest of its bytes (SHA-256).

    `message_id` is empty when the message has none. `provider_message_id` is an
    API's name for it, and as unique. `report` holds the whole message, of DSNs and
    complaints only.
    """

    __tablename__ = "inbound_message"
    __table_args__ = (
        UniqueConstraint("workspace_id", "mailbox_id", "message_id", "digest"),
        Index(
            None,
            "workspace_id",
            "mailbox_id",
            "provider_message_id",
            unique=True,
            postgresql_where=text("provider_message_id IS NOT NULL"),
        ),
        CheckConstraint(
            "kind IN ('human', 'auto_reply', 'dsn', 'complaint', 'unsubscribe', 'own', 'other')",
            name="kind",
        ),
        CheckConstraint(
            "(matched_by IS NULL) = (job_id IS NULL)"
            " AND matched_by IN ('token', 'references', 'thread', 'address')",
            name="match",
        ),
        CheckConstraint("report IS NULL OR kind IN ('dsn', 'complaint')", name="report"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    inbound_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    mailbox_id: Mapped[int]
    kind: Mapped[str]
    message_id: Mapped[str]
    digest: Mapped[bytes]
    job_id: Mapped[int | None]
    enrollment_id: Mapped[int | None]
    matched_by: Mapped[str | None]
    received_at: Mapped[datetime]
    report: Mapped[bytes | None]
    provider_message_id: Mapped[str | None]


class Reply(Base):  # type: ignore[misc, valid-type]
    """A human answer: its subject and opening words, for the inbox of a campaign."""

    __tablename__ = "reply"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "inbound_id"],
            ["reply.inbound_message.workspace_id", "reply.inbound_message.inbound_id"],
            ondelete="CASCADE",
        ),
        Index(None, "workspace_id", "enrollment_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    inbound_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int]
    enrollment_id: Mapped[int]
    mailbox_id: Mapped[int]
    subject: Mapped[str]
    snippet: Mapped[str]
    received_at: Mapped[datetime]
