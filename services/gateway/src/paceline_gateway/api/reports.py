"""Campaign reports: per state, per step, per mailbox."""

from collections import defaultdict
from datetime import datetime
from typing import Literal, get_args

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import func, select

from paceline_common import ids
from paceline_common.db import Queries
from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.api.enrollments import State
from paceline_gateway.api.types import CampaignId, answers
from paceline_gateway.auth import Reader
from paceline_gateway.domain.campaign import Status
from paceline_gateway.parts import PartsDep
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Campaign

router = APIRouter(prefix="/v1/campaigns", tags=["campaigns"])

_queries = Queries("paceline_gateway")


class WaitingOut(BaseModel):
    """How many active enrollments wait at a step, and for what."""

    step: int
    reason: str | None
    count: int


class StepReport(BaseModel):
    """One step: messages accepted, refused, failed before sending, unknown; tries put off."""

    step: int
    sent: int
    deferred: int
    rejected: int
    failed: int
    in_doubt: int


class VariantReport(BaseModel):
    """What became of the messages of one content of a step; `variant` null: the step's own.

    `opened` and `clicked` count messages, where the campaign tracks; opens are
    unreliable: clients load pixels ahead, or not at all.
    """

    step: int
    variant: str | None
    sent: int
    bounced: int
    replied: int
    clicked: int
    opened: int


class MailboxReport(BaseModel):
    """One mailbox's part in the campaign."""

    mailbox_id: str
    sent: int
    deferred: int
    rejected: int
    failed: int
    in_doubt: int
    bounced: int
    replied: int
    last_sent_at: datetime | None


class ReportOut(BaseModel):
    """A campaign in numbers. `states` add up to `enrollments`; `complete` if all are final.

    `opened` and `clicked` are null unless the campaign tracks them; `opens_reliable`
    is always false.
    """

    campaign_id: str
    status: Status
    enrollments: int
    complete: bool
    states: dict[State, int]
    waiting: list[WaitingOut]
    steps: list[StepReport]
    variants: list[VariantReport]
    mailboxes: list[MailboxReport]
    opened: int | None
    clicked: int | None
    opens_reliable: Literal[False] = False


_COUNTS = ("sent", "deferred", "rejected", "failed", "in_doubt")


@router.get(
    "/{campaign_id}/report", operation_id="reportCampaign", responses=answers(problems.NOT_FOUND)
)
async def report_campaign(campaign_id: CampaignId, parts: PartsDep, caller: Reader) -> ReportOut:
    """Report on a campaign as it stands."""
    c = foreign.ENROLLMENT.c
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = (
            await tx.execute(
                select(Campaign.status, Campaign.track_opens, Campaign.track_clicks).where(
                    Campaign.workspace_id == caller.workspace_id,
                    Campaign.campaign_id == campaign_id,
                )
            )
        ).one_or_none()
        if held is None:
            raise Problem(problems.NOT_FOUND, "there is no such campaign in this workspace")
        standing = (
            await tx.execute(
                select(c.state, c.reason, c.step, func.count().label("number"))
                .where(c.campaign_id == campaign_id)
                .group_by(c.state, c.reason, c.step)
                .order_by(c.step, c.reason)
            )
        ).all()
        one = {"campaign": campaign_id}
        sends = (await tx.execute(_queries["report_sends"], one)).all()
        variants = (await tx.execute(_queries["report_variants"], one)).all()
        came_back = {
            row.mailbox_id: row for row in await tx.execute(_queries["report_answers"], one)
        }
    states: dict[State, int] = dict.fromkeys(get_args(State), 0)
    steps: defaultdict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
    mailboxes: defaultdict[int, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_COUNTS, 0))
    last: dict[int, datetime] = {}
    for row in standing:
        states[row.state] += row.number
    for row in sends:
        for name in _COUNTS:
            steps[row.step][name] += getattr(row, name)
            mailboxes[row.mailbox_id][name] += getattr(row, name)
        if row.last_sent_at is not None:
            last[row.mailbox_id] = max(row.last_sent_at, last.get(row.mailbox_id, row.last_sent_at))
    return ReportOut(
        campaign_id=ids.encode("cmp", campaign_id),
        status=held.status,
        enrollments=sum(states.values()),
        complete=bool(standing) and not states["active"],
        states=states,
        waiting=[
            WaitingOut(step=row.step, reason=row.reason, count=row.number)
            for row in standing
            if row.state == "active"
        ],
        steps=[StepReport(step=step, **counts) for step, counts in sorted(steps.items())],
        variants=[VariantReport.model_validate(row, from_attributes=True) for row in variants],
        opened=sum(row.opened for row in variants) if held.track_opens else None,
        clicked=sum(row.clicked for row in variants) if held.track_clicks else None,
        mailboxes=[
            MailboxReport(
                mailbox_id=ids.encode("mbx", number),
                bounced=came_back[number].bounced if number in came_back else 0,
                replied=came_back[number].replied if number in came_back else 0,
                last_sent_at=last.get(number),
                **mailboxes[number],
            )
            for number in sorted({*mailboxes, *came_back})
        ],
    )
