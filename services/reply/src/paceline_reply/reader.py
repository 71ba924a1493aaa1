"""Reads one mailbox for as long as it is active, and keeps one such task per mailbox."""

import asyncio
import contextlib
import json
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import stamina

from paceline_common import events, failpoints, ids, telemetry, topics
from paceline_common.clock import Clock
from paceline_common.db import Database, Outbox, Outgoing, Queries
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.keys import KeyDenied, KeyService, SealBroken
from paceline_common.telemetry import Metrics
from paceline_reply.receive import Mailbox, Receiver
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.imap import (
    FETCH_BATCH,
    Contexts,
    Endpoint,
    ImapError,
    ImapSession,
    Place,
    Resolve,
    open_session,
)

AUTH_FAILED: Final = "read_auth_failed"
# Only a new password or a person mends these.
_REFUSALS: Final = frozenset({"auth_failed", "credential_unreadable"})
# INTERNALDATE has whole seconds of another clock; mail from just before the connect answers
# nothing of ours anyway.
_CONNECT_SLACK: Final = timedelta(minutes=2)
# Around a new UIDVALIDITY: clocks, and servers that judge SINCE in their own zone.
_RESYNC_SLACK: Final = timedelta(days=2)
_QUERIES: Final = Queries("paceline_reply")


@dataclass(frozen=True, slots=True)
class Parts:
    """What every reader shares."""

    settings: ReplySettings
    db: Database
    outbox: Outbox
    keys: KeyService
    clock: Clock
    metrics: Metrics
    receiver: Receiver
    resolve: Resolve
    tls: Contexts
    threads: Executor


class _Gone(Exception):
    """The mailbox was switched off or deleted; its cursor will say so soon."""


class Reader:
    """The life of one mailbox's connection."""

    def __init__(self, parts: Parts, workspace_id: int, mailbox_id: int) -> None:
        self._parts = parts
        self._workspace_id = workspace_id
        self._mailbox_id = mailbox_id
        self._key = {"workspace": workspace_id, "mailbox": mailbox_id}
        self._log = telemetry.logger("reader").bind(
            workspace=ids.encode("ws", workspace_id), mailbox=ids.encode("mbx", mailbox_id)
        )
        self.state = "lost"
        self._lost_since: float | None = None
        self._told_unreachable = False
        self._told_refused = False
        self._told_reading = False
        self._told_failed = False

    async def run(self) -> None:
        """Read until cancelled; returns when the mailbox turns out to be gone."""
        settings = self._parts.settings
        while True:
            try:
                # Waits longer after each failure in a row; a session that was read from
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
            except ImapError as error:
                await self._refused(error)
                await asyncio.sleep(settings.auth_retry_s)
            except Exception as error:  # noqa: BLE001 - one mailbox must not stop the others
                await self._failed(error)
                await asyncio.sleep(settings.reconnect_cap_s)

    async def _session(self) -> None:
        """One connection: sign in, then read and wait in turns until it breaks."""
        was_read = False
        session: ImapSession | None = None
        try:
            mailbox, endpoint, password = await self._load()
            session = await open_session(
                endpoint,
                password,
                resolve=self._parts.resolve,
                tls=self._parts.tls,
                threads=self._parts.threads,
            )
            place = await session.open_inbox()
            await self._reading()
            last_uid = await self._start(session, place)
            while True:
                last_uid = await self._read_new(session, mailbox, place, last_uid)
                was_read = True
                await session.wait(self._parts.settings.poll_s)
        except ImapError as error:
            if error.code in _REFUSALS:
                raise
            await self._lost(error)
            if was_read:
                # Returning ends the retries; `run` starts over with the shortest wait.
                await asyncio.sleep(self._parts.settings.reconnect_first_s)
                return
            raise
        finally:
            if session is not None:
                await session.close()

    async def _load(self) -> tuple[Mailbox, Endpoint, str]:
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            row = (await tx.execute(_QUERIES["load_mailbox"], self._key)).one_or_none()
        if row is None:
            raise _Gone
        try:
            opened = await self._parts.keys.open(
                "read",
                self._workspace_id,
                bytes(row.credential),
                table="mailbox",
                row=self._mailbox_id,
            )
        except (SealBroken, KeyDenied) as error:
            raise ImapError("credential_unreadable", str(error)) from None
        return (
            Mailbox(self._workspace_id, self._mailbox_id, row.email.lower()),
            Endpoint.of(row.imap),
            json.loads(opened)["password"],
        )

    async def _start(self, session: ImapSession, place: Place) -> int:
        """Return the UID to read on behind, placing the cursor when it has no place here.

        At the first connect that is the present end of the inbox, except for what
        arrived since the mailbox was connected. Under a new UIDVALIDITY the old
        UIDs mean nothing: everything from around the last message received is
        read again, and what is known already counts once.
        """
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            cursor = (await tx.execute(_QUERIES["load_cursor"], self._key)).one_or_none()
        if cursor is None:
            raise _Gone
        if cursor.uid_validity == place.uid_validity:
            last: int = cursor.last_uid
            return last
        first = cursor.uid_validity is None
        since = cursor.connected_at - _CONNECT_SLACK if first else cursor.read_until - _RESYNC_SLACK
        received = await session.received_since((since - timedelta(days=1)).date())
        last = min((uid - 1 for uid, at in received if at >= since), default=place.uid_next - 1)
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            await tx.execute(
                _QUERIES["place_cursor"],
                {**self._key, "uid_validity": place.uid_validity, "last_uid": last},
            )
        failpoints.hit("reply.after_cursor_placed")
        if not first:
            self._log.warning("uid validity changed", count=len(received))
        return last

    async def _read_new(
        self, session: ImapSession, mailbox: Mailbox, place: Place, last_uid: int
    ) -> int:
        uids = await session.uids_after(last_uid)
        for start in range(0, len(uids), FETCH_BATCH):
            for fetched in await session.fetch(uids[start : start + FETCH_BATCH]):
                kind = await self._parts.receiver.receive(mailbox, place.uid_validity, fetched)
                self._log.info("message received", kind=kind or "known")
                last_uid = fetched.uid
        return max([last_uid, *uids])

    async def _reading(self) -> None:
        """Signed in: close what a refusal opened, and say that the leg works."""
        self.state, self._lost_since, self._told_unreachable = "reading", None, False
        if self._told_reading:
            return
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            await tx.execute(_QUERIES["resume"], {**self._key, "reason": AUTH_FAILED})
            await self._parts.outbox.add(tx, [self._probed(ok=True, code="ok")])
        self._told_reading, self._told_refused = True, False
        self._log.info("reading")

    async def _refused(self, error: ImapError) -> None:
        """The password does not do: sending stops too, since answers would go unseen."""
        self.state = "refused"
        self._count(error)
        self._log.warning("sign-in refused", code=error.code)
        if self._told_refused:
            return
        words = await self._without_names(error.message)
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            await tx.execute(
                _QUERIES["suspend"],
                {
                    "workspace": self._workspace_id,
                    "scope": "mailbox",
                    "ref": self._mailbox_id,
                    "reason": AUTH_FAILED,
                    "detail": words,
                },
            )
            await self._parts.outbox.add(
                tx,
                [
                    self._probed(ok=False, code=error.code),
                    self._issue(f"imap_{error.code}", "error", words),
                ],
            )
        self._told_refused, self._told_reading = True, False

    async def _lost(self, error: ImapError) -> None:
        self.state = "lost"
        self._count(error)
        self._log.warning("connection lost", code=error.code)
        now = self._parts.clock.monotonic()
        self._lost_since = self._lost_since if self._lost_since is not None else now
        if (
            self._told_unreachable
            or now - self._lost_since < self._parts.settings.unreachable_after_s
        ):
            return
        words = await self._without_names(error.message)
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            await self._parts.outbox.add(
                tx,
                [
                    self._probed(ok=False, code=error.code),
                    self._issue("imap_unreachable", "warning", words),
                ],
            )
        self._told_unreachable, self._told_reading = True, False

    async def _failed(self, error: Exception) -> None:
        """A fault of our own: the message stays unread, and a person is told."""
        self.state = "lost"
        self._log.error("mailbox cannot be read", **telemetry.describe_error(error))
        self._parts.metrics.counter("paceline_reply_connection_failures_total").labels(
            "internal"
        ).inc()
        if self._told_failed:
            return
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            await self._parts.outbox.add(
                tx, [self._issue("inbox_unreadable", "error", type(error).__name__)]
            )
        self._told_failed = True

    async def _without_names(self, words: str) -> str:
        """Return a server's words without the mailbox's address and user name."""
        async with self._parts.db.transaction([self._workspace_id]) as tx:
            row = (await tx.execute(_QUERIES["load_mailbox"], self._key)).one_or_none()
        for name in (row.imap["username"], row.email) if row is not None else ():
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

    def _issue(self, code: str, severity: Any, words: str) -> Outgoing:
        mailbox = ids.encode("mbx", self._mailbox_id)
        return Outgoing(
            topic=topics.ISSUE_RAISED,
            key=mailbox,
            subject=mailbox,
            body=events.IssueRaised(
                workspace_id=ids.encode("ws", self._workspace_id),
                subject=mailbox,
                code=code,
                severity=severity,
                detail=words,
                raised_at=self._parts.clock.now(),
            ),
        )

    def _count(self, error: ImapError) -> None:
        failures = self._parts.metrics.counter("paceline_reply_connection_failures_total")
        failures.labels(error.code).inc()


def _worth_a_retry(error: Exception) -> bool:
    if isinstance(error, ImapError):
        return error.code not in _REFUSALS
    return classify(error) is Fault.DEPENDENCY


@dataclass(slots=True)
class _Running:
    version: int
    reader: Reader
    task: asyncio.Task[None]


class Readers:
    """One reading task per active mailbox, following the cursor table.

    Several processes may read one mailbox without harm: each message counts
    once; it only costs connections.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._running: dict[tuple[int, int], _Running] = {}
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Follow the table until cancelled; raises what a reader dies of."""
        try:
            while True:
                self.wake.clear()
                await self._follow()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), self._parts.settings.supervise_s)
        finally:
            await _end([one.task for one in self._running.values()])
            self._running.clear()

    async def _follow(self) -> None:
        async with self._parts.db.transaction(worker=True) as tx:
            rows = (await tx.execute(_QUERIES["list_cursors"])).all()
        wanted = {(row.workspace_id, row.mailbox_id): int(row.version) for row in rows}
        stale = [
            key
            for key, one in self._running.items()
            if wanted.get(key) != one.version or one.task.done()
        ]
        ended = [self._running.pop(key).task for key in stale]
        await _end(ended)
        for task in ended:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        for key in wanted.keys() - self._running.keys():
            reader = Reader(self._parts, *key)
            task = asyncio.create_task(reader.run(), name=f"reader-{key[1]}")
            self._running[key] = _Running(wanted[key], reader, task)
        gauge = self._parts.metrics.gauge("paceline_reply_mailboxes")
        for state in ("reading", "lost", "refused"):
            count = sum(one.reader.state == state for one in self._running.values())
            gauge.labels(state).set(count)


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
