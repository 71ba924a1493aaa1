"""Bounce's tables: every report with what became of it, and the health of mailboxes."""

from datetime import date, datetime

from sqlalchemy import (
    ARRAY,
    BigInteger,
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


def _count() -> Mapped[int]:
    return mapped_column(Integer, server_default=text("0"))


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


class MailboxDay(Base):  # type: ignore[misc, valid-type]
    """What one mailbox sent, and what came back, on one day (UTC).

    `sent` were accepted, `refused` were refused for good within the submission;
    the bounce of a refused one is in the column of its class as well.
    """

    __tablename__ = "mailbox_day"

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    sent: Mapped[int] = _count()
    hard: Mapped[int] = _count()
    soft: Mapped[int] = _count()
    block: Mapped[int] = _count()
    other: Mapped[int] = _count()
    refused: Mapped[int] = _count()
    limited: Mapped[int] = _count()
    complaint: Mapped[int] = _count()


class MailboxHealth(Base):  # type: ignore[misc, valid-type]
    """What is known of one mailbox now.

    `version` counts the changes of `score` (null: unknown) and `stage`, each of
    which was told. `fell_at`: when the stage last went down; `attested`: whether it
    was measured as an attested mailbox's. `delivered`:
    accepted and not returned, ever. `cooldown_*`: the last cooldown, and how often
    in a row it was doubled. `recent_*`, `hour_*`: what may start the next
    (`domain/cooldown.py`). `recompute_at`: when the numbers change by time alone.
    """

    __tablename__ = "mailbox_health"
    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 100", name="score"),
        CheckConstraint("stage BETWEEN 0 AND 5", name="stage"),
        CheckConstraint(
            "(cooldown_since IS NULL) = (cooldown_until IS NULL)"
            " AND cooldown_until > cooldown_since AND cooldown_level >= 0",
            name="cooldown",
        ),
        Index(None, "recompute_at"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(server_default=text("0"))
    score: Mapped[int | None] = mapped_column(SmallInteger)
    stage: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    fell_at: Mapped[datetime | None]
    attested: Mapped[bool] = mapped_column(server_default=text("false"))
    delivered: Mapped[int] = mapped_column(server_default=text("0"))
    cooldown_since: Mapped[datetime | None]
    cooldown_until: Mapped[datetime | None]
    cooldown_level: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    recent_sends: Mapped[int] = mapped_column(server_default=text("0"))
    recent_hard: Mapped[list[int]] = mapped_column(ARRAY(BigInteger), server_default=text("'{}'"))
    newest_hour: Mapped[datetime | None]
    hour_sends: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=text("'{}'"))
    hour_hard: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=text("'{}'"))
    recompute_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"))
