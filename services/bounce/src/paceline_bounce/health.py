"""The health of mailboxes: counts what they sent and what came back, scores, tells, cools down.

`Health.record` runs in the transaction of what it counts, so that the numbers,
the event that tells them and the cooldown they ask for hold together.
`Health.run` recomputes what changes by time alone, as days leave the window.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final, Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_bounce.domain import cooldown, stage
from paceline_bounce.domain.cooldown import Cause, Cooldown, CooldownRules, Recent
from paceline_bounce.domain.score import ScoreRules, Volumes, score
from paceline_bounce.domain.stage import Numbers, StageRules, Standing
from paceline_common import events, failpoints, ids, telemetry, topics
from paceline_common.clock import Clock
from paceline_common.db import Database, Outbox, Outgoing, Queries
from paceline_common.events import BounceClass
from paceline_common.telemetry import Metrics

Volume = Literal["sent", "hard", "soft", "block", "limited", "other", "complaint"]
COOLDOWN: Final = "cooldown"
BATCH: Final = 500
_QUERIES: Final = Queries("paceline_bounce")
_log = telemetry.logger("health")


@dataclass(frozen=True, slots=True)
class Counted:
    """One thing that counts for its mailbox: a message accepted, bounced or complained of.

    `refused`: the bounce of a message that the provider never accepted.
    """

    workspace_id: int
    mailbox_id: int
    volume: Volume
    at: datetime
    refused: bool = False

    @property
    def is_refused_send(self) -> bool:
        """A refusal is a send, which no other event counts; one for sign-in or settings is none."""
        return self.refused and self.volume != "other"


@dataclass(frozen=True, slots=True)
class Hold:
    """A mailbox's gate, to be closed for one reason until an instant (aware, UTC)."""

    workspace_id: int
    mailbox_id: int
    reason: str
    until: datetime
    detail: str | None


@dataclass(frozen=True, slots=True)
class HealthRules:
    """The numbers of health."""

    score: ScoreRules = field(default_factory=ScoreRules)
    stages: StageRules = field(default_factory=StageRules)
    cooldown: CooldownRules = field(default_factory=CooldownRules)


@dataclass(frozen=True, slots=True)
class _Row:
    """A mailbox's row, locked; `attested` and `cools` as its settings say now."""

    workspace_id: int
    mailbox_id: int
    version: int
    score: int | None
    standing: Standing
    delivered: int
    cooldown: Cooldown | None
    recent: Recent
    attested: bool
    cools: bool


_Key = tuple[int, int]


def volume_of(bounce_class: BounceClass) -> Volume:
    """Return which volume a bounce of this class belongs to."""
    match bounce_class:
        case "hard" | "soft" | "block":
            return bounce_class
        case "limit":
            return "limited"
        case "auth" | "config":
            return "other"


class Health:
    """Keeps `mailbox_health` and `mailbox_day`."""

    def __init__(
        self, *, outbox: Outbox, clock: Clock, metrics: Metrics, rules: HealthRules
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._rules = rules

    async def record(
        self, tx: AsyncConnection, counted: Sequence[Counted], holds: Sequence[Hold] = ()
    ) -> None:
        """Count, score, tell and cool down; not idempotent, so call it with what is new only.

        `holds` are opened along with the cooldowns: gates are locked in the
        order of their ids, and before any address (the order of claims).
        """
        now = self._clock.now()
        by_mailbox: dict[_Key, list[Counted]] = defaultdict(list)
        for one in counted:
            by_mailbox[one.workspace_id, one.mailbox_id].append(one)
        rows = []
        started = list(holds)
        if counted:
            for locked in await _lock_all(tx, sorted(by_mailbox)):
                row, hold = self._count(
                    locked, by_mailbox[locked.workspace_id, locked.mailbox_id], now
                )
                rows.append(row)
                started += [hold] if hold is not None else []
            await tx.execute(
                _QUERIES["count_days"],
                {
                    "workspaces": [one.workspace_id for one in counted],
                    "mailboxes": [one.mailbox_id for one in counted],
                    "kinds": [one.volume for one in counted],
                    "instants": [one.at for one in counted],
                    "refused": [one.is_refused_send for one in counted],
                },
            )
            await self._measure(tx, rows, now)
        for hold in sorted(started, key=lambda h: (h.workspace_id, h.mailbox_id, h.reason)):
            await tx.execute(
                _QUERIES["suspend"],
                {
                    "workspace": hold.workspace_id,
                    "scope": "mailbox",
                    "ref": hold.mailbox_id,
                    "reason": hold.reason,
                    "until": hold.until,
                    "detail": hold.detail,
                },
            )
            failpoints.hit("bounce.before_hold_commit")

    async def review(self, tx: AsyncConnection, mailboxes: Iterable[_Key]) -> None:
        """Measure mailboxes anew, by their settings and the time; tell those that changed.

        Those that nothing is known of are left out.
        """
        rows = await _lock(tx, sorted(set(mailboxes)))
        if rows:
            await self._measure(tx, rows, self._clock.now())

    async def run(self, db: Database, every: timedelta) -> None:
        """Recompute what is due, again and again, until cancelled."""
        while True:
            while await self.recompute(db) == BATCH:
                pass
            await asyncio.sleep(every.total_seconds())

    async def recompute(self, db: Database) -> int:
        """Recompute one batch of the mailboxes whose window has moved; return how many."""
        arguments = {"now": self._clock.now(), "most": BATCH}
        async with db.transaction(worker=True) as tx:
            found = await tx.execute(_QUERIES["find_due_health"], arguments)
            due = [(one.workspace_id, one.mailbox_id) for one in found]
        if due:
            # Not as the worker: the settings are the gateway's, which shows them by workspace.
            async with db.transaction(sorted({workspace for workspace, _ in due})) as tx:
                await self.review(tx, due)
                failpoints.hit("bounce.before_health_commit")
            failpoints.hit("bounce.after_health_commit")
        return len(due)

    def _count(
        self, row: _Row, counted: Iterable[Counted], now: datetime
    ) -> tuple[_Row, Hold | None]:
        """Return the row with its own counters moved, and the hold if a cooldown starts."""
        rules = self._rules.cooldown
        recent, last, delivered = row.recent, row.cooldown, row.delivered
        causes: list[tuple[Cause, str]] = []
        for one in sorted(counted, key=lambda c: c.at):
            is_send = one.volume == "sent" or one.is_refused_send
            is_hard = one.volume == "hard"
            if one.volume == "complaint":
                causes = [("complaint", "a recipient complained")]
            elif not one.refused:
                delivered += 1 if is_send else -1
            if (is_send or is_hard) and cooldown.counts(
                recent, last, one.at, is_send=is_send, rules=rules
            ):
                recent = recent.count(one.at, sends=int(is_send), hard=int(is_hard), rules=rules)
        if not row.cools:
            causes = []
        elif (cause := cooldown.judge(recent, now, rules)) is not None:
            causes.append((cause, _sentence(cause, recent, now, rules)))
            # What started this cooldown starts no other.
            recent = Recent()
        hold = None
        for cause, detail in causes:
            last = cooldown.begin(cause, last, now, rules)
            hold = Hold(row.workspace_id, row.mailbox_id, COOLDOWN, last.until, detail)
            self._metrics.counter("paceline_bounce_cooldowns_total").labels(cause).inc()
        return replace(row, recent=recent, cooldown=last, delivered=max(0, delivered)), hold

    async def _measure(self, tx: AsyncConnection, rows: Sequence[_Row], now: datetime) -> None:
        """Compute score and stage of locked rows; write them, and tell those that changed."""
        rules = self._rules
        windows = await _windows(tx, rows, now, rules)
        measured: list[dict[str, Any]] = []
        told: list[Outgoing] = []
        for row in rows:
            window = windows.get((row.workspace_id, row.mailbox_id), _EMPTY)
            volumes = window.volumes
            overall = score(volumes, rules.score)
            numbers = Numbers(
                delivered=row.delivered,
                score=overall,
                bounce_rate=rules.score.prior.rate(volumes.hard, volumes.sends),
                complaint_rate=rules.score.complaint_prior.rate(volumes.complaints, volumes.sends),
                bounce_rate_month=rules.score.prior.rate(window.month_hard, window.month_sends),
                attested=row.attested,
            )
            standing = stage.measure(row.standing, numbers, now, rules.stages)
            changed = (overall, standing.stage) != (row.score, row.standing.stage)
            rest = standing.rests_until(rules.stages)
            moves = [window.moves_at, rest if rest is not None and rest > now else None]
            after = replace(row, version=row.version + changed, score=overall, standing=standing)
            measured.append(_written(after, min((m for m in moves if m), default=None)))
            if changed:
                told.append(_health_changed(after, now))
        await tx.execute(
            _QUERIES["update_health"],
            {"rows": msgspec.json.encode(measured).decode(), "now": now},
        )
        await self._outbox.add(tx, told)
        if told:
            _log.info("health changed", count=len(told))


@dataclass(frozen=True, slots=True)
class _Window:
    """What a mailbox sent lately; `moves_at`: when the first of its days leaves a window."""

    volumes: Volumes
    month_sends: int
    month_hard: int
    moves_at: datetime | None


_EMPTY: Final = _Window(Volumes(), 0, 0, None)


async def _lock_all(tx: AsyncConnection, keys: Sequence[_Key]) -> list[_Row]:
    """Lock the rows of mailboxes; those that have none get one."""
    rows = await _lock(tx, keys)
    if len(rows) < len(keys):
        await tx.execute(_QUERIES["insert_health"], _named(keys))
        rows = await _lock(tx, keys)
    return rows


async def _lock(tx: AsyncConnection, keys: Sequence[_Key]) -> list[_Row]:
    locked = (await tx.execute(_QUERIES["lock_health"], _named(keys))).all()
    # After the locks: who waited for them must not go by settings older than the row.
    settings = {
        (one.workspace_id, one.mailbox_id): (one.attested, one.cooldown)
        for one in await tx.execute(_QUERIES["load_settings"], _named(keys))
    }
    return [
        _row(one, *settings.get((one.workspace_id, one.mailbox_id), (one.attested, True)))
        for one in locked
    ]


def _named(keys: Sequence[_Key]) -> dict[str, list[int]]:
    return {"workspaces": [ws for ws, _ in keys], "mailboxes": [mailbox for _, mailbox in keys]}


async def _windows(
    tx: AsyncConnection, rows: Sequence[_Row], now: datetime, rules: HealthRules
) -> dict[_Key, _Window]:
    days, month_days = rules.score.window_days, rules.stages.month_days
    loaded = await tx.execute(
        _QUERIES["load_windows"],
        {
            "workspaces": [row.workspace_id for row in rows],
            "mailboxes": [row.mailbox_id for row in rows],
            "today": now.astimezone(UTC).date(),
            "days": days,
            "month_days": month_days,
        },
    )
    found = {}
    for one in loaded:
        leaving = [
            datetime.combine(oldest + timedelta(days=length), time(), UTC)
            for oldest, length in ((one.oldest, days), (one.month_oldest, month_days))
            if oldest is not None
        ]
        found[one.workspace_id, one.mailbox_id] = _Window(
            Volumes(sends=one.sends, hard=one.hard, blocked=one.blocked, complaints=one.complaints),
            one.month_sends,
            one.month_hard,
            min(leaving),
        )
    return found


def _sentence(cause: Cause, recent: Recent, now: datetime, rules: CooldownRules) -> str:
    if cause == "bounces":
        return f"{rules.bounces} hard bounces within the last {rules.sends} sends"
    sends, hard = recent.last_day(now)
    return f"{hard} of {sends} sends of 24 hours bounced hard"


def _row(one: Any, attested: bool, cools: bool) -> _Row:
    return _Row(
        one.workspace_id,
        one.mailbox_id,
        one.version,
        one.score,
        Standing(one.stage, one.fell_at, one.attested),
        one.delivered,
        (
            Cooldown(one.cooldown_since, one.cooldown_until, one.cooldown_level)
            if one.cooldown_since is not None
            else None
        ),
        Recent(
            sends=one.recent_sends,
            hard=tuple(one.recent_hard),
            newest=one.newest_hour,
            hour_sends=tuple(one.hour_sends),
            hour_hard=tuple(one.hour_hard),
        ),
        attested,
        cools,
    )


def _written(row: _Row, recompute_at: datetime | None) -> dict[str, Any]:
    return {
        "workspace_id": row.workspace_id,
        "mailbox_id": row.mailbox_id,
        "version": row.version,
        "score": row.score,
        "stage": row.standing.stage,
        "fell_at": row.standing.fell_at,
        "attested": row.standing.attested,
        "delivered": row.delivered,
        "cooldown_since": row.cooldown.since if row.cooldown else None,
        "cooldown_until": row.cooldown.until if row.cooldown else None,
        "cooldown_level": row.cooldown.level if row.cooldown else 0,
        "recent_sends": row.recent.sends,
        "recent_hard": row.recent.hard,
        "newest_hour": row.recent.newest,
        "hour_sends": row.recent.hour_sends,
        "hour_hard": row.recent.hour_hard,
        "recompute_at": recompute_at,
    }


def _health_changed(row: _Row, now: datetime) -> Outgoing:
    mailbox = ids.encode("mbx", row.mailbox_id)
    return Outgoing(
        topic=topics.MAILBOX_HEALTH_CHANGED,
        key=mailbox,
        subject=mailbox,
        body=events.MailboxHealthChanged(
            workspace_id=ids.encode("ws", row.workspace_id),
            mailbox_id=mailbox,
            version=row.version,
            score=row.score,
            stage=row.standing.stage,
            changed_at=now,
        ),
    )
