"""Disconnecting a mailbox: nothing more is sent, its grants are revoked, its secrets destroyed."""

from typing import Any

from sqlalchemy import delete, func, literal, or_, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, ids
from paceline_gateway import connect, trail
from paceline_gateway.auth import Caller
from paceline_gateway.lifecycle import touch_campaigns_of_pools
from paceline_gateway.parts import Parts
from paceline_gateway.probe import Revoked
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Mailbox, PoolMember


async def disconnect(parts: Parts, caller: Caller, mailbox_id: int) -> None:
    """Disconnect a mailbox; one that is disconnected already stays as it is.

    First nothing more may be claimed from it, then its grants are revoked (best effort: a
    provider or a service that is away stops nobody from leaving), then its credentials go,
    its pools lose it and the scheduler settles its open jobs. Raises `not_found`.
    """
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await connect.lock(tx, caller, mailbox_id, deleted_too=True)
        if held.deleted_at is not None:
            return
        await _hold(tx, caller, mailbox_id)
    failpoints.hit("gateway.disconnect_held")
    revoked = await _revoke(parts, held)
    failpoints.hit("gateway.disconnect_revoked")
    now = parts.clock.now()
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await connect.lock(tx, caller, mailbox_id, deleted_too=True)
        if held.deleted_at is not None:
            return
        gone = {
            "is_active": False, "deleted_at": now, "send_credential": None,
            "read_credential": None,
        }  # fmt: skip
        version = await connect.change(tx, caller, mailbox_id, gone, now)
        await _hold(tx, caller, mailbox_id)
        pools = (
            await tx.execute(
                delete(PoolMember)
                .where(
                    PoolMember.workspace_id == caller.workspace_id,
                    PoolMember.mailbox_id == mailbox_id,
                )
                .returning(PoolMember.pool_id)
            )
        ).scalars()
        await touch_campaigns_of_pools(parts, tx, caller.workspace_id, list(pools))
        await trail.mailbox_changed(
            parts, tx, caller.workspace_id, mailbox_id, version, deleted=True
        )
        mailbox = ids.encode("mbx", mailbox_id)
        told = {leg: one.result for leg, one in revoked.items()}
        await trail.audit(parts, tx, caller, "mailbox.disconnected", mailbox, **told)


async def _hold(tx: AsyncConnection, caller: Caller, mailbox_id: int) -> None:
    await foreign.suspend(
        tx, caller.workspace_id, "mailbox", mailbox_id, connect.DEACTIVATED, caller.actor
    )


async def _revoke(parts: Parts, held: Row[Any]) -> dict[str, Revoked]:
    if held.send_oauth is None and held.read_oauth is None:
        return {}
    # Revoking one token ends the account's whole grant to that app, wherever it is used.
    if await _used_elsewhere(parts, held):
        kept = Revoked("kept", "another mailbox of this installation uses the same grant")
        return {"send": kept, "read": kept}
    return await parts.prober.revoke(held.workspace_id, held.mailbox_id)


async def _used_elsewhere(parts: Parts, held: Row[Any]) -> bool:
    """Tell whether another workspace's mailbox has a grant of this account to this app."""
    same = [
        func.jsonb_build_array(column["account"], column["client_id"])
        == func.jsonb_build_array(literal(one["account"]), literal(one["client_id"]))
        for one in (held.send_oauth, held.read_oauth)
        if one is not None and one["account"] is not None
        for column in (Mailbox.send_oauth, Mailbox.read_oauth)
    ]
    if not same:
        return False
    async with parts.db.transaction(worker=True) as tx:
        found = await tx.execute(
            select(literal(1))
            .where(
                Mailbox.deleted_at.is_(None),
                or_(
                    Mailbox.workspace_id != held.workspace_id,
                    Mailbox.mailbox_id != held.mailbox_id,
                ),
                or_(*same),
            )
            .limit(1)
        )
    return found.one_or_none() is not None
