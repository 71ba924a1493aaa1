"""Database access for hundreds of readers: they queue, where a request would rather fail."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Database


class PatientDatabase(Database):
    """Another's connections, at most `turns` of them at once.

    The pool itself gives up after seconds, and what it has left belongs to events,
    requests and the outbox: readers that begin together wait here instead.
    """

    def __init__(self, db: Database, turns: int) -> None:
        self.schema = db.schema
        self.worker_role = db.worker_role
        self.engine = db.engine
        self._db = db
        self._turns = asyncio.Semaphore(turns)

    @asynccontextmanager
    async def transaction(
        self, workspaces: Iterable[int] = (), *, worker: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """See `Database.transaction`."""
        async with self._turns, self._db.transaction(workspaces, worker=worker) as tx:
            yield tx
