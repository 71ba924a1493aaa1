"""Quarantined events of a tenant: what it may see, and the replay of a repaired lead."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Select, String, cast, literal, select, union_all
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, ids, topics
from paceline_common.db import Outgoing
from paceline_common.http import Problem
from paceline_gateway import enroll, problems
from paceline_gateway.store import foreign

# Whoever consumes lead-enrolled holds what can be replayed.
OWNER = "scheduler"


def every() -> Select[Any]:
    """Select the entries of all services as one list, with a `service` column."""
    found = union_all(
        *(
            select(cast(literal(service), String).label("service"), *view.c)
            for service, view in foreign.QUARANTINE.items()
        )
    ).subquery("quarantined")
    return select(found)


async def find(tx: AsyncConnection, service: str, quarantine_id: int) -> Row[Any]:
    """Return one entry; raise `not_found` otherwise."""
    view = foreign.QUARANTINE[service]
    row = (
        await tx.execute(
            select(cast(literal(service), String).label("service"), *view.c).where(
                view.c.quarantine_id == quarantine_id
            )
        )
    ).one_or_none()
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such quarantined event in this workspace")
    return row


def is_replayable(topic: str) -> bool:
    """Tell whether events of `topic` can be repaired and enrolled by their tenant."""
    return topic == topics.LEAD_ENROLLED.name or topic.startswith(
        topics.LEAD_ENROLLED_BY_PUBLISHER.name
    )


def repaired(workspace_id: int, held: Row[Any], lead: Mapping[str, Any] | None) -> Outgoing:
    """Return the event that replays an entry, with `lead` as its body or with its own.

    The same repair twice is the same event; repairs of one entry stay in order. Raises
    `quarantine_settled`, `quarantine_not_replayable` or `quarantine_body_invalid`.
    """
    if not is_replayable(held.topic):
        raise Problem(problems.QUARANTINE_NOT_REPLAYABLE)
    if held.settled_at is not None:
        raise Problem(problems.QUARANTINE_SETTLED)
    replay_of = ids.encode("qua", held.quarantine_id)
    try:
        members = msgspec.json.decode(bytes(held.body or b"")) if lead is None else dict(lead)
        if not isinstance(members, dict):
            raise msgspec.ValidationError("the body is not a JSON object")
        members |= {"workspace_id": ids.encode("ws", workspace_id), "replay_of": replay_of}
        body = msgspec.convert(members, events.LeadEnrolled)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(problems.QUARANTINE_BODY_INVALID, str(error)) from error
    if fault := enroll.address_fault(body.email):
        raise Problem(problems.QUARANTINE_BODY_INVALID, f"email: {fault}")
    digest = hashlib.sha256(msgspec.json.encode(body)).hexdigest()
    return Outgoing(
        topic=topics.LEAD_ENROLLED,
        key=replay_of,
        event_id=enroll.event_id(replay_of, digest),
        body=body,
    )
