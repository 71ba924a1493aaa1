"""The workspace's own settings: its place and zone, and how hard leads may be pressed."""

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, or_, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import problems, trail
from paceline_gateway.api.types import Name, Timezone, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.domain.mailbox_policy import place_fault
from paceline_gateway.message_defaults import Header, Headers, header_rows, shown_headers
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.places import places
from paceline_gateway.store.tables import Mailbox, Workspace

router = APIRouter(prefix="/v1/workspace", tags=["workspace"])

MinDays = Annotated[int, Field(ge=0, le=3650)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Contact(BaseModel):
    """How hard one lead may be pressed.

    `parallel_campaigns`: a lead may be in several active campaigns at once.
    `min_days_between`: days between two campaigns' messages to one lead.
    `company_stop`: a reply ends the campaign for everyone at that lead's company.
    """

    parallel_campaigns: bool
    min_days_between: int
    company_stop: bool


class ContactPatch(_In):
    """What to change; what is left out stays."""

    parallel_campaigns: bool | None = None
    min_days_between: MinDays | None = None
    company_stop: bool | None = None


class WorkspacePatch(_In):
    """What to change; what is left out stays. A null country or region is none."""

    name: Name | None = None
    timezone: Timezone | None = None
    country: str | None = Field(default=None, description="ISO 3166, two letters: for holidays.")
    region: str | None = Field(default=None, description="A region of the country: for holidays.")
    contact: ContactPatch | None = None
    headers: Headers | None = Field(
        default=None, description="Headers of each message; a mailbox's of the same name win."
    )


class WorkspaceOut(BaseModel):
    """A workspace; zone, country and region are its mailboxes' unless they say otherwise."""

    id: str
    name: str
    timezone: str
    country: str | None
    region: str | None
    contact: Contact
    headers: list[Header]
    version: int
    created_at: datetime


@router.get("", operation_id="getWorkspace", responses=answers())
async def get_workspace(parts: PartsDep, caller: Reader) -> WorkspaceOut:
    """Return the key's workspace."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return _out(
            (
                await tx.execute(
                    select(Workspace.__table__).where(Workspace.workspace_id == caller.workspace_id)
                )
            ).one()
        )


@router.patch(
    "",
    operation_id="changeWorkspace",
    responses=answers(problems.PLACE_UNKNOWN, problems.HEADER_REFUSED),
)
async def change_workspace(body: WorkspacePatch, parts: PartsDep, caller: Writer) -> WorkspaceOut:
    """Change the workspace; mailboxes that have no zone or country of their own follow."""
    values = body.model_dump(exclude_unset=True, include={"country", "region"})
    values |= body.model_dump(exclude_none=True, include={"name", "timezone"})
    if body.contact:
        values |= body.contact.model_dump(exclude_none=True)
    if body.headers is not None:
        values["headers"] = header_rows(body.headers, "headers")
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = (
            await tx.execute(
                select(Workspace.__table__)
                .where(Workspace.workspace_id == caller.workspace_id)
                .with_for_update(key_share=True)
            )
        ).one()
        changed = {name: value for name, value in values.items() if value != getattr(held, name)}
        _check_place({**held._mapping, **values} if {"country", "region"} & set(changed) else {})
        if not changed:
            return _out(held)
        found = await bump(parts, tx, caller, changed)
        await _touch_mailboxes(parts, tx, caller, changed)
        await trail.audit(
            parts, tx, caller, "workspace.changed", caller.workspace, fields=", ".join(changed)
        )
        return _out(found)


async def bump(
    parts: Parts, tx: AsyncConnection, caller: Caller, values: dict[str, Any]
) -> Row[Any]:
    """Give the workspace a new version, with `values`, and announce it; return its row.

    Whatever else of a workspace paces (shaping rules, budgets) changes through
    this first: it locks the row.
    """
    found: Row[Any] = (
        await tx.execute(
            update(Workspace)
            .where(Workspace.workspace_id == caller.workspace_id)
            .values({**values, "version": Workspace.version + 1})
            .returning(Workspace.__table__)
        )
    ).one()
    await trail.workspace_changed(parts, tx, caller.workspace_id, found.version)
    return found


_PLACE: Final = frozenset({"country", "region"})


async def _touch_mailboxes(
    parts: Parts, tx: AsyncConnection, caller: Caller, changed: dict[str, Any]
) -> None:
    """Give a new version to the mailboxes whose settings change with the workspace's."""
    follows = []
    if "timezone" in changed:
        follows.append(Mailbox.timezone.is_(None))
    if _PLACE & set(changed):
        follows += [Mailbox.policy[name].astext.is_(None) for name in sorted(_PLACE)]
    if not follows:
        return
    # In the order in which everybody locks several of them.
    held = (
        select(Mailbox.mailbox_id)
        .where(
            Mailbox.workspace_id == caller.workspace_id,
            Mailbox.deleted_at.is_(None),
            or_(*follows),
        )
        .order_by(Mailbox.mailbox_id)
        .with_for_update(key_share=True)
    )
    numbers = list((await tx.execute(held)).scalars())
    touched = (
        await tx.execute(
            update(Mailbox)
            .where(Mailbox.workspace_id == caller.workspace_id, Mailbox.mailbox_id.in_(numbers))
            .values(version=Mailbox.version + 1, updated_at=func.clock_timestamp())
            .returning(Mailbox.mailbox_id, Mailbox.version)
        )
    ).all()
    versions = {row.mailbox_id: row.version for row in sorted(touched)}
    await trail.mailboxes_changed(parts, tx, caller.workspace_id, versions)


def _check_place(wished: dict[str, Any]) -> None:
    country, region = wished.get("country"), wished.get("region")
    if country is None:
        fault = region and ("region", "needs its country: set country too, or region to null")
    else:
        fault = place_fault(country, region, places())
    if fault:
        where, why = fault
        raise Problem(problems.PLACE_UNKNOWN, f"{where}: {why}", where=where)


def _out(row: Row[Any]) -> WorkspaceOut:
    return WorkspaceOut(
        id=ids.encode("ws", row.workspace_id),
        name=row.name,
        timezone=row.timezone,
        country=row.country,
        region=row.region,
        contact=Contact(
            parallel_campaigns=row.parallel_campaigns,
            min_days_between=row.min_days_between,
            company_stop=row.company_stop,
        ),
        headers=shown_headers(row.headers),
        version=row.version,
        created_at=row.created_at,
    )
