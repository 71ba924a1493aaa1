"""Pools: named sets of mailboxes that campaigns send from."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, status
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import paging, problems
from paceline_gateway.api.types import MailboxId, Name, PoolId, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.domain.routing import Rotation
from paceline_gateway.lifecycle import touch_campaigns_of_pools
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store.tables import CampaignTier, Mailbox, Pool, PoolMember

router = APIRouter(prefix="/v1/pools", tags=["pools"])


class MemberIn(BaseModel):
    """A mailbox of a pool. `weight` counts in the rotation `weighted`, `rank` in `priority`.

    Backups (`rank` 1 and up) serve while no mailbox of a better rank can.
    """

    model_config = ConfigDict(extra="forbid")

    mailbox_id: MailboxId
    weight: int = Field(default=1, ge=1, le=1000)
    rank: int = Field(default=0, ge=0, le=100)


def _each_once(members: list[MemberIn]) -> list[MemberIn]:
    if len({one.mailbox_id for one in members}) < len(members):
        raise ValueError("a mailbox is a member once: name it once")
    return members


Mailboxes = Annotated[list[MailboxId], Field(max_length=5000)]
Members = Annotated[list[MemberIn], Field(max_length=5000), AfterValidator(_each_once)]


class _Membership(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mailboxes: Mailboxes | None = Field(
        default=None, description="Members in order; those that were in keep weight and rank."
    )
    members: Members | None = Field(
        default=None, description="The same with weight and rank: send one of the two."
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> "_Membership":
        if self.mailboxes is not None and self.members is not None:
            raise ValueError("send mailboxes (ids) or members (with weight and rank), not both")
        return self


class PoolIn(_Membership):
    """A pool; its members in the order in which they take turns."""

    name: Name
    rotation: Rotation = "next_in_line"


class PoolPatch(_Membership):
    """What to change; `mailboxes`, or `members`, replaces the members as a whole."""

    name: Name | None = None
    rotation: Rotation | None = None


class MemberOut(BaseModel):
    """A mailbox of a pool."""

    mailbox_id: str
    weight: int
    rank: int


class PoolOut(BaseModel):
    """A pool and its members in order, twice: `mailboxes` are their ids alone.

    What they can send a day: `GET /v1/pools/{pool_id}/capacity`.
    """

    id: str
    name: str
    rotation: Rotation
    mailboxes: list[str]
    members: list[MemberOut]
    created_at: datetime


@router.get("", operation_id="listPools", responses=answers(problems.CURSOR_INVALID))
async def list_pools(
    parts: PartsDep, caller: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Page[PoolOut]:
    """List pools, oldest first."""
    after = paging.decode(cursor, 1)[0] if cursor else 0
    async with parts.db.transaction([caller.workspace_id]) as tx:
        numbers = (
            await tx.execute(
                select(Pool.pool_id)
                .where(Pool.workspace_id == caller.workspace_id, Pool.pool_id > after)
                .order_by(Pool.pool_id)
                .limit(limit + 1)
            )
        ).scalars()
        found = await _read(tx, caller, list(numbers))
    return paging.page(found, limit, [(ids.decode("pool", one.id),) for one in found])


@router.post(
    "",
    operation_id="createPool",
    status_code=status.HTTP_201_CREATED,
    responses=answers(problems.NAME_TAKEN, problems.NOT_FOUND),
)
async def create_pool(body: PoolIn, parts: PartsDep, caller: Writer) -> PoolOut:
    """Make a pool."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        try:
            pool_id = (
                await tx.execute(
                    insert(Pool)
                    .values(
                        workspace_id=caller.workspace_id, name=body.name, rotation=body.rotation
                    )
                    .returning(Pool.pool_id)
                )
            ).scalar_one()
        except IntegrityError as error:
            raise Problem(problems.NAME_TAKEN) from error
        await _set_members(tx, caller, pool_id, body)
        return (await _read(tx, caller, [pool_id]))[0]


@router.get("/{pool_id}", operation_id="getPool", responses=answers(problems.NOT_FOUND))
async def get_pool(pool_id: PoolId, parts: PartsDep, caller: Reader) -> PoolOut:
    """Return one pool."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        found = await _read(tx, caller, [pool_id])
    if not found:
        raise _missing()
    return found[0]


@router.patch(
    "/{pool_id}",
    operation_id="changePool",
    responses=answers(problems.NOT_FOUND, problems.NAME_TAKEN),
)
async def change_pool(pool_id: PoolId, body: PoolPatch, parts: PartsDep, caller: Writer) -> PoolOut:
    """Change a pool or replace its members; campaigns that use it take it up at once."""
    values = body.model_dump(exclude_none=True, include={"name", "rotation"})
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _lock(tx, caller, pool_id)
        if values:
            try:
                await tx.execute(
                    update(Pool)
                    .where(Pool.workspace_id == caller.workspace_id, Pool.pool_id == pool_id)
                    .values(values)
                )
            except IntegrityError as error:
                raise Problem(problems.NAME_TAKEN) from error
        replaced = await _set_members(tx, caller, pool_id, body)
        if replaced or body.rotation is not None:
            await touch_campaigns_of_pools(parts, tx, caller.workspace_id, [pool_id])
        return (await _read(tx, caller, [pool_id]))[0]


@router.delete(
    "/{pool_id}",
    operation_id="deletePool",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(problems.NOT_FOUND, problems.POOL_IN_USE),
)
async def delete_pool(pool_id: PoolId, parts: PartsDep, caller: Writer) -> None:
    """Delete a pool that no campaign uses; its mailboxes stay."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _lock(tx, caller, pool_id)
        users = (
            await tx.execute(
                select(CampaignTier.campaign_id)
                .where(
                    CampaignTier.workspace_id == caller.workspace_id,
                    CampaignTier.pool_id == pool_id,
                )
                .distinct()
                .order_by(CampaignTier.campaign_id)
            )
        ).scalars()
        if campaigns := [ids.encode("cmp", number) for number in users]:
            raise Problem(problems.POOL_IN_USE, campaigns=campaigns)
        for table in (PoolMember, Pool):
            await tx.execute(
                delete(table).where(
                    table.workspace_id == caller.workspace_id, table.pool_id == pool_id
                )
            )


async def _lock(tx: AsyncConnection, caller: Caller, pool_id: int) -> None:
    held = await tx.execute(
        select(Pool.pool_id)
        .where(Pool.workspace_id == caller.workspace_id, Pool.pool_id == pool_id)
        .with_for_update()
    )
    if held.one_or_none() is None:
        raise _missing()


async def _set_members(
    tx: AsyncConnection, caller: Caller, pool_id: int, given: _Membership
) -> bool:
    """Replace a pool's members by the given ones; tell whether any were given."""
    mine = (PoolMember.workspace_id == caller.workspace_id, PoolMember.pool_id == pool_id)
    if given.members is not None:
        wanted = {one.mailbox_id: (one.weight, one.rank) for one in given.members}
    elif given.mailboxes is not None:
        columns = (PoolMember.mailbox_id, PoolMember.weight, PoolMember.rank)
        held = {
            row.mailbox_id: (row.weight, row.rank)
            for row in await tx.execute(select(*columns).where(*mine))
        }
        wanted = {number: held.get(number, (1, 0)) for number in given.mailboxes}
    else:
        return False
    known = set(
        (
            await tx.execute(
                select(Mailbox.mailbox_id).where(
                    Mailbox.workspace_id == caller.workspace_id,
                    Mailbox.mailbox_id.in_(wanted),
                    Mailbox.deleted_at.is_(None),
                )
            )
        ).scalars()
    )
    if unknown := [ids.encode("mbx", number) for number in wanted if number not in known]:
        raise Problem(
            problems.NOT_FOUND,
            f"not connected in this workspace: {', '.join(unknown)}",
            mailboxes=unknown,
        )
    await tx.execute(delete(PoolMember).where(*mine))
    if wanted:
        await tx.execute(
            insert(PoolMember),
            [
                {
                    "workspace_id": caller.workspace_id,
                    "pool_id": pool_id,
                    "mailbox_id": number,
                    "position": position,
                    "weight": weight,
                    "rank": rank,
                }
                for position, (number, (weight, rank)) in enumerate(wanted.items(), 1)
            ],
        )
    return True


async def _read(tx: AsyncConnection, caller: Caller, pools: Sequence[int]) -> list[PoolOut]:
    members: dict[int, list[MemberOut]] = {}
    for row in await tx.execute(
        select(PoolMember.pool_id, PoolMember.mailbox_id, PoolMember.weight, PoolMember.rank)
        .where(PoolMember.workspace_id == caller.workspace_id, PoolMember.pool_id.in_(pools))
        .order_by(PoolMember.pool_id, PoolMember.position)
    ):
        mailbox = ids.encode("mbx", row.mailbox_id)
        members.setdefault(row.pool_id, []).append(
            MemberOut(mailbox_id=mailbox, weight=row.weight, rank=row.rank)
        )
    rows = await tx.execute(
        select(Pool.pool_id, Pool.name, Pool.rotation, Pool.created_at)
        .where(Pool.workspace_id == caller.workspace_id, Pool.pool_id.in_(pools))
        .order_by(Pool.pool_id)
    )
    return [
        PoolOut(
            id=ids.encode("pool", row.pool_id),
            name=row.name,
            rotation=row.rotation,
            mailboxes=[one.mailbox_id for one in members.get(row.pool_id, [])],
            members=members.get(row.pool_id, []),
            created_at=row.created_at,
        )
        for row in rows
    ]


async def require(tx: AsyncConnection, caller: Caller, pool_id: int) -> None:
    """Raise `not_found` unless the pool is one of this workspace."""
    if not await _read(tx, caller, [pool_id]):
        raise _missing()


def _missing() -> Exception:
    return Problem(problems.NOT_FOUND, "there is no such pool in this workspace")
