"""How a campaign will go: the present, loaded from Postgres, run ahead by the simulator."""

import asyncio
import multiprocessing
import os
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.db import Database, Queries
from paceline_common.http import DEPENDENCY_AWAY, REQUEST_INVALID, Problem
from paceline_scheduler import policy
from paceline_scheduler.api import UNKNOWN_CAMPAIGN
from paceline_scheduler.budgets import state_of
from paceline_scheduler.domain.reason import REASONS
from paceline_scheduler.domain.rules import TYPES
from paceline_scheduler.simulator.outlook import Outlook, foretell, quantile
from paceline_scheduler.simulator.pacer import Campaign
from paceline_scheduler.simulator.snapshot import (
    CampaignNow,
    MailboxNow,
    Snapshot,
    Waiting,
    WhatIf,
    change,
)

_ALLOWED_S: Final = 5.0
_UNSTARTED: Final = ("draft", "scheduled")
EVERY: Final = "*"


class Change(BaseModel):
    """What to change for the forecast alone. `caps` maps a mailbox's id, or `*`, to settings of
    its policy; `leads`: as if so many more were enrolled now."""

    add_mailboxes: int = Field(default=0, ge=0, le=10_000)
    caps: dict[str, dict[str, Any]] = Field(default_factory=dict)
    leads: int = Field(default=0, ge=0, le=5_000_000)


class Question(BaseModel):
    """What is asked: at most `seeds` runs."""

    campaign_id: str
    seeds: int = Field(default=20, ge=1, le=100)
    what_if: Change = Field(default_factory=Change)


class Finish(BaseModel):
    """When it is done, in 10, 50 and 90 of 100 runs."""

    p10: datetime
    p50: datetime
    p90: datetime


class DayCount(BaseModel):
    """Messages of the campaign by one mailbox on one of its local days, the mean of all runs.

    Added mailboxes are called `new_1`, `new_2`, …
    """

    date: date
    mailbox_id: str
    count: float


class Forecast(BaseModel):
    """`finish` null where it never is done. `bottleneck` is a code of docs/reasons.md; `message`
    says both in a sentence, and what the figures leave out."""

    finish: Finish | None
    days: list[DayCount]
    bottleneck: str
    message: str
    seeds: int


async def load_snapshot(
    tx: AsyncConnection, queries: Queries, workspace_id: int, campaign_id: int
) -> tuple[Snapshot, datetime] | None:
    """Return the present of a workspace and when leads enrolled now would be due in a campaign;
    None where there is no such campaign."""
    arguments = {"workspace": workspace_id}
    campaigns = (
        await tx.execute(queries["load_forecast_campaigns"], {**arguments, "campaign": campaign_id})
    ).all()
    asked = next((one for one in campaigns if one.campaign_id == campaign_id), None)
    if asked is None:
        return None
    named = [one.campaign_id for one in campaigns if one.may_run]
    jobs = (
        await tx.execute(
            queries["load_forecast_jobs"],
            {
                **arguments,
                "campaigns": named,
                "matching": [one.campaign_id for one in campaigns if one.esp_match != "off"],
            },
        )
    ).all()
    budgets = (await tx.execute(queries["load_budgets"], {**arguments, "mailboxes": None})).all()
    pools = (await tx.execute(queries["load_pools"], {**arguments, "mailboxes": None})).all()
    now = budgets[0].db_now if budgets else datetime.now(UTC)
    waiting: dict[int, list[Waiting]] = defaultdict(list)
    for one in jobs:
        due = one.due_at or now
        waiting[one.campaign_id].append(
            Waiting(one.step, due, one.waiting, one.mailbox_id, one.host, one.is_sent)
        )
    members: dict[int, dict[int, tuple[int, int, int]]] = defaultdict(dict)
    for one in pools:
        members[one.mailbox_id][one.pool_id] = (one.position, one.weight, one.rank)
    snapshot = Snapshot(
        workspace_id,
        now,
        {one.pool_id: one.rotation for one in pools},
        [_mailbox(one, members[one.mailbox_id]) for one in budgets if one.is_active],
        [
            CampaignNow(
                Campaign(
                    one.campaign_id, TYPES[one.type], one.min_health, one.esp_match, one.tiers
                ),
                {
                    int(position): timedelta(seconds=float(delay))
                    for position, delay in (one.delays or {}).items()
                },
                waiting[one.campaign_id],
                one.start_at if one.status in _UNSTARTED else None,
            )
            for one in campaigns
        ],
    )
    return snapshot, max(now, asked.start_at or now)


def _mailbox(row: Row[Any], members: dict[int, tuple[int, int, int]]) -> MailboxNow:
    return MailboxNow(
        row.mailbox_id,
        {
            name: getattr(row, name)
            for name in ("policy", "timezone", "provider", "country", "region", "connected_at")
        },
        state_of(row),
        row.account_ref,
        members,
        row.host,
        row.domain_ref,
        row.throttled_until,
        _held_by(row),
        row.suspended_until,
    )


def _held_by(row: Row[Any]) -> str | None:
    if not row.is_suspended:
        return None
    reason = str(row.suspended_reason)
    return reason if reason in REASONS else f"{row.suspended_scope}_suspended"


def answer(
    snapshot: Snapshot, campaign_id: int, what_if: WhatIf, due_at: datetime, seeds: int
) -> Outlook:
    """Run a changed snapshot ahead (in a process of its own). Raises what `policy.read` raises."""
    changed = change(snapshot, campaign_id, what_if, due_at)
    return foretell(changed, campaign_id, seeds, _ALLOWED_S)


def router(db: Database, queries: Queries) -> APIRouter:
    """Return the route. Forecasts run one after the other, each in a process of low priority that
    ends with it: the pacing loop goes on undisturbed."""
    routes = APIRouter()
    one_at_a_time = asyncio.Lock()

    async def apart(*arguments: Any) -> Outlook:
        async with one_at_a_time:
            context = multiprocessing.get_context("spawn")
            process = ProcessPoolExecutor(1, context, initializer=_yield_to_others)
            try:
                return await asyncio.get_running_loop().run_in_executor(process, answer, *arguments)
            except BrokenProcessPool:
                raise Problem(DEPENDENCY_AWAY, "The forecast's process was killed") from None
            finally:
                process.shutdown(wait=False)

    @routes.post("/forecast/{workspace_id}")
    async def forecast(workspace_id: str, question: Question) -> Forecast:
        try:
            workspace = ids.decode("ws", workspace_id)
            campaign = ids.decode("cmp", question.campaign_id)
        except ids.InvalidIdError:
            raise Problem(UNKNOWN_CAMPAIGN) from None
        what_if = _what_if(question.what_if)
        async with db.transaction([workspace]) as tx:
            loaded = await load_snapshot(tx, queries, workspace, campaign)
        if loaded is None:
            raise Problem(UNKNOWN_CAMPAIGN)
        snapshot, due_at = loaded
        try:
            for one in change(snapshot, campaign, what_if, due_at).mailboxes:
                policy.read(one.settings)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # What-if settings come from outside; which of them is wrong shows only here.
            raise Problem(REQUEST_INVALID, f"`caps` holds no policy: {error}") from error
        outlook = await apart(snapshot, campaign, what_if, due_at, question.seeds)
        return told(outlook, question.seeds)

    return routes


def told(outlook: Outlook, asked: int) -> Forecast:
    """Return the answer that an outlook amounts to; `asked` is the number of seeds asked for."""
    finishes = outlook.finishes
    finish = None
    if finishes:
        finish = Finish(
            p10=quantile(finishes, 0.1), p50=quantile(finishes, 0.5), p90=quantile(finishes, 0.9)
        )
    return Forecast(
        finish=finish,
        days=[
            DayCount(date=day, mailbox_id=_name(mailbox), count=round(count, 2))
            for (day, mailbox), count in outlook.days.items()
        ],
        bottleneck=outlook.bottleneck,
        message=_message(outlook, finish, asked),
        seeds=outlook.seeds,
    )


def _message(outlook: Outlook, finish: Finish | None, asked: int) -> str:
    count = round(sum(outlook.days.values()))
    if not count and finish is not None:
        return "Nothing waits to be sent: ask with `leads` for how many it would be."
    cause = REASONS[outlook.bottleneck].meaning
    if finish is None:
        said = f"It sends {count} messages and never finishes as things stand. {cause}"
    else:
        said = f"{count} messages, done about {finish.p50:%Y-%m-%d %H:%M} UTC. Mostly: {cause}"
        if outlook.is_cut:
            said += (
                " Beyond the days listed it is drawn out by the capacity: there is much to send."
            )
    if outlook.seeds < asked:
        said += f" {outlook.seeds} runs instead of {asked}, for the time they take."
    return said + " As if nobody answered and nothing changed."


def _what_if(asked: Change) -> WhatIf:
    try:
        caps = {
            0 if name == EVERY else ids.decode("mbx", name): patch
            for name, patch in asked.caps.items()
        }
    except ids.InvalidIdError as error:
        raise Problem(REQUEST_INVALID, f"`caps` names no mailbox: {error}") from None
    return WhatIf(asked.add_mailboxes, caps, asked.leads)


def _name(mailbox_id: int) -> str:
    return f"new_{-mailbox_id}" if mailbox_id < 0 else ids.encode("mbx", mailbox_id)


def _yield_to_others() -> None:
    os.nice(10)
