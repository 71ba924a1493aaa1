"""The mailboxes that a message waits for, and what is before it, now or in the past."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Queries
from paceline_scheduler import policy
from paceline_scheduler.budgets import rules_of, state_of
from paceline_scheduler.domain.caps import ROLLING_HOURS, DayCount, HourCount, RollingCount
from paceline_scheduler.domain.eligibility import Stretch, admits, compile_stretch
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.outlook import standing
from paceline_scheduler.domain.progress import Job, Phase
from paceline_scheduler.domain.rules import TYPES, CampaignRules, State
from paceline_scheduler.domain.waiting import Candidate, Fleet, Group, Queue, Route

# Holds that end by themselves, as the mailboxes' rules name them.
_HOLDS: Final = (
    "outside_window", "holiday", "blackout", "window_never_opens", "day_ends", "hour_ends",
    "daily_cap", "daily_cap_zero", "ramp_cap", "probation_cap", "throttled_cap", "hourly_cap",
    "provider_ceiling", "domain_budget", "cadence",
)  # fmt: skip
_DAY_CAPS: Final = frozenset({"daily_cap", "ramp_cap", "probation_cap", "throttled_cap"})
# Mailboxes looked at closely, of those that open first.
_CLOSELY: Final = 12
# Closed ones whose holds are told for all, and mailboxes looked at in the past.
_NAMED: Final = 100
_SAMPLE: Final = 200
# Jobs counted one by one; beyond them, samples per stretch of numbers and rows per sample.
_NEAR: Final = 1_000
_POINTS: Final = 8
_ROWS: Final = 8
_FOLLOW_UPS: Final = 1_000
_NAMES: Final[Mapping[int, str]] = {bit: name for name, bit in TYPES.items()}
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Scene:
    """What was asked about, as of `at`; `is_past`: from stored inputs alone."""

    workspace: int
    row: Row[Any]
    at: datetime
    is_past: bool
    jobs: Sequence[Job]
    phase: Phase
    suspensions: Sequence[Row[Any]]
    route: Route

    @property
    def asked_at(self) -> datetime | None:
        return self.at if self.is_past else None


class Fleets:
    """Loads fleets. What may be many is not counted: it is sampled, or counted up to a bound."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    async def load(self, tx: AsyncConnection, scene: Scene, job: Job) -> Fleet:
        """Return the mailboxes that may send a waiting job, those that open first closely."""
        row, route = scene.row, scene.route
        asked: dict[str, Any] = {
            "workspace": scene.workspace,
            "pools": list(route.pools),
            "mailbox": job.mailbox_id if job.sticky else None,
            "type": row.type or sum(_NAMES),
            "type_name": _NAMES.get(row.type, ""),
            "min_health": row.min_health,
            "host": row.host if row.esp_match == "strict" and not job.sticky else 0,
            "most": _NAMED,
        }
        if scene.is_past:
            asked |= {"at": scene.at, "holds": list(_HOLDS), "sample": _SAMPLE}
            found = await tx.execute(self._queries["explain_past_mailboxes"], asked)
        else:
            found = await tx.execute(self._queries["explain_mailboxes"], asked)
        groups = found.all()
        serving = sum(one.members for one in groups if one.serves)
        picked = sorted(
            (
                (opens, mailbox, backup)
                for one in groups
                if one.serves
                for mailbox, opens, backup in zip(
                    one.mailboxes, one.opens, one.backups, strict=True
                )
            ),
            key=lambda one: (one[0] is None, one[0] or scene.at, one[1]),
        )[:_CLOSELY]
        backups = {mailbox for _, mailbox, backup in picked if backup}
        known = await self._candidates(tx, scene, [mailbox for _, mailbox, _ in picked], backups)
        told = [Group(one.state, one.members, one.opens_at) for one in groups if not one.serves]
        if not any(isinstance(one.found, Stretch) or one.found.until for one in known):
            told += _states(known, scene.at)
            return Fleet(known or await self._refusing(tx, scene, groups), told, 0)
        if len(known) == serving:
            told += _states(known, scene.at)
        else:
            for one in groups:
                if one.serves:
                    told += await self._named(tx, scene, one)
        queue = await self._queue(tx, scene, job, [one.mailbox_id for one in known], serving)
        return Fleet(known, told, serving, queue)

    async def _named(self, tx: AsyncConnection, scene: Scene, group: Row[Any]) -> list[Group]:
        """Return a group by the holds of its mailboxes, told of the first of them for all."""
        if group.state != "closed":
            return [Group(group.state, group.members, group.opens_at)]
        arguments = {"workspace": scene.workspace, "mailboxes": group.mailboxes}
        rows = (await tx.execute(self._queries["explain_holds"], arguments)).all()
        total = sum(one.members for one in rows)
        return [
            Group(
                one.state,
                round(group.members * one.members / total),
                group.opens_at,
                is_exact=total == group.members,
            )
            for one in rows
        ]

    async def _refusing(
        self, tx: AsyncConnection, scene: Scene, groups: Sequence[Row[Any]]
    ) -> list[Candidate]:
        """Return one mailbox of each state that never serves it, with the numbers."""
        row = scene.row
        asks = CampaignRules(row.type or sum(_NAMES), row.min_health)
        states = {one.mailboxes[0]: Hold(one.state, one.opens_at) for one in groups}
        found = []
        for one in await self._candidates(tx, scene, list(states), ()):
            hold = states[one.mailbox_id]
            for closer in (admits(one.rules, one.state, asks), one.found):
                if isinstance(closer, Hold) and closer.reason == hold.reason:
                    hold = closer
            found.append(Candidate(one.mailbox_id, one.rules, one.state, hold))
        return found

    async def _candidates(
        self,
        tx: AsyncConnection,
        scene: Scene,
        mailboxes: Sequence[int],
        backups: Collection[int],
    ) -> list[Candidate]:
        if not mailboxes:
            return []
        arguments: dict[str, Any] = {"workspace": scene.workspace, "mailboxes": list(mailboxes)}
        if scene.is_past:
            arguments["at"] = scene.at
            rows = (await tx.execute(self._queries["explain_past_budgets"], arguments)).all()
            return [_past(row, scene.at, row.mailbox_id in backups) for row in rows]
        rows = (await tx.execute(self._queries["load_budgets"], arguments)).all()
        found = []
        for row in rows:
            rules, state = rules_of(row), state_of(row)
            stretch = compile_stretch(rules, state, scene.at)
            busy = row.outstanding >= row.max_outstanding
            found.append(
                Candidate(row.mailbox_id, rules, state, stretch, busy, row.mailbox_id in backups)
            )
        return found

    async def _queue(
        self, tx: AsyncConnection, scene: Scene, job: Job, mailboxes: Sequence[int], serving: int
    ) -> Queue:
        due = max(job.due_at, scene.at)
        mine = {
            "workspace": scene.workspace, "mailboxes": list(mailboxes), "due": due,
            "most": _FOLLOW_UPS, "job": job.job_id if job.sticky else None,
        }  # fmt: skip
        if job.sticky:
            mine["due"] = job.due_at
        waiting = 0
        if not scene.is_past:
            waiting = (await tx.execute(self._queries["explain_follow_ups"], mine)).scalar_one()
        if job.sticky:
            return Queue(waiting, waiting < _FOLLOW_UPS, lane="the mailbox's follow-ups")
        row = (
            await tx.execute(
                self._queries["explain_queue"],
                {
                    "workspace": scene.workspace, "job": job.job_id,
                    "campaign": scene.row.campaign_id, "due": job.due_at, "at": scene.asked_at,
                    "near": _NEAR, "points": _POINTS, "rows": _ROWS,
                },
            )
        ).one()  # fmt: skip
        others: int = (
            await tx.execute(
                self._queries["explain_rivals"],
                {
                    "workspace": scene.workspace, "campaign": scene.row.campaign_id,
                    "pools": list(scene.route.pools),
                },
            )
        ).scalar_one()  # fmt: skip
        follow_ups = round(waiting * max(1.0, serving / len(mailboxes)))
        return Queue(row.before, row.is_exact, follow_ups, others)


def _states(known: Sequence[Candidate], at: datetime) -> list[Group]:
    """Return mailboxes by what holds them, `open` for none."""
    holds = (standing(one.found, at) for one in known)
    states = Counter("open" if hold is None else hold.reason for hold in holds)
    return [Group(state, count) for state, count in states.items()]


def _past(row: Row[Any], at: datetime, is_backup: bool) -> Candidate:
    """Return a mailbox as its decision in force at `at` and its slots until then tell."""
    noted = row.inputs
    rules = policy.read({**noted, "connected_at": datetime.fromisoformat(noted["connected_at"])})
    hours: dict[datetime, int] = Counter()
    for hour, used in zip(row.hours or (), row.used or (), strict=True):
        hours[hour] += used
    newest = max(hours, default=datetime(1970, 1, 1, tzinfo=UTC))
    state = State(
        next_at=None
        if row.last_at is None
        else row.last_at + rules.cadence.every + rules.cadence.jitter_min,
        day=DayCount(date.min if row.day is None else row.day, row.day_used or 0),
        hour=HourCount(newest, hours.get(newest, 0)),
        rolling=RollingCount(
            newest,
            tuple(hours.get(newest - timedelta(hours=n), 0) for n in range(ROLLING_HOURS)),
        ),
        health=noted["health"],
        stage=noted["stage"],
        throttled=noted["throttled"],
    )
    found: Stretch | Hold = compile_stretch(rules, state, at)
    if row.reason in _HOLDS and row.until is not None and row.until > at:
        # What was decided then holds, whatever could be made of the counts now.
        limit = noted.get("limit")
        used = (row.day_used or 0) if row.reason in _DAY_CAPS else limit
        found = Hold(row.reason, row.until, None if limit is None else used, limit)
    is_busy = row.last_at is not None and row.last_at > at
    return Candidate(row.mailbox_id, rules, state, found, is_busy, is_backup)
