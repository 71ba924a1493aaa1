"""The database's roles, revisions and privileges, brought to what the code declares."""

import hashlib
from pathlib import Path
from typing import ClassVar, Final

import psycopg
from psycopg import sql

from paceline_common import db as common_db
from paceline_common import grants, topics
from paceline_common.db import migrate
from paceline_local.layout import REPOSITORY
from paceline_local.parts.base import Need, PartFailed, Say, Site
from paceline_local.parts.postgres import DATABASE, Postgres

_MARK: Final = "paceline-local "


class Schema:
    """Roles before the revisions, revisions as `migrator`, privileges after them.

    A digest of the definitions is kept as the database's own comment, so that
    an unchanged database costs one query.
    """

    name: ClassVar[str] = "schema"
    processes: ClassVar[tuple[str, ...]] = ()
    port_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, site: Site, postgres: Postgres) -> None:
        self._site = site
        self._postgres = postgres

    def needs(self) -> list[Need]:
        return []

    def start(self, say: Say) -> None:
        digest = _digest()
        if self._mark() == digest:
            return
        with psycopg.connect(self._postgres.dsn(), autocommit=True) as connection:
            self._run(connection, "roles", grants.postgres_bootstrap())
            self._set_passwords(connection)
            for service in topics.SERVICES:
                say(f"revisions of {service}")
                self._upgrade(service)
            say("privileges")
            # As one: a service that runs meanwhile never finds itself without them.
            with connection.transaction():
                self._run(connection, "privileges", grants.postgres_privileges())
            connection.execute(f"COMMENT ON DATABASE {DATABASE} IS '{_MARK}{digest}'".encode())

    def recreate(self, say: Say) -> None:
        """Drop the database with all that is in it, and make it anew."""
        with psycopg.connect(
            self._postgres.dsn(database="postgres"), autocommit=True
        ) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        self._postgres.start(say)
        self.start(say)

    def ready(self) -> bool:
        return self._mark() == _digest()

    def version(self) -> str:
        return self._mark()[:8]

    def stop(self) -> None:
        """Nothing runs."""

    def _mark(self) -> str:
        try:
            with psycopg.connect(self._postgres.dsn(), connect_timeout=2) as connection:
                row = connection.execute(
                    "SELECT shobj_description(oid, 'pg_database') FROM pg_database"
                    " WHERE datname = current_database()"
                ).fetchone()
        except psycopg.OperationalError:
            return ""
        return str(row[0]).removeprefix(_MARK) if row and row[0] else ""

    def _set_passwords(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        for role in ("migrator", *grants.BY_NAME):
            password = self._site.passwords.get(role, "paceline_postgres_password")
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(password)
                )
            )

    def _upgrade(self, service: str) -> None:
        try:
            migrate.upgrade(service, self._postgres.dsn("migrator"))
        except Exception as error:
            raise PartFailed(
                self.name,
                f"the revisions of {service} failed",
                "correct them and `make up`; if a revision changed after it had been applied here,"
                " `paceline-local recreate` drops this stack's database and makes it anew",
                str(error).splitlines()[:12],
            ) from error

    def _run(
        self,
        connection: "psycopg.Connection[tuple[object, ...]]",
        what: str,
        statements: list[str],
    ) -> None:
        for statement in statements:
            try:
                connection.execute(statement.encode())
            except psycopg.Error as error:
                raise PartFailed(
                    self.name,
                    f"{what}: {error}".strip(),
                    "grants.py and the services' views and functions disagree",
                    [statement],
                ) from error


def source_files(service: str) -> list[Path]:
    """Return the files that make a service's schema: revisions, functions, views."""
    package = REPOSITORY / "services" / service / "src" / f"paceline_{service}"
    return sorted(
        path
        for pattern in ("migrations/*.py", "store/functions/*.sql", "store/views/*.sql")
        for path in package.glob(pattern)
    )


def _digest() -> str:
    total = hashlib.sha256()
    for text in (*grants.postgres_bootstrap(), *grants.postgres_privileges()):
        total.update(text.encode())
    shared = sorted(Path(common_db.__path__[0]).glob("*.py"))
    for path in [*shared, *(file for name in topics.SERVICES for file in source_files(name))]:
        total.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return total.hexdigest()[:32]
