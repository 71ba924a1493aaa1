"""What the modules of tables share."""

from datetime import datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base

SCHEMA: Final = "scheduler"

__all__ = ["COMMON", "SCHEMA", "Base", "created", "in_workspace", "listed", "one_of"]

if TYPE_CHECKING:
    from sqlalchemy.orm import DeclarativeBase as Base
else:
    Base = declarative_base(SCHEMA)
COMMON = common_tables(Base)


def created() -> Mapped[datetime]:
    """When a row was made, by the Postgres clock."""
    return mapped_column(server_default=func.clock_timestamp())


def in_workspace(column: str, of: str) -> ForeignKeyConstraint:
    """A foreign key within one workspace: `workspace_id` is part of it."""
    names = ("workspace_id", column)
    return ForeignKeyConstraint(names, [f"{SCHEMA}.{of}.{name}" for name in names])


def listed(values: tuple[str, ...]) -> str:
    """Return words as a list of SQL literals."""
    return ", ".join(f"'{value}'" for value in values)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A column that holds one of some words."""
    return CheckConstraint(f"{column} IN ({listed(values)})", name=column)
