"""The tables of what goes into messages beside their text, and of what became of their links."""

from datetime import datetime

from sqlalchemy import (
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from paceline_gateway.store.base import SCHEMA, Base, created, in_workspace, one_of


class Attachment(Base):
    """A file that steps send along; its content lies sealed in the object storage.

    `uploading` until it lies there, `deleted` until it is gone from there: in
    neither state may a step name it. `digest` is the content's SHA-256. With a
    `content_id` it stands inline in the HTML (`cid:…`).
    """

    __tablename__ = "attachment"
    __table_args__ = (
        in_workspace(of="workspace"),
        one_of("state", ("uploading", "stored", "deleted")),
        CheckConstraint("size >= 0", name="size"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
        Index("attachment_unsettled_idx", "created_at", postgresql_where=text("state <> 'stored'")),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    # Drawn before the row exists: the content's seal names it.
    attachment_id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    filename: Mapped[str]
    content_type: Mapped[str]
    size: Mapped[int]
    digest: Mapped[bytes]
    content_id: Mapped[str | None]
    storage_key: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="uploading")
    created_at: Mapped[datetime] = created()


class StepAttachment(Base):
    """A file that a step sends along; `position` orders them."""

    __tablename__ = "step_attachment"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace_id", "step_id"],
            [f"{SCHEMA}.step.workspace_id", f"{SCHEMA}.step.step_id"],
            ondelete="CASCADE",
        ),
        in_workspace("attachment_id", of="attachment"),
        Index(None, "workspace_id", "attachment_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    step_id: Mapped[int] = mapped_column(primary_key=True)
    attachment_id: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer)


class Tracked(Base):
    """That a message was opened, or a link of it followed: each once, with how often.

    `link` counts the message's links from 1; an open has none (0).
    """

    __tablename__ = "tracked"
    __table_args__ = (
        in_workspace(of="workspace"),
        one_of("kind", ("open", "click")),
        CheckConstraint(
            "CASE kind WHEN 'open' THEN link = 0 AND url IS NULL"
            " ELSE link > 0 AND url IS NOT NULL END",
            name="link",
        ),
        Index(None, "workspace_id", "campaign_id"),
    )

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    link: Mapped[int] = mapped_column(Integer, primary_key=True)
    url: Mapped[str | None]
    enrollment_id: Mapped[int | None]
    campaign_id: Mapped[int | None]
    step: Mapped[int | None] = mapped_column(Integer)
    times: Mapped[int] = mapped_column(Integer, server_default=text("1"))
    first_at: Mapped[datetime]
    last_at: Mapped[datetime]
