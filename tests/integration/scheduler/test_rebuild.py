"""A workspace's pacing state is written anew, however long that takes."""

import asyncio
from typing import Any

import psycopg
from sqlalchemy import event
from tests.waiting import until

from .conftest import WS, House, World
from .test_pacing import leads, mailboxes

_IDLE_MS = 300


async def test_what_changed_is_told_after_a_long_rebuild(world: World, house: House) -> None:
    def impatient(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET idle_in_transaction_session_timeout = {_IDLE_MS}")
        connection.commit()

    await mailboxes(world, house, 1)
    world.campaign()
    await house.enroll(*leads(world, 3))
    await house.db.close()
    event.listen(house.db.engine.sync_engine, "connect", impatient)
    with psycopg.connect(world.stack.dsn()) as another:
        # As another scheduler that rebuilds it.
        another.execute(
            "SELECT pg_advisory_xact_lock(hashtext('scheduler.rebuild'), hashint8(%s))", (WS,)
        )
        telling = asyncio.create_task(house.pacer.tell_changes())
        await until(
            lambda: (
                telling.done()
                or world.one(
                    "SELECT count(*) FROM pg_stat_activity WHERE usename = 'scheduler'"
                    " AND state = 'idle in transaction'"
                    " AND state_change < clock_timestamp() - interval '600 ms'"
                )
            ),
            "twice as long as a transaction may be idle",
        )
        another.rollback()
    assert await telling > 0
    assert world.one("SELECT count(*) FROM pace_change") == 0
