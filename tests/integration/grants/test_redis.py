"""Redis knows one user, the scheduler, and lets it touch pacing keys only."""

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from paceline_common import grants
from paceline_local.stack import Stack


@pytest.fixture
def scheduler(stack: Stack) -> redis.Redis:
    return redis.Redis(
        host="127.0.0.1",
        port=stack.ports["redis"],
        username="scheduler",
        password=stack.passwords.get("scheduler", "paceline_redis_password"),
        decode_responses=True,
    )


def test_scheduler_uses_its_pacing_keys(scheduler: redis.Redis) -> None:
    scheduler.set("pace:{grants-test}:x", "1")
    assert scheduler.get("pace:{grants-test}:x") == "1"
    assert scheduler.eval("return redis.call('GET', KEYS[1])", 1, "pace:{grants-test}:x") == "1"
    scheduler.delete("pace:{grants-test}:x")


@pytest.mark.parametrize("command", [
    ("GET", "other"), ("SET", "other", "1"), ("DEL", "other"),
    ("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("ACL", "LIST"), ("SLOWLOG", "GET"),
    ("SHUTDOWN",), ("SUBSCRIBE", "x"), ("PUBLISH", "x", "y"),
    ("EVAL", "return redis.call('GET', 'other')", "0"),
])  # fmt: skip
def test_scheduler_is_denied_everything_else(
    scheduler: redis.Redis, command: tuple[str, ...]
) -> None:
    with pytest.raises(redis.exceptions.ResponseError, match=r"NOPERM|permission|can't access"):
        scheduler.execute_command(*command)


@pytest.mark.parametrize("name", ["default", *[p.name for p in grants.PRINCIPALS if not p.redis]])
def test_nobody_else_signs_in(stack: Stack, name: str) -> None:
    stranger = redis.Redis(
        host="127.0.0.1",
        port=stack.ports["redis"],
        username=name,
        password=stack.passwords.get("scheduler", "paceline_redis_password"),
        retry=Retry(NoBackoff(), 0),
    )
    with pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
