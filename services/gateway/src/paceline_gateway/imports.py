"""CSV imports: from an uploaded file to `lead-enrolled` events and one error per bad row."""

import asyncio
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, ids
from paceline_common.http import Problem
from paceline_gateway import csv_file, enroll, problems, trail
from paceline_gateway.auth import Caller
from paceline_gateway.csv_file import CsvFile
from paceline_gateway.domain.csv_row import FileFault, Lead, RowFault, read_row
from paceline_gateway.parts import Parts
from paceline_gateway.store.tables import ImportError as ImportErrorRow
from paceline_gateway.store.tables import LeadImport


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was received, and how to read it."""

    file: IO[bytes]
    filename: str | None
    mapping: Mapping[str, str | None]
    encoding: str | None


def too_large(max_bytes: int) -> Problem:
    """Return the problem `import_too_large`."""
    return Problem(
        problems.IMPORT_TOO_LARGE, f"at most {max_bytes:,} bytes are taken", max_bytes=max_bytes
    )


async def run(
    parts: Parts, caller: Caller, campaign_id: int, upload: Upload, idempotency_key: str | None
) -> int:
    """Import a file into a campaign and return the import's id.

    Raises the problem of a file that cannot be read as a whole; nothing of it
    was taken then. Rows are published in batches. A repeat under the same
    `idempotency_key` continues an import that was cut off: the events of its
    rows keep their ids, so that no lead is enrolled twice.
    """
    hasher = await parts.hasher()
    try:
        shape = await asyncio.to_thread(
            csv_file.inspect, upload.file, upload.mapping, upload.encoding
        )
    except FileFault as fault:
        raise Problem(problems.TABLE[fault.code], str(fault)) from None
    digest = await asyncio.to_thread(_digest, upload.file)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await enroll.demand_open(tx, caller.workspace_id, campaign_id)
        import_id, done = await _open(
            tx, caller, campaign_id, upload, shape, digest, idempotency_key
        )
        if done:
            return import_id
        await trail.audit(
            parts, tx, caller, "leads.imported", ids.encode("imp", import_id),
            campaign=ids.encode("cmp", campaign_id),
        )  # fmt: skip
    batches = _batches(upload.file, shape, parts.settings.import_batch_rows)
    total, bad = 0, 0
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        total += len(batch)
        faults = [row for row in batch if isinstance(row.content, RowFault)]
        bad += len(faults)
        async with parts.db.transaction([caller.workspace_id]) as tx:
            await _add_errors(tx, caller, import_id, faults)
            await parts.outbox.add(
                tx,
                enroll.outgoing(
                    hasher,
                    caller.workspace_id,
                    campaign_id,
                    [
                        (enroll.event_id(caller.workspace, import_id, row.number), lead, row.number)
                        for row in batch
                        if isinstance(lead := row.content, Lead)
                    ],
                    import_id=import_id,
                ),
            )
            await _set(tx, caller, import_id, {"row_count": total, "error_count": bad})
            failpoints.hit("gateway.before_import_commit")
        failpoints.hit("gateway.after_import_commit")
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _set(tx, caller, import_id, {"status": "done", "finished_at": parts.clock.now()})
    return import_id


@dataclass(frozen=True, slots=True)
class _Read:
    number: int
    line: int
    content: Lead | RowFault


def _batches(file: IO[bytes], shape: CsvFile, size: int) -> Iterator[list[_Read]]:
    rows = csv_file.rows(file, shape)
    while batch := list(itertools.islice(rows, size)):
        yield [
            _Read(
                row.number,
                row.line,
                row.content
                if isinstance(row.content, RowFault)
                else read_row(shape.columns, row.content, enroll.address_fault),
            )
            for row in batch
        ]


def _digest(file: IO[bytes]) -> bytes:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1024 * 1024):
        digest.update(block)
    return digest.digest()


async def _open(
    tx: AsyncConnection,
    caller: Caller,
    campaign_id: int,
    upload: Upload,
    shape: CsvFile,
    digest: bytes,
    key: str | None,
) -> tuple[int, bool]:
    """Return the import's id, new or the one of `key`, and whether it is done already."""
    mapping = {
        header: target
        for header, target in zip(shape.columns.headers, shape.columns.targets, strict=True)
        if header
    }
    fresh = (
        await tx.execute(
            insert(LeadImport)
            .values(
                workspace_id=caller.workspace_id,
                campaign_id=campaign_id,
                idempotency_key=key,
                digest=digest,
                filename=upload.filename,
                encoding=shape.encoding,
                delimiter=shape.delimiter,
                mapping=mapping,
            )
            .on_conflict_do_nothing(
                index_elements=[LeadImport.workspace_id, LeadImport.idempotency_key]
            )
            .returning(LeadImport.import_id)
        )
    ).scalar_one_or_none()
    if fresh is not None:
        return fresh, False
    held = (
        await tx.execute(
            select(LeadImport.__table__)
            .where(
                LeadImport.workspace_id == caller.workspace_id, LeadImport.idempotency_key == key
            )
            .with_for_update()
        )
    ).one()
    same = (bytes(held.digest), held.campaign_id, held.mapping) == (digest, campaign_id, mapping)
    if not same:
        raise Problem(problems.IDEMPOTENCY_REUSED)
    return held.import_id, held.status == "done"


async def _add_errors(
    tx: AsyncConnection, caller: Caller, import_id: int, faults: list[_Read]
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "workspace_id": caller.workspace_id,
            "import_id": import_id,
            "row": row.number,
            "line": row.line,
            "field": row.content.column,
            "code": row.content.code,
            "message": row.content.message,
        }
        for row in faults
        if isinstance(row.content, RowFault)
    ]
    if rows:
        # A repeat of an upload, or two under one key at once, finds the same faults.
        await tx.execute(insert(ImportErrorRow).on_conflict_do_nothing(), rows)


async def _set(
    tx: AsyncConnection, caller: Caller, import_id: int, values: Mapping[str, Any]
) -> None:
    await tx.execute(
        update(LeadImport)
        .where(LeadImport.workspace_id == caller.workspace_id, LeadImport.import_id == import_id)
        .values(values)
    )
