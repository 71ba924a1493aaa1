"""Audit's tables: the chains and their signed heads. Rows are only ever added."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base

Base = declarative_base("audit")
COMMON = common_tables(Base)


class AuditRecord(Base):  # type: ignore[misc, valid-type]
    """One link of a workspace's chain; workspace 0 is the installation's."""

    __tablename__ = "audit_record"
    __table_args__ = (
        UniqueConstraint("workspace_id", "source", "event_id"),
        CheckConstraint("seq >= 1", name="seq"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event_id: Mapped[str]
    source: Mapped[str]
    at: Mapped[datetime]
    action: Mapped[str]
    actor: Mapped[str]
    subject: Mapped[str]
    source_ip: Mapped[str | None]
    before_digest: Mapped[str | None]
    after_digest: Mapped[str | None]
    detail: Mapped[dict[str, Any]]
    digest: Mapped[bytes]


class Checkpoint(Base):  # type: ignore[misc, valid-type]
    """The head of a chain at an instant, signed with the key service's `audit` key."""

    __tablename__ = "checkpoint"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "seq"], ["audit.audit_record.workspace_id", "audit.audit_record.seq"]
        ),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[bytes]
    signed_at: Mapped[datetime]
    signature: Mapped[str]
