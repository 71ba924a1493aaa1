"""Verification: recompute every chain, and hold its signed heads against it.

Needs read access and the public keys only; the service is not asked. What it
cannot show: that records behind the last checkpoint, or a whole chain with its
checkpoints, were not removed. For that a checkpoint has to be kept elsewhere.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, Row, text

from paceline_audit.domain.record import Break, Chain, Record, statement
from paceline_common.keys import verify_signature

_BATCH: Final = 1000
_RECORDS: Final = text(
    "SELECT workspace_id, seq, event_id, source, at, action, actor, subject, source_ip,"
    " before_digest, after_digest, detail, digest FROM audit.v_audit_chain"
    " WHERE CAST(:workspace AS bigint) IS NULL OR workspace_id = :workspace"
    " ORDER BY workspace_id, seq"
)
_CHECKPOINTS: Final = text(
    "SELECT workspace_id, seq, digest, signed_at, signature FROM audit.v_checkpoint"
    " WHERE CAST(:workspace AS bigint) IS NULL OR workspace_id = :workspace"
    " ORDER BY workspace_id, seq"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one chain is worth: `signed_to` is the last record a valid signature covers."""

    workspace_id: int
    records: int
    signed_to: int
    broken: Break | None


def verify(
    connection: Connection, public_keys: Mapping[int, bytes], workspace_id: int | None = None
) -> Iterator[Verdict]:
    """Verify all chains, or one; rows are streamed, in the order of workspace and sequence."""
    arguments = {"workspace": workspace_id}
    signed: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(_CHECKPOINTS, arguments):
        signed[row.workspace_id].append(row)
    rows = connection.execution_options(yield_per=_BATCH).execute(_RECORDS, arguments)
    for number, chain_rows in groupby(rows, key=lambda row: int(row.workspace_id)):
        yield _verify_chain(number, chain_rows, signed.pop(number, []), public_keys)
    for number, checkpoints in sorted(signed.items()):
        yield _verify_chain(number, iter(()), checkpoints, public_keys)


def _verify_chain(
    workspace_id: int,
    rows: Iterator[Row[Any]],
    checkpoints: list[Row[Any]],
    public_keys: Mapping[int, bytes],
) -> Verdict:
    chain = Chain(workspace_id)
    pending = list(reversed(checkpoints))
    signed_to = 0
    for row in rows:
        broken = chain.follow(_record(row), bytes(row.digest))
        if broken is None and pending and pending[-1].seq == row.seq:
            broken = _checkpoint_break(pending.pop(), chain, public_keys)
            signed_to = row.seq if broken is None else signed_to
        if broken is not None:
            return Verdict(workspace_id, chain.head.seq, signed_to, broken)
    if pending:
        broken = Break(workspace_id, chain.head.seq + 1, "removed behind a checkpoint's back")
        return Verdict(workspace_id, chain.head.seq, signed_to, broken)
    return Verdict(workspace_id, chain.head.seq, signed_to, None)


def _checkpoint_break(
    checkpoint: Row[Any], chain: Chain, public_keys: Mapping[int, bytes]
) -> Break | None:
    head = bytes(checkpoint.digest)
    if head != chain.head.digest:
        return Break(chain.workspace_id, checkpoint.seq, "not what its checkpoint signed")
    said = statement(chain.workspace_id, checkpoint.seq, head, checkpoint.signed_at)
    if not verify_signature(said, checkpoint.signature, public_keys):
        return Break(chain.workspace_id, checkpoint.seq, "its checkpoint's signature is not valid")
    return None


def _record(row: Row[Any]) -> Record:
    return Record(
        workspace_id=row.workspace_id,
        seq=row.seq,
        event_id=row.event_id,
        source=row.source,
        at=row.at,
        action=row.action,
        actor=row.actor,
        subject=row.subject,
        source_ip=row.source_ip,
        before_digest=row.before_digest,
        after_digest=row.after_digest,
        detail=row.detail,
    )
