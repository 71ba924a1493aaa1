"""Bounce's tables: every report with what became of it, and volumes per mailbox and day."""

from datetime import date, datetime

from sqlalchemy import (
    CheckConstraint,
    Date,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base

Base = declarative_base("bounce")
COMMON = common_tables(Base)


class Bounce(Base):  # type: ignore[misc, valid-type]
    """A refusal within the submission, or one recipient's part of a failure report.

    Only `counted` rows act; the others keep their `reason`: `delayed` (noted),
    `ignored` (success, relayed, a second report), `untrusted` (not proven ours).
    """

    __tablename__ = "bounce"
    __table_args__ = (
        UniqueConstraint("workspace_id", "inbound_id", "part"),
        CheckConstraint("source IN ('smtp', 'dsn')", name="source"),
        CheckConstraint(
            "state IN ('counted', 'delayed', 'ignored', 'untrusted')", name="state"
        ),
        CheckConstraint(
            "bounce_class IN ('hard', 'soft', 'block', 'limit', 'auth', 'config')", name="class"
        ),
        CheckConstraint(
            "state <> 'counted' OR (job_id IS NOT NULL AND bounce_class IS NOT NULL)",
            name="counted",
        ),
        CheckConstraint("(state = 'counted') = (reason IS NULL)", name="reason"),
        CheckConstraint(
            "(source = 'dsn') = (inbound_id IS NOT NULL)"
            " AND (inbound_id IS NULL) = (part IS NULL)",
            name="inbound",
        ),
        # A job bounces once per source, however many reports arrive.
        Index(
            None, "workspace_id", "job_id", "source",
            unique=True, postgresql_where=text("state = 'counted'"),
        ),
    )  # fmt: skip

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    bounce_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    source: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    mailbox_id: Mapped[int]
    job_id: Mapped[int | None]
    enrollment_id: Mapped[int | None]
    inbound_id: Mapped[int | None]
    part: Mapped[int | None] = mapped_column(SmallInteger)
    bounce_class: Mapped[str | None]
    status: Mapped[str | None]
    code: Mapped[int | None] = mapped_column(Integer)
    diagnostic: Mapped[str | None]
    rule: Mapped[str | None]
    occurred_at: Mapped[datetime]


class MailboxHealth(Base):  # type: ignore[misc, valid-type]
    """What one mailbox sent, and what came back, on one day (UTC)."""

    __tablename__ = "mailbox_health"

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    sent: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    hard: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    soft: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    block: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    other: Mapped[int] = mapped_column(Integer, server_default=text("0"))
