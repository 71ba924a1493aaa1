"""Migrations of one service's schema: `python -m paceline_common.db.migrate <service>|all`.

Revisions are alembic's, in the service's package (`paceline_<service>/migrations`);
functions and views are repeatable definitions (`store/functions/*.sql`, then
`store/views/*.sql`, by name), applied after them on every run. Everything runs
as the schema's owner, one migrator at a time (advisory lock), in one
transaction, with a lock and a statement timeout. The migrator's connection
comes from `PACELINE_MIGRATOR_DSN`, its password from the file
`paceline_migrator_password` of the secrets directory when the DSN has none.
"""

import importlib.util
import os
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import psycopg
import typer
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from paceline_common.topics import SERVICES

LOCK_TIMEOUT: Final = "10s"
STATEMENT_TIMEOUT: Final = "300s"
_LOCK_WAIT_S: Final = 60

_ENVIRONMENT: Final = Path(__file__).parent / "alembic"


def package_of(service: str) -> str:
    """Return the package whose `migrations` and `store` make up the schema `service`."""
    return f"paceline_{service}"


def upgrade(service: str, dsn: str, *, package: str | None = None, revision: str = "head") -> None:
    """Bring the schema `service` to `revision`, then apply its functions and views.

    `dsn` is the migrator's, a member of `<service>_owner`. Raises SQLAlchemy's
    errors; nothing is changed then. Waits for another migrator of the schema.
    """
    root = _package_directory(package or package_of(service))
    with _engine(dsn).connect() as connection, connection.begin():
        _become_owner(connection, service)
        config = _config(service, root)
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for kind in ("functions", "views"):
            for file in sorted((root / "store" / kind).glob("*.sql")):
                _run_file(connection, file.read_text(encoding="utf-8"))


def check(service: str, dsn: str, *, package: str | None = None) -> list[str]:
    """Return how the migrated schema differs from the service's metadata, one line each.

    Tables that the metadata does not know count as differences, views do not.
    """
    name = package or package_of(service)
    metadata: MetaData = import_module(f"{name}.store.tables").Base.metadata
    with _engine(dsn).connect() as connection, connection.begin():
        _become_owner(connection, service)
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": _only_schema(service),
                "compare_type": True,
                "compare_server_default": True,
                "version_table_schema": service,
            },
        )
        return [_describe(change) for change in _flat(compare_metadata(context, metadata))]


def run_environment(context: Any) -> None:
    """Run alembic's environment: called by `alembic/env.py`, the same for every service."""
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection,
        target_metadata=None,
        version_table="alembic_version",
        version_table_schema=context.config.get_main_option("schema"),
        transaction_per_migration=False,
    )
    context.run_migrations()


def _become_owner(connection: Connection, schema: str) -> None:
    _identifier(schema)
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_WAIT_S}s'"))
    connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtext('paceline.migrate'), hashtext(:schema))"),
        {"schema": schema},
    )
    connection.execute(text(f"SET LOCAL ROLE {schema}_owner"))
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))
    # Revisions name their schema themselves.
    connection.execute(text("SET LOCAL search_path = pg_catalog"))


def _run_file(connection: Connection, sql: str) -> None:
    # Past SQLAlchemy, which always passes arguments: psycopg would then read
    # each `%` of the file as a placeholder.
    driver: psycopg.Connection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    driver.execute(sql.encode())


def _config(schema: str, root: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_ENVIRONMENT))
    config.set_main_option("version_locations", str(root / "migrations"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("schema", schema)
    return config


def _package_directory(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _engine(dsn: str) -> Engine:
    return create_engine(
        make_url(dsn).set(drivername="postgresql+psycopg"),
        poolclass=NullPool,
        hide_parameters=True,
        connect_args={"application_name": "paceline-migrate", "connect_timeout": 10},
    )


def _only_schema(schema: str) -> Any:
    def include(name: str | None, kind: str, _parents: Any) -> bool:
        if kind == "schema":
            return name == schema
        return name != "alembic_version"

    return include


def _flat(changes: Sequence[Any]) -> list[Any]:
    # Alterations of one column come as a list of their own.
    return [one for change in changes for one in (change if isinstance(change, list) else [change])]


def _describe(change: Sequence[Any]) -> str:
    return " ".join(str(part) for part in change if part is not None)


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,50}", name):
        raise ValueError(f"not a schema name: {name!r}")
    return name


def main(
    service: Annotated[str, typer.Argument(help="A service's name, or `all`.")],
) -> None:
    """Bring one service's schema, or all, up to date."""
    dsn = os.environ["PACELINE_MIGRATOR_DSN"]
    url = make_url(dsn)
    directory = os.environ.get("PACELINE_SECRETS_DIR")
    if url.password is None and directory:
        secret = Path(directory, "paceline_migrator_password")
        if secret.is_file():
            url = url.set(password=secret.read_text(encoding="utf-8").strip())
    for one in SERVICES if service == "all" else (service,):
        upgrade(one, url.render_as_string(hide_password=False))
        typer.echo(f"{one}: up to date")


if __name__ == "__main__":
    typer.run(main)
