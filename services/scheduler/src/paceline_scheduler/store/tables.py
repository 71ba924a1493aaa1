"""The scheduler's tables. Every tenant table carries `workspace_id` in its key, under RLS."""

from datetime import date, datetime
from typing import Any, Final

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
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import BigInteger

from paceline_scheduler.domain.enrollment import STATES as ENROLLMENT_STATES
from paceline_scheduler.domain.job import KINDS, OPEN, STATES
from paceline_scheduler.store.base import (
    COMMON,
    SCHEMA,
    Base,
    created,
    in_workspace,
    listed,
    one_of,
)
from paceline_scheduler.store.budget_tables import (
    AccountBudget,
    CampaignPolicy,
    DomainBudget,
    MailboxBudget,
    RecipientBudget,
)

__all__ = [
    "COMMON", "SCHEMA", "AccountBudget", "Base", "CampaignPolicy", "DomainBudget", "MailboxBudget",
    "RecipientBudget",
]  # fmt: skip

_CLOSED: Final = tuple(state for state in STATES if state not in OPEN)
_GATES: Final = ("workspace", "campaign", "pool", "mailbox", "domain")
_DUE_IN: Final = (
    "date_bin('00:05:00'::interval, due_at, '1970-01-01 00:00:00+00'::timestamp with time zone)"
)


class Address(Base):
    """An address or a recipient domain, by its keyed hash: the row a suppression lives on.

    It outlives the leads that point at it. Claims lock it FOR SHARE. `host` is where a domain's
    mail is read (`policy.host_code`), NULL until its MX records were looked up at `host_at`.
    """

    __tablename__ = "address"
    __table_args__ = (
        UniqueConstraint("workspace_id", "kind", "hash"),
        one_of("kind", ("address", "domain")),
        CheckConstraint("octet_length(hash) = 32", name="hash"),
        CheckConstraint(
            "(suppressed_at IS NULL) = (reason IS NULL)"
            " AND (suppressed_at IS NULL) = (source IS NULL)",
            name="suppressed",
        ),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    address_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    hash: Mapped[bytes]
    suppressed_at: Mapped[datetime | None]
    reason: Mapped[str | None]
    source: Mapped[str | None]
    created_at: Mapped[datetime] = created()
    host: Mapped[int | None] = mapped_column(SmallInteger)
    host_at: Mapped[datetime | None]


class Lead(Base):
    """A person of one workspace, at most one per address; later enrollments update its fields.

    `contacted_at` is when a campaign's message last went out, `contacted_campaign_id` whose.
    """

    __tablename__ = "lead"
    __table_args__ = (
        UniqueConstraint("workspace_id", "address_id"),
        in_workspace("address_id", of="address"),
        Index(None, "workspace_id", "domain_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    lead_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    address_id: Mapped[int]
    domain_id: Mapped[int]
    email: Mapped[str]
    first_name: Mapped[str | None]
    last_name: Mapped[str | None]
    company: Mapped[str | None]
    timezone: Mapped[str | None]
    fields: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    created_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()
    contacted_at: Mapped[datetime | None]
    contacted_campaign_id: Mapped[int | None]


class Enrollment(Base):
    """A lead's way through a campaign; also the gate of its own scope.

    `step` and `job_id` are the current ones; `mailbox_id` and `pool_id` those
    that sent step 1, from where the follow-ups go. `contact_hold`: it waits,
    without a job, for another campaign to be done with its lead.
    """

    __tablename__ = "enrollment"
    __table_args__ = (
        # The lead first: suppression looks a lead's enrollments up by it.
        UniqueConstraint("workspace_id", "lead_id", "campaign_id"),
        in_workspace("lead_id", of="lead"),
        one_of("state", ENROLLMENT_STATES),
        CheckConstraint("(state = 'active') = (reason IS NULL)", name="reason"),
        CheckConstraint("(state = 'active') = (finished_at IS NULL)", name="finished_at"),
        CheckConstraint("step >= 1", name="step"),
        Index(None, "workspace_id", "campaign_id", "enrollment_id"),
        Index(
            "enrollment_held_idx",
            "workspace_id",
            "lead_id",
            postgresql_where=text("contact_hold AND state = 'active'"),
        ),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    enrollment_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    campaign_id: Mapped[int]
    lead_id: Mapped[int]
    address_id: Mapped[int]
    domain_id: Mapped[int]
    job_id: Mapped[int | None]
    mailbox_id: Mapped[int | None]
    pool_id: Mapped[int | None]
    step: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    state: Mapped[str] = mapped_column(server_default="active")
    reason: Mapped[str | None]
    enrolled_at: Mapped[datetime] = created()
    updated_at: Mapped[datetime] = created()
    finished_at: Mapped[datetime | None]
    contact_hold: Mapped[bool] = mapped_column(server_default=text("false"))


class SendJob(Base):
    """One submission to be made. Its row is the one lock of the state machine (`domain.job`).

    `fence` tells leases apart: it grows each time a job returns to the queue.
    `sticky`: only `mailbox_id` may send it. A queued job that is not sticky
    has no mailbox.
    """

    __tablename__ = "send_job"
    __table_args__ = (
        in_workspace("enrollment_id", of="enrollment"),
        one_of("kind", KINDS),
        one_of("state", STATES),
        CheckConstraint(
            "kind <> 'campaign' OR (enrollment_id IS NOT NULL AND campaign_id IS NOT NULL"
            " AND step IS NOT NULL)",
            name="campaign",
        ),
        CheckConstraint(
            "CASE state WHEN 'queued' THEN slot_at IS NULL AND not_after IS NULL"
            " WHEN 'cancelled' THEN true"
            " ELSE mailbox_id IS NOT NULL AND slot_at IS NOT NULL AND not_after IS NOT NULL"
            " AND (kind <> 'campaign' OR pool_id IS NOT NULL) END",
            name="slot",
        ),
        CheckConstraint("not_after >= slot_at", name="not_after"),
        CheckConstraint("NOT sticky OR mailbox_id IS NOT NULL", name="sticky"),
        CheckConstraint("fence >= 1", name="fence"),
        Index(
            "send_job_open_key",
            "workspace_id",
            "enrollment_id",
            unique=True,
            postgresql_where=text(f"state IN ({listed(OPEN)})"),
        ),
        # By the five minutes they fall due in: equal keys share an entry.
        Index(
            "send_job_queued_idx",
            "workspace_id",
            text(_DUE_IN),
            postgresql_where=text("state = 'queued'"),
        ),
        # The messages behind an enrollment's present one; costs a queued job nothing.
        Index(
            "send_job_closed_idx",
            "workspace_id",
            "enrollment_id",
            postgresql_where=text(f"state IN ({listed(_CLOSED)})"),
        ),
        Index("send_job_reserved_idx", "not_after", postgresql_where=text("state = 'reserved'")),
        # A follow-up is looked for by the mailbox it waits for.
        Index(
            "send_job_sticky_idx",
            "workspace_id",
            "mailbox_id",
            "campaign_id",
            postgresql_where=text("state = 'queued' AND sticky"),
        ),
    )

    # Widest first: no padding between columns of the table with the most rows.
    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    enrollment_id: Mapped[int | None]
    campaign_id: Mapped[int | None]
    mailbox_id: Mapped[int | None]
    pool_id: Mapped[int | None]
    due_at: Mapped[datetime] = created()
    slot_at: Mapped[datetime | None]
    not_after: Mapped[datetime | None]
    updated_at: Mapped[datetime] = created()
    first_deferred_at: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    step: Mapped[int | None] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    sticky: Mapped[bool] = mapped_column(server_default=text("false"))
    kind: Mapped[str] = mapped_column(server_default="campaign")
    state: Mapped[str] = mapped_column(server_default="queued")
    reason: Mapped[str | None]
    traceparent: Mapped[str | None]


class Slot(Base):
    """A lease of one mailbox's instant; append-only but for `returned_at`, set at most once.

    `day` (mailbox-local) and `hour` are the buckets it counts in; the numbers are those it was
    decided by, itself included. `account_ref`, `domain_ref` with `domain_day` and `recipient_ref`
    with `recipient_day` name the shared budgets that count it, NULL where none did.
    """

    __tablename__ = "slot"
    __table_args__ = (Index(None, "workspace_id", "mailbox_id", "slot_at"),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(primary_key=True)
    fence: Mapped[int] = mapped_column(Integer, primary_key=True)
    mailbox_id: Mapped[int]
    slot_at: Mapped[datetime]
    not_after: Mapped[datetime]
    day: Mapped[date] = mapped_column(Date)
    hour: Mapped[datetime]
    reserved_at: Mapped[datetime] = created()
    returned_at: Mapped[datetime | None]
    day_used: Mapped[int | None] = mapped_column(Integer)
    day_cap: Mapped[int | None] = mapped_column(Integer)
    hour_used: Mapped[int | None] = mapped_column(Integer)
    hour_cap: Mapped[int | None] = mapped_column(Integer)
    rolling_used: Mapped[int | None] = mapped_column(Integer)
    ceiling: Mapped[int | None] = mapped_column(Integer)
    account_ref: Mapped[int | None]
    domain_ref: Mapped[int | None]
    recipient_ref: Mapped[int | None]
    domain_day: Mapped[date | None] = mapped_column(Date)
    recipient_day: Mapped[date | None] = mapped_column(Date)


class NodeRecheck(Base):
    """A mailbox that failed and is tested again at `next_at`, every `every_s`, up to `until`."""

    __tablename__ = "node_recheck"
    __table_args__ = (Index(None, "next_at"),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    reason: Mapped[str] = mapped_column(primary_key=True)
    every_s: Mapped[int] = mapped_column(Integer)
    next_at: Mapped[datetime]
    until: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    last_code: Mapped[str | None]


class Decision(Base):
    """Why nothing is sent, or that it may be, with the numbers it was decided by.

    A mailbox or campaign has at most one open row, the present one; a job one row per reason.
    Releases are `slot` rows.
    """

    __tablename__ = "decision"
    __table_args__ = (
        one_of("scope", ("mailbox", "job", "campaign")),
        Index(
            "decision_open_key",
            "workspace_id",
            "scope",
            "ref",
            unique=True,
            postgresql_where=text("is_open AND scope <> 'job'"),
        ),
        Index(
            "decision_job_key",
            "workspace_id",
            "ref",
            "reason",
            unique=True,
            postgresql_where=text("scope = 'job'"),
        ),
        Index(None, "workspace_id", "scope", "ref", "first_at"),
        Index(None, "last_at"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    decision_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    scope: Mapped[str]
    ref: Mapped[int]
    reason: Mapped[str]
    inputs: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    until: Mapped[datetime | None]
    times: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    first_at: Mapped[datetime] = created()
    last_at: Mapped[datetime] = created()
    is_open: Mapped[bool] = mapped_column(server_default=text("true"))


class Shard(Base):
    """The epoch of a workspace's pacing state: a proposal of an older one is refused.

    `lanes` numbers the store's lanes, [[pool, class], ...], alike for every
    scheduler; whoever writes routes or mailboxes to the store holds the row.
    """

    __tablename__ = "shard"

    workspace_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int]
    rebuilt_at: Mapped[datetime] = created()
    lanes: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))


class PaceChange(Base):
    """What Redis has yet to hear of: queued jobs, or a gate that opened or closed.

    Written with the change, deleted once told; what it means is read anew.
    """

    __tablename__ = "pace_change"
    __table_args__ = (CheckConstraint("(jobs IS NULL) = (scope IS NOT NULL)", name="kind"),)

    workspace_id: Mapped[int]
    change_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    jobs: Mapped[list[int] | None] = mapped_column(ARRAY(BigInteger))
    scope: Mapped[str | None]
    ref: Mapped[int | None]


class Gate(Base):
    """What claims lock FOR SHARE and suspensions exclusively, one row per scope and thing."""

    __tablename__ = "gate"
    __table_args__ = (one_of("scope", _GATES),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    ref: Mapped[int] = mapped_column(primary_key=True)


class Suspension(Base):
    """A reason why nothing is sent within a scope, open until closed or past `until`."""

    __tablename__ = "suspension"
    __table_args__ = (
        one_of("scope", (*_GATES, "enrollment")),
        CheckConstraint("(closed_at IS NULL) = (closed_by IS NULL)", name="closed"),
        Index(
            "suspension_open_key",
            "workspace_id",
            "scope",
            "ref",
            "reason",
            unique=True,
            postgresql_where=text("closed_at IS NULL"),
        ),
        Index(
            "suspension_until_idx",
            "until",
            postgresql_where=text("closed_at IS NULL AND until IS NOT NULL"),
        ),
        # What was held when.
        Index(None, "workspace_id", "scope", "ref", "opened_at"),
        Index(
            None,
            "workspace_id",
            "closed_at",
            postgresql_where=text("closed_at IS NOT NULL"),
        ),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    suspension_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    scope: Mapped[str]
    ref: Mapped[int]
    reason: Mapped[str]
    detail: Mapped[str | None]
    until: Mapped[datetime | None]
    opened_by: Mapped[str]
    opened_at: Mapped[datetime] = created()
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]


class Receipt(Base):
    """What became of one `lead-enrolled` event."""

    __tablename__ = "receipt"
    __table_args__ = (
        one_of("outcome", ("enrolled", "duplicate", "suppressed", "refused")),
        CheckConstraint("(outcome = 'enrolled') = (reason IS NULL)", name="reason"),
        Index(
            None,
            "workspace_id",
            "import_id",
            "row_number",
            postgresql_where=text("import_id IS NOT NULL"),
        ),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(primary_key=True)
    import_id: Mapped[int | None]
    row_number: Mapped[int | None] = mapped_column(Integer)
    outcome: Mapped[str]
    reason: Mapped[str | None]
    enrollment_id: Mapped[int | None]
    at: Mapped[datetime] = created()
