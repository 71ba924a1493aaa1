"""Attachments: taken in, sealed and stored; removed when no step names them.

A row comes before its object and goes after it, so that a crash leaves no object
that nobody knows: the sweep removes what was begun and not finished.
"""

import asyncio
import hashlib
from datetime import timedelta
from typing import IO, Any, Final

from sqlalchemy import delete, func, insert, select, text, update

from paceline_common import failpoints, ids, telemetry
from paceline_common.http import Problem
from paceline_common.storage import StorageUnavailable
from paceline_gateway import problems, trail
from paceline_gateway.auth import Caller
from paceline_gateway.domain import content
from paceline_gateway.parts import Parts
from paceline_gateway.store.tables import Attachment, Campaign, Step, StepAttachment, Workspace

# Longer than an upload may take.
_ABANDONED_AFTER: Final = timedelta(hours=1)
_SWEEP_EVERY_S: Final = 600.0
_NEXT_ID: Final = text("SELECT nextval('gateway.attachment_attachment_id_seq')")

_log = telemetry.logger("attachments")


def unavailable() -> Problem:
    """Return the problem `storage_unavailable`."""
    return Problem(problems.STORAGE_UNAVAILABLE, headers={"Retry-After": "5"})


def too_large(max_bytes: int) -> Problem:
    """Return the problem `attachment_too_large`."""
    return Problem(
        problems.ATTACHMENT_TOO_LARGE, f"at most {max_bytes:,} bytes are taken", max_bytes=max_bytes
    )


def checked_type(filename: str, given: str | None, content_id: str | None) -> str:
    """Return the type a file is sent as; raise `attachment_refused` for what receivers refuse."""
    if content.is_blocked(filename):
        suffix = filename.rpartition(".")[2]
        raise _refused(f"Gmail and Outlook refuse messages with .{suffix} files")
    found = content.content_type(given, filename)
    if found is None:
        raise _refused("its type is none that can be sent along")
    if content_id is not None and not content.is_content_id(content_id):
        raise _refused("a content_id is letters, digits and . _ - @, as `cid:` names it")
    if content_id is not None and not found.startswith("image/"):
        raise _refused(f"only images stand inline; this is {found}")
    return found


async def store(
    parts: Parts,
    caller: Caller,
    file: IO[bytes],
    filename: str,
    content_type: str,
    content_id: str | None,
) -> int:
    """Seal and store an uploaded file; return its number.

    Raises `attachment_refused` for an empty one, `attachments_full`,
    `storage_unavailable`.
    """
    if not parts.files.are_set_up:
        raise unavailable()
    plain = file.read()
    if not plain:
        raise _refused("the file is empty")
    async with parts.db.transaction([caller.workspace_id]) as tx:
        # One upload after the other counts: together they keep to the limit.
        await tx.execute(
            select(Workspace.workspace_id)
            .where(Workspace.workspace_id == caller.workspace_id)
            .with_for_update(key_share=True)
        )
        used = int(
            (
                await tx.execute(
                    select(func.coalesce(func.sum(Attachment.size), 0)).where(
                        Attachment.workspace_id == caller.workspace_id
                    )
                )
            ).scalar_one()
        )
        limit = parts.settings.attachments_max_bytes
        if used + len(plain) > limit:
            raise Problem(
                problems.ATTACHMENTS_FULL,
                f"{used:,} of {limit:,} bytes are taken; this one has {len(plain):,}",
                max_bytes=limit,
                used_bytes=used,
            )
        number: int = (await tx.execute(_NEXT_ID)).scalar_one()
        key = parts.files.new_key(caller.workspace_id, number)
        await tx.execute(
            insert(Attachment).values(
                workspace_id=caller.workspace_id,
                attachment_id=number,
                filename=filename,
                content_type=content_type,
                size=len(plain),
                digest=hashlib.sha256(plain).digest(),
                content_id=content_id,
                storage_key=key,
            )
        )
    failpoints.hit("gateway.attachment_begun")
    try:
        await parts.files.put(caller.workspace_id, number, key, plain)
    except StorageUnavailable as error:
        _log.warning("attachment not stored", reason_code=str(error))
        await _forget(parts, caller.workspace_id, number)
        raise unavailable() from None
    failpoints.hit("gateway.attachment_put")
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await tx.execute(_state(caller.workspace_id, number, "stored"))
        await trail.audit(
            parts, tx, caller, "attachment.uploaded", ids.encode("att", number),
            size=str(len(plain)), type=content_type,
        )  # fmt: skip
    return number


async def remove(parts: Parts, caller: Caller, number: int) -> None:
    """Remove an attachment; raise `not_found`, or `attachment_in_use` with the steps that name it.

    From the commit on nobody can name it; its object goes now, or with the next sweep.
    """
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = (
            await tx.execute(
                select(Attachment.storage_key)
                .where(
                    Attachment.workspace_id == caller.workspace_id,
                    Attachment.attachment_id == number,
                    Attachment.state == "stored",
                )
                .with_for_update()
            )
        ).one_or_none()
        if held is None:
            raise Problem(problems.NOT_FOUND, "there is no such attachment in this workspace")
        used = (
            await tx.execute(
                select(Step.campaign_id, Step.position, Campaign.name)
                .join(
                    StepAttachment,
                    (StepAttachment.workspace_id == Step.workspace_id)
                    & (StepAttachment.step_id == Step.step_id),
                )
                .join(
                    Campaign,
                    (Campaign.workspace_id == Step.workspace_id)
                    & (Campaign.campaign_id == Step.campaign_id),
                )
                .where(
                    StepAttachment.workspace_id == caller.workspace_id,
                    StepAttachment.attachment_id == number,
                )
                .order_by(Step.campaign_id, Step.position)
            )
        ).all()
        if used:
            raise Problem(
                problems.ATTACHMENT_IN_USE,
                ", ".join(f"step {row.position} of {row.name}" for row in used[:10]),
                steps=[
                    {"campaign_id": ids.encode("cmp", row.campaign_id), "position": row.position}
                    for row in used
                ],
            )
        await tx.execute(_state(caller.workspace_id, number, "deleted"))
        await trail.audit(parts, tx, caller, "attachment.deleted", ids.encode("att", number))
    failpoints.hit("gateway.attachment_deleted")
    await _destroy(parts, caller.workspace_id, number, held.storage_key)


async def sweep(parts: Parts) -> int:
    """Remove what was deleted or never finished; return how many. Replicas may run it at once."""
    before = parts.clock.now() - _ABANDONED_AFTER
    async with parts.db.transaction(worker=True) as tx:
        left = (
            await tx.execute(
                select(Attachment.workspace_id, Attachment.attachment_id, Attachment.storage_key)
                .where(
                    (Attachment.state == "deleted")
                    | ((Attachment.state == "uploading") & (Attachment.created_at < before))
                )
                .limit(100)
            )
        ).all()
    gone = 0
    for row in left:
        gone += await _destroy(parts, row.workspace_id, row.attachment_id, row.storage_key)
    return gone


async def sweep_when_due(parts: Parts) -> None:
    """Sweep for the life of the process."""
    while True:
        if parts.files.are_set_up:
            await sweep(parts)
        await asyncio.sleep(_SWEEP_EVERY_S)


async def _destroy(parts: Parts, workspace_id: int, number: int, storage_key: str) -> bool:
    try:
        await parts.files.delete(storage_key)
    except StorageUnavailable as error:
        _log.warning("attachment left for the sweep", reason_code=str(error))
        return False
    await _forget(parts, workspace_id, number)
    return True


async def _forget(parts: Parts, workspace_id: int, number: int) -> None:
    async with parts.db.transaction([workspace_id]) as tx:
        await tx.execute(
            delete(Attachment).where(
                Attachment.workspace_id == workspace_id,
                Attachment.attachment_id == number,
                Attachment.state != "stored",
            )
        )


def _state(workspace_id: int, number: int, state: str) -> Any:
    return (
        update(Attachment)
        .where(Attachment.workspace_id == workspace_id, Attachment.attachment_id == number)
        .values(state=state)
    )


def _refused(why: str) -> Problem:
    return Problem(problems.ATTACHMENT_REFUSED, why)
