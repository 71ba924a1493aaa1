"""The scheduler's tables. Every tenant table carries `workspace_id` in its key, under RLS."""

from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    CheckConstraint,
    Date,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import BigInteger

from paceline_common.db.tables import common_tables, declarative_base
from paceline_scheduler.domain.enrollment import STATES as ENROLLMENT_STATES
from paceline_scheduler.domain.job import KINDS, OPEN, STATES

SCHEMA: Final = "scheduler"

if TYPE_CHECKING:
    from sqlalchemy.orm import DeclarativeBase as Base
else:
    Base = declarative_base(SCHEMA)
COMMON = common_tables(Base)


def _created() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


def _in_workspace(column: str, of: str) -> ForeignKeyConstraint:
    """A foreign key within one workspace: `workspace_id` is part of it."""
    names = ("workspace_id", column)
    return ForeignKeyConstraint(names, [f"{SCHEMA}.{of}.{name}" for name in names])


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({_listed(values)})", name=column)


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
        _one_of("kind", ("address", "domain")),
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
    created_at: Mapped[datetime] = _created()
    host: Mapped[int | None] = mapped_column(SmallInteger)
    host_at: Mapped[datetime | None]


class Lead(Base):
    """A person of one workspace, at most one per address; later enrollments update its fields.

    `contacted_at` is when a campaign's message last went out, `contacted_campaign_id` whose.
    """

    __tablename__ = "lead"
    __table_args__ = (
        UniqueConstraint("workspace_id", "address_id"),
        _in_workspace("address_id", of="address"),
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
    created_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _created()
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
        _in_workspace("lead_id", of="lead"),
        _one_of("state", ENROLLMENT_STATES),
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
    enrolled_at: Mapped[datetime] = _created()
    updated_at: Mapped[datetime] = _created()
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
        _in_workspace("enrollment_id", of="enrollment"),
        _one_of("kind", KINDS),
        _one_of("state", STATES),
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
            postgresql_where=text(f"state IN ({_listed(OPEN)})"),
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
            postgresql_where=text(f"state IN ({_listed(_CLOSED)})"),
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
    due_at: Mapped[datetime] = _created()
    slot_at: Mapped[datetime | None]
    not_after: Mapped[datetime | None]
    updated_at: Mapped[datetime] = _created()
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
    reserved_at: Mapped[datetime] = _created()
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


class MailboxBudget(Base):
    """The limits of one mailbox and what is used of them: where every cap is enforced.

    `open_from`..`open_until` is the compiled stretch of open time within one
    local day; slots lie in it, and `day_cap` is that day's. Beyond it the
    policy is compiled anew. `revision` grows with every change of what it is
    compiled from. `types` are the campaign types it serves (bits: 1 cold,
    2 nurture, 4 transactional), `host` the code of its provider, `account_ref`
    the provider account that `ceiling` counts.
    """

    __tablename__ = "mailbox_budget"
    __table_args__ = (
        CheckConstraint(
            "grace_ms >= 0 AND jitter_min_ms >= 0 AND jitter_max_ms >= jitter_min_ms"
            " AND (jitter_max_ms = 0 OR jitter_min_ms >= grace_ms)",
            name="jitter",
        ),
        CheckConstraint("cadence_ms >= 0", name="cadence"),
        CheckConstraint("day_cap >= 0 AND hour_cap >= 0", name="cap"),
        CheckConstraint("day_used >= 0 AND hour_used >= 0", name="used"),
        CheckConstraint("outstanding >= 0 AND max_outstanding >= 1", name="outstanding"),
        CheckConstraint("health BETWEEN 0 AND 100", name="health"),
        CheckConstraint("stage BETWEEN 0 AND 5", name="stage"),
        CheckConstraint("types BETWEEN 0 AND 7", name="types"),
        CheckConstraint("ceiling >= 0", name="ceiling"),
        CheckConstraint(
            "(limited_day IS NULL) = (limited_times = 0) AND limited_times >= 0", name="limited"
        ),
        # Room for updates in place.
        {"postgresql_with": {"fillfactor": 70}},
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    mailbox_id: Mapped[int] = mapped_column(primary_key=True)
    domain: Mapped[str]
    domain_ref: Mapped[int]
    version: Mapped[int]
    is_active: Mapped[bool]
    tz: Mapped[str]
    cadence_ms: Mapped[int]
    jitter_min_ms: Mapped[int]
    jitter_max_ms: Mapped[int]
    grace_ms: Mapped[int]
    day_cap: Mapped[int | None] = mapped_column(Integer)
    hour_cap: Mapped[int | None] = mapped_column(Integer)
    max_outstanding: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    open_from: Mapped[datetime] = mapped_column(server_default=text("'infinity'"))
    open_until: Mapped[datetime] = mapped_column(server_default=text("'infinity'"))
    next_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    day: Mapped[date] = mapped_column(Date, server_default=text("'-infinity'"))
    day_used: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    hour: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    hour_used: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    outstanding: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    epoch: Mapped[int] = mapped_column(server_default=text("0"))
    revision: Mapped[int] = mapped_column(server_default=text("0"))
    policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    provider: Mapped[str] = mapped_column(server_default="smtp")
    country: Mapped[str | None]
    region: Mapped[str | None]
    connected_at: Mapped[datetime] = _created()
    ceiling: Mapped[int | None] = mapped_column(Integer)
    account_ref: Mapped[int] = mapped_column(server_default=text("0"))
    host: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    types: Mapped[int] = mapped_column(SmallInteger, server_default=text("7"))
    health: Mapped[int | None] = mapped_column(SmallInteger)
    health_floor: Mapped[bool] = mapped_column(server_default=text("true"))
    stage: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    health_version: Mapped[int] = mapped_column(server_default=text("0"))
    throttled_until: Mapped[datetime | None]
    limited_day: Mapped[date | None] = mapped_column(Date)
    limited_times: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    inactive_since: Mapped[datetime | None]


_NO_HOURS: Final = text("array_fill(0, ARRAY[25])")


class AccountBudget(Base):
    """What a provider account sent in the last 24 h, of the whole installation: several
    workspaces may have connected it.

    `hours` are counts per UTC hour, the first one's being `hour`; `foreign_hours` those of
    messages sent outside Paceline.
    """

    __tablename__ = "account_budget"
    __table_args__ = (
        CheckConstraint(
            "cardinality(hours) = 25 AND cardinality(foreign_hours) = 25", name="hours"
        ),
        {"postgresql_with": {"fillfactor": 70}},
    )

    account_ref: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    hour: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    hours: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=_NO_HOURS)
    foreign_hours: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=_NO_HOURS)


class DomainBudget(Base):
    """The daily maximum of one sending domain, in the workspace's zone."""

    __tablename__ = "domain_budget"
    __table_args__ = (
        CheckConstraint("day_used >= 0", name="used"),
        {"postgresql_with": {"fillfactor": 70}},
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    domain_ref: Mapped[int] = mapped_column(primary_key=True)
    domain: Mapped[str]
    tz: Mapped[str]
    day_cap: Mapped[int | None] = mapped_column(Integer)
    day: Mapped[date] = mapped_column(Date, server_default=text("'-infinity'"))
    day_used: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class RecipientBudget(Base):
    """The shaping of one recipient domain (an `address` row): spacing and daily maximum.

    `next_at` is the earliest instant of the next slot. `cursor_at` is up to when jobs that came
    in have been spread out, `cursor_used` of them on the last one's day; `retry_at` the same of
    those that a slot was refused to. `is_stale`: they are spread by an older rule yet.
    """

    __tablename__ = "recipient_budget"
    __table_args__ = (
        CheckConstraint("spacing_ms >= 0", name="spacing"),
        CheckConstraint("day_used >= 0", name="used"),
        {"postgresql_with": {"fillfactor": 70}},
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    domain_id: Mapped[int] = mapped_column(primary_key=True)
    tz: Mapped[str]
    spacing_ms: Mapped[int] = mapped_column(server_default=text("0"))
    day_cap: Mapped[int | None] = mapped_column(Integer)
    next_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    cursor_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    retry_at: Mapped[datetime] = mapped_column(server_default=text("'-infinity'"))
    day: Mapped[date] = mapped_column(Date, server_default=text("'-infinity'"))
    day_used: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    cursor_used: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    is_stale: Mapped[bool] = mapped_column(server_default=text("false"))


class CampaignPolicy(Base):
    """What decisions need of a campaign, as of its `version`; and whether it is throttled."""

    __tablename__ = "campaign_policy"
    __table_args__ = (
        CheckConstraint("type IN (1, 2, 4)", name="type"),
        _one_of("stickiness", ("wait", "reassign", "stop")),
        _one_of("esp_match", ("off", "prefer", "strict")),
        CheckConstraint("(throttled_since IS NULL) = (throttle_cause IS NULL)", name="throttled"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int]
    type: Mapped[int] = mapped_column(SmallInteger)
    min_health: Mapped[int] = mapped_column(SmallInteger, server_default=text("70"))
    stickiness: Mapped[str] = mapped_column(server_default="reassign")
    reassign_after_s: Mapped[int] = mapped_column(server_default=text("172800"))
    esp_match: Mapped[str] = mapped_column(server_default="off")
    allow_parallel: Mapped[bool] = mapped_column(server_default=text("false"))
    throttled_since: Mapped[datetime | None]
    throttle_cause: Mapped[str | None]


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
        _one_of("scope", ("mailbox", "job", "campaign")),
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
    first_at: Mapped[datetime] = _created()
    last_at: Mapped[datetime] = _created()
    is_open: Mapped[bool] = mapped_column(server_default=text("true"))


class Shard(Base):
    """The epoch of a workspace's pacing state: a proposal of an older one is refused.

    `lanes` numbers the store's lanes, [[pool, class], ...], alike for every
    scheduler; whoever writes routes or mailboxes to the store holds the row.
    """

    __tablename__ = "shard"

    workspace_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int]
    rebuilt_at: Mapped[datetime] = _created()
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
    __table_args__ = (_one_of("scope", _GATES),)

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(primary_key=True)
    ref: Mapped[int] = mapped_column(primary_key=True)


class Suspension(Base):
    """A reason why nothing is sent within a scope, open until closed or past `until`."""

    __tablename__ = "suspension"
    __table_args__ = (
        _one_of("scope", (*_GATES, "enrollment")),
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
    opened_at: Mapped[datetime] = _created()
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]


class Receipt(Base):
    """What became of one `lead-enrolled` event."""

    __tablename__ = "receipt"
    __table_args__ = (
        _one_of("outcome", ("enrolled", "duplicate", "suppressed", "refused")),
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
    at: Mapped[datetime] = _created()
