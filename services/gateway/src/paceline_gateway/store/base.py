"""What the declarations of the gateway's tables share."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import CheckConstraint, ForeignKeyConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from paceline_common.db.tables import common_tables, declarative_base

__all__ = ["COMMON", "SCHEMA", "Base", "absent_or_json", "created", "in_workspace", "one_of"]

SCHEMA: Final = "gateway"

if TYPE_CHECKING:
    from sqlalchemy.orm import DeclarativeBase as Base
else:
    Base = declarative_base(SCHEMA)
COMMON = common_tables(Base)


def absent_or_json() -> Mapped[dict[str, Any] | None]:
    """A column of JSON in which None is SQL's null, not JSON's."""
    return mapped_column(JSONB(none_as_null=True))


def created() -> Mapped[datetime]:
    """A column of when its row was made."""
    return mapped_column(server_default=func.clock_timestamp())


def in_workspace(*columns: str, of: str) -> ForeignKeyConstraint:
    """A foreign key within one workspace: `workspace_id` is part of it."""
    names = ("workspace_id", *columns)
    return ForeignKeyConstraint(names, [f"{SCHEMA}.{of}.{name}" for name in names])


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A check that `column` is one of these."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)
