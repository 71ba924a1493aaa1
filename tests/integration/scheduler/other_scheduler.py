"""Another scheduler's pacer as a process of its own: `python -m … <run directory>`."""

import asyncio
import sys
from pathlib import Path

from redis.asyncio import Redis

from paceline_common.db import Database
from paceline_local.stack import Stack

from .conftest import World, furnish


async def main(run: Path) -> None:
    """Pace until ended."""
    world = World(Stack(run))
    db = Database(world.settings("scheduler"))
    redis = Redis(
        host="127.0.0.1",
        port=world.stack.ports["redis"],
        username="scheduler",
        password=world.stack.passwords.get("scheduler", "paceline_redis_password"),
        protocol=2,
    )
    await furnish(db, redis, seed=2).pacer.run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
