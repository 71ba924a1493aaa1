"""Pools: named sets of mailboxes that campaigns send from."""

from collections.abc import Sequence
from datetime import datetime

from fastapi import APIRouter, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import paging, problems
from paceline_gateway.api.types import MailboxId, Name, PoolId, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.lifecycle import touch_campaigns_of_pools
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store.tables import CampaignTier, Mailbox, Pool, PoolMember

router = APIRouter(prefix="/v1/pools", tags=["pools"])


class PoolIn(BaseModel):
    """A pool; `mailboxes` in the order in which they take turns."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    mailboxes: list[MailboxId] = Field(default_factory=list, max_length=1000)


class PoolPatch(BaseModel):
    """What to change; `mailboxes` replaces the members as a whole."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    mailboxes: list[MailboxId] | None = Field(default=None, max_length=1000)


class PoolOut(BaseModel):
    """A pool and its members in order."""

    id: str
    name: str
    mailboxes: list[str]
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
                    .values(workspace_id=caller.workspace_id, name=body.name)
                    .returning(Pool.pool_id)
                )
            ).scalar_one()
        except IntegrityError as error:
            raise Problem(problems.NAME_TAKEN) from error
        await _set_members(tx, caller, pool_id, body.mailboxes)
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
    """Rename a pool or replace its members; campaigns that use it take it up at once."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _lock(tx, caller, pool_id)
        if body.name is not None:
            try:
                await tx.execute(
                    update(Pool)
                    .where(Pool.workspace_id == caller.workspace_id, Pool.pool_id == pool_id)
                    .values(name=body.name)
                )
            except IntegrityError as error:
                raise Problem(problems.NAME_TAKEN) from error
        if body.mailboxes is not None:
            await _set_members(tx, caller, pool_id, body.mailboxes)
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
    tx: AsyncConnection, caller: Caller, pool_id: int, mailboxes: Sequence[int]
) -> None:
    wanted = list(dict.fromkeys(mailboxes))
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
    await tx.execute(
        delete(PoolMember).where(
            PoolMember.workspace_id == caller.workspace_id, PoolMember.pool_id == pool_id
        )
    )
    if wanted:
        await tx.execute(
            insert(PoolMember),
            [
                {
                    "workspace_id": caller.workspace_id,
                    "pool_id": pool_id,
                    "mailbox_id": number,
                    "position": position,
                }
                for position, number in enumerate(wanted, 1)
            ],
        )


async def _read(tx: AsyncConnection, caller: Caller, pools: Sequence[int]) -> list[PoolOut]:
    members: dict[int, list[str]] = {}
    for row in await tx.execute(
        select(PoolMember.pool_id, PoolMember.mailbox_id)
        .where(PoolMember.workspace_id == caller.workspace_id, PoolMember.pool_id.in_(pools))
        .order_by(PoolMember.pool_id, PoolMember.position)
    ):
        members.setdefault(row.pool_id, []).append(ids.encode("mbx", row.mailbox_id))
    rows = await tx.execute(
        select(Pool.pool_id, Pool.name, Pool.created_at)
        .where(Pool.workspace_id == caller.workspace_id, Pool.pool_id.in_(pools))
        .order_by(Pool.pool_id)
    )
    return [
        PoolOut(
            id=ids.encode("pool", row.pool_id),
            name=row.name,
            mailboxes=members.get(row.pool_id, []),
            created_at=row.created_at,
        )
        for row in rows
    ]


def _missing() -> Exception:
    return Problem(problems.NOT_FOUND, "there is no such pool in this workspace")
