"""The sender's tables: what was tried, what was written, and who is alive."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Identity, Index, Integer, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base
from paceline_common.tokens import token_table

Base = declarative_base("sender")
COMMON = common_tables(Base)
TOKENS = token_table(Base)


class Attempt(Base):  # type: ignore[misc, valid-type]
    """One try of a job.

    A claimed one (`claimed_at`) is written in the transaction of its claim, once
    per job and fence, and has no outcome until the provider answered. One without
    a claim ended before anything could leave: connecting, signing in, rendering,
    or the claim itself refused. `draft` is what it was to send where the provider
    has drafts: `kind`, `draft_id`, `provider_message_id`; destroying it proves the
    try unsent; `draft_left_at`: since when nobody needs it, until it is destroyed.
    `text` is the server's own answer and may quote the recipient's address: it
    leaves by `v_send_log` only.
    """

    __tablename__ = "attempt"
    __table_args__ = (
        Index(None, "workspace_id", "job_id"),
        Index(
            "attempt_claim_key",
            "workspace_id",
            "job_id",
            "fence",
            unique=True,
            postgresql_where=text("claimed_at IS NOT NULL"),
        ),
        Index("attempt_open_idx", "claimed_at", postgresql_where=text("outcome IS NULL")),
        Index(None, "draft_left_at", postgresql_where=text("draft_left_at IS NOT NULL")),
        CheckConstraint("draft_left_at IS NULL OR draft IS NOT NULL", name="draft"),
        CheckConstraint("(outcome IS NULL) = (finished_at IS NULL)", name="finished"),
        CheckConstraint(
            "outcome IN ('accepted', 'deferred', 'rejected', 'failed', 'in_doubt', 'unsent',"
            " 'refused')",
            name="outcome",
        ),
        # Without a claim nothing can have left.
        CheckConstraint(
            "claimed_at IS NOT NULL"
            " OR (outcome IS NOT NULL AND outcome IN ('failed', 'unsent', 'refused'))",
            name="unclaimed",
        ),
        CheckConstraint(
            "claimed_at IS NULL"
            " OR (not_after IS NOT NULL AND instance_id IS NOT NULL AND message_id IS NOT NULL)",
            name="claim",
        ),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    attempt_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[int]
    fence: Mapped[int] = mapped_column(Integer)
    attempt_no: Mapped[int] = mapped_column(Integer)
    enrollment_id: Mapped[int | None]
    campaign_id: Mapped[int | None]
    step: Mapped[int | None] = mapped_column(Integer)
    mailbox_id: Mapped[int]
    provider: Mapped[str]
    message_id: Mapped[str | None]
    instance_id: Mapped[str | None] = mapped_column(Uuid)
    claimed_at: Mapped[datetime | None]
    not_after: Mapped[datetime | None]
    started_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    finished_at: Mapped[datetime | None]
    outcome: Mapped[str | None]
    outcome_class: Mapped[str | None]
    reason: Mapped[str | None]
    code: Mapped[int | None] = mapped_column(Integer)
    status: Mapped[str | None]
    text: Mapped[str | None]
    provider_message_id: Mapped[str | None]
    draft: Mapped[dict[str, Any] | None]
    draft_left_at: Mapped[datetime | None]


class Message(Base):  # type: ignore[misc, valid-type]
    """The message of a job, written with its first claim; its `message_id` never changes.

    `submitted_at` is set when a provider accepted it: only then it is part of
    the conversation. `sent_message_id` is what recipients see where the provider
    rewrote it, and null otherwise. `provider_message_id` and `thread_id` mean
    something in the mailbox `thread_mailbox_id` only.
    """

    __tablename__ = "message"
    __table_args__ = (
        Index(None, "workspace_id", "message_id", unique=True),
        Index(None, "workspace_id", "enrollment_id", "step"),
        Index(
            None,
            "workspace_id",
            "sent_message_id",
            postgresql_where=text("sent_message_id IS NOT NULL"),
        ),
        Index(
            None,
            "workspace_id",
            "thread_mailbox_id",
            "thread_id",
            postgresql_where=text("thread_id IS NOT NULL"),
        ),
        CheckConstraint("thread_id IS NULL OR thread_mailbox_id IS NOT NULL", name="thread"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(primary_key=True)
    enrollment_id: Mapped[int | None]
    campaign_id: Mapped[int | None]
    step: Mapped[int | None] = mapped_column(Integer)
    mailbox_id: Mapped[int]
    message_id: Mapped[str]
    provider_message_id: Mapped[str | None]
    subject: Mapped[str]
    references_: Mapped[list[str]] = mapped_column(ARRAY(Text))
    submitted_at: Mapped[datetime | None]
    variant: Mapped[str | None]
    sent_message_id: Mapped[str | None]
    thread_id: Mapped[str | None]
    thread_mailbox_id: Mapped[int | None]


class DraftIntent(Base):  # type: ignore[misc, valid-type]
    """A lease for which a draft may stand with the provider, known to one process at most.

    Written before the draft is made; over once an attempt has the draft, or once it was looked
    for (`look_at`) and none can come any more.
    """

    __tablename__ = "draft_intent"
    __table_args__ = (Index(None, "look_at"),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int] = mapped_column(Integer, primary_key=True)
    mailbox_id: Mapped[int]
    provider: Mapped[str]
    not_after: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    look_at: Mapped[datetime]


class Doubt(Base):  # type: ignore[misc, valid-type]
    """A claimed attempt whose outcome nobody knows, and what was found out since.

    Opened and closed by triggers on `attempt.outcome`. `evidence`: {at, source, finding, text},
    newest last. `looking_by`: an instance looks at it now, until `looking_until` at the longest.
    `destroying_since`: written before its draft is touched. `alarmed_at`: an issue said again that
    it is open. `settled_by`: "answer" (of the attempt itself, late), "sender" (proof), or a
    person's id; `settled_as` "moot": the scheduler had another end for the job.
    """

    __tablename__ = "doubt"
    __table_args__ = (
        Index(
            "doubt_open_idx",
            "workspace_id",
            "since",
            "job_id",
            postgresql_where=text("settled_at IS NULL"),
        ),
        CheckConstraint(
            "settled_as IN ('sent', 'rejected', 'unsent', 'failed', 'moot')", name="settled_as"
        ),
        CheckConstraint(
            "(settled_at IS NULL) = (settled_as IS NULL)"
            " AND (settled_at IS NULL) = (settled_by IS NULL)",
            name="settled",
        ),
        CheckConstraint("destroying_since IS NULL OR has_draft", name="draft"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(primary_key=True)
    fence_no: Mapped[int] = mapped_column(Integer, primary_key=True)
    mailbox_id: Mapped[int]
    enrollment_id: Mapped[int | None]
    campaign_id: Mapped[int | None]
    step: Mapped[int | None] = mapped_column(Integer)
    provider: Mapped[str]
    message_id: Mapped[str | None]
    has_draft: Mapped[bool]
    since: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    looks: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    next_look_at: Mapped[datetime | None]
    looking_by: Mapped[str | None] = mapped_column(Uuid)
    looking_until: Mapped[datetime | None]
    destroying_since: Mapped[datetime | None]
    alarmed_at: Mapped[datetime | None]
    evidence: Mapped[list[Any]] = mapped_column(ARRAY(JSONB))
    settled_at: Mapped[datetime | None]
    settled_as: Mapped[str | None]
    settled_by: Mapped[str | None]
    why: Mapped[str | None]


class Instance(Base):  # type: ignore[misc, valid-type]
    """A running sender process; its `beat_at` stops when it does. Not a tenant's row."""

    __tablename__ = "instance"

    instance_id: Mapped[str] = mapped_column(Uuid, primary_key=True)
    started_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    beat_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
