"""Appending: each event becomes the next link of its chain, one writer per chain at a time."""

import json
from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_audit.checkpoint import Checkpointer
from paceline_audit.domain.record import Head, Record, digest
from paceline_common import topics
from paceline_common.db import Queries
from paceline_common.db.session import after_commit
from paceline_common.events import AuditRecorded
from paceline_common.kafka.subscribe import Delivery, Subscription

_QUERIES: Final = Queries("paceline_audit")


def audit_recorded(checkpointer: Checkpointer) -> Subscription[AuditRecorded]:
    """Append what the services recorded, in the order of arrival."""

    async def handle(tx: AsyncConnection, deliveries: Sequence[Delivery[AuditRecorded]]) -> None:
        await append(tx, deliveries)
        after_commit(tx, "checkpoint", lambda: checkpointer.appended(len(deliveries)))

    # As worker: the chain of the installation belongs to no workspace that one could name.
    return Subscription(topic=topics.AUDIT_RECORDED, handler=handle, worker=True)


async def append(tx: AsyncConnection, deliveries: Sequence[Delivery[AuditRecorded]]) -> None:
    """Append to the chains of the events' workspaces; not idempotent, the inbox is."""
    workspaces = sorted({one.workspace_id for one in deliveries})
    await tx.execute(_QUERIES["lock_chains"], {"workspaces": workspaces})
    # A statement of its own: its snapshot must be younger than the locks.
    found = await tx.execute(_QUERIES["load_heads"], {"workspaces": workspaces})
    heads = {row.workspace_id: Head(row.seq, bytes(row.digest)) for row in found}
    links: list[tuple[Record, bytes]] = []
    for delivery in deliveries:
        head = heads.get(delivery.workspace_id, Head())
        record = _record(delivery, head.seq + 1)
        link = digest(head.digest, record)
        links.append((record, link))
        heads[delivery.workspace_id] = Head(record.seq, link)
    await tx.execute(
        _QUERIES["insert_records"],
        {
            "workspaces": [record.workspace_id for record, _ in links],
            "seqs": [record.seq for record, _ in links],
            "event_ids": [record.event_id for record, _ in links],
            "sources": [record.source for record, _ in links],
            "instants": [record.at for record, _ in links],
            "actions": [record.action for record, _ in links],
            "actors": [record.actor for record, _ in links],
            "subjects": [record.subject for record, _ in links],
            "source_ips": [record.source_ip for record, _ in links],
            "befores": [record.before_digest for record, _ in links],
            "afters": [record.after_digest for record, _ in links],
            "details": [json.dumps(dict(record.detail)) for record, _ in links],
            "digests": [link for _, link in links],
        },
    )


def _record(delivery: Delivery[AuditRecorded], seq: int) -> Record:
    body = delivery.body
    return Record(
        workspace_id=delivery.workspace_id,
        seq=seq,
        event_id=delivery.event_id,
        source=delivery.source,
        at=body.at,
        action=body.action,
        actor=body.actor,
        subject=body.subject,
        source_ip=body.source_ip,
        before_digest=body.before_digest,
        after_digest=body.after_digest,
        detail=body.detail,
    )
