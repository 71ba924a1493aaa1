"""What happened to an enrollment, in order: its rows, told as a list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row

from paceline_common import ids
from paceline_common.ids import Kind
from paceline_scheduler.domain.job import OPEN
from paceline_scheduler.domain.progress import Job

# The newest happenings are told, up to this many of a kind.
MOST: Final = 100

_KINDS: Final[Mapping[str, Kind]] = {
    "workspace": "ws", "campaign": "cmp", "pool": "pool", "mailbox": "mbx", "enrollment": "enr",
    "job": "job",
}  # fmt: skip
_CAMPAIGN: Final = ("not_started", "paused", "stopped")
_NAMED: Final = ("cooldown", "grant_revoked", "app_refused", "app_limited")


@dataclass(frozen=True, slots=True)
class Happening:
    """`what` happened `at`, for which `reason`, with the `inputs` it was decided by."""

    at: datetime
    what: str
    reason: str | None
    inputs: Mapping[str, Any]


def public(scope: str, ref: int) -> str | None:
    """Return the public id of a thing, None for a domain, which has only its hash."""
    kind = _KINDS.get(scope)
    return None if kind is None else ids.encode(kind, ref)


def code_of(suspension: Row[Any]) -> str:
    """Return the reason code of a row of `explain_suspensions.sql`."""
    scope, reason = suspension.scope, suspension.reason
    if scope == "campaign" and reason in _CAMPAIGN:
        return f"campaign_{reason}"
    if scope == "mailbox" and reason in _NAMED:
        return str(reason)
    if scope == "mailbox" and suspension.is_failure:
        return "node_failed"
    return f"{scope}_suspended"


def told(
    enrollment: Row[Any],
    jobs: Sequence[Job],
    suspensions: Sequence[Row[Any]],
    decisions: Sequence[Row[Any]],
    at: datetime,
) -> list[Happening]:
    """Return what happened up to `at`, the oldest first."""
    found = [Happening(enrollment.enrolled_at, "enrolled", None, {})]
    if enrollment.finished_at is not None:
        found.append(Happening(enrollment.finished_at, enrollment.state, enrollment.reason, {}))
    for job in jobs:
        found += _of_job(job)
    for one in suspensions:
        thing = {"scope": one.scope, "ref": public(one.scope, one.ref), "cause": one.reason}
        opened = {"by": one.opened_by, "until": one.until, "detail": one.detail}
        found.append(Happening(one.opened_at, "suspended", code_of(one), {**thing, **opened}))
        if one.closed_at is not None:
            closed = {**thing, "by": one.closed_by}
            found.append(Happening(one.closed_at, "resumed", code_of(one), closed))
    for one in decisions:
        inputs = {**one.inputs, "scope": one.scope, "ref": public(one.scope, one.ref)}
        if isinstance(inputs.get("mailbox"), int):
            inputs["mailbox"] = ids.encode("mbx", inputs["mailbox"])
        if one.until is not None:
            inputs["until"] = one.until
        if one.scope == "job":
            inputs |= {"times": one.times, "last_at": one.last_at}
        found.append(
            Happening(one.first_at, "open" if one.reason == "open" else "held", one.reason, inputs)
        )
    return sorted((one for one in found if one.at <= at), key=lambda one: one.at)


def _of_job(job: Job) -> list[Happening]:
    name = {"job": ids.encode("job", job.job_id), "step": job.step}
    found = []
    for lease in job.leases:
        slot = {
            **name,
            "mailbox": ids.encode("mbx", lease.mailbox_id),
            "slot_at": lease.slot_at,
            "not_after": lease.not_after,
            "zone": job.zone,
            **lease.numbers,
        }
        found.append(Happening(lease.reserved_at, "released", "slot_reserved", slot))
        if lease.returned_at is not None:
            found.append(Happening(lease.returned_at, "given_back", None, slot))
    if job.state not in OPEN or job.state == "in_doubt":
        found.append(Happening(job.updated_at, job.state, job.reason, name))
    return found
