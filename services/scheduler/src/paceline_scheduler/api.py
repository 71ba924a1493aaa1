"""`/internal`: why an enrollment waits, when a mailbox sends next, what can be sent on a day."""

from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel

from paceline_common import ids
from paceline_common.http import Problem, ProblemType
from paceline_common.ids import Kind
from paceline_scheduler import schedule as schedules
from paceline_scheduler.domain.reason import REASONS, sentence
from paceline_scheduler.explain import Explainer, NotRecordedError
from paceline_scheduler.explain import Explanation as Explained
from paceline_scheduler.schedule import Schedules, Together

UNKNOWN_ENROLLMENT: Final = ProblemType(
    "unknown_enrollment",
    404,
    "There is no such enrollment",
    "Check the workspace and the enrollment id.",
)
UNKNOWN_MAILBOX: Final = ProblemType(
    "unknown_mailbox",
    404,
    "There is no such mailbox",
    "Check the workspace and the mailbox id; a new mailbox is known a moment after it is saved.",
)
UNKNOWN_POOL: Final = ProblemType(
    "unknown_pool", 404, "There is no such pool", "Check the workspace and the pool id."
)
UNKNOWN_CAMPAIGN: Final = ProblemType(
    "unknown_campaign", 404, "There is no such campaign", "Check the workspace and the campaign id."
)
AT_NOT_RECORDED: Final = ProblemType(
    "at_not_recorded",
    422,
    "Nothing is recorded about this instant",
    "Ask for an instant between the enrollment and now, within the retention of decisions.",
)
CAPACITY_OF_ONE: Final = ProblemType(
    "capacity_of_one",
    422,
    "Capacity is asked for either a pool or a campaign",
    "Give exactly one of `pool` and `campaign`.",
)


class Constraint(BaseModel):
    """What binds, with its numbers, until when, in the zone it is counted in."""

    scope: str
    ref: str | None
    reason: str
    used: int | None
    limit: int | None
    until: datetime | None
    zone: str | None


class Interval(BaseModel):
    """The earliest and the latest time expected; null where nobody can tell."""

    earliest: datetime | None
    latest: datetime | None


class ReleaseBy(BaseModel):
    """The smallest change that would release it: a stable `action`, and what to do."""

    action: str
    detail: str


class Happened(BaseModel):
    """One entry of the history, with the inputs it was decided by."""

    at: datetime
    what: str
    reason: str | None
    inputs: dict[str, Any]


class Explanation(BaseModel):
    """Why an enrollment stands where it stands, now or `at` an instant of the past."""

    enrollment_id: str
    at: datetime
    state: str
    reason: str
    message: str
    constraint: Constraint | None
    eta: Interval | None
    release: ReleaseBy | None
    history: list[Happened]


class Standing(BaseModel):
    """Whether a mailbox may send now (`open`), else why not and until when."""

    reason: str
    until: datetime | None
    message: str


class Limit(BaseModel):
    """What is used and left of a limit, and when it starts anew."""

    reason: str
    used: int
    limit: int
    left: int
    resets_at: datetime | None


class Capacity(BaseModel):
    """What a mailbox can send on the present local day, and what each rule alone would allow."""

    per_day: int | None
    bound_by: str | None
    parts: dict[str, int]


class Schedule(BaseModel):
    """When a mailbox sends next if enough is queued, and what is left of its limits."""

    mailbox_id: str
    timezone: str
    state: Standing
    next_slots: list[datetime]
    limits: list[Limit]
    effective_capacity: Capacity
    stage: int
    health: int | None


class MailboxCapacity(BaseModel):
    """What one mailbox adds, and what binds it."""

    mailbox_id: str
    per_day: int | None
    bound_by: str | None


class GroupCapacity(BaseModel):
    """What mailboxes can send today together; `per_day` null: nothing limits them."""

    per_day: int | None
    bound_by: str | None
    mailboxes: list[MailboxCapacity]


def router(explainer: Explainer, schedules: Schedules) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.get("/explain/{workspace_id}/{enrollment_id}")
    async def explain(
        workspace_id: str, enrollment_id: str, at: Annotated[AwareDatetime | None, Query()] = None
    ) -> Explanation:
        workspace = _number("ws", workspace_id, UNKNOWN_ENROLLMENT)
        enrollment = _number("enr", enrollment_id, UNKNOWN_ENROLLMENT)
        asked = None if at is None else at.astimezone(UTC)
        try:
            found = await explainer.explain(workspace, enrollment, asked)
        except NotRecordedError as error:
            raise Problem(AT_NOT_RECORDED, str(error)) from None
        if found is None:
            raise Problem(UNKNOWN_ENROLLMENT)
        return _explanation(enrollment_id, found)

    @routes.get("/schedule/{workspace_id}/{mailbox_id}")
    async def schedule(workspace_id: str, mailbox_id: str) -> Schedule:
        workspace = _number("ws", workspace_id, UNKNOWN_MAILBOX)
        mailbox = _number("mbx", mailbox_id, UNKNOWN_MAILBOX)
        found = await schedules.mailbox(workspace, mailbox)
        if found is None:
            raise Problem(UNKNOWN_MAILBOX)
        return _schedule(mailbox_id, found)

    @routes.get("/capacity/{workspace_id}")
    async def capacity(
        workspace_id: str, pool: str | None = None, campaign: str | None = None
    ) -> GroupCapacity:
        if (pool is None) == (campaign is None):
            raise Problem(CAPACITY_OF_ONE)
        unknown = UNKNOWN_CAMPAIGN if pool is None else UNKNOWN_POOL
        workspace = _number("ws", workspace_id, unknown)
        found: Together | None
        if pool is not None:
            found = await schedules.pool(workspace, _number("pool", pool, unknown))
        else:
            found = await schedules.campaign(workspace, _number("cmp", campaign or "", unknown))
        if found is None:
            raise Problem(unknown)
        return GroupCapacity(
            per_day=found.per_day,
            bound_by=found.bound_by,
            mailboxes=[
                MailboxCapacity(
                    mailbox_id=ids.encode("mbx", one.mailbox_id),
                    per_day=one.per_day,
                    bound_by=one.bound_by,
                )
                for one in found.shares
            ],
        )

    return routes


def _number(kind: Kind, public: str, unknown: ProblemType) -> int:
    try:
        return ids.decode(kind, public)
    except ids.InvalidIdError:
        raise Problem(unknown) from None


def _explanation(enrollment_id: str, found: Explained) -> Explanation:
    told = found.answer
    bound, eta = told.constraint, told.eta
    return Explanation(
        enrollment_id=enrollment_id,
        at=found.at,
        state=found.state,
        reason=told.reason,
        message=told.message,
        constraint=None
        if bound is None
        else Constraint(
            scope=bound.scope,
            ref=bound.ref,
            reason=bound.hold.reason,
            used=bound.hold.used,
            limit=bound.hold.limit,
            until=bound.hold.until,
            zone=bound.zone.key,
        ),
        eta=None if eta is None else Interval(earliest=eta.earliest, latest=eta.latest),
        release=None
        if told.action is None or told.detail is None
        else ReleaseBy(action=told.action, detail=told.detail),
        history=[
            Happened(at=one.at, what=one.what, reason=one.reason, inputs=dict(one.inputs))
            for one in found.history
        ],
    )


def _schedule(mailbox_id: str, found: schedules.Schedule) -> Schedule:
    hold = found.hold
    reason = "open" if hold is None else hold.reason
    message = REASONS[reason].meaning
    if hold is not None:
        message = f"{message.rstrip('.')}: {sentence(hold, found.zone, found.at)}."
    return Schedule(
        mailbox_id=mailbox_id,
        timezone=found.zone.key,
        state=Standing(reason=reason, until=hold and hold.until, message=message),
        next_slots=list(found.next_slots),
        limits=[
            Limit(
                reason=one.reason, used=one.used, limit=one.limit, left=one.left,
                resets_at=one.resets_at,
            )
            for one in found.limits
        ],
        effective_capacity=Capacity(
            per_day=found.capacity.per_day,
            bound_by=found.capacity.bound_by,
            parts=dict(found.capacity.parts),
        ),
        stage=found.stage,
        health=found.health,
    )  # fmt: skip
