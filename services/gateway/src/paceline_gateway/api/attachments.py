"""Attachments: files that steps send along, uploaded once and named by id."""

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, status
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.engine import Row

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import attachments, paging, problems
from paceline_gateway.api.forms import request_body, uploaded
from paceline_gateway.api.types import AttachmentId, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.store.tables import Attachment

router = APIRouter(prefix="/v1/attachments", tags=["attachments"])

_BODY: Final = request_body("application/octet-stream")


class AttachmentOut(BaseModel):
    """A file that steps may send along; `sha256` is that of its content, in hex.

    With a `content_id` it stands inline where the HTML shows `cid:<content_id>`.
    """

    id: str
    filename: str
    content_type: str
    size: int
    sha256: str
    content_id: str | None
    created_at: datetime


@router.post(
    "",
    operation_id="uploadAttachment",
    status_code=status.HTTP_201_CREATED,
    openapi_extra=_BODY,
    responses=answers(
        problems.ATTACHMENT_TOO_LARGE, problems.ATTACHMENT_REFUSED, problems.ATTACHMENTS_FULL,
        problems.STORAGE_UNAVAILABLE,
    ),
)  # fmt: skip
async def upload_attachment(
    request: Request,
    parts: PartsDep,
    caller: Writer,
    filename: Annotated[str | None, Query(min_length=1, max_length=200)] = None,
    content_id: Annotated[
        str | None, Query(max_length=120, description="For an image that the HTML shows inline.")
    ] = None,
) -> AttachmentOut:
    """Upload a file, as the body (with its type and `filename`) or as the part `file` of a form.

    It is sealed with the workspace's own key before it is stored.
    """
    limit = parts.settings.attachment_max_bytes
    async with uploaded(request, limit, attachments.too_large(limit)) as given:
        name = _name(filename or given.filename)
        kind = attachments.checked_type(name, given.content_type, content_id)
        number = await attachments.store(parts, caller, given.file, name, kind, content_id)
    return await _one(parts, caller, number)


@router.get("", operation_id="listAttachments", responses=answers(problems.CURSOR_INVALID))
async def list_attachments(
    parts: PartsDep, caller: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Page[AttachmentOut]:
    """List attachments, newest first."""
    statement = (
        select(Attachment.__table__)
        .where(Attachment.workspace_id == caller.workspace_id, Attachment.state == "stored")
        .order_by(Attachment.attachment_id.desc())
        .limit(limit + 1)
    )
    if cursor:
        statement = statement.where(Attachment.attachment_id < paging.decode(cursor, 1)[0])
    async with parts.db.transaction([caller.workspace_id]) as tx:
        rows = (await tx.execute(statement)).all()
    return paging.page([_out(row) for row in rows], limit, [(row.attachment_id,) for row in rows])


@router.get("/{attachment_id}", operation_id="getAttachment", responses=answers(problems.NOT_FOUND))
async def get_attachment(
    attachment_id: AttachmentId, parts: PartsDep, caller: Reader
) -> AttachmentOut:
    """Return one attachment; its content leaves in messages only."""
    return await _one(parts, caller, attachment_id)


@router.delete(
    "/{attachment_id}",
    operation_id="deleteAttachment",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(problems.NOT_FOUND, problems.ATTACHMENT_IN_USE),
)
async def delete_attachment(attachment_id: AttachmentId, parts: PartsDep, caller: Writer) -> None:
    """Remove an attachment for good; refused while a step sends it along."""
    await attachments.remove(parts, caller, attachment_id)


async def _one(parts: Parts, caller: Caller, number: int) -> AttachmentOut:
    async with parts.db.transaction([caller.workspace_id]) as tx:
        row = (
            await tx.execute(
                select(Attachment.__table__).where(
                    Attachment.workspace_id == caller.workspace_id,
                    Attachment.attachment_id == number,
                    Attachment.state == "stored",
                )
            )
        ).one_or_none()
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such attachment in this workspace")
    return _out(row)


def _out(row: Row[Any]) -> AttachmentOut:
    return AttachmentOut(
        id=ids.encode("att", row.attachment_id),
        filename=row.filename,
        content_type=row.content_type,
        size=row.size,
        sha256=bytes(row.digest).hex(),
        content_id=row.content_id,
        created_at=row.created_at,
    )


def _name(given: str | None) -> str:
    """Return a file's own name, without folders; raise `attachment_refused` where there is none."""
    name = (given or "").replace("\\", "/").rpartition("/")[2].strip()
    if not name or len(name) > 200 or not name.isprintable() or name in (".", ".."):
        raise Problem(problems.ATTACHMENT_REFUSED, "name the file: ?filename=offer.pdf")
    return name
