"""Why something may not send now, and what operators hold back themselves."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, status
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from sqlalchemy import ColumnElement, Select, func, literal, or_, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem, public_id
from paceline_gateway import paging, problems
from paceline_gateway.api.types import Domain, Instant, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Campaign, Mailbox, Pool

router = APIRouter(prefix="/v1/suspensions", tags=["suspensions"])

OPERATOR: Final = "operator"

Scope = Literal["mailbox", "domain", "pool", "campaign", "workspace"]
AnyScope = Literal["mailbox", "domain", "pool", "campaign", "workspace", "enrollment"]
SuspensionId = Annotated[int, *public_id("susp")]

_KINDS: Final[dict[str, ids.Kind]] = {
    "mailbox": "mbx", "pool": "pool", "campaign": "cmp", "workspace": "ws", "enrollment": "enr",
}  # fmt: skip


class SuspensionOut(BaseModel):
    """One open suspension; without `until` it stays until somebody closes it."""

    reason: str
    detail: str | None
    until: datetime | None
    opened_by: str
    opened_at: datetime


class SuspensionEntry(SuspensionOut):
    """A suspension, open or closed. `ref` is an id, or the domain (null if no mailbox has it)."""

    id: str
    scope: AnyScope
    ref: str | None
    closed_at: datetime | None


class SuspensionIn(BaseModel):
    """What to hold back, and why; the reason code is `operator`."""

    model_config = ConfigDict(extra="forbid")

    scope: Scope
    id: str | None = Field(default=None, description="Of the mailbox, pool or campaign.")
    domain: Domain | None = Field(default=None, description="Of the scope `domain`: a sending one.")
    reason: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)
    ] = Field(description="In your words, for those who look later; kept as `detail`.")
    until: Instant | None = Field(default=None, description="When it ends by itself.")

    @model_validator(mode="after")
    def _named(self) -> "SuspensionIn":
        needs = {"domain": "domain", "workspace": None}.get(self.scope, "id")
        for name in ("id", "domain"):
            given = getattr(self, name) is not None
            if given and name != needs:
                raise ValueError(f"the scope {self.scope} has no {name}")
            if not given and name == needs:
                raise ValueError(f"the scope {self.scope} needs {name}")
        return self


@router.get("", operation_id="listSuspensions", responses=answers(problems.CURSOR_INVALID))
async def list_suspensions(
    parts: PartsDep,
    caller: Reader,
    state: Annotated[Literal["open", "closed"] | None, Query()] = None,
    scope: Annotated[AnyScope | None, Query()] = None,
    reason: Annotated[str | None, Query(max_length=100)] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[SuspensionEntry]:
    """List suspensions of every reason, newest first. One whose `until` has passed is closed."""
    c = foreign.SUSPENSION.c
    statement = _select().order_by(c.suspension_id.desc()).limit(limit + 1)
    if cursor:
        statement = statement.where(c.suspension_id < paging.decode(cursor, 1)[0])
    if state is not None:
        statement = statement.where(_is_open() if state == "open" else ~_is_open())
    for column, value in ((c.scope, scope), (c.reason, reason)):
        if value is not None:
            statement = statement.where(column == value)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    return paging.page([_entry(row) for row in rows], limit, [(row.suspension_id,) for row in rows])


@router.post(
    "",
    operation_id="suspend",
    status_code=status.HTTP_201_CREATED,
    responses=answers(problems.NOT_FOUND),
)
async def suspend(body: SuspensionIn, parts: PartsDep, caller: Writer) -> SuspensionEntry:
    """Hold something back: once this has answered, no further submission of it starts.

    What an operator holds back already stays as it is, with the later end of the two.
    """
    if body.until is not None and body.until <= parts.clock.now():
        raise Problem(problems.REQUEST_INVALID, "until has passed: give a time that is to come")
    async with parts.db.transaction([caller.workspace_id]) as tx:
        ref = await _ref(tx, caller, body)
        suspension_id = await foreign.suspend(
            tx, caller.workspace_id, body.scope, ref, OPERATOR, caller.actor,
            until=body.until, detail=body.reason,
        )  # fmt: skip
        return _entry(await _one(tx, suspension_id))


@router.delete(
    "/{suspension_id}",
    operation_id="liftSuspension",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(problems.NOT_FOUND, problems.SUSPENSION_NOT_YOURS),
)
async def lift_suspension(suspension_id: SuspensionId, parts: PartsDep, caller: Writer) -> None:
    """Lift what an operator suspended; whatever else holds it back still does. May be repeated."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await _one(tx, suspension_id)
        if held.reason != OPERATOR:
            raise Problem(
                problems.SUSPENSION_NOT_YOURS,
                f"it was opened by {held.opened_by} for {held.reason}",
                reason=held.reason,
            )
        if held.closed_at is None:
            await foreign.resume(
                tx, caller.workspace_id, held.scope, held.ref, OPERATOR, caller.actor
            )


async def open_suspensions(
    tx: AsyncConnection, scope: str, refs: Sequence[int]
) -> dict[int, list[SuspensionOut]]:
    """Return what holds each of `refs` back now, oldest first."""
    c = foreign.SUSPENSION.c
    found: dict[int, list[SuspensionOut]] = {}
    for row in await tx.execute(
        select(c.ref, c.reason, c.detail, c.until, c.opened_by, c.opened_at)
        .where(c.scope == scope, c.ref.in_(refs), _is_open())
        .order_by(c.suspension_id)
    ):
        found.setdefault(row.ref, []).append(
            SuspensionOut(
                reason=row.reason, detail=row.detail, until=row.until, opened_by=row.opened_by,
                opened_at=row.opened_at,
            )
        )  # fmt: skip
    return found


def _is_open() -> ColumnElement[bool]:
    # Its row is closed a moment after it has run out.
    c = foreign.SUSPENSION.c
    return c.closed_at.is_(None) & or_(c.until.is_(None), c.until > func.clock_timestamp())


def _hash(domain: Any) -> ColumnElement[int]:
    """A domain's number in the scheduler's gates."""
    return func.hashtextextended(domain, 0)


def _select() -> Select[Any]:
    c = foreign.SUSPENSION.c
    domain = (
        select(Mailbox.domain)
        .where(
            c.scope == "domain",
            Mailbox.workspace_id == c.workspace_id,
            _hash(Mailbox.domain) == c.ref,
        )
        .limit(1)
        .scalar_subquery()
    )
    return select(foreign.SUSPENSION, domain.label("domain"), _is_open().label("is_open"))


async def _one(tx: AsyncConnection, suspension_id: int) -> Row[Any]:
    found: Row[Any] | None = (
        await tx.execute(_select().where(foreign.SUSPENSION.c.suspension_id == suspension_id))
    ).one_or_none()
    if found is None:
        raise Problem(problems.NOT_FOUND, "there is no such suspension in this workspace")
    return found


async def _ref(tx: AsyncConnection, caller: Caller, body: SuspensionIn) -> int:
    """Return the number of what shall be suspended; raise `not_found` for what is not here."""
    match body.scope:
        case "workspace":
            return caller.workspace_id
        case "domain":
            found = select(_hash(literal(body.domain))).where(
                select(Mailbox.mailbox_id)
                .where(Mailbox.workspace_id == caller.workspace_id, Mailbox.domain == body.domain)
                .exists()
            )
            missing = f"no mailbox of this workspace sends from {body.domain}"
        case _:
            workspace, key = {
                "mailbox": (Mailbox.workspace_id, Mailbox.mailbox_id),
                "pool": (Pool.workspace_id, Pool.pool_id),
                "campaign": (Campaign.workspace_id, Campaign.campaign_id),
            }[body.scope]
            try:
                number = ids.decode(_KINDS[body.scope], body.id or "")
            except ids.InvalidIdError as error:
                raise Problem(problems.NOT_FOUND, str(error)) from None
            found = select(key).where(workspace == caller.workspace_id, key == number)
            missing = f"there is no such {body.scope} in this workspace"
    ref: int | None = (await tx.execute(found)).scalar_one_or_none()
    if ref is None:
        raise Problem(problems.NOT_FOUND, missing)
    return ref


def _entry(row: Row[Any]) -> SuspensionEntry:
    ref = row.domain if row.scope == "domain" else ids.encode(_KINDS[row.scope], row.ref)
    return SuspensionEntry(
        id=ids.encode("susp", row.suspension_id),
        scope=row.scope,
        ref=ref,
        reason=row.reason,
        detail=row.detail,
        until=row.until,
        opened_by=row.opened_by,
        opened_at=row.opened_at,
        closed_at=row.closed_at if row.is_open or row.closed_at else row.until,
    )
