"""A private Redis with the scheduler's own user, and both pacing stores."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from tests.conformance.pacing.fleet import Machine, memory, on_redis

from paceline_local.stack import Stack


@pytest.fixture(scope="session")
def redis_stack() -> Iterator[Stack]:
    run = Path(tempfile.mkdtemp(prefix="pl-pacing-"))
    stack = Stack(run)
    try:
        stack.start("redis")
        yield stack
    finally:
        stack.stop("redis")
        shutil.rmtree(run, ignore_errors=True)


@pytest.fixture
async def redis(redis_stack: Stack) -> AsyncIterator[Redis]:
    """A client under the ACL user of the scheduler, on an empty server."""
    admin = Redis.from_url(redis_stack.redis.url())
    await admin.flushall()
    await admin.aclose()
    client = Redis(
        host="127.0.0.1",
        port=redis_stack.ports["redis"],
        username="scheduler",
        password=redis_stack.passwords.get("scheduler", "paceline_redis_password"),
        protocol=2,
    )
    yield client
    await client.aclose()


@pytest.fixture(params=["memory", "redis"])
def machine(request: pytest.FixtureRequest) -> Machine:
    """Every store in turn."""
    return memory() if request.param == "memory" else on_redis(request.getfixturevalue("redis"))
