"""A database of its own for trying one revision after the other."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, make_url, text

from paceline_common import grants
from paceline_local.stack import Stack


@dataclass(frozen=True, slots=True)
class Revisions:
    """One service's revisions, and an empty database with all services' roles and schemas."""

    service: str
    directory: Path
    dsn: str

    def run(self, name: str) -> None:
        """Run one revision as the schema's owner, held to row-level security as in earnest."""
        spec = importlib.util.spec_from_file_location("revision", self.directory / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        url = make_url(self.dsn).set(drivername="postgresql+psycopg")
        with create_engine(url, poolclass=NullPool).begin() as connection:
            connection.execute(text(f"SET LOCAL ROLE {self.service}_owner"))
            with Operations.context(MigrationContext.configure(connection)):
                module.upgrade()

    def superuser(self) -> "psycopg.Connection[Any]":
        """Connect to the database; whoever does commits each statement, and closes."""
        return psycopg.connect(self.dsn, autocommit=True)


@contextmanager
def scratch(stack: Stack, package: ModuleType) -> Iterator[Revisions]:
    """Give a service's revisions a database; it is gone afterwards."""
    service = package.__name__.removeprefix("paceline_")
    database = f"{service}_revisions"
    with psycopg.connect(stack.dsn(), autocommit=True) as superuser:
        superuser.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        superuser.execute(f"CREATE DATABASE {database}")
        dsn = stack.dsn(database=database)
        with psycopg.connect(dsn, autocommit=True) as there:
            for statement in grants.postgres_bootstrap():
                there.execute(statement.encode())
        assert package.__file__
        yield Revisions(service, Path(package.__file__).parent / "migrations", dsn)
        superuser.execute(f"DROP DATABASE {database} WITH (FORCE)")
