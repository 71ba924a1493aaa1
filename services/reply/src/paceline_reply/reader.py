"""Reads one mailbox for as long as it is active, whatever its source."""

import asyncio
from collections.abc import Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import stamina

from paceline_common import events, failpoints, ids, telemetry, topics
from paceline_common.clock import Clock
from paceline_common.db import Database, Outbox, Outgoing, Queries
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.telemetry import Metrics
from paceline_providers.base import REMEDIES
from paceline_reply.access import Access, Doors
from paceline_reply.patience import PatientDatabase
from paceline_reply.receive import Mailbox, Receiver
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.api import Pace
from paceline_reply.sources.base import APP_REFUSED, REFUSALS, Place, PlaceLost, Source, SourceError

# What a mailbox is held for while its leg cannot sign in; each leg closes only its own.
AUTH_FAILED: Final = "read_auth_failed"
GRANT_REVOKED: Final = "read_grant_revoked"
# Times of receipt have whole seconds of another clock; mail from just before the connect
# answers nothing of ours anyway.
_CONNECT_SLACK: Final = timedelta(minutes=2)
# Around a place that was lost: clocks, and servers that judge days in their own zone.
_RESYNC_SLACK: Final = timedelta(days=2)
_QUERIES: Final = Queries("paceline_reply")


@dataclass(frozen=True, slots=True)
class Parts:
    """What readers share: `pace` is for APIs, `threads` for blocking connections (IMAP).

    Each of hundreds uses the database through `patient`; who keeps them uses `db`.
    """

    settings: ReplySettings
    db: Database
    patient: PatientDatabase
    outbox: Outbox
    clock: Clock
    metrics: Metrics
    receiver: Receiver
    doors: Doors
    pace: Pace
    threads: Executor


class _Gone(Exception):
    """The mailbox was switched off or deleted; its cursor will say so soon."""


class Reader:
    """The life of one mailbox's reading."""

    def __init__(self, parts: Parts, workspace_id: int, mailbox_id: int) -> None:
        self._parts = parts
        self._workspace_id = workspace_id
        self._mailbox_id = mailbox_id
        self._key = {"workspace": workspace_id, "mailbox": mailbox_id}
        self._log = telemetry.logger("reader").bind(
            workspace=ids.encode("ws", workspace_id), mailbox=ids.encode("mbx", mailbox_id)
        )
        self.state = "lost"
        # What no words of a server may repeat to others.
        self._names: tuple[str, ...] = ()
        # The OAuth app it was connected through, as issues name it.
        self._app: str | None = None
        self._lost_since: float | None = None
        self._told_unreachable = False
        self._told_refused = False
        self._told_reading = False
        self._told_failed = False
        self._told_app = False

    async def run(self) -> None:
        """Read until cancelled; returns when the mailbox turns out to be gone."""
        settings = self._parts.settings
        while True:
            try:
                # Waits longer after each failure in a row; a source that was read from
                # starts again with the shortest wait.
                async for attempt in stamina.retry_context(
                    on=_worth_a_retry,
                    attempts=None,
                    timeout=None,
                    wait_initial=settings.reconnect_first_s,
                    wait_max=settings.reconnect_cap_s,
                    wait_jitter=settings.reconnect_first_s,
                ):
                    with attempt:
                        await self._session()
            except _Gone:
                return
            except SourceError as error:
                await self._refused(error)
                await asyncio.sleep(settings.auth_retry_s)
            except Exception as error:  # noqa: BLE001 - one mailbox must not stop the others
                await self._failed(error)
                await asyncio.sleep(settings.reconnect_cap_s)

    async def _session(self) -> None:
        """Sign in once, then read and wait in turns until something breaks."""
        was_read = False
        source: Source | None = None
        try:
            access = await self._load()
            source = self._parts.doors.source(access, self._parts.pace, self._parts.threads)
            mailbox = Mailbox(self._workspace_id, self._mailbox_id, access.email)
            await source.open()
            place = await self._start(source)
            while True:
                place = await self._read_new(source, mailbox, place)
                await self._reading()
                was_read = True
                await source.wait()
        except SourceError as error:
            if error.code in REFUSALS:
                raise
            await self._lost(error)
            if error.retry_after is not None:
                await asyncio.sleep(error.retry_after.total_seconds())
            if was_read:
                # Returning ends the retries; `run` starts over with the shortest wait.
                await asyncio.sleep(self._parts.settings.reconnect_first_s)
                return
            raise
        finally:
            if source is not None:
                await source.close()

    async def _load(self) -> Access:
        loaded = await self._parts.doors.load(self._workspace_id, self._mailbox_id)
        if loaded is None or not loaded[1]:
            raise _Gone
        self._names = loaded[0].names
        self._app = loaded[0].app
        return loaded[0]

    async def _start(self, source: Source) -> Place:
        """Return the place to read on behind; at first what arrived since the connect is behind."""
        cursor = await self._cursor()
        if cursor.place is not None:
            place: Place = cursor.place
            return place
        return await self._begin(source, cursor.connected_at - _CONNECT_SLACK)

    async def _begin(self, source: Source, since: datetime) -> Place:
        place = await source.begin(since)
        await self._advance(place)
        failpoints.hit("reply.after_cursor_placed")
        return place

    async def _read_new(self, source: Source, mailbox: Mailbox, place: Place) -> Place:
        """Apply what came behind `place`; return the place behind all of it.

        Where the source no longer knows the place, everything received since what
        is surely read is read again: what is known already counts once.
        """
        began_at = self._parts.clock.now()
        began_behind = place
        try:
            async for step in source.read(place, self._known):
                place = step.place
                if step.message is not None:
                    kind = await self._parts.receiver.receive(mailbox, step.message, place)
                    self._log.info("message received", kind=kind or "known")
        except PlaceLost as lost:
            self._log.warning("the place is lost", reason=str(lost))
            cursor = await self._cursor()
            connected_at = cursor.connected_at - _CONNECT_SLACK
            read_at = cursor.read_at or cursor.connected_at
            place = await self._begin(source, max(connected_at, read_at - _RESYNC_SLACK))
            return await self._read_new(source, mailbox, place)
        if place != began_behind:
            await self._advance(place, began_at)
            failpoints.hit("reply.after_cursor_moved")
        return place

    async def _known(self, provider_ids: Collection[str]) -> Collection[str]:
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            found = await tx.scalars(
                _QUERIES["find_known"], {**self._key, "ids": list(provider_ids)}
            )
            return set(found)

    async def _advance(self, place: Place, read_at: datetime | None = None) -> None:
        values = {"place": msgspec.json.encode(place).decode(), "read_at": read_at}
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            await tx.execute(_QUERIES["advance_cursor"], {**self._key, **values})

    async def _cursor(self) -> Any:
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            cursor = (await tx.execute(_QUERIES["load_cursor"], self._key)).one_or_none()
        if cursor is None:
            raise _Gone
        return cursor

    async def _reading(self) -> None:
        """Everything is read: close what a refusal opened, and say that the leg works."""
        self.state, self._lost_since, self._told_unreachable = "reading", None, False
        self._told_app = False
        if self._told_reading:
            return
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            for reason in (AUTH_FAILED, GRANT_REVOKED):
                await tx.execute(_QUERIES["resume"], {**self._key, "reason": reason})
            await self._parts.outbox.add(tx, [self._probed(ok=True, code="ok")])
        failpoints.hit("reply.after_reading_told")
        self._told_reading, self._told_refused = True, False
        self._log.info("reading")

    async def _refused(self, error: SourceError) -> None:
        """The credential does not do: sending stops too, since answers would go unseen."""
        self.state = "refused"
        self._count(error)
        self._log.warning("sign-in refused", code=error.code)
        if self._told_refused:
            return
        words = self._without_names(error.message)
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            await tx.execute(
                _QUERIES["suspend"],
                {
                    "workspace": self._workspace_id,
                    "scope": "mailbox",
                    "ref": self._mailbox_id,
                    "reason": GRANT_REVOKED if error.code == "grant_revoked" else AUTH_FAILED,
                    "detail": words,
                },
            )
            await self._parts.outbox.add(
                tx,
                [
                    self._probed(ok=False, code=error.code),
                    self._issue(f"read_{error.code}", "error", words),
                ],
            )
        failpoints.hit("reply.after_refusal_told")
        self._told_refused, self._told_reading = True, False

    async def _lost(self, error: SourceError) -> None:
        self.state = "lost"
        self._count(error)
        self._log.warning("connection lost", code=error.code)
        if error.code == APP_REFUSED:
            await self._app_refused(error)
            return
        now = self._parts.clock.monotonic()
        self._lost_since = self._lost_since if self._lost_since is not None else now
        if (
            self._told_unreachable
            or now - self._lost_since < self._parts.settings.unreachable_after_s
        ):
            return
        words = self._without_names(error.message)
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            await self._parts.outbox.add(
                tx,
                [
                    self._probed(ok=False, code=error.code),
                    self._issue("read_unreachable", "warning", words),
                ],
            )
        self._told_unreachable, self._told_reading = True, False

    async def _app_refused(self, error: SourceError) -> None:
        """One issue about the app, however many mailboxes it has; reading is tried again."""
        if self._told_app:
            return
        words = self._without_names(error.message)
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            told = self._issue(APP_REFUSED, "error", f"{REMEDIES[APP_REFUSED]} {words}", self._app)
            await self._parts.outbox.add(tx, [self._probed(ok=False, code=error.code), told])
        self._told_app, self._told_reading = True, False

    async def _failed(self, error: Exception) -> None:
        """A fault of our own: the message stays unread, and a person is told."""
        self.state = "lost"
        self._log.error("mailbox cannot be read", **telemetry.describe_error(error))
        self._parts.metrics.counter("paceline_reply_connection_failures_total").labels(
            "internal"
        ).inc()
        if self._told_failed:
            return
        async with self._parts.patient.transaction([self._workspace_id]) as tx:
            await self._parts.outbox.add(
                tx, [self._issue("inbox_unreadable", "error", type(error).__name__)]
            )
        self._told_failed = True

    def _without_names(self, words: str) -> str:
        """Return a server's words without the mailbox's address and user name."""
        for name in self._names:
            words = words.replace(name, "…")
        return words[:500]

    def _probed(self, *, ok: bool, code: str) -> Outgoing:
        mailbox = ids.encode("mbx", self._mailbox_id)
        return Outgoing(
            topic=topics.MAILBOX_PROBED,
            key=mailbox,
            subject=mailbox,
            body=events.MailboxProbed(
                workspace_id=ids.encode("ws", self._workspace_id),
                mailbox_id=mailbox,
                leg="read",
                ok=ok,
                probed_at=self._parts.clock.now(),
                code=code,
            ),
        )

    def _issue(self, code: str, severity: Any, words: str, subject: str | None = None) -> Outgoing:
        subject = subject or ids.encode("mbx", self._mailbox_id)
        return Outgoing(
            topic=topics.ISSUE_RAISED,
            key=subject,
            subject=subject,
            body=events.IssueRaised(
                workspace_id=ids.encode("ws", self._workspace_id),
                subject=subject,
                code=code,
                severity=severity,
                detail=words,
                raised_at=self._parts.clock.now(),
            ),
        )

    def _count(self, error: SourceError) -> None:
        failures = self._parts.metrics.counter("paceline_reply_connection_failures_total")
        failures.labels(error.code).inc()


def _worth_a_retry(error: Exception) -> bool:
    if isinstance(error, SourceError):
        return error.code not in REFUSALS
    return classify(error) is Fault.DEPENDENCY
