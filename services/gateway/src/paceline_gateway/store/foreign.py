"""Other services' published views and functions, as the gateway may use them."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Integer,
    LargeBinary,
    Text,
    column,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.expression import TableClause
from sqlalchemy.types import TypeEngine

from paceline_common import failpoints
from paceline_common.db.session import hit_after_commit

_WORDS: dict[str, TypeEngine[Any]] = {
    "int": BigInteger(), "small": Integer(), "text": Text(), "at": DateTime(timezone=True),
    "json": JSONB(), "jsons": ARRAY(JSONB()), "bool": Boolean(), "bytes": LargeBinary(),
}  # fmt: skip


def _view(schema: str, name: str, **columns: str) -> TableClause:
    return table(
        name, *(column(name, _WORDS[kind]) for name, kind in columns.items()), schema=schema
    )


ENROLLMENT = _view(
    "scheduler", "v_enrollment",
    workspace_id="int", enrollment_id="int", campaign_id="int", lead_id="int", email="text",
    state="text", reason="text", step="small", mailbox_id="int", enrolled_at="at",
    updated_at="at", job_id="int", job_state="text", job_reason="text", due_at="at", slot_at="at",
)  # fmt: skip
LEAD = _view(
    "scheduler", "v_lead",
    workspace_id="int", lead_id="int", email="text", first_name="text", last_name="text",
    company="text", timezone="text", fields="json", created_at="at",
)  # fmt: skip
JOB_RECIPIENT = _view(
    "scheduler", "v_job_recipient",
    workspace_id="int", job_id="int", enrollment_id="int", campaign_id="int", step="small",
    mailbox_id="int", address_id="int", address_hash="bytes", domain_hash="bytes",
    job_state="text", enrollment_state="text",
)  # fmt: skip
SUPPRESSION = _view(
    "scheduler", "v_suppression",
    workspace_id="int", address_id="int", kind="text", email="text", reason="text",
    source="text", suppressed_at="at",
)  # fmt: skip
RECEIPT = _view(
    "scheduler", "v_receipt",
    workspace_id="int", event_id="text", import_id="int", row_number="small", outcome="text",
    reason="text", enrollment_id="int", at="at",
)  # fmt: skip
SUSPENSION = _view(
    "scheduler", "v_suspension",
    workspace_id="int", suspension_id="int", scope="text", ref="int", reason="text",
    detail="text", until="at", opened_by="text", opened_at="at", closed_at="at",
)  # fmt: skip
MAILBOX_PACE = _view(
    "scheduler", "v_mailbox_pace",
    workspace_id="int", mailbox_id="int", next_at="at", day="text", day_used="small",
    day_cap="small", outstanding="small",
)  # fmt: skip
CAMPAIGN_THROTTLE = _view(
    "scheduler", "v_campaign_throttle",
    workspace_id="int", campaign_id="int", cause="text", since="at",
)  # fmt: skip
SEND_LOG = _view(
    "sender", "v_send_log",
    workspace_id="int", job_id="int", enrollment_id="int", campaign_id="int", step="small",
    mailbox_id="int", attempt_no="small", provider="text", outcome="text", outcome_class="text",
    code="small", status="text", text="text", message_id="text", started_at="at",
    finished_at="at", variant="text",
)  # fmt: skip
DOUBT = _view(
    "sender", "v_doubt",
    workspace_id="int", job_id="int", fence_no="small", mailbox_id="int", enrollment_id="int",
    campaign_id="int", step="small", provider="text", message_id="text", has_draft="bool",
    since="at", looks="small", next_look_at="at", destroying_since="at", evidence="jsons",
    settled_at="at", settled_as="text", settled_by="text", why="text",
)  # fmt: skip
REPLY = _view(
    "reply", "v_reply",
    workspace_id="int", inbound_id="int", enrollment_id="int", mailbox_id="int", subject="text",
    snippet="text", received_at="at",
)  # fmt: skip
BOUNCE = _view(
    "bounce", "v_bounce",
    workspace_id="int", bounce_id="int", job_id="int", enrollment_id="int", mailbox_id="int",
    bounce_class="text", status="text", source="text", diagnostic="text", occurred_at="at",
)  # fmt: skip

QUARANTINE_SERVICES = ("gateway", "scheduler", "sender", "bounce", "reply")
QUARANTINE = {
    service: _view(
        service, "v_quarantine",
        quarantine_id="int", workspace_id="int", topic="text", key="bytes", event_id="text",
        source="text", type="text", headers="json", body="bytes", reason_code="text",
        reason="text", attempts="small", created_at="at", settled_at="at", settled_by="text",
    )
    for service in QUARANTINE_SERVICES
}  # fmt: skip

_SUSPEND = text(
    "SELECT scheduler.suspend(CAST(:workspace AS bigint), CAST(:scope AS text),"
    " CAST(:ref AS bigint), CAST(:reason AS text), CAST(:until AS timestamptz),"
    " CAST(:opened_by AS text), CAST(:detail AS text))"
)
_RESUME = text(
    "SELECT scheduler.resume(CAST(:workspace AS bigint), CAST(:scope AS text),"
    " CAST(:ref AS bigint), CAST(:reason AS text), CAST(:closed_by AS text))"
)
_SUPPRESS = text(
    "SELECT scheduler.suppress(CAST(:workspace AS bigint), CAST(:kind AS text),"
    " CAST(:hash AS bytea), CAST(:reason AS text), CAST(:source AS text),"
    " CAST(:enrollment AS bigint))"
)
_LIFT = text(
    "SELECT scheduler.lift_suppression(CAST(:workspace AS bigint), CAST(:address AS bigint),"
    " CAST(:by AS text))"
)
_STOP = text(
    "SELECT scheduler.stop_enrollment(CAST(:workspace AS bigint), CAST(:enrollment AS bigint),"
    " CAST(:state AS text), CAST(:reason AS text))"
)
_EDIT = text(
    "SELECT scheduler.edit_lead(CAST(:workspace AS bigint), CAST(:lead AS bigint),"
    " CAST(:patch AS jsonb))"
)


async def suspend(
    tx: AsyncConnection,
    workspace_id: int,
    scope: str,
    ref: int,
    reason: str,
    opened_by: str,
    *,
    until: datetime | None = None,
    detail: str | None = None,
) -> int:
    """Close the gate of one scope for one reason; no claim passes it once `tx` commits.

    Returns the suspension's number: an open one of this scope and reason keeps
    its own, with the later end of the two.
    """
    suspension: int = (
        await tx.execute(
            _SUSPEND,
            {
                "workspace": workspace_id, "scope": scope, "ref": ref, "reason": reason,
                "until": until, "opened_by": opened_by, "detail": detail,
            },
        )
    ).scalar_one()  # fmt: skip
    failpoints.hit("gateway.before_suspend_commit")
    hit_after_commit(tx, "gateway.after_suspend_commit")
    return suspension


async def resume(
    tx: AsyncConnection, workspace_id: int, scope: str, ref: int, reason: str, closed_by: str
) -> int:
    """Close the suspensions of this scope and reason; return how many were open."""
    closed: int = (
        await tx.execute(
            _RESUME,
            {
                "workspace": workspace_id, "scope": scope, "ref": ref, "reason": reason,
                "closed_by": closed_by,
            },
        )
    ).scalar_one()  # fmt: skip
    hit_after_commit(tx, "gateway.after_resume_commit")
    return closed


async def suppress(
    tx: AsyncConnection,
    workspace_id: int,
    kind: str,
    address_hash: bytes,
    reason: str,
    source: str,
    enrollment_id: int | None = None,
) -> int:
    """Suppress an address or domain by its hash; return its address id.

    No submission to it starts after `tx` commits. May be repeated.
    """
    address: int = (
        await tx.execute(
            _SUPPRESS,
            {
                "workspace": workspace_id, "kind": kind, "hash": address_hash, "reason": reason,
                "source": source, "enrollment": enrollment_id,
            },
        )
    ).scalar_one()  # fmt: skip
    failpoints.hit("gateway.before_suppress_commit")
    hit_after_commit(tx, "gateway.after_suppress_commit")
    return address


async def lift_suppression(
    tx: AsyncConnection, workspace_id: int, address_id: int, lifted_by: str
) -> bool:
    """Lift a suppression; tell whether there was one."""
    lifted: bool = (
        await tx.execute(_LIFT, {"workspace": workspace_id, "address": address_id, "by": lifted_by})
    ).scalar_one()
    return lifted


async def stop_enrollment(
    tx: AsyncConnection, workspace_id: int, enrollment_id: int, state: str, reason: str
) -> bool:
    """End an open enrollment in `state`; tell whether it was open."""
    stopped: bool = (
        await tx.execute(
            _STOP,
            {
                "workspace": workspace_id, "enrollment": enrollment_id, "state": state,
                "reason": reason,
            },
        )
    ).scalar_one()  # fmt: skip
    return stopped


async def edit_lead(tx: AsyncConnection, workspace_id: int, lead_id: int, patch: str) -> bool:
    """Change a lead's own values by a JSON merge patch; tell whether the lead exists."""
    edited: bool = (
        await tx.execute(_EDIT, {"workspace": workspace_id, "lead": lead_id, "patch": patch})
    ).scalar_one()
    return edited
