"""The Redis client and the script wrapper, on a real Redis under the scheduler's ACL user."""

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from paceline_common import grants
from paceline_common.redis import Script, check, connect
from paceline_local.process import wait_until

HEADER = "-- Purpose: count.\n-- KEYS: 1 counter\n-- ARGV: 1 by\n-- Returns: the sum\n"
COUNT = HEADER + "return redis.call('INCRBY', KEYS[1], ARGV[1])\n"


@dataclass
class Server:
    """A Redis process of the test's own, and the settings of its one user."""

    directory: Path
    redis_port: int
    redis_host: str = "127.0.0.1"
    redis_user: str = "scheduler"
    redis_password: SecretStr = field(default_factory=lambda: SecretStr(secrets.token_hex(8)))
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start, and return when the port answers."""
        acl = self.directory / "users.acl"
        rules = " ".join(grants.redis_rules("scheduler"))
        password = self.redis_password.get_secret_value()
        acl.write_text(f"user default off\nuser scheduler on >{password} {rules}\n")
        with (self.directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["redis-server", "--port", str(self.redis_port), "--bind", "127.0.0.1",
                 "--save", "", "--dir", str(self.directory), "--aclfile", str(acl)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        assert wait_until(self._listens, 20), (self.directory / "log").read_text()

    def _listens(self) -> bool:
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.redis_port), 1).close()
            return True
        return False

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A running Redis."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Server(tmp_path, probe.getsockname()[1])
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Redis]:
    """The scheduler's client."""
    client = connect(server)
    yield client
    await client.aclose()


@pytest.fixture
def count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script[int]:
    """The counting script, from a package."""
    return load(tmp_path, monkeypatch, COUNT)


def load(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Script[int]:
    """Make a package with one Lua file and load it."""
    name = f"lua_{secrets.token_hex(4)}"
    (directory / name).mkdir()
    (directory / name / "__init__.py").touch()
    (directory / name / "count.lua").write_text(text)
    monkeypatch.syspath_prepend(str(directory))
    try:
        return Script(name, "count.lua", int)
    finally:
        sys.modules.pop(name, None)


async def test_a_script_runs_once_per_call_and_its_answer_is_decoded(
    client: Redis, count: Script[int]
) -> None:
    await check(client)
    assert await count(client, ["pace:{7}:n"], [5]) == 5
    assert await count(client, ["pace:{7}:n"], ["2"]) == 7


async def test_a_restart_of_redis_fails_one_call_and_the_next_loads_the_script_again(
    server: Server, client: Redis, count: Script[int]
) -> None:
    assert await count(client, ["pace:{7}:n"], [5]) == 5
    server.stop()
    server.start()
    with pytest.raises(RedisError):
        await check(client)
    assert await count(client, ["pace:{7}:n"], [5]) == 5


async def test_a_redis_that_is_away_is_an_error_at_once_and_ready_again_later(
    server: Server, client: Redis, count: Script[int]
) -> None:
    await check(client)
    server.stop()
    started = time.monotonic()
    with pytest.raises(RedisError):
        await check(client)
    with pytest.raises(RedisError):
        await count(client, ["pace:{7}:n"], [5])
    assert time.monotonic() - started < 2
    server.start()
    await check(client)


@pytest.mark.parametrize("keys", [[], ["pace:n"], ["pace:{7}:n", "pace:{8}:n"], ["pace:{}:n"]])
async def test_keys_of_no_single_hash_tag_are_a_bug(
    client: Redis, count: Script[int], keys: list[str]
) -> None:
    with pytest.raises(ValueError):
        await count(client, keys, [1])


@pytest.mark.parametrize("word", ["Purpose", "KEYS", "ARGV", "Returns"])
def test_a_script_without_its_whole_header_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    late = COUNT.replace(f"-- {word}:", "--") + f"-- {word}: too late\n"
    with pytest.raises(ValueError, match=word):
        load(tmp_path, monkeypatch, late)


async def test_keys_beyond_pace_and_dangerous_commands_are_denied(
    client: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: Script[int]
) -> None:
    with pytest.raises(NoPermissionError):
        await client.set("other:{7}:n", "1")
    with pytest.raises(NoPermissionError):
        await client.flushall()
    with pytest.raises(NoPermissionError):
        await count(client, ["other:{7}:n"], [1])
    undeclared = load(tmp_path, monkeypatch, HEADER + "return redis.call('INCR', 'other:{7}:n')\n")
    with pytest.raises(ResponseError):
        await undeclared(client, ["pace:{7}:n"])


async def test_a_wrong_password_is_refused(server: Server) -> None:
    server.redis_password = SecretStr("wrong")
    client = connect(server)
    with pytest.raises(AuthenticationError):
        await check(client)
    await client.aclose()
