"""The log on the real parts: appended by one role, changed by none, verified by another."""

import asyncio
import base64
import contextlib

import psycopg
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.integration.audit.conftest import Admin, Log, Sql, in_thread
from tests.waiting import until

from paceline_audit.append import append
from paceline_audit.checkpoint import Checkpointer
from paceline_audit.domain.record import GENESIS, statement
from paceline_common.db import Database
from paceline_local.stack import Stack


async def test_records_form_a_chain_that_verifies(log: Log, admin: Admin) -> None:
    await log.write(3)
    await log.write(2, detail={})

    rows = log.rows()
    assert [row["seq"] for row in rows] == [1, 2, 3, 4, 5]
    assert len({bytes(row["digest"]) for row in rows}) == 5
    (verdict,) = await in_thread(admin, "verify", "--workspace", log.public)
    assert verdict["ok"]
    assert (verdict["records"], verdict["signed_to"]) == (5, 0)


async def test_writers_at_once_leave_one_unbroken_chain(log: Log, admin: Admin) -> None:
    await asyncio.gather(*(log.write(3) for _ in range(12)))

    assert [row["seq"] for row in log.rows()] == list(range(1, 37))
    (verdict,) = await in_thread(admin, "verify", "--workspace", log.public)
    assert verdict["ok"]


async def test_a_failed_batch_leaves_no_gap(log: Log, admin: Admin) -> None:
    await log.write(2)
    with pytest.raises(Exception, match=r"22P05|unsupported Unicode"):
        await log.write(1, detail={"a": "\0"})
    await log.write(1)

    assert [row["seq"] for row in log.rows()] == [1, 2, 3]


async def test_one_batch_may_hold_several_chains(db: Database, sql: Sql, log: Log) -> None:
    installation = Log(db, sql, 0)
    before = len(installation.rows())
    async with db.transaction(worker=True) as tx:
        await append(tx, [log.delivery(), installation.delivery(), log.delivery()])

    assert len(log.rows()) == 2
    assert len(installation.rows()) == before + 1


@pytest.mark.parametrize(
    ("change", "broken_at", "reason"),
    [
        ("UPDATE audit.audit_record SET actor = 'x' WHERE seq = 2", 2, "altered"),
        ("UPDATE audit.audit_record SET detail = '{}' WHERE seq = 3", 3, "altered"),
        ("DELETE FROM audit.audit_record WHERE seq = 2", 2, "missing"),
        ("DELETE FROM audit.audit_record WHERE seq = 5", 5, "removed behind a checkpoint's back"),
        (
            "UPDATE audit.checkpoint SET signature = '1.' || repeat('A', 86) WHERE seq = 5",
            5,
            "its checkpoint's signature is not valid",
        ),
        (
            "UPDATE audit.checkpoint SET signed_at = signed_at - interval '1 day' WHERE seq = 5",
            5,
            "its checkpoint's signature is not valid",
        ),
        (
            "UPDATE audit.checkpoint SET digest = sha256('x') WHERE seq = 5",
            5,
            "not what its checkpoint signed",
        ),
    ],
)
async def test_verification_names_the_first_broken_row(
    log: Log, checkpointer: Checkpointer, admin: Admin, change: str, broken_at: int, reason: str
) -> None:
    await log.write(5)
    await checkpointer.sign_heads()
    (before,) = await in_thread(admin, "verify", "--workspace", log.public)
    assert (before["ok"], before["signed_to"]) == (True, 5)

    log.tamper(f"{change} AND workspace_id = %s", log.workspace_id)

    (after,) = await in_thread(admin, "verify", "--workspace", log.public, code=1)
    assert (after["ok"], after["broken_at"], after["reason"]) == (False, broken_at, reason)


async def test_a_rewritten_chain_does_not_match_its_checkpoint(
    log: Log, checkpointer: Checkpointer, admin: Admin
) -> None:
    await log.write(3)
    await checkpointer.sign_heads()
    log.tamper("DELETE FROM audit.audit_record WHERE workspace_id = %s", log.workspace_id)
    await log.write(3, actor="somebody else")

    (verdict,) = await in_thread(admin, "verify", "--workspace", log.public, code=1)

    assert verdict["reason"] == "not what its checkpoint signed"


async def test_heads_are_signed_once_and_again_when_they_moved(
    log: Log, checkpointer: Checkpointer, sql: Sql
) -> None:
    for _ in range(2):
        await log.write(2)
        await checkpointer.sign_heads()
        await checkpointer.sign_heads()

    signed = sql.execute(
        "SELECT seq FROM audit.checkpoint WHERE workspace_id = %s ORDER BY seq", (log.workspace_id,)
    ).fetchall()
    assert [row["seq"] for row in signed] == [2, 4]


async def test_many_records_bring_a_checkpoint_before_its_time(
    log: Log, checkpointer: Checkpointer, sql: Sql
) -> None:
    task = asyncio.create_task(checkpointer.run())
    await log.write(5)
    checkpointer.appended(5)

    signed = "SELECT 1 FROM audit.checkpoint WHERE workspace_id = %s"
    await until(lambda: sql.execute(signed, (log.workspace_id,)).fetchall())
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_an_outsider_verifies_with_the_exported_key_alone(
    log: Log, checkpointer: Checkpointer, admin: Admin, sql: Sql
) -> None:
    await log.write(1)
    await checkpointer.sign_heads()
    (exported, *_) = await in_thread(admin, "export-key")
    row = sql.execute(
        "SELECT * FROM audit.checkpoint WHERE workspace_id = %s", (log.workspace_id,)
    ).fetchone()
    assert row is not None

    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(exported["ed25519"]))
    signature = base64.urlsafe_b64decode(row["signature"].partition(".")[2] + "==")
    said = statement(log.workspace_id, 1, bytes(row["digest"]), row["signed_at"])
    key.verify(signature, said)
    with pytest.raises(InvalidSignature):
        key.verify(signature, statement(log.workspace_id, 1, GENESIS, row["signed_at"]))


@pytest.mark.parametrize("table", ["audit_record", "checkpoint"])
@pytest.mark.parametrize("verb", ["UPDATE", "DELETE", "TRUNCATE"])
@pytest.mark.parametrize("role", ["audit", "audit_worker", "audit_owner", "admin", "gateway"])
def test_nobodys_role_changes_a_row(stack: Stack, table: str, verb: str, role: str) -> None:
    statements = {
        "UPDATE": f"UPDATE audit.{table} SET seq = seq",
        "DELETE": f"DELETE FROM audit.{table}",
        "TRUNCATE": f"TRUNCATE audit.{table} CASCADE",
    }
    login = {"audit_worker": "audit", "audit_owner": "migrator"}.get(role, role)
    with psycopg.connect(stack.dsn(login)) as connection:
        if role != login:
            connection.execute(f"SET ROLE {role}".encode())
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statements[verb].encode())


def seen(stack: Stack, view: str, workspace_id: int) -> set[int]:
    """The workspaces whose rows the gateway's role sees when it names one."""
    with psycopg.connect(stack.dsn("gateway")) as connection:
        connection.execute("SELECT set_config('app.workspace_ids', %s, true)", (str(workspace_id),))
        rows = connection.execute(f"SELECT workspace_id FROM audit.{view}".encode()).fetchall()
        return {row[0] for row in rows}


async def test_the_gateway_sees_the_named_workspace_and_never_the_installation(
    stack: Stack, log: Log, db: Database, sql: Sql
) -> None:
    await log.write(2)
    await Log(db, sql, 0).write(1)

    assert seen(stack, "v_audit", log.workspace_id) == {log.workspace_id}
    assert seen(stack, "v_audit", log.workspace_id + 1) == set()
    assert seen(stack, "v_audit", 0) == set()
    for view in ("v_audit_chain", "v_checkpoint", "audit_record"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            seen(stack, view, log.workspace_id)
