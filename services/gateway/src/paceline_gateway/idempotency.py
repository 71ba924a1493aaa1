"""Idempotency-Keys: a repeat of a request is told from another request under the same key."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Final

from pydantic import BaseModel
from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.parts import Parts
from paceline_gateway.store.tables import IdempotencyKey

_TRIM: Final = 5_000
_TRIM_EVERY_S: Final = 3_600.0


def digest(body: BaseModel) -> bytes:
    """Return what tells one request from another."""
    return hashlib.sha256(body.model_dump_json().encode()).digest()


async def first_use(
    tx: AsyncConnection, workspace_id: int, scope: str, key: str, request: bytes
) -> bool:
    """Remember a request's digest under its key; return whether the key is new.

    Raises `idempotency_key_reused` for a key of another request.
    """
    fresh = await tx.execute(
        insert(IdempotencyKey)
        .values(workspace_id=workspace_id, scope=scope, key=key, digest=request)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    )
    if fresh.one_or_none() is not None:
        return True
    held = await tx.execute(
        select(IdempotencyKey.digest).where(
            IdempotencyKey.workspace_id == workspace_id,
            IdempotencyKey.scope == scope,
            IdempotencyKey.key == key,
        )
    )
    if bytes(held.scalar_one()) != request:
        raise Problem(problems.IDEMPOTENCY_REUSED)
    return False


async def trim(parts: Parts) -> int:
    """Forget keys past their retention, in batches; return how many."""
    before = parts.clock.now() - timedelta(days=parts.settings.idempotency_retention_days)
    row = tuple_(IdempotencyKey.workspace_id, IdempotencyKey.scope, IdempotencyKey.key)
    old = (
        select(IdempotencyKey.workspace_id, IdempotencyKey.scope, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < before)
        .limit(_TRIM)
        .with_for_update(skip_locked=True)
    )
    trimmed = 0
    while True:
        async with parts.db.transaction(worker=True) as tx:
            gone = (await tx.execute(delete(IdempotencyKey).where(row.in_(old)))).rowcount
        trimmed += gone
        if gone < _TRIM:
            return trimmed


async def trim_when_due(parts: Parts) -> None:
    """Trim once an hour, for the life of the process."""
    while True:
        await trim(parts)
        await asyncio.sleep(_TRIM_EVERY_S)
