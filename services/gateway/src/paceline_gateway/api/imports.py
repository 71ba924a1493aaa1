"""CSV imports: upload, progress, and what became of each row."""

import json
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, status
from pydantic import BaseModel
from sqlalchemy import bindparam, func, select
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.db import Queries
from paceline_common.http import Problem
from paceline_gateway import imports, paging, problems
from paceline_gateway.api.forms import request_body, uploaded
from paceline_gateway.api.types import CampaignId, IdempotencyKey, ImportId, answers, public
from paceline_gateway.auth import Caller, Enroller, Reader
from paceline_gateway.imports import Upload
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import ImportError as ImportErrorRow
from paceline_gateway.store.tables import LeadImport

router = APIRouter(prefix="/v1", tags=["imports"])

_queries = Queries("paceline_gateway")

Outcome = Literal["enrolled", "duplicate", "suppressed", "refused", "pending", "error"]


class ImportCounts(BaseModel):
    """Where the rows of an import stand; they add up to `rows`."""

    rows: int
    errors: int
    enrolled: int
    duplicate: int
    suppressed: int
    refused: int
    pending: int


class ImportOut(BaseModel):
    """An import; one that stays `reading` was cut off: repeat it under its Idempotency-Key.

    `mapping` tells which field each column feeds (null: left out).
    """

    id: str
    campaign_id: str
    filename: str | None
    status: Literal["reading", "done"]
    encoding: str
    delimiter: str
    mapping: dict[str, str | None]
    counts: ImportCounts
    created_at: datetime
    finished_at: datetime | None


class RowError(BaseModel):
    """Why a row was not taken. `row` counts data rows from 1, `line` lines of the file."""

    row: int
    line: int
    column: str | None
    code: str
    message: str


class RowOut(BaseModel):
    """What became of one row. `reason` says why of everything but enrolled and pending."""

    row: int
    outcome: Outcome
    reason: str | None
    enrollment_id: str | None


_BODY: Final = request_body(
    "text/csv", mapping="As the query parameter.", encoding="As the query parameter."
)


@router.post(
    "/campaigns/{campaign_id}/imports",
    operation_id="importLeads",
    status_code=status.HTTP_201_CREATED,
    openapi_extra=_BODY,
    responses=answers(
        problems.NOT_FOUND, problems.CAMPAIGN_STATE, problems.IDEMPOTENCY_REUSED,
        *(kind for code, kind in problems.TABLE.items() if code.startswith("import_")),
    ),
)  # fmt: skip
async def import_leads(
    campaign_id: CampaignId,
    request: Request,
    parts: PartsDep,
    caller: Enroller,
    mapping: Annotated[
        str | None,
        Query(
            # Of what one character may take, percent-encoded, an HTTP server takes no more.
            max_length=4_000,
            description='JSON object, column → field: {"Work mail": "email", "Notes": null}. '
            "Columns left out are recognised by name, or become fields. A longer one goes into "
            "the form's part `mapping`.",
        ),
    ] = None,
    encoding: Annotated[
        str | None, Query(max_length=40, description="Detected if left out.")
    ] = None,
    filename: Annotated[str | None, Query(max_length=255)] = None,
    idempotency_key: IdempotencyKey = None,
) -> ImportOut:
    """Upload a CSV file of leads, as the body or as the part `file` of a form.

    Encoding and delimiter are detected. Good rows are enrolled, each bad one is
    listed with its reason; a file that cannot be read at all is refused whole.
    Answers when every row has been read.
    """
    limit = parts.settings.import_max_bytes
    async with uploaded(request, limit, imports.too_large(limit)) as given:
        upload = Upload(
            given.file,
            given.filename or filename,
            _mapping(given.texts.get("mapping") or mapping),
            given.texts.get("encoding") or encoding,
        )
        import_id = await imports.run(parts, caller, campaign_id, upload, idempotency_key)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return (await _read(tx, caller, [import_id]))[0]


@router.get("/imports", operation_id="listImports", responses=answers(problems.CURSOR_INVALID))
async def list_imports(
    parts: PartsDep,
    caller: Reader,
    campaign_id: Annotated[CampaignId | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[ImportOut]:
    """List imports, newest first."""
    statement = (
        select(LeadImport.import_id)
        .where(LeadImport.workspace_id == caller.workspace_id)
        .order_by(LeadImport.import_id.desc())
        .limit(limit + 1)
    )
    if cursor:
        statement = statement.where(LeadImport.import_id < paging.decode(cursor, 1)[0])
    if campaign_id is not None:
        statement = statement.where(LeadImport.campaign_id == campaign_id)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        found = await _read(tx, caller, list((await tx.execute(statement)).scalars()))
    return paging.page(found, limit, [(ids.decode("imp", one.id),) for one in found])


@router.get("/imports/{import_id}", operation_id="getImport", responses=answers(problems.NOT_FOUND))
async def get_import(import_id: ImportId, parts: PartsDep, caller: Reader) -> ImportOut:
    """Return an import; its counts change until no row is pending."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return await _one(tx, caller, import_id)


@router.get(
    "/imports/{import_id}/errors",
    operation_id="listImportErrors",
    responses=answers(problems.NOT_FOUND, problems.CURSOR_INVALID),
)
async def list_import_errors(
    import_id: ImportId, parts: PartsDep, caller: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Page[RowError]:
    """List the rows that were not taken, in the file's order."""
    after = paging.decode(cursor, 1)[0] if cursor else 0
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _one(tx, caller, import_id)
        rows = (
            await tx.execute(
                select(ImportErrorRow.__table__)
                .where(
                    ImportErrorRow.workspace_id == caller.workspace_id,
                    ImportErrorRow.import_id == import_id,
                    ImportErrorRow.row > after,
                )
                .order_by(ImportErrorRow.row)
                .limit(limit + 1)
            )
        ).all()
    found = [
        RowError(row=one.row, line=one.line, column=one.field, code=one.code, message=one.message)
        for one in rows
    ]
    return paging.page(found, limit, [(one.row,) for one in found])


@router.get(
    "/imports/{import_id}/rows",
    operation_id="listImportRows",
    responses=answers(problems.NOT_FOUND, problems.CURSOR_INVALID),
)
async def list_import_rows(
    import_id: ImportId,
    parts: PartsDep,
    caller: Reader,
    outcome: Annotated[Outcome | None, Query()] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[RowOut]:
    """List every row with what became of it, in the file's order."""
    after = paging.decode(cursor, 1)[0] if cursor else 0
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _one(tx, caller, import_id)
        rows = (
            await tx.execute(
                _queries["list_import_rows"].bindparams(bindparam("outcome", outcome)),
                {
                    "workspace": caller.workspace_id, "import": import_id, "after": after,
                    "limit": limit + 1,
                },
            )
        ).all()  # fmt: skip
    found = [
        RowOut(
            row=one.row, outcome=one.outcome, reason=one.reason,
            enrollment_id=public("enr", one.enrollment_id),
        )
        for one in rows
    ]  # fmt: skip
    return paging.page(found, limit, [(one.row,) for one in found])


def _mapping(text: str | None) -> dict[str, str | None]:
    if text is None:
        return {}
    try:
        mapping = json.loads(text)
    except ValueError as error:
        raise Problem(problems.IMPORT_MAPPING_INVALID, "the mapping is not JSON") from error
    if not isinstance(mapping, dict) or not all(
        target is None or isinstance(target, str) for target in mapping.values()
    ):
        raise Problem(problems.IMPORT_MAPPING_INVALID)
    return mapping


async def _one(tx: AsyncConnection, caller: Caller, import_id: int) -> ImportOut:
    found = await _read(tx, caller, [import_id])
    if not found:
        raise Problem(problems.NOT_FOUND, "there is no such import in this workspace")
    return found[0]


async def _read(tx: AsyncConnection, caller: Caller, numbers: list[int]) -> list[ImportOut]:
    c = foreign.RECEIPT.c
    outcomes: dict[int, dict[str, int]] = {}
    for row in await tx.execute(
        select(c.import_id, c.outcome, func.count().label("rows"))
        .where(c.import_id.in_(numbers))
        .group_by(c.import_id, c.outcome)
    ):
        outcomes.setdefault(row.import_id, {})[row.outcome] = row.rows
    rows = await tx.execute(
        select(LeadImport.__table__)
        .where(LeadImport.workspace_id == caller.workspace_id, LeadImport.import_id.in_(numbers))
        .order_by(LeadImport.import_id.desc())
    )
    return [_out(row, outcomes.get(row.import_id, {})) for row in rows]


def _out(row: Row[Any], outcomes: dict[str, int]) -> ImportOut:
    known = {
        name: outcomes.get(name, 0) for name in ("enrolled", "duplicate", "suppressed", "refused")
    }
    return ImportOut(
        id=ids.encode("imp", row.import_id),
        campaign_id=ids.encode("cmp", row.campaign_id),
        filename=row.filename,
        status=row.status,
        encoding=row.encoding,
        delimiter=row.delimiter,
        mapping=row.mapping,
        counts=ImportCounts(
            rows=row.row_count,
            errors=row.error_count,
            pending=max(0, row.row_count - row.error_count - sum(known.values())),
            **known,
        ),
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
