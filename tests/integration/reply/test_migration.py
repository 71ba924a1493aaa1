"""Cursors from before other sources were read keep their place."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, make_url, text

import paceline_reply
from paceline_common import grants
from paceline_local.stack import Stack

DATABASE = "reply_revisions"
REVISIONS = Path(paceline_reply.__file__).parent / "migrations"


@pytest.fixture
def scratch(stack: Stack) -> Iterator[str]:
    """A superuser's DSN of an empty database with the services' roles and schemas."""
    with psycopg.connect(stack.dsn(), autocommit=True) as superuser:
        superuser.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        superuser.execute(f"CREATE DATABASE {DATABASE}")
        dsn = stack.dsn(database=DATABASE)
        with psycopg.connect(dsn, autocommit=True) as there:
            for statement in grants.postgres_bootstrap():
                there.execute(statement.encode())
        yield dsn
        superuser.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def revise(dsn: str, name: str) -> None:
    """Run one revision as the schema's owner, held to row-level security as in earnest."""
    spec = importlib.util.spec_from_file_location("revision", REVISIONS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine = create_engine(make_url(dsn).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE reply_owner"))
        with Operations.context(MigrationContext.configure(connection)):
            module.upgrade()


def test_a_mailbox_that_was_read_is_read_on_where_it_was(scratch: str) -> None:
    revise(scratch, "2026-11-20-0900_create_schema")
    with psycopg.connect(scratch, autocommit=True) as superuser:
        for workspace, place in ((1, (7, 99)), (2, (None, None))):
            superuser.execute(
                "INSERT INTO reply.cursor VALUES (%s, 5, 1, true, now(), %s, %s)",
                (workspace, *place),
            )
    revise(scratch, "2026-11-20-1300_add_sources")
    with psycopg.connect(scratch, autocommit=True) as superuser:
        places = superuser.execute("SELECT place FROM reply.cursor ORDER BY workspace_id")
        assert [row[0] for row in places] == [{"uid_validity": 7, "last_uid": 99}, None]
        (forced,) = superuser.execute(
            "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'reply.cursor'::regclass"
        ).fetchone() or (False,)
    assert forced is True
