"""Looks for proof about submissions in doubt; never guesses.

*Sent* is proven by the message among the account's sent mail, or by an answer or a report that
only it can have caused. *Unsent* is proven by one thing alone: this process destroyed the
attempt's draft, after its lease and the provider's timeout. A draft that is merely seen, one that
is gone, and mail that is not found prove nothing: the doubt stays, for the next look or a person.

A look may die at any point. What it found is written as it goes; that a draft is about to be
destroyed is written before it is touched. After that a draft that is *gone* still proves nothing:
the attempt may have sent it before our own request came, and a person may send or delete a draft
by hand. What makes a lost answer harmless is that `disarm` says the same again: it leaves the draft
there, unsendable. What is left is deleted (`drafts.py`) once the proof is committed.
"""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, Protocol

import msgspec
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, failpoints, ids, telemetry, topics
from paceline_common.clock import Clock
from paceline_common.db.outbox import Outbox, Outgoing
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.telemetry import Metrics
from paceline_providers.base import Fence
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Destroyed, Found, Gone, NotSeen, Unavailable
from paceline_sender.domain import message
from paceline_sender.domain.doubt import next_look
from paceline_sender.sentmail import Away
from paceline_sender.settle import Doubt, Settler, Verdict, entry

# Clocks of providers differ from ours, and a draft is older than its claim.
_EARLIER: Final = timedelta(minutes=10)
# A look asks a handful of questions of at most a minute or two each.
_LEASE_S: Final = 900.0
_AT_ONCE: Final = 8
_ALARM_S: Final = 24 * 3600.0
_TRIM: Final = 5_000
_TRIM_EVERY_S: Final = 3_600.0
# What passes by itself is asked again soon; a revoked grant or a missing scope is not.
_PASSING: Final = frozenset({OutcomeClass.SOFT, OutcomeClass.LIMIT})

_SELF: Final = "sender"

log = telemetry.logger("sender.doubts")


class SentMail(Protocol):
    """Looks through an account's sent mail."""

    async def find(
        self, workspace_id: int, mailbox_id: int, recipient: str, job_token: str, since: datetime
    ) -> Found | NotSeen | Unavailable | Away:
        """See `proof.Prover.find_sent`."""
        ...


class Drafts(Protocol):
    """Makes drafts of mailboxes unsendable."""

    async def disarm(
        self, workspace_id: int, mailbox_id: int, fence: Fence
    ) -> Destroyed | Gone | Unavailable:
        """See `proof.Prover.disarm`."""
        ...


class Keys(Protocol):
    """Makes the MAC of a job's token."""

    async def mac(self, messages: Sequence[bytes]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what.

    `first_look`: after which a doubt is looked at first; later looks are multiples of it
    (`domain.doubt`). `destroy_after`: by kind, how long after `not_after` a send request may
    still be under way at that provider; kinds without an entry have no draft to destroy.
    `dead_after_s`: how long a silent process may still be looking. `kept`: how long a settled
    doubt can be looked up.
    """

    first_look: timedelta
    destroy_after: Mapping[str, timedelta]
    every_s: float
    dead_after_s: float
    kept: timedelta


@dataclass(frozen=True, slots=True)
class _Look:
    """One look under way, and what it has found so far."""

    row: Row[Any]
    known: Row[Any]
    found: list[dict[str, Any]]

    @property
    def doubt(self) -> Doubt:
        return Doubt(self.row.workspace_id, self.row.job_id, self.row.fence_no)


class Doubts:
    """Looks at the doubts that are due, measures their age, and says so when one grows old.

    Any number of processes may run it: a doubt is leased for a look, and `Settler` decides.
    """

    def __init__(
        self,
        db: Database,
        outbox: Outbox,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
        *,
        settler: Settler,
        sent_mail: SentMail,
        drafts: Drafts,
        keys: Keys,
        patience: Patience,
        instance_id: str,
    ) -> None:
        self._db = db
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._settler = settler
        self._sent_mail = sent_mail
        self._drafts = drafts
        self._keys = keys
        self._patience = patience
        self._instance_id = instance_id
        self._queries = Queries("paceline_sender")

    async def run(self) -> None:
        """Look from time to time until cancelled."""
        while True:
            await asyncio.sleep(self._patience.every_s)
            await self.alarm()
            while await self.look() == _AT_ONCE:
                pass

    async def look(self) -> int:
        """Look at what is due, at most `_AT_ONCE` doubts; return at how many."""
        async with self._db.transaction(worker=True) as tx:
            result = await tx.execute(
                self._queries["take_doubts"],
                {
                    "first_s": self._patience.first_look.total_seconds(),
                    "instance": self._instance_id,
                    "lease_s": _LEASE_S,
                    "dead_after_s": self._patience.dead_after_s,
                    "most": _AT_ONCE,
                },
            )
            taken = result.all()
        if taken:
            failpoints.hit("sender.doubts_taken")
        await asyncio.gather(*(self._look(row) for row in taken))
        return len(taken)

    async def alarm(self) -> None:
        """Measure the open doubts; raise an issue again for those that have grown old."""
        async with self._db.transaction(worker=True) as tx:
            ages = (await tx.execute(self._queries["measure_doubts"])).one()
            old = (await tx.execute(self._queries["alarm_doubts"], {"after_s": _ALARM_S})).all()
            await self._outbox.add(tx, [self._issue(row) for row in old])
        gauge = self._metrics.gauge("paceline_in_doubt")
        for age in ("quarter", "hour", "day", "older"):
            gauge.labels(age).set(getattr(ages, age))
        self._metrics.gauge("paceline_in_doubt_oldest_seconds").set(ages.oldest_s)

    async def trim(self) -> int:
        """Delete doubts settled longer ago than they are kept, in batches; return how many."""
        trimmed = 0
        while True:
            async with self._db.transaction(worker=True) as tx:
                arguments = {"age": self._patience.kept, "most": _TRIM}
                result = await tx.execute(self._queries["trim_doubts"], arguments)
            trimmed += result.rowcount
            if result.rowcount < _TRIM:
                return trimmed

    async def trim_when_due(self) -> None:
        """Trim once an hour until cancelled."""
        while True:
            await self.trim()
            await asyncio.sleep(_TRIM_EVERY_S)

    def _issue(self, row: Row[Any]) -> Outgoing:
        workspace, job = ids.encode("ws", row.workspace_id), ids.encode("job", row.job_id)
        return Outgoing(
            topic=topics.ISSUE_RAISED,
            key=job,
            subject=job,
            body=events.IssueRaised(
                workspace_id=workspace,
                subject=job,
                code="send_in_doubt",
                severity="error",
                detail=f"In doubt since {row.since:%Y-%m-%d %H:%M} UTC and no proof was found: "
                "a person has to settle it.",
                raised_at=self._clock.now(),
            ),
        )

    # ---- one look

    async def _look(self, row: Row[Any]) -> None:
        try:
            async with self._db.transaction([row.workspace_id]) as tx:
                asked = {"workspace": row.workspace_id, "job": row.job_id}
                known = (await tx.execute(self._queries["load_doubt"], asked)).one()
            look = _Look(row, known, [])
            if known.job_state != "in_doubt" or known.job_fence != row.fence_no:
                await self._settler.close_moot(look.doubt)
                return
            await self._prove(look)
        except Exception as error:  # noqa: BLE001 - one look's bug must not stop the others
            tell = log.warning if classify(error) is Fault.DEPENDENCY else log.error
            tell("look given up", **self._about(row), **telemetry.describe_error(error))
            await self._release(row)

    async def _release(self, row: Row[Any]) -> None:
        """Let somebody look again soon; where that cannot be written, the lease runs out."""
        try:
            async with self._db.transaction([row.workspace_id]) as tx:
                await self._note_look(
                    tx, row, [], next_look_at=self._clock.now() + self._patience.first_look
                )
        except Exception as error:
            # What kept the look from its end may keep this from being written too.
            if classify(error) is not Fault.DEPENDENCY:
                raise

    async def _prove(self, look: _Look) -> None:
        known = look.known
        if known.inbound is not None or known.bounce is not None:
            source: Literal["inbound", "bounce"] = "inbound" if known.inbound else "bounce"
            why = f"what only this message can have caused arrived: {known.inbound or 'a report'}"
            verdict = Verdict("sent", "proven_sent", _SELF, why, source)
            await self._settler.settle(look.doubt, verdict)
            return
        sent = await self._find_sent(look)
        if isinstance(sent, Found):
            await self._settle_found(look, sent)
            return
        destroyed: Destroyed | Gone | Unavailable | None = None
        if (fence := self._destroyable(look)) is not None:
            destroyed = await self._destroy(look, fence)
            if isinstance(destroyed, Destroyed):
                await self._settle_unsent(look)
                return
            if isinstance(destroyed, Gone) and isinstance(sent, NotSeen):
                # It may have been sent between the two looks.
                sent = await self._find_sent(look)
                if isinstance(sent, Found):
                    await self._settle_found(look, sent)
                    return
        await self._postpone(look, sent, destroyed)

    async def _find_sent(self, look: _Look) -> Found | NotSeen | Unavailable | Away:
        row, known = look.row, look.known
        answer: Found | NotSeen | Unavailable | Away
        if known.email is None:
            answer = Unavailable(None, "the lead is gone: there is no recipient to look for")
        else:
            workspace, job = ids.encode("ws", row.workspace_id), ids.encode("job", row.job_id)
            [mac] = await self._keys.mac([message.job_mac_input(workspace, job)])
            answer = await self._sent_mail.find(
                row.workspace_id,
                row.mailbox_id,
                known.email,
                message.job_token(workspace, job, mac),
                row.claimed_at - _EARLIER,
            )
        match answer:
            case NotSeen():
                self._note(look, "sent_mail", "not_seen")
            case Unavailable():
                self._note(look, "sent_mail", "unavailable", answer.text)
            case Away():
                self._note(look, "sent_mail", "away", answer.text)
            case Found():
                pass
        return answer

    def _destroyable(self, look: _Look) -> Fence | None:
        """Return the draft, if the time has come when nobody can still be sending it."""
        at = self._destroy_from(look)
        if at is None or look.known.db_now < at:
            return None
        return msgspec.convert(look.row.draft, Fence)

    def _destroy_from(self, look: _Look) -> datetime | None:
        after = self._patience.destroy_after.get(look.row.provider)
        if look.row.draft is None or after is None:
            return None
        at: datetime = look.row.not_after + after
        return at

    async def _destroy(self, look: _Look, fence: Fence) -> Destroyed | Gone | Unavailable:
        row = look.row
        if row.destroying_since is None:
            self._note(look, "draft", "destroying")
        await self._write(look, destroying=True)
        failpoints.hit("sender.before_destroy")
        answer = await self._drafts.disarm(row.workspace_id, row.mailbox_id, fence)
        failpoints.hit("sender.after_destroy")
        match answer:
            case Destroyed():
                pass
            case Gone():
                self._note(look, "draft", "gone")
            case Unavailable():
                self._note(look, "draft", "unavailable", answer.text)
        return answer

    async def _settle_found(self, look: _Look, found: Found) -> None:
        why = "the message is among the account's sent mail"
        verdict = Verdict("sent", "proven_sent", _SELF, why, "sent_mail", found=found)
        await self._settler.settle(look.doubt, verdict)

    async def _settle_unsent(self, look: _Look) -> None:
        why = "its draft was there, unsent, and was destroyed"
        verdict = Verdict("unsent", "proven_unsent", _SELF, why, "draft")
        await self._settler.settle(look.doubt, verdict)

    async def _postpone(
        self,
        look: _Look,
        sent: NotSeen | Unavailable | Away,
        destroyed: Destroyed | Gone | Unavailable | None,
    ) -> None:
        """Say when to look again. A look at nothing, because reply is away, does not count."""
        row, now = look.row, look.known.db_now
        counts = not isinstance(sent, Away)
        unavailable = [one for one in (sent, destroyed) if isinstance(one, Unavailable)]
        wish = max(
            (one.retry_after for one in unavailable if one.retry_after is not None), default=None
        )
        destroy_from = self._destroy_from(look) if destroyed is None else None
        first = self._patience.first_look
        at = next_look(
            row.since,
            row.looks + counts,
            now,
            first,
            self._rng,
            destroy_from=destroy_from,
            not_before=None if wish is None else now + wish,
        )
        if not counts or any(one.outcome_class in _PASSING for one in unavailable):
            # Not the mailbox's answer to the question: it is asked again at the early pace.
            at = min(at, now + max(first * 5, wish or timedelta()))
        await self._write(look, next_look_at=at, counts=counts)
        failpoints.hit("sender.after_look")
        log.info("no proof yet", count=row.looks + counts, **self._about(row))

    def _note(self, look: _Look, source: str, finding: str, text: str | None = None) -> None:
        look.found.append(entry(self._clock.now(), source, finding, text and text[:500]))

    async def _write(
        self,
        look: _Look,
        *,
        next_look_at: datetime | None = None,
        counts: bool = False,
        destroying: bool = False,
    ) -> None:
        """Write what was found since the last time, and commit it."""
        async with self._db.transaction([look.row.workspace_id]) as tx:
            await self._note_look(
                tx,
                look.row,
                look.found,
                next_look_at=next_look_at,
                counts=counts,
                destroying=destroying,
            )
        look.found.clear()

    async def _note_look(
        self,
        tx: AsyncConnection,
        row: Row[Any],
        found: Sequence[Mapping[str, Any]],
        *,
        next_look_at: datetime | None,
        counts: bool = False,
        destroying: bool = False,
    ) -> None:
        await tx.execute(
            self._queries["note_look"],
            {
                "workspace": row.workspace_id,
                "job": row.job_id,
                "fence": row.fence_no,
                "evidence": json.dumps(list(found)),
                "next_look_at": next_look_at,
                "counts": counts,
                "destroying": destroying,
            },
        )

    def _about(self, row: Row[Any]) -> dict[str, str | int]:
        return {
            "workspace": ids.encode("ws", row.workspace_id),
            "job": ids.encode("job", row.job_id),
            "mailbox": ids.encode("mbx", row.mailbox_id),
            "fence": row.fence_no,
        }
