"""Keeps one reading task for each active mailbox that is this process's to read."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, telemetry
from paceline_common.db import Queries
from paceline_reply.domain.share import Key, Seen, plan
from paceline_reply.reader import Parts, Reader

_QUERIES: Final = Queries("paceline_reply")
_LIVE: Final = text(
    "SELECT pg_advisory_lock(hashtext('reply.instance'), hashtext(CAST(:instance AS text)))"
)
_log = telemetry.logger("readers")


@dataclass(slots=True)
class _Running:
    version: int
    reader: Reader
    task: "asyncio.Task[None]"


class Readers:
    """One reading task per active mailbox of this process's share, following the cursor table.

    Processes share the mailboxes by leases in that table. One that was killed loses them at
    once, with the lock of its session; one that was stopped for longer than its lease may
    read a mailbox beside its successor for a moment: it costs connections, nothing else,
    since each message counts once.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lease_s = parts.settings.lease_s
        self._instance = str(uuid4())
        self._running: dict[Key, _Running] = {}
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Follow the table until cancelled; raises what a reader dies of."""
        async with self._parts.db.engine.connect() as session:
            try:
                await self._share(session)
            finally:
                # The lock is the session's; back in the pool it would keep it.
                await session.invalidate()

    async def _share(self, session: AsyncConnection) -> None:
        await session.execute(_LIVE, {"instance": self._instance})
        await session.commit()
        try:
            while True:
                self.wake.clear()
                # A session that is gone has taken the lock with it.
                await session.scalar(text("SELECT 1"))
                await session.commit()
                await self._follow()
                # Not `wait_for`: before Python 3.12 it loses a cancel that comes with the wake.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._parts.settings.supervise_s):
                        await self.wake.wait()
        finally:
            await self._end(self._running)
            await self._farewell()

    async def _follow(self) -> None:
        silent_s = self._lease_s + self._parts.settings.supervise_s
        beat = {"instance": self._instance, "silent_s": silent_s}
        async with self._parts.db.transaction(worker=True) as tx:
            await tx.execute(_QUERIES["bury_instances"])
            instances = int(await tx.scalar(_QUERIES["beat"], beat) or 1)
            rows = (await tx.execute(_QUERIES["list_cursors"])).all()
        wanted = {(row.workspace_id, row.mailbox_id): int(row.version) for row in rows}
        share = plan([self._seen(row) for row in rows], instances, self._lease_s)
        await self._end(
            key
            for key, one in self._running.items()
            if wanted.get(key) != one.version or key not in share.keep or one.task.done()
        )
        mine = set(share.keep)
        async with self._parts.db.transaction(worker=True) as tx:
            if share.leave:
                await tx.execute(_QUERIES["leave_mailboxes"], self._these(share.leave))
            if share.take:
                taken = await tx.execute(
                    _QUERIES["take_mailboxes"],
                    self._these(share.take) | {"lease_s": self._lease_s},
                )
                mine |= {(row.workspace_id, row.mailbox_id) for row in taken}
        if share.leave or share.take:
            failpoints.hit("reply.mailboxes_taken")
        for key in mine - self._running.keys():
            reader = Reader(self._parts, *key)
            task = asyncio.create_task(reader.run(), name=f"reader-{key[1]}")
            self._running[key] = _Running(wanted[key], reader, task)
        gauge = self._parts.metrics.gauge("paceline_reply_mailboxes")
        for state in ("reading", "lost", "refused"):
            count = sum(one.reader.state == state for one in self._running.values())
            gauge.labels(state).set(count)

    def _seen(self, row: Any) -> Seen:
        key = (row.workspace_id, row.mailbox_id)
        if row.reader is not None and str(row.reader) == self._instance:
            return Seen(key, "mine", row.left_s)
        if row.reader is not None and row.left_s > 0:
            return Seen(key, "others")
        return Seen(key, "nobodys")

    def _these(self, keys: Iterable[Key]) -> dict[str, Any]:
        listed = list(keys)
        return {
            "instance": self._instance,
            "workspaces": [workspace for workspace, _ in listed],
            "mailboxes": [mailbox for _, mailbox in listed],
        }

    async def _end(self, keys: Iterable[Key]) -> None:
        """Stop reading some mailboxes; raises what a reader has died of."""
        tasks = [self._running.pop(key).task for key in list(keys)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _farewell(self) -> None:
        """Let others read on at once, also what was taken and not begun."""
        me = {"instance": self._instance}
        try:
            async with self._parts.db.transaction(worker=True) as tx:
                await tx.execute(_QUERIES["leave_all_mailboxes"], me)
                await tx.execute(_QUERIES["forget_instances"], me)
        except (SQLAlchemyError, OSError) as error:
            # Its leases end by themselves.
            _log.warning("mailboxes could not be left", **telemetry.describe_error(error))
