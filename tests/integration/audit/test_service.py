"""Audit as a process: from events of several services to signed chains."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from tests.integration.audit.conftest import Admin, Log, Sql, in_thread
from tests.integration.reply.world import publish
from tests.waiting import until

from paceline_common import events, ids, topics
from paceline_local.stack import Stack


@pytest.fixture
def service(stack: Stack) -> Iterator[None]:
    stack.restart("audit", {"PACELINE_CHECKPOINT_S": "1"})
    yield
    stack.stop("audit")


def recorded(workspace: str, action: str) -> events.AuditRecorded:
    return events.AuditRecorded(
        workspace_id=workspace, action=action, actor="admin", subject=uuid.uuid4().hex,
        at=datetime.now(UTC),
    )  # fmt: skip


async def test_what_services_record_is_chained_signed_and_verifiable(
    stack: Stack, service: None, log: Log, sql: Sql, admin: Admin
) -> None:
    installation = recorded("", "workspace.created")
    for principal in ("gateway", "scheduler", "reply"):
        publish(
            stack, principal, topics.AUDIT_RECORDED, log.public, recorded(log.public, principal)
        )
    publish(stack, "gateway", topics.AUDIT_RECORDED, "installation", installation)

    await until(lambda: len(log.rows()) == 3, within_s=60)
    stack.kill("audit")
    publish(stack, "bounce", topics.AUDIT_RECORDED, log.public, recorded(log.public, "bounce"))
    stack.restart("audit", {"PACELINE_CHECKPOINT_S": "1"})
    await until(lambda: len(log.rows()) == 4, within_s=60)
    await until(
        lambda: sql.execute(
            "SELECT FROM audit.checkpoint WHERE workspace_id = %s AND seq = 4", (log.workspace_id,)
        ).fetchall(),
        within_s=60,
    )

    assert sorted(row["action"] for row in log.rows()) == [
        "bounce", "gateway", "reply", "scheduler",
    ]  # fmt: skip
    (verdict,) = await in_thread(admin, "verify", "--workspace", log.public)
    assert (verdict["ok"], verdict["records"], verdict["signed_to"]) == (True, 4, 4)
    await until(
        lambda: sql.execute(
            "SELECT FROM audit.audit_record WHERE workspace_id = 0 AND subject = %s",
            (installation.subject,),
        ).fetchall()
    )
    (verdict,) = await in_thread(admin, "verify", "--workspace", "installation")
    assert verdict["ok"]
    assert ids.decode("ws", log.public) == log.workspace_id
