"""The tables of the schema `scratch`."""

from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base

Base = declarative_base("scratch")
COMMON = common_tables(Base)


class Effect(Base):  # type: ignore[misc, valid-type]
    """What a handler did with one event; `n` counts how often."""

    __tablename__ = "effect"

    workspace_id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int]
