"""The engine, and transactions that name the workspaces they are about."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from paceline_common import failpoints
from paceline_common.db.sql import literal_settings
from paceline_common.settings import ServiceSettings

_AFTER_COMMIT: Final = "paceline_after_commit"


class Database:
    """One service's connections, as its own login role.

    The schema is called like the login role (`postgres_user`), its worker role
    `<schema>_worker`. Raises SQLAlchemy's exceptions; their text never holds
    the statement's parameters.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.schema = settings.postgres_user
        self.worker_role = f"{self.schema}_worker"
        self.engine: AsyncEngine = create_async_engine(
            settings.postgres_url,
            pool_size=settings.postgres_pool_size,
            max_overflow=0,
            pool_timeout=settings.lock_timeout_ms / 1000,
            # A connection that died with the server is replaced by the next
            # checkout after the first failure; a ping per checkout would cost
            # every transaction a round trip.
            pool_pre_ping=False,
            hide_parameters=True,
            connect_args={
                "application_name": f"paceline-{self.schema}",
                "connect_timeout": 5,
                "options": literal_settings(
                    {
                        "statement_timeout": settings.statement_timeout_ms,
                        "lock_timeout": settings.lock_timeout_ms,
                        "idle_in_transaction_session_timeout": 60_000,
                        "timezone": "UTC",
                    }
                ),
            },
        )

        # The same connections for `transaction`, which begins by itself: see there.
        self._unbegun = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def transaction(
        self, workspaces: Iterable[int] = (), *, worker: bool = False
    ) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that sees the rows of `workspaces`.

        It commits on exit and rolls back on an exception.

        With `worker` it runs as `<schema>_worker`, which sees every tenant's
        rows of the service's own schema and nothing of another's.
        """
        named = ",".join(f"{one:d}" for one in sorted(set(workspaces)))
        # SET LOCAL as functions: undone at the end of the transaction whatever its end is. All in
        # one text, and so in one round trip; the driver would send BEGIN in one of its own.
        settings = f"set_config('app.workspace_ids', '{named}', true)"
        if worker:
            settings = f"set_config('role', '{self.worker_role}', true), {settings}"
        async with self._unbegun.connect() as tx:
            async with tx.begin():
                await tx.exec_driver_sql(f"BEGIN; SELECT {settings}")
                tx.info.pop(_AFTER_COMMIT, None)
                yield tx
            after: dict[str, Callable[[], None]] = tx.info.pop(_AFTER_COMMIT, {})
        for call in after.values():
            call()

    async def ping(self) -> None:
        """Raise unless Postgres answers."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


def after_commit(tx: AsyncConnection, name: str, call: Callable[[], None]) -> None:
    """Have `call` run once after `tx`, opened by `Database.transaction`, has committed.

    Later calls of the same `name` in the transaction replace earlier ones.
    """
    tx.info.setdefault(_AFTER_COMMIT, {})[name] = call


def hit_after_commit(tx: AsyncConnection, failpoint: str) -> None:
    """Pass `failpoint` once `tx`, opened by `Database.transaction`, has committed."""
    after_commit(tx, failpoint, partial(failpoints.hit, failpoint))
