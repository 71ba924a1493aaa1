"""Reply's tables: where each mailbox was read to, what arrived there, who answered."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Identity, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base

Base = declarative_base("reply")
COMMON = common_tables(Base)


class Cursor(Base):  # type: ignore[misc, valid-type]
    """A mailbox to read, and the last message whose effect is committed.

    No place yet (`uid_validity`, `last_uid` null): nothing was read so far, and
    mail older than `connected_at` is none of ours.
    """

    __tablename__ = "cursor"
    __table_args__ = (CheckConstraint("(uid_validity IS NULL) = (last_uid IS NULL)", name="place"),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]
    is_active: Mapped[bool]
    connected_at: Mapped[datetime]
    uid_validity: Mapped[int | None]
    last_uid: Mapped[int | None]


class InboundMessage(Base):  # type: ignore[misc, valid-type]
    """A message that arrived; once per mailbox, Message-ID and digest of its bytes (SHA-256).

    `message_id` is empty when the message has none. `report` holds the whole
    message, of DSNs and complaints only.
    """

    __tablename__ = "inbound_message"
    __table_args__ = (
        UniqueConstraint("workspace_id", "mailbox_id", "message_id", "digest"),
        CheckConstraint(
            "kind IN ('human', 'auto_reply', 'dsn', 'complaint', 'unsubscribe', 'own', 'other')",
            name="kind",
        ),
        CheckConstraint(
            "(matched_by IS NULL) = (job_id IS NULL)"
            " AND matched_by IN ('token', 'references', 'address')",
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
