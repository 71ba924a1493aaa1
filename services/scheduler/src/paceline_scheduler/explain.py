"""Why an enrollment stands where it stands, now or at an instant of the past.

Now: from the rows that the next decision will rest on. In the past: from what
was stored until then alone, the slots, the suspensions and the decision ledger.
Nothing here counts a queue; what is many is sampled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.db import Database, Queries
from paceline_scheduler import happenings, policy
from paceline_scheduler.domain.hold import Hold
from paceline_scheduler.domain.progress import Job, Lease, current
from paceline_scheduler.domain.waiting import Answer, Eta, Route, answer, final, of_fleet, of_gone
from paceline_scheduler.fleets import Fleets, Scene
from paceline_scheduler.happenings import Happening

# Campaigns out of rotation by their status.
_OUT: Final[Mapping[str | None, str]] = {
    "draft": "campaign_not_started",
    "stopped": "campaign_stopped",
    "finished": "campaign_stopped",
    "archived": "campaign_stopped",
}
_SHAPED: Final = ("recipient_spacing", "recipient_daily_max", "min_days_between")


class NotRecordedError(Exception):
    """Nothing is stored about the instant asked for; `str` says why, as a sentence."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """`state` is the enrollment's at `at`; `history` is told up to it, the oldest first."""

    enrollment_id: int
    at: datetime
    state: str
    answer: Answer
    history: Sequence[Happening]


class Explainer:
    """Answers for enrollments. `retention` is how long the ledger keeps decisions."""

    def __init__(self, db: Database, queries: Queries, retention: timedelta) -> None:
        self._db = db
        self._queries = queries
        self._fleets = Fleets(queries)
        self._retention = retention

    async def explain(
        self, workspace_id: int, enrollment_id: int, at: datetime | None = None
    ) -> Explanation | None:
        """Explain an enrollment now or `at` (aware); None for one that does not exist.

        Raises `NotRecordedError` for an instant ahead, before the enrollment, or
        older than what is kept.
        """
        async with self._db.transaction([workspace_id]) as tx:
            arguments = {"workspace": workspace_id, "enrollment": enrollment_id}
            row = (await tx.execute(self._queries["explain_enrollment"], arguments)).one_or_none()
            if row is None:
                return None
            if at is not None:
                self._require_recorded(row, at)
            jobs = _jobs((await tx.execute(self._queries["explain_jobs"], arguments)).all())
            scene = await self._scene(tx, workspace_id, row, jobs, at)
            found = await self._answer(tx, scene)
            decisions = await self._decisions(tx, scene)
        over = row.finished_at is not None and row.finished_at <= scene.at
        state = row.state if over or (at is None and row.state != "active") else "active"
        history = happenings.told(row, jobs, scene.suspensions, decisions, scene.at)
        return Explanation(enrollment_id, scene.at, state, found, history)

    def _require_recorded(self, row: Row[Any], at: datetime) -> None:
        if at > row.db_now:
            raise NotRecordedError("`at` lies in the future; ask for a forecast instead.")
        if at < row.enrolled_at:
            raise NotRecordedError(
                f"The lead was enrolled at {row.enrolled_at.isoformat()}, after `at`."
            )
        if at < row.db_now - self._retention:
            raise NotRecordedError(f"Decisions are kept for {self._retention.days} days.")

    async def _scene(
        self,
        tx: AsyncConnection,
        workspace: int,
        row: Row[Any],
        jobs: Sequence[Job],
        asked: datetime | None,
    ) -> Scene:
        at = row.db_now if asked is None else asked
        phase = current(jobs, asked)
        tiers = row.tiers
        things = {
            ("workspace", workspace),
            ("campaign", row.campaign_id),
            ("enrollment", row.enrollment_id),
            *(("pool", int(pool)) for tier in tiers for pool in tier["pools"]),
        }
        for known in jobs:
            things |= {("mailbox", one.mailbox_id) for one in known.leases}
            if known.mailbox_id is not None:
                things.add(("mailbox", known.mailbox_id))
            if known.domain_ref is not None:
                things.add(("domain", known.domain_ref))
        listed = sorted(things)
        suspensions = await tx.execute(
            self._queries["explain_suspensions"],
            {
                "workspace": workspace,
                "scopes": [scope for scope, _ in listed],
                "refs": [ref for _, ref in listed],
                "since": row.enrolled_at,
                "at": at,
                "most": happenings.MOST,
            },
        )
        job = phase.job
        pools, next_tier_at = _reachable(tiers, at if job is None else job.due_at, at)
        if job is not None and job.sticky and job.pool_id is not None:
            pools, next_tier_at = [job.pool_id], None
        route = Route(row.campaign_id, pools, ZoneInfo(row.zone or "UTC"), next_tier_at)
        found = suspensions.all()
        return Scene(workspace, row, at, asked is not None, jobs, phase, found, route)

    async def _decisions(self, tx: AsyncConnection, scene: Scene) -> Sequence[Row[Any]]:
        mailboxes = {one.mailbox_id for job in scene.jobs for one in job.leases}
        mailboxes |= {job.mailbox_id for job in scene.jobs if job.mailbox_id is not None}
        things = [("campaign", scene.row.campaign_id)]
        things += [("mailbox", one) for one in sorted(mailboxes)]
        bound = await tx.execute(
            self._queries["explain_decisions"],
            {
                "workspace": scene.workspace,
                "jobs": [job.job_id for job in scene.jobs],
                "scopes": [scope for scope, _ in things],
                "refs": [ref for _, ref in things],
                "since": scene.row.enrolled_at,
                "at": scene.at,
                "most": happenings.MOST,
            },
        )
        return bound.all()

    async def _answer(self, tx: AsyncConnection, scene: Scene) -> Answer:
        row, at, phase, route = scene.row, scene.at, scene.phase, scene.route
        over = row.finished_at is not None and row.finished_at <= at
        if over or (not scene.is_past and row.state != "active"):
            return final(row.state, row.reason)
        job = phase.job
        if job is None or (scene.is_past and phase.name == "waiting" and at < job.due_at):
            held = await self._contact(tx, scene)
            if held is not None:
                return held
        if job is None:
            return answer(
                "no_steps", route, scope="campaign", ref=ids.encode("cmp", route.campaign_id)
            )
        match phase.name:
            case "sending" | "in_doubt" | "outcome_recorded":
                lease = phase.lease
                ref = None if lease is None else ids.encode("mbx", lease.mailbox_id)
                return answer(phase.name, route, scope="mailbox", ref=ref, zone=_zone(job, route))
        suspended = _suspended(scene, job) or _not_running(scene)
        if suspended is not None:
            return suspended
        if phase.name == "slot_reserved" and phase.lease is not None:
            lease = phase.lease
            return answer(
                "slot_reserved",
                route,
                scope="mailbox",
                ref=ids.encode("mbx", lease.mailbox_id),
                hold=Hold("slot_reserved", lease.slot_at, lease.numbers.get("day_used"),
                          lease.numbers.get("day_cap")),
                zone=_zone(job, route),
                eta=Eta(lease.slot_at, lease.not_after),
                now=at,
            )  # fmt: skip
        return await self._waiting(tx, scene, job)

    async def _contact(self, tx: AsyncConnection, scene: Scene) -> Answer | None:
        """Return the answer if another campaign has, or had, the lead."""
        row, job = scene.row, scene.phase.job
        if job is None and not row.contact_hold:
            return None
        other = (
            await tx.execute(
                self._queries["explain_contact"],
                {
                    "workspace": scene.workspace, "lead": row.lead_id,
                    "enrollment": row.enrollment_id, "campaign": row.campaign_id, "at": scene.at,
                },
            )
        ).one_or_none()  # fmt: skip
        if job is not None and (
            other is None or other.finished_at is None or other.finished_at > job.due_at
        ):
            return None
        ref = None if other is None else ids.encode("enr", other.enrollment_id)
        return answer("lead_in_other_campaign", scene.route, scope="enrollment", ref=ref)

    async def _waiting(self, tx: AsyncConnection, scene: Scene, job: Job) -> Answer:
        at, route = scene.at, scene.route
        fleet = await self._fleets.load(tx, scene, job)
        gone = {one.state for one in fleet.groups} & {"mailbox_inactive"}
        if job.sticky and gone and job.mailbox_id is not None:
            candidate = fleet.candidates[0] if fleet.candidates else None
            return of_gone(candidate, job.mailbox_id, route, _back_at(scene, job), at)
        due = scene.phase.due_at or job.due_at
        if due <= at:
            return of_fleet(fleet, route, due, at)
        ahead = of_fleet(fleet, route, due, at)
        eta = ahead.eta or Eta(due, None)
        scope, zone = "enrollment", route.zone
        hold = Hold("waiting_for_retry" if scene.phase.is_retry else "waiting_for_due", due)
        shaped = await self._shaped(tx, scene, job)
        if shaped is not None:
            hold = Hold(shaped.reason, due, shaped.used, shaped.limit)
            scope = "recipient"
            if scene.row.recipient_tz and shaped.reason != "min_days_between":
                zone = ZoneInfo(scene.row.recipient_tz)
        ref = ids.encode("enr", scene.row.enrollment_id) if scope == "enrollment" else None
        return answer(
            hold.reason, route, scope=scope, ref=ref, hold=hold, zone=zone, eta=eta, now=at
        )

    async def _shaped(self, tx: AsyncConnection, scene: Scene, job: Job) -> Hold | None:
        """Return what the recipient's side holds the job by, then or now."""
        row = scene.row
        if scene.is_past:
            for one in await self._decisions(tx, scene):
                if one.scope == "job" and one.ref == job.job_id and one.reason in _SHAPED:
                    numbers = one.inputs
                    return Hold(one.reason, one.until, numbers.get("used"), numbers.get("limit"))
            return None
        if job.reason not in _SHAPED:
            return None
        if job.reason == "recipient_daily_max":
            used = row.recipient_used if row.recipient_day is not None else 0
            return Hold(job.reason, None, used, row.recipient_cap)
        return Hold(job.reason, None)


def _jobs(rows: Sequence[Row[Any]]) -> list[Job]:
    found: dict[int, Job] = {}
    for row in rows:
        job = found.get(row.job_id)
        if job is None:
            job = found[row.job_id] = Job(
                job_id=row.job_id, step=row.step, state=row.state, reason=row.reason,
                due_at=row.due_at, updated_at=row.updated_at, fence=row.fence,
                is_deferred=row.first_deferred_at is not None, sticky=row.sticky,
                mailbox_id=row.mailbox_id, pool_id=row.pool_id, domain_ref=row.domain_ref,
                zone=row.tz, inactive_since=row.inactive_since,
            )  # fmt: skip
        if row.slot_fence is not None:
            numbers = {
                name: row._mapping[name]
                for name in ("day_used", "day_cap", "hour_used", "hour_cap", "rolling_used",
                             "ceiling")
                if row._mapping[name] is not None
            }  # fmt: skip
            job.leases.append(
                Lease(
                    row.slot_fence,
                    row.slot_mailbox,
                    row.slot_at,
                    row.not_after,
                    row.reserved_at,
                    row.returned_at,
                    numbers,
                )
            )
    return list(found.values())


def _reachable(
    tiers: Sequence[Mapping[str, Any]], due: datetime, at: datetime
) -> tuple[list[int], datetime | None]:
    """Return the pools of the tiers open to a job by now, and when the next tier opens to it."""
    pools: list[int] = []
    for tier in tiers:
        pools += [int(pool) for pool in tier["pools"] if int(pool) not in pools]
        if tier["after_s"] is None:
            break
        opens = due + timedelta(seconds=tier["after_s"])
        if opens > at:
            return pools, opens if tier is not tiers[-1] else None
    return pools, None


def _suspended(scene: Scene, job: Job) -> Answer | None:
    """Return the answer for the widest open suspension that holds the job."""
    at, route = scene.at, scene.route
    mine = ["workspace", "campaign"]
    refs: dict[str, int] = {"workspace": scene.workspace, "campaign": scene.row.campaign_id}
    if job.sticky or scene.phase.name == "slot_reserved":
        lease = scene.phase.lease
        box = job.mailbox_id if lease is None else lease.mailbox_id
        for scope, ref in (("pool", job.pool_id), ("mailbox", box), ("domain", job.domain_ref)):
            if ref is not None:
                mine.append(scope)
                refs[scope] = ref
    mine.append("enrollment")
    refs["enrollment"] = scene.row.enrollment_id
    held = [
        one
        for one in scene.suspensions
        if refs.get(one.scope) == one.ref
        and one.closed_at is None
        and (one.until is None or one.until > at)
    ]
    if not held:
        return None
    first = min(held, key=lambda one: (mine.index(one.scope), one.opened_at))
    alike = [one for one in held if one.scope == first.scope]
    until = None if any(one.until is None for one in alike) else max(one.until for one in alike)
    code = happenings.code_of(first)
    back_at = _back_at(scene, job) if first.scope in ("mailbox", "domain") else None
    ends = [one for one in (until, back_at) if one is not None]
    named = happenings.public(first.scope, first.ref)
    return answer(
        code,
        route,
        scope=first.scope,
        ref=named,
        hold=Hold(code, until),
        zone=_zone(job, route),
        eta=Eta(max(min(ends), at), None) if ends else None,
        now=at,
    )


def _not_running(scene: Scene) -> Answer | None:
    """Return the answer if the workspace or the campaign is out of rotation as a whole now."""
    row, route = scene.row, scene.route
    if scene.is_past:
        return None
    if not row.is_workspace_active:
        ref = ids.encode("ws", scene.workspace)
        return answer("workspace_suspended", route, scope="workspace", ref=ref)
    reason = _OUT.get(row.status)
    if reason is None:
        return None
    return answer(reason, route, scope="campaign", ref=ids.encode("cmp", route.campaign_id))


def _back_at(scene: Scene, job: Job) -> datetime | None:
    """Return when a follow-up may go from another mailbox, None for never."""
    row = scene.row
    if row.stickiness != "reassign" or row.reassign_after_s is None:
        return None
    mine = {("mailbox", job.mailbox_id), ("domain", job.domain_ref)}
    since = [
        one.opened_at
        for one in scene.suspensions
        if one.closed_at is None and (one.scope, one.ref) in mine
    ]
    if job.inactive_since is not None and not scene.is_past:
        since.append(job.inactive_since)
    return None if not since else min(since) + timedelta(seconds=row.reassign_after_s)


def _zone(job: Job, route: Route) -> ZoneInfo:
    return route.zone if job.zone is None else policy.zone(job.zone)
