"""What each service's own Postgres login may do, and that everything else is denied."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from paceline_common import grants, topics
from paceline_local.stack import Stack

LOGINS = [principal.name for principal in grants.PRINCIPALS]
PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER")


@pytest.fixture(scope="module")
def superuser(stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(stack.dsn("postgres"), autocommit=True) as connection:
        yield connection


@pytest.fixture(params=LOGINS)
def login(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def own(stack: Stack, login: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(stack.dsn(login), autocommit=True) as connection:
        yield connection


def relations(superuser: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    rows = superuser.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'v', 'p') AND n.nspname = ANY (%s) ORDER BY 1, 2",
        [list(topics.SERVICES)],
    )
    return [(str(schema), str(name)) for schema, name in rows]


def allowed(login: str, schema: str, name: str) -> set[str]:
    """The privileges that the declaration gives `login` on one relation."""
    principal = grants.BY_NAME[login]
    qualified = f"{schema}.{name}"
    if schema == login:
        if name == "alembic_version":
            return set()
        owned = grants.OWNED_DEFAULT if name in grants.PLUMBING else principal.owned
        return {privilege.strip() for privilege in owned.split(",")}
    found = {"SELECT"} if qualified in principal.views else set()
    return found | {p.strip() for p in principal.writes.get(qualified, "").split(",")} - {""}


def test_every_relation_gives_exactly_what_is_declared(
    superuser: psycopg.Connection[Any], login: str
) -> None:
    differences = []
    for (schema, name), privilege in product(relations(superuser), PRIVILEGES):
        row = superuser.execute(
            "SELECT has_table_privilege(%s, %s, %s)", [login, f"{schema}.{name}", privilege]
        ).fetchone()
        assert row is not None
        if row[0] != (privilege in allowed(login, schema, name)):
            differences.append((schema, name, privilege, row[0]))
    assert differences == []


def test_every_foreign_table_refuses_to_be_read(
    superuser: psycopg.Connection[Any], own: psycopg.Connection[Any], login: str
) -> None:
    tried = 0
    for schema, name in relations(superuser):
        if "SELECT" in allowed(login, schema, name):
            continue
        tried += 1
        with pytest.raises(errors.InsufficientPrivilege):
            own.execute(sql.SQL("SELECT * FROM {} LIMIT 1").format(sql.Identifier(schema, name)))
    assert tried > 20


def test_every_foreign_table_refuses_to_be_written(
    superuser: psycopg.Connection[Any], own: psycopg.Connection[Any], login: str
) -> None:
    for schema, name in relations(superuser):
        if schema == login or "DELETE" in allowed(login, schema, name):
            continue
        with pytest.raises((errors.InsufficientPrivilege, errors.ObjectNotInPrerequisiteState)):
            own.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(schema, name)))


def test_every_function_is_for_those_it_is_declared_for(
    superuser: psycopg.Connection[Any], login: str
) -> None:
    rows = superuser.execute(
        "SELECT n.nspname, p.proname, has_function_privilege(%s, p.oid, 'EXECUTE')"
        " FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = ANY (%s)",
        [login, list(topics.SERVICES)],
    )
    wrong = [
        (schema, name, may)
        for schema, name, may in rows
        if may != (schema == login or f"{schema}.{name}" in grants.BY_NAME[login].functions)
    ]
    assert wrong == []


def test_no_login_becomes_another_role(own: psycopg.Connection[Any], login: str) -> None:
    others = [f"{s}_owner" for s in topics.SERVICES] + ["postgres", "migrator"]
    others += [name for name in LOGINS if name != login]
    others += [f"{name}_worker" for name in LOGINS if name != login]
    for role in others:
        with pytest.raises(errors.InsufficientPrivilege):
            own.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))


def test_no_login_owns_or_creates_anything(
    superuser: psycopg.Connection[Any], own: psycopg.Connection[Any], login: str
) -> None:
    row = superuser.execute(
        "SELECT count(*) FROM pg_class WHERE relowner = %s::regrole", [login]
    ).fetchone()
    assert row == (0,)
    flags = superuser.execute(
        "SELECT rolsuper, rolbypassrls, rolinherit, rolcreaterole, rolcreatedb"
        " FROM pg_roles WHERE rolname = %s",
        [login],
    ).fetchone()
    assert flags == (False, False, False, False, False)
    for schema in (*topics.SERVICES, "public"):
        with pytest.raises(errors.InsufficientPrivilege):
            own.execute(
                sql.SQL("CREATE TABLE {} (x int)").format(sql.Identifier(schema, "intruder"))
            )


def tenant_tables(superuser: psycopg.Connection[Any]) -> list[tuple[str, str, bool, bool]]:
    rows = superuser.execute(
        "SELECT n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'workspace_id'"
        " WHERE c.relkind IN ('r', 'p') AND n.nspname = ANY (%s) AND c.relname <> 'outbox'",
        [list(topics.SERVICES)],
    )
    return [tuple(row) for row in rows]


def test_every_tenant_table_has_forced_row_security(superuser: psycopg.Connection[Any]) -> None:
    tables = tenant_tables(superuser)
    assert len(tables) > 20
    assert [table for table in tables if not (table[2] and table[3])] == []


def test_no_login_switches_row_security_off(own: psycopg.Connection[Any], login: str) -> None:
    if login == "admin":
        return  # owns no schema; its tables are the gateway's, tried above
    own.execute("SET row_security = off")
    with pytest.raises(errors.InsufficientPrivilege):
        own.execute(
            sql.SQL("SELECT * FROM {}").format(sql.Identifier(login, "quarantine"))
        ).fetchall()


def test_a_transaction_sees_only_the_workspaces_it_named(
    superuser: psycopg.Connection[Any], stack: Stack
) -> None:
    names = ("first of two tenants", "second of two tenants")
    with psycopg.connect(stack.dsn("postgres")) as setup:
        ids = []
        for name in names:
            row = setup.execute(
                "INSERT INTO gateway.workspace (name, timezone) VALUES (%s, 'UTC')"
                " RETURNING workspace_id",
                [name],
            ).fetchone()
            assert row is not None
            ids.append(row[0])
        for workspace in ids:
            setup.execute(
                "INSERT INTO gateway.pool (workspace_id, name) VALUES (%s, 'rooms')", [workspace]
            )
    try:
        with psycopg.connect(stack.dsn("gateway")) as gateway:
            query = "SELECT workspace_id FROM gateway.pool WHERE name = 'rooms' ORDER BY 1"
            assert gateway.execute(query).fetchall() == []
            gateway.execute("SELECT set_config('app.workspace_ids', %s, true)", [str(ids[0])])
            assert gateway.execute(query).fetchall() == [(ids[0],)]
            with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
                gateway.execute(
                    "INSERT INTO gateway.pool (workspace_id, name) VALUES (%s, 'x')", [ids[1]]
                )
            gateway.rollback()
        with psycopg.connect(stack.dsn("scheduler")) as scheduler:
            query = "SELECT workspace_id FROM gateway.v_workspace WHERE name = ANY (%s)"
            assert scheduler.execute(query, [list(names)]).fetchall() == []
            scheduler.execute("SELECT set_config('app.workspace_ids', %s, true)", [str(ids[1])])
            assert scheduler.execute(query, [list(names)]).fetchall() == [(ids[1],)]
    finally:
        superuser.execute("DELETE FROM gateway.pool WHERE workspace_id = ANY (%s)", [ids])
        superuser.execute("DELETE FROM gateway.workspace WHERE workspace_id = ANY (%s)", [ids])


@pytest.mark.parametrize("statement", ["UPDATE audit.audit_record SET action = 'x'",
                                       "DELETE FROM audit.audit_record",
                                       "TRUNCATE audit.audit_record",
                                       "UPDATE audit.checkpoint SET signature = 'x'",
                                       "DELETE FROM audit.checkpoint"])  # fmt: skip
@pytest.mark.parametrize("role", [None, "audit_worker"])
def test_audit_cannot_change_what_it_wrote(stack: Stack, statement: str, role: str | None) -> None:
    with psycopg.connect(stack.dsn("audit"), autocommit=True) as audit:
        if role:
            audit.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        with pytest.raises(errors.InsufficientPrivilege):
            audit.execute(statement.encode())
