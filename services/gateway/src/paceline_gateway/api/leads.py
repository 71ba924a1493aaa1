"""Leads: enrolled by JSON, read and edited."""

import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, status
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlalchemy import select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import enroll, idempotency, paging, problems
from paceline_gateway.api.types import (
    CampaignId,
    IdempotencyKey,
    LeadId,
    NoNul,
    Timezone,
    answers,
)
from paceline_gateway.auth import Enroller, Reader, Writer
from paceline_gateway.domain.csv_row import Lead
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign

router = APIRouter(prefix="/v1", tags=["leads"])

MAX_LEADS = 1000

Short = Annotated[str, NoNul, StringConstraints(strip_whitespace=True, max_length=200)]
FieldName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
FieldValue = Annotated[str, NoNul, StringConstraints(max_length=10_000)]
Fields = Annotated[dict[FieldName, FieldValue], Field(max_length=100)]


class LeadIn(BaseModel):
    """A lead; `fields` are its own variables for templates."""

    model_config = ConfigDict(extra="forbid")

    # Judged lead by lead, so that one bad address does not refuse the rest.
    email: Annotated[str, StringConstraints(strip_whitespace=True, max_length=320)]
    first_name: Short | None = None
    last_name: Short | None = None
    company: Short | None = None
    timezone: Timezone | None = None
    fields: Fields = Field(default_factory=dict)


class LeadsIn(BaseModel):
    """Leads to enroll."""

    model_config = ConfigDict(extra="forbid")

    leads: list[LeadIn] = Field(min_length=1, max_length=MAX_LEADS)


class Accepted(BaseModel):
    """A lead on its way; ask `/v1/receipts/{event_id}` what became of it."""

    index: int
    event_id: str


class Rejected(BaseModel):
    """A lead that was not taken, and why."""

    index: int
    field: str
    code: str
    message: str


class LeadsOut(BaseModel):
    """What was taken of a request, by the leads' places in it (from 0)."""

    accepted: list[Accepted]
    errors: list[Rejected]


class LeadPatch(BaseModel):
    """What to change of a lead; `fields` are merged, null removes one. The address stays."""

    model_config = ConfigDict(extra="forbid")

    first_name: Short | None = None
    last_name: Short | None = None
    company: Short | None = None
    timezone: Timezone | None = None
    fields: Annotated[dict[FieldName, FieldValue | None], Field(max_length=100)] | None = None


class LeadOut(BaseModel):
    """A lead of the workspace."""

    id: str
    email: str
    first_name: str | None
    last_name: str | None
    company: str | None
    timezone: str | None
    fields: dict[str, str]
    created_at: datetime


@router.post(
    "/campaigns/{campaign_id}/leads",
    operation_id="enrollLeads",
    status_code=status.HTTP_202_ACCEPTED,
    responses=answers(
        problems.NOT_FOUND, problems.CAMPAIGN_STATE, problems.LEADS_INVALID,
        problems.IDEMPOTENCY_REUSED,
    ),
)  # fmt: skip
async def enroll_leads(
    campaign_id: CampaignId,
    body: LeadsIn,
    parts: PartsDep,
    caller: Enroller,
    idempotency_key: IdempotencyKey = None,
) -> LeadsOut:
    """Enroll up to 1,000 leads. Bad ones are listed, good ones taken; all bad is an error.

    With an Idempotency-Key a repeat of the same request enrolls nobody again.
    """
    hasher = await parts.hasher()
    good: list[tuple[str, Lead, int | None]] = []
    answer = LeadsOut(accepted=[], errors=[])
    request = idempotency.digest(body)
    # The same ids for a repeat, however late; others for another request under the same key.
    batch = f"{idempotency_key}/{request.hex()}" if idempotency_key else ids.new_event_id()
    for index, one in enumerate(body.leads):
        if fault := enroll.address_fault(one.email):
            answer.errors.append(
                Rejected(index=index, field="email", code="email_invalid", message=fault)
            )
            continue
        identity = enroll.event_id(caller.workspace, campaign_id, batch, index)
        good.append((identity, Lead(**one.model_dump()), None))
        answer.accepted.append(Accepted(index=index, event_id=identity))
    if not good:
        raise Problem(
            problems.LEADS_INVALID, errors=[error.model_dump() for error in answer.errors]
        )
    async with parts.db.transaction([caller.workspace_id]) as tx:
        if idempotency_key and not await idempotency.first_use(
            tx, caller.workspace_id, f"leads/{campaign_id}", idempotency_key, request
        ):
            return answer
        await enroll.demand_open(tx, caller.workspace_id, campaign_id)
        await parts.outbox.add(tx, enroll.outgoing(hasher, caller.workspace_id, campaign_id, good))
    return answer


@router.get("/leads", operation_id="listLeads", responses=answers(problems.CURSOR_INVALID))
async def list_leads(
    parts: PartsDep,
    caller: Reader,
    email: Annotated[str | None, Query(max_length=320)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[LeadOut]:
    """List leads, newest first."""
    c = foreign.LEAD.c
    statement = select(foreign.LEAD).order_by(c.lead_id.desc()).limit(limit + 1)
    if cursor:
        statement = statement.where(c.lead_id < paging.decode(cursor, 1)[0])
    if email is not None:
        statement = statement.where(c.email == email.strip().lower())
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    return paging.page([_out(row) for row in rows], limit, [(row.lead_id,) for row in rows])


@router.get("/leads/{lead_id}", operation_id="getLead", responses=answers(problems.NOT_FOUND))
async def get_lead(lead_id: LeadId, parts: PartsDep, caller: Reader) -> LeadOut:
    """Return one lead."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return await _one(tx, lead_id)


@router.patch("/leads/{lead_id}", operation_id="changeLead", responses=answers(problems.NOT_FOUND))
async def change_lead(lead_id: LeadId, body: LeadPatch, parts: PartsDep, caller: Writer) -> LeadOut:
    """Change a lead's own values; messages not yet built use them."""
    patch = json.dumps(body.model_dump(exclude_unset=True))
    async with parts.db.transaction([caller.workspace_id]) as tx:
        if not await foreign.edit_lead(tx, caller.workspace_id, lead_id, patch):
            raise _missing()
        return await _one(tx, lead_id)


async def _one(tx: AsyncConnection, lead_id: int) -> LeadOut:
    row = (
        await tx.execute(select(foreign.LEAD).where(foreign.LEAD.c.lead_id == lead_id))
    ).one_or_none()
    if row is None:
        raise _missing()
    return _out(row)


def _out(row: Row[Any]) -> LeadOut:
    return LeadOut(
        id=ids.encode("lead", row.lead_id),
        email=row.email,
        first_name=row.first_name,
        last_name=row.last_name,
        company=row.company,
        timezone=row.timezone,
        fields=row.fields or {},
        created_at=row.created_at,
    )


def _missing() -> Problem:
    return Problem(problems.NOT_FOUND, "there is no such lead in this workspace")
