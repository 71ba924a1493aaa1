"""Suppressions: addresses and domains that this workspace never contacts again."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, status
from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator
from sqlalchemy import select

from paceline_common import ids
from paceline_common.address import InvalidAddress
from paceline_common.http import Problem
from paceline_gateway import paging, problems, trail
from paceline_gateway.api.types import AddressId, answers
from paceline_gateway.auth import Reader, Writer
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign

router = APIRouter(prefix="/v1/suppressions", tags=["suppressions"])

MANUAL = "manual"


class SuppressionIn(BaseModel):
    """One address, or one recipient domain with all its addresses."""

    model_config = ConfigDict(extra="forbid")

    email: Annotated[str, StringConstraints(strip_whitespace=True, max_length=320)] | None = None
    domain: Annotated[str, StringConstraints(strip_whitespace=True, max_length=253)] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "SuppressionIn":
        if (self.email is None) == (self.domain is None):
            raise ValueError("give either email or domain")
        return self


class SuppressionMade(BaseModel):
    """The suppression; it holds from this answer on."""

    id: str
    kind: Literal["address", "domain"]


class SuppressionOut(BaseModel):
    """A suppression. `email` is null when no lead of the workspace has the address any more:
    only its keyed hash is kept."""

    id: str
    kind: Literal["address", "domain"]
    email: str | None
    reason: str
    source: str | None
    suppressed_at: datetime


@router.get("", operation_id="listSuppressions", responses=answers(problems.CURSOR_INVALID))
async def list_suppressions(
    parts: PartsDep,
    caller: Reader,
    reason: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[SuppressionOut]:
    """List suppressions, newest address first."""
    c = foreign.SUPPRESSION.c
    statement = select(foreign.SUPPRESSION).order_by(c.address_id.desc()).limit(limit + 1)
    if cursor:
        statement = statement.where(c.address_id < paging.decode(cursor, 1)[0])
    if reason is not None:
        statement = statement.where(c.reason == reason)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    found = [
        SuppressionOut(
            id=ids.encode("addr", row.address_id),
            kind=row.kind,
            email=row.email,
            reason=row.reason,
            source=row.source,
            suppressed_at=row.suppressed_at,
        )
        for row in rows
    ]
    return paging.page(found, limit, [(row.address_id,) for row in rows])


@router.post(
    "",
    operation_id="addSuppression",
    status_code=status.HTTP_201_CREATED,
    responses=answers(problems.EMAIL_INVALID),
)
async def add_suppression(body: SuppressionIn, parts: PartsDep, caller: Writer) -> SuppressionMade:
    """Suppress an address or a domain in every campaign, now and after any re-import.

    Once this has answered no submission to it starts. May be repeated.
    """
    hasher = await parts.hasher()
    kind: Literal["address", "domain"] = "address" if body.email is not None else "domain"
    try:
        hashed = (
            hasher.address(body.email)
            if body.email is not None
            else hasher.domain(body.domain or "")
        )
    except InvalidAddress as error:
        raise Problem(problems.EMAIL_INVALID, str(error)) from error
    async with parts.db.transaction([caller.workspace_id]) as tx:
        number = await foreign.suppress(tx, caller.workspace_id, kind, hashed, MANUAL, "api")
        made = ids.encode("addr", number)
        await trail.audit(parts, tx, caller, "suppression.added", made, kind=kind)
    return SuppressionMade(id=made, kind=kind)


@router.delete(
    "/{address_id}",
    operation_id="liftSuppression",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(problems.NOT_FOUND),
)
async def lift_suppression(address_id: AddressId, parts: PartsDep, caller: Writer) -> None:
    """Lift a suppression. Enrollments that it ended stay ended."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        if not await foreign.lift_suppression(tx, caller.workspace_id, address_id, caller.actor):
            raise Problem(problems.NOT_FOUND, "there is no such suppression in this workspace")
        subject = ids.encode("addr", address_id)
        await trail.audit(parts, tx, caller, "suppression.lifted", subject)
