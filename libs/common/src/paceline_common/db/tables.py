"""What every service's schema shares: the declarative base, three tables, row-level security.

`outbox` holds events on their way to Kafka, `inbox` the ones already applied,
`quarantine` the ones that cannot be. `create_common_tables` makes them in a
service's first revision; `common_tables` declares the same for its metadata.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    Connection,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING: Final = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}
# Key partitions of the outbox: order holds inside one, replicas share them out.
LANES: Final = 8
_LANE: Final = f"((hashtext(key) & {LANES - 1}))::smallint"
_WORKSPACES: Final = (
    "string_to_array(NULLIF(current_setting('app.workspace_ids', true), ''), ',')::bigint[]"
)


class Ddl(Protocol):
    """What a revision's `alembic.op` offers here."""

    def execute(self, sqltext: str) -> None: ...
    def get_bind(self) -> Connection: ...


def declarative_base(schema_name: str) -> type[DeclarativeBase]:
    """Return a new declarative base whose tables live in the schema `schema_name`."""

    class Base(DeclarativeBase):
        metadata = MetaData(schema=schema_name, naming_convention=NAMING)
        type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads a plain dict
            int: BigInteger(),
            str: Text(),
            bytes: LargeBinary(),
            datetime: DateTime(timezone=True),
            dict[str, Any]: JSONB(),
            list[Any]: JSONB(),
        }

    return Base


@dataclass(frozen=True, slots=True)
class CommonTables:
    """The classes of the three tables, mapped in one service's base."""

    outbox: type[DeclarativeBase]
    inbox: type[DeclarativeBase]
    quarantine: type[DeclarativeBase]


def common_tables(base: type[DeclarativeBase]) -> CommonTables:
    """Declare outbox, inbox and quarantine in `base`; call once per base."""

    class Outbox(base):  # type: ignore[misc, valid-type]
        """An event that leaves with the commit. Ids only, no RLS: SQL functions insert too.

        `lane` spreads keys over the relay's advisory locks. `headers`, when
        given, are the record's headers verbatim instead of the envelope.
        """

        __tablename__ = "outbox"
        __table_args__ = (Index(None, "lane", "id"),)

        id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
        workspace_id: Mapped[int | None]
        topic: Mapped[str]
        key: Mapped[str]
        lane: Mapped[int] = mapped_column(SmallInteger, Computed(_LANE, persisted=True))
        event_id: Mapped[str] = mapped_column(Uuid, server_default=text("gen_random_uuid()"))
        type: Mapped[str]
        subject: Mapped[str | None]
        at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
        traceparent: Mapped[str | None]
        body: Mapped[bytes]
        headers: Mapped[list[Any] | None]

    class Inbox(base):  # type: ignore[misc, valid-type]
        """An event that `consumer` (its group) has applied; `digest` is its body's SHA-256."""

        __tablename__ = "inbox"
        __table_args__ = (Index(None, "seen_at"),)

        consumer: Mapped[str] = mapped_column(primary_key=True)
        topic: Mapped[str] = mapped_column(primary_key=True)
        source: Mapped[str] = mapped_column(primary_key=True)
        event_id: Mapped[str] = mapped_column(primary_key=True)
        digest: Mapped[bytes]
        seen_at: Mapped[datetime] = mapped_column(server_default=text("now()"))

    class Quarantine(base):  # type: ignore[misc, valid-type]
        """A record that could not be handled, as it came. No workspace: the installation's."""

        __tablename__ = "quarantine"
        __table_args__ = (
            UniqueConstraint("topic", "partition", "offset_", "digest"),
            CheckConstraint("(settled_at IS NULL) = (settled_by IS NULL)", name="settled"),
            Index(None, "workspace_id", "quarantine_id"),
        )

        quarantine_id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
        workspace_id: Mapped[int | None]
        topic: Mapped[str]
        partition: Mapped[int] = mapped_column(Integer)
        offset_: Mapped[int]
        key: Mapped[bytes | None]
        event_id: Mapped[str | None]
        source: Mapped[str | None]
        type: Mapped[str | None]
        headers: Mapped[list[Any]]
        body: Mapped[bytes | None]
        digest: Mapped[bytes]
        reason_code: Mapped[str]
        reason: Mapped[str]
        attempts: Mapped[int] = mapped_column(Integer)
        created_at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
        settled_at: Mapped[datetime | None]
        settled_by: Mapped[str | None]

    return CommonTables(outbox=Outbox, inbox=Inbox, quarantine=Quarantine)


def create_common_tables(op: Ddl, schema: str) -> None:
    """Create outbox, inbox and quarantine in `schema`: part of a service's first revision."""
    tables = common_tables(declarative_base(schema))
    for table in (tables.outbox, tables.inbox, tables.quarantine):
        table.metadata.tables[f"{schema}.{table.__tablename__}"].create(op.get_bind())
    # Rows live for milliseconds: dead ones go before the index grows over them.
    op.execute(
        f"ALTER TABLE {schema}.outbox SET (autovacuum_vacuum_scale_factor = 0,"
        " autovacuum_vacuum_threshold = 10000)"
    )
    enable_tenancy(op, schema, "quarantine", f"{schema}_worker")
    # Its views tell tenants apart themselves: the installation's one shows all.
    op.execute(
        f"CREATE POLICY views ON {schema}.quarantine FOR SELECT TO {schema}_owner USING (true)"
    )
    op.execute(
        f"CREATE VIEW {schema}.v_quarantine WITH (security_barrier) AS {_QUARANTINE_COLUMNS}"
        f" FROM {schema}.quarantine WHERE workspace_id = ANY ({_WORKSPACES})"
    )
    op.execute(
        f"CREATE VIEW {schema}.v_quarantine_all WITH (security_barrier) AS {_QUARANTINE_COLUMNS}"
        f" FROM {schema}.quarantine"
    )


_QUARANTINE_COLUMNS: Final = (
    'SELECT quarantine_id, workspace_id, topic, "partition", offset_, key, event_id, source, type,'
    " headers, body, reason_code, reason, attempts, created_at, settled_at, settled_by"
)


def enable_tenancy(op: Ddl, schema: str, table: str, worker_role: str) -> None:
    """Seal the rows of a tenant table by `workspace_id`.

    Row-level security holds for the owner too (FORCE). A transaction sees the
    workspaces it named in `app.workspace_ids` and no others; `worker_role` sees all.
    """
    name = f"{schema}.{table}"
    op.execute(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON {name} USING (workspace_id = ANY ({_WORKSPACES}))")
    op.execute(f"CREATE POLICY worker ON {name} TO {worker_role} USING (true)")
