"""Transactions that name their workspaces, and the migrations of a schema."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from tests.integration.common.conftest import PACKAGE, Parts

from paceline_common.db import Database, Queries, inbox, migrate
from paceline_common.db.sql import bytes_array, number_array, text_array

QUERIES = Queries(PACKAGE)
INSERT = text("INSERT INTO scratch.effect VALUES (:w, :j, 1)")
ALL = text("SELECT workspace_id FROM scratch.effect ORDER BY 1")


@pytest.fixture
async def rows(clean: Parts, db: Database) -> Database:
    for workspace in (1, 2, 3):
        async with db.transaction([workspace]) as tx:
            await tx.execute(INSERT, {"w": workspace, "j": f"job-{workspace}"})
    return db


async def seen(db: Database, *workspaces: int, worker: bool = False) -> list[int]:
    async with db.transaction(workspaces, worker=worker) as tx:
        return list((await tx.execute(ALL)).scalars())


async def test_a_transaction_sees_the_workspaces_it_names(rows: Database) -> None:
    assert await seen(rows, 1) == [1]
    assert await seen(rows, 3, 1) == [1, 3]
    assert await seen(rows) == []
    assert await seen(rows, worker=True) == [1, 2, 3]


async def test_nothing_of_a_transaction_stays_on_its_connection(rows: Database) -> None:
    for _ in range(20):  # through every connection of the pool
        assert await seen(rows, 1) == [1]
        assert await seen(rows, worker=True) == [1, 2, 3]
    for _ in range(20):
        async with rows.engine.connect() as plain:
            who = await plain.execute(
                text("SELECT current_user, current_setting('app.workspace_ids', true)")
            )
            assert tuple(who.one()) == ("scratch", "")


async def test_another_workspaces_row_cannot_be_written(rows: Database) -> None:
    with pytest.raises(DBAPIError) as refused:
        async with rows.transaction([1]) as tx:
            await tx.execute(INSERT, {"w": 2, "j": "job-x"})
    assert getattr(refused.value.orig, "sqlstate", None) == "42501"
    async with rows.transaction([1]) as tx:
        changed = await tx.execute(text("UPDATE scratch.effect SET workspace_id = 1, n = 9"))
        assert changed.rowcount == 1


async def test_the_owner_is_held_to_the_policy_too(rows: Database) -> None:
    async with rows.transaction([2]) as tx:
        view = await tx.execute(text("SELECT workspace_id, total FROM scratch.v_effect"))
        assert [tuple(row) for row in view] == [(2, 1)]


async def test_an_error_never_quotes_a_statements_values(rows: Database) -> None:
    with pytest.raises(DBAPIError) as refused:
        async with rows.transaction([1]) as tx:
            await tx.execute(text("SELECT CAST(:x AS int)"), {"x": "somebody@example.test"})
    # Postgres' own message quotes; what SQLAlchemy adds does not.
    assert "[parameters" not in str(refused.value)


async def test_statements_and_locks_have_a_time_limit(clean: Parts) -> None:
    settings = clean.settings.model_copy(
        update={"statement_timeout_ms": 200, "lock_timeout_ms": 100}
    )
    db = Database(settings)
    try:
        with pytest.raises(DBAPIError) as slow:
            async with db.transaction() as tx:
                await tx.execute(text("SELECT pg_sleep(5)"))
        assert getattr(slow.value.orig, "sqlstate", None) == "57014"
        async with db.transaction([1]) as tx:
            await tx.execute(text("LOCK TABLE scratch.effect IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(DBAPIError) as blocked:
                await seen(db, 1)
        assert getattr(blocked.value.orig, "sqlstate", None) == "55P03"
    finally:
        await db.close()


async def test_queries_are_files(rows: Database) -> None:
    async with rows.transaction([1]) as tx:
        assert (await tx.execute(QUERIES["count_effect"], {"job": "job-1"})).scalar_one() == 1
    assert QUERIES["count_effect"] is QUERIES["count_effect"]
    with pytest.raises(KeyError, match="no store/sql/other"):
        QUERIES["other"]


@pytest.mark.parametrize(
    ("kind", "make", "values"),
    [
        ("text[]", text_array, ["", None, "NULL", 'a "b" {c, d}', "\\", "\\x41", "é\n\t "]),
        ("bigint[]", number_array, [1, -5, None, 2**62]),
        ("boolean[]", number_array, [True, None, False]),
        ("bytea[]", bytes_array, [b"", b"\0\xff\"\\", b"abc"]),
        ("text[]", text_array, []),
    ],
)  # fmt: skip
async def test_an_array_arrives_as_it_is(
    clean: Parts, db: Database, kind: str, make: Callable[[Any], str], values: list[Any]
) -> None:
    async with db.transaction() as tx:
        got = await tx.execute(text(f"SELECT CAST(:values AS {kind})"), {"values": make(values)})
        assert got.scalar_one() == values


async def test_the_inbox_tells_which_events_it_has_seen(clean: Parts, db: Database) -> None:
    events = [inbox.Seen("t", "s", str(n), bytes([n])) for n in range(4)]
    box = inbox.Inbox("scratch", "c")
    async with db.transaction() as tx:
        assert await box.insert(tx, []) == {}
        assert await box.insert(tx, events[:2]) == {}
    async with db.transaction() as tx:
        again = inbox.Seen("t", "s", "1", b"other body")
        assert await box.insert(tx, [again, events[2]]) == {("t", "s", "1"): b"\1"}
        assert await box.insert(tx, events[1:3]) == {
            ("t", "s", "1"): b"\1", ("t", "s", "2"): b"\2",
        }  # fmt: skip
        assert await inbox.Inbox("scratch", "other").insert(tx, events) == {}


async def test_inbox_rows_go_when_their_topic_holds_the_event_no_more(
    clean: Parts, db: Database
) -> None:
    clean.admin_sql(
        "INSERT INTO scratch.inbox SELECT 'c', 't', 's', n::text, '', now() - n * interval '1 day'"
        " FROM generate_series(1, 10) AS n"
    )
    assert await inbox.trim(db, timedelta(days=4, hours=12)) == 6
    assert clean.admin_sql("SELECT count(*) FROM scratch.inbox") == [(4,)]


# ---- migrations


def upgrade(parts: Parts, package: str = PACKAGE) -> None:
    migrate.upgrade("scratch", parts.stack.dsn("migrator"), package=package)


def test_a_migrated_schema_is_what_the_metadata_says(clean: Parts) -> None:
    assert migrate.check("scratch", clean.stack.dsn("migrator"), package=PACKAGE) == []


@pytest.mark.parametrize(
    ("change", "back", "difference"),
    [
        ("ADD COLUMN extra text", "DROP COLUMN extra", "remove_column scratch effect"),
        ("ALTER n DROP NOT NULL", "ALTER n SET NOT NULL", "modify_nullable scratch effect n"),
        ("ALTER n TYPE int", "ALTER n TYPE bigint", "modify_type scratch effect n"),
        ("ALTER n SET DEFAULT 1", "ALTER n DROP DEFAULT", "modify_default scratch effect n"),
        ("ADD UNIQUE (n)", "DROP CONSTRAINT effect_n_key", "remove_constraint"),
    ],
)
def test_a_schema_that_drifted_is_told(
    clean: Parts, change: str, back: str, difference: str
) -> None:
    views = "DROP VIEW scratch.v_effect"
    clean.admin_sql(f"{views}; ALTER TABLE scratch.effect {change}")
    try:
        found = migrate.check("scratch", clean.stack.dsn("migrator"), package=PACKAGE)
        assert len(found) == 1
        assert found[0].startswith(difference)
    finally:
        clean.admin_sql(f"ALTER TABLE scratch.effect {back}")
        upgrade(clean)
        clean.admin_sql("GRANT SELECT ON scratch.v_effect TO scratch")


def test_a_second_run_changes_nothing_and_definitions_repeat(clean: Parts) -> None:
    upgrade(clean)
    upgrade(clean)
    assert clean.admin_sql("SELECT version_num FROM scratch.alembic_version") == [("202611200900",)]
    owners = clean.admin_sql(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = relnamespace WHERE nspname = 'scratch' AND relkind IN ('r', 'v', 'S')"
    )
    assert owners == [("scratch_owner",)]


def test_definitions_may_hold_what_a_driver_reads_as_placeholders(
    clean: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "percent_scratch"
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    first = Path(__file__).parent / "scratch" / "migrations" / "2026-11-20-0900_create_schema.py"
    (package / "migrations" / first.name).write_text(first.read_text())
    odd = "'% %s %% %(x)s :x'::text"
    for kind, definition in (
        ("functions", f"FUNCTION scratch.odd() RETURNS text LANGUAGE sql AS $$ SELECT {odd} $$"),
        ("views", f"VIEW scratch.v_odd AS SELECT {odd} AS text, 7 % 4 AS rest"),
    ):
        (package / "store" / kind).mkdir(parents=True)
        (package / "store" / kind / "odd.sql").write_text(f"CREATE OR REPLACE {definition};")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        upgrade(clean, "percent_scratch")
        found = clean.admin_sql("SELECT scratch.odd(), text, rest FROM scratch.v_odd")
        assert found == [("% %s %% %(x)s :x", "% %s %% %(x)s :x", 3)]
    finally:
        clean.admin_sql("DROP VIEW IF EXISTS scratch.v_odd")
        clean.admin_sql("DROP FUNCTION IF EXISTS scratch.odd")


async def test_two_migrators_take_turns(clean: Parts) -> None:
    await asyncio.gather(*(asyncio.to_thread(upgrade, clean) for _ in range(3)))


async def test_a_migrator_waits_for_the_one_at_work(clean: Parts) -> None:
    lock = "SELECT pg_advisory_xact_lock(hashtext('paceline.migrate'), hashtext('scratch'))"
    async with await psycopg.AsyncConnection.connect(clean.stack.dsn()) as other:
        await other.execute(lock.encode())
        second = asyncio.create_task(asyncio.to_thread(upgrade, clean))
        done, _ = await asyncio.wait([second], timeout=1)
        assert not done
        await other.rollback()
        await asyncio.wait_for(second, 20)


def test_a_failing_revision_changes_nothing(
    clean: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "broken_scratch"
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    first = Path(__file__).parent / "scratch" / "migrations" / "2026-11-20-0900_create_schema.py"
    (package / "migrations" / first.name).write_text(first.read_text())
    (package / "migrations" / "2026-11-21-0900_break_it.py").write_text(
        "from alembic import op\nrevision = '202611210900'\ndown_revision = '202611200900'\n"
        "def upgrade():\n"
        "    op.execute('CREATE TABLE scratch.half (x int)')\n"
        "    op.execute('SELECT 1 / 0')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DBAPIError):
        upgrade(clean, "broken_scratch")
    assert clean.admin_sql("SELECT to_regclass('scratch.half')") == [(None,)]
    assert clean.admin_sql("SELECT version_num FROM scratch.alembic_version") == [("202611200900",)]


def test_a_migration_gives_up_on_a_table_that_is_in_use(
    clean: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "waiting_scratch"
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    first = Path(__file__).parent / "scratch" / "migrations" / "2026-11-20-0900_create_schema.py"
    (package / "migrations" / first.name).write_text(first.read_text())
    (package / "migrations" / "2026-11-21-0900_alter_effect.py").write_text(
        "from alembic import op\nrevision = '202611210900'\ndown_revision = '202611200900'\n"
        "def upgrade():\n    op.execute('ALTER TABLE scratch.effect ADD COLUMN y int')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "300ms")
    with psycopg.connect(clean.stack.dsn()) as reader:
        reader.execute("SELECT 1 FROM scratch.effect")
        with pytest.raises(DBAPIError) as blocked:
            upgrade(clean, "waiting_scratch")
    assert getattr(blocked.value.orig, "sqlstate", None) == "55P03"
