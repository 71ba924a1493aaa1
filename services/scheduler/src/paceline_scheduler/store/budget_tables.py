"""What is used of each limit, and what campaigns ask of mailboxes: judged where slots are taken."""

from datetime import date, datetime
from typing import Any, Final

from sqlalchemy import (
    CheckConstraint,
    Date,
    Integer,
    SmallInteger,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from paceline_scheduler.store.base import Base, created, one_of


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
    connected_at: Mapped[datetime] = created()
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
        one_of("stickiness", ("wait", "reassign", "stop")),
        one_of("esp_match", ("off", "prefer", "strict")),
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
