"""Redis: the connection under a service's ACL user, and Lua scripts as typed calls.

Redis proposes and never decides, so losing an answer costs a delay at most;
nothing is retried here, because a script that ran must not run again unseen.
"""

import hashlib
import importlib.resources
import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

T = TypeVar("T")
Argument = str | bytes | int | float

_TIMEOUT_S: Final = 5.0
_HEADER: Final = ("Purpose", "KEYS", "ARGV", "Returns")
_COMMENTS: Final = re.compile(r"\A(?:--.*\n)*")
_HASH_TAG: Final = re.compile(r"\{([^}]+)\}")


class RedisSettings(Protocol):
    """The four settings that a connection needs."""

    @property
    def redis_host(self) -> str: ...
    @property
    def redis_port(self) -> int: ...
    @property
    def redis_user(self) -> str: ...
    @property
    def redis_password(self) -> SecretStr: ...


def connect(settings: RedisSettings) -> Redis:
    """Return a pooled client, not yet connected; it answers in bytes.

    A call raises `redis.exceptions.RedisError` when Redis is away, slower than
    5 s, or denies it; after a restart of Redis, so does the first call on each
    old connection. Close it with `aclose()`.
    """
    return Redis(
        host=settings.redis_host,
        port=settings.redis_port,
        username=settings.redis_user,
        password=settings.redis_password.get_secret_value(),
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )


async def check(client: Redis) -> None:
    """Return when Redis answers under our user; raise `redis.exceptions.RedisError` otherwise."""
    await client.ping()


class Script(Generic[T]):
    """One Lua file of a package, called by its hash; `decode` gives its answer a type.

    The file starts with comment lines `-- Purpose:`, `-- KEYS:`, `-- ARGV:` and
    `-- Returns:`. A call's keys lie under one hash tag (`pace:{7}:ready`), so
    that it never spans shards.
    """

    def __init__(self, package: str, path: str, decode: Callable[[Any], T]) -> None:
        """Load `path` of `package`; raise `ValueError` when its header is incomplete."""
        self.text = importlib.resources.files(package).joinpath(path).read_text("utf-8")
        head = self.text[: len(self.text) - len(_COMMENTS.sub("", self.text, count=1))]
        if missing := [word for word in _HEADER if f"-- {word}:" not in head]:
            raise ValueError(f"{path}: the header lacks {', '.join(missing)}")
        self._path = path
        self._decode = decode
        # Redis names a script by this digest; it guards nothing.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(
        self, client: Redis, keys: Sequence[str], args: Sequence[Argument] = ()
    ) -> T:
        """Run the script; it ran exactly once unless this raises `redis.exceptions.RedisError`.

        Raises `ValueError` for keys of several hash tags, or none.
        """
        tags = {match and match[1] for match in map(_HASH_TAG.search, keys)}
        if len(tags) != 1 or None in tags:
            raise ValueError(f"{self._path}: the keys do not share one hash tag")
        try:
            answer = await client.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            # Nothing ran: Redis was restarted, or flushed its scripts.
            await client.script_load(self.text)
            answer = await client.evalsha(self.sha, len(keys), *keys, *args)
        return self._decode(answer)
