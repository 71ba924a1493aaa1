"""What the gateway keeps of events."""

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from paceline_common import events, ids, topics
from paceline_common.events import IssueRaised, MailboxProbed
from paceline_common.kafka import Delivery
from paceline_gateway.consumers import record_issues, record_probes
from paceline_gateway.parts import Parts

from .conftest import Tenant

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def delivery(tenant: Tenant, topic: topics.Topic, body: Any) -> Delivery[Any]:
    return Delivery(
        topic=topic.name, partition=0, offset=0, key="k", event_id=ids.new_event_id(),
        source="paceline/sender", workspace_id=tenant.number, time=NOW, body=body, digest=b"",
    )  # fmt: skip


def issue(tenant: Tenant, code: str, detail: str, after_s: int) -> Delivery[IssueRaised]:
    body = events.IssueRaised(
        workspace_id=tenant.id, subject="mbx_1", code=code, severity="error", detail=detail,
        raised_at=NOW + timedelta(seconds=after_s),
    )  # fmt: skip
    return delivery(tenant, topics.ISSUE_RAISED, body)


async def test_issues_fold_by_subject_and_code(tenant: Tenant, parts: Parts) -> None:
    async with parts.db.transaction([tenant.number]) as tx:
        await record_issues(
            tx,
            [
                issue(tenant, "auth_failed", "second", 2),
                issue(tenant, "auth_failed", "first", 1),
                issue(tenant, "host_gone", "other", 3),
            ],
        )
    async with parts.db.transaction([tenant.number]) as tx:
        await record_issues(tx, [issue(tenant, "auth_failed", "late, but older", 0)])
    found = (await tenant.call("GET", "/v1/issues"))["items"]
    assert {(one["code"], one["detail"], one["times"]) for one in found} == {
        ("auth_failed", "second", 3),
        ("host_gone", "other", 1),
    }


async def test_the_newest_test_of_each_leg_is_shown(tenant: Tenant, parts: Parts) -> None:
    made = await tenant.mailbox()
    start = datetime.now(UTC)

    def probed(leg: Literal["send", "read"], ok: bool, after_s: int) -> Delivery[MailboxProbed]:
        body = events.MailboxProbed(
            workspace_id=tenant.id, mailbox_id=made["id"], leg=leg, ok=ok,
            probed_at=start + timedelta(seconds=after_s), code="ok" if ok else "auth_failed",
        )  # fmt: skip
        return delivery(tenant, topics.MAILBOX_PROBED, body)

    batch = [probed("send", False, 5), probed("send", True, 4), probed("read", False, -60)]
    for _ in range(2):
        async with parts.db.transaction([tenant.number]) as tx:
            await record_probes(tx, batch)
    found = await tenant.call("GET", f"/v1/mailboxes/{made['id']}")
    assert (found["last_send_test"]["ok"], found["last_send_test"]["code"]) == (
        False,
        "auth_failed",
    )
    # An older event than the test at connecting changes nothing.
    assert found["last_read_test"]["ok"] is True
    assert found["version"] == made["version"]
