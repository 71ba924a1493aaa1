"""The house of chaos with a wall clock of its own, which tests move.

Postgres, Redis and the services read the clock from one file (libfaketime), so that a jump
is one rename; monotonic clocks are left alone. The mail host keeps the machine's clock:
`WallClock.of` says what the house's showed then.
"""

import shutil
import signal
import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import psycopg
import redis

from paceline_local.parts.postgres import Postgres
from paceline_local.parts.redis import Redis
from paceline_local.ports import LOOPBACK
from paceline_local.process import Processes, Record, wait_until
from paceline_local.schema import Schema
from tests.chaos.house import ChaosStack, House, Instance

_LIBRARIES: Final = Path("/usr/lib/x86_64-linux-gnu/faketime")
_REPLICA: Final = "redis-replica"
_REPLICA_S: Final = 20.0


class WallClock:
    """The house's wall clock: the machine's, moved by so many seconds. It only goes forward."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._since: list[float] = []
        self._offsets: list[float] = []

    def set(self, to: datetime) -> None:
        """Jump to an instant (aware)."""
        now = time.time()
        offset = to.timestamp() - now
        fresh = self.path.with_suffix(".new")
        fresh.write_text(f"{offset:+.6f}\n")
        fresh.replace(self.path)
        self._since.append(now)
        self._offsets.append(offset)

    def of(self, real: datetime) -> datetime:
        """Return what this clock showed when the machine's showed `real`."""
        found = bisect_right(self._since, real.timestamp()) - 1
        return real + timedelta(seconds=self._offsets[max(found, 0)])

    def now(self) -> datetime:
        """Return what it shows."""
        return self.of(datetime.now(UTC))


# At each look; the files' own times stay what they are, or Python would compile all anew.
_MOVED: Final = {
    "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
    "FAKETIME_DONT_RESET": "1", "NO_FAKE_STAT": "1",
}  # fmt: skip


class _MovedProcesses(Processes):
    """Processes that read the house's clock."""

    def __init__(self, pids: Path, log: Path, clock: Path) -> None:
        super().__init__(pids, log)
        self._clock = clock

    def spawn(
        self,
        name: str,
        argv: Sequence[str],
        *,
        print_: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
    ) -> Record:
        # Postgres looks at the clock in handlers of signals too, where a lock for threads that it
        # does not have would never be free.
        library = "libfaketime.so.1" if name == "postgres" else "libfaketimeMT.so.1"
        # jemalloc, which Redis brings, asks for the time before there is memory to tell it: the C
        # library's own allocator goes before it.
        moved = _MOVED | {
            "LD_PRELOAD": f"{_LIBRARIES / library}:libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
        }
        moved |= dict(env or {})
        return super().spawn(name, argv, print_=print_, env=moved, cwd=cwd, user=user)


class Resident(Instance):
    """An instance on the house's clock, unless told otherwise, with a box for orders of its own."""

    def __init__(self, stack: ChaosStack, service: str, number: int, clock: WallClock) -> None:
        super().__init__(stack, service, number)
        self.orders = stack.layout.run / "orders" / self.name
        self._house = clock

    def skew(self, seconds: float) -> None:
        """Set its wall clock off the house's by so many seconds, at once."""
        fresh = self.clock.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        if seconds:
            offset = (self._house.now() - datetime.now(UTC)).total_seconds()
            fresh.write_text(f"{offset + seconds:+.6f}\n")
        else:
            fresh.symlink_to(self._house.path)
        fresh.replace(self.clock)

    def order(self, point: str, action: str) -> None:
        """Have its next passage of a failpoint act: `kill` or `stop`."""
        fresh = self.orders / f".{point}.new"
        fresh.write_text(action)
        fresh.replace(self.orders / point)

    def obeyed(self, point: str) -> bool:
        """Tell whether it has taken the order of a failpoint."""
        return any(self.orders.glob(f"{point}.*"))

    def withdraw(self) -> None:
        """Forget its orders, taken ones too."""
        for path in self.orders.iterdir():
            path.unlink(missing_ok=True)

    def relays(self) -> bool:
        """Tell whether events of its service leave through it."""
        told = httpx.get(f"{self.url()}/metrics", timeout=5).text.splitlines()
        return any(
            line.startswith("paceline_outbox_published_total{") and float(line.split()[-1]) > 0
            for line in told
        )

    def _environment(self) -> dict[str, str]:
        return super()._environment() | _MOVED


class MovedHouse(House):
    """All parts and services on one clock that can be set."""

    def __init__(self, run: Path, start: datetime) -> None:
        super().__init__(run)
        stack = self.stack
        folder = stack.layout.state / "clock"
        folder.mkdir(mode=0o755, exist_ok=True)
        self.clock: Final = WallClock(folder / "house")
        self.clock.set(start)
        processes = _MovedProcesses(stack.layout.pids, stack.layout.log, self.clock.path)
        self._site = replace(stack._site, processes=processes)
        stack.postgres = Postgres(self._site)  # type: ignore[misc]
        stack.redis = Redis(self._site)  # type: ignore[misc]
        stack.schema = Schema(self._site, stack.postgres)  # type: ignore[misc]
        _lengthen(stack)
        self.residents: Final = [
            Resident(stack, one.service, 1 + (one.name != one.service), self.clock)
            for one in self.instances
        ]
        self.instances = list(self.residents)  # type: ignore[misc]
        self.replica: Final = Replica(self)

    def those(self, service: str) -> list[Resident]:
        """Return the instances of a service."""
        return [one for one in self.residents if one.service == service]

    def sql(self, statement: str, *args: object) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, as superuser, past every service."""
        with psycopg.connect(self.stack.dsn(), autocommit=True) as db:
            return db.execute(statement.encode(), args).fetchall()

    def empty_redis(self) -> None:
        """Kill Redis and start it with nothing: what it had written to disk is gone too."""
        self.stack.kill("redis")
        self.start_empty_redis()

    def start_empty_redis(self) -> None:
        """Start Redis, which does not run, with nothing."""
        shutil.rmtree(self.stack.layout.state / "redis" / "appendonlydir", ignore_errors=True)
        self.stack.start("redis")

    def lead_redis_to(self, port: int) -> None:
        """Let every service's way to Redis end at another port."""
        ways = {
            name: (way, port) for name, (way, _) in self.ways().items() if name.endswith("-redis")
        }
        self.proxies.start(ways)

    def down(self) -> None:
        self.replica.stop()
        super().down()


def _lengthen(stack: ChaosStack) -> None:
    """Let the broker, on the machine's clock, take records that are months ahead of it."""
    plain = stack.kafka._config
    ahead = f"log.message.timestamp.after.max.ms={2**63 - 1}\n"
    stack.kafka._config = lambda: plain() + ahead  # type: ignore[method-assign]


class Replica:
    """A second Redis that follows the first until it is cut off."""

    def __init__(self, house: MovedHouse) -> None:
        self._house = house
        self._stack = house.stack

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._stack.ports["redis_replica"]

    def follow(self) -> None:
        """Start it and wait until it has all that the first one has."""
        self._stack.assign(["redis_replica"], [])
        site = self._house._site
        password = site.passwords.get("stack", "paceline_redis_password")
        folder = self._stack.layout.state / "redis-replica"
        folder.mkdir(mode=0o700, exist_ok=True)
        options = {
            "bind": LOOPBACK, "port": self.port, "dir": folder, "appendonly": "no", "save": '""',
            "aclfile": self._stack.layout.state / "redis" / "users.acl",
            "masteruser": "stack", "masterauth": password, "repl-diskless-sync-delay": 0,
            "replicaof": f"{LOOPBACK} {self._stack.ports['redis']}",
        }  # fmt: skip
        config = folder / "redis.conf"
        config.touch(mode=0o600)
        config.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        site.processes.spawn(
            _REPLICA, [shutil.which("redis-server") or "", str(config)], print_="", cwd=folder
        )
        if not wait_until(self._follows, _REPLICA_S):
            raise TimeoutError(f"the replica does not follow: {site.processes.tail(_REPLICA)}")

    def cut_off(self) -> None:
        """From here on it gets older."""
        with redis.Redis.from_url(self._url()) as client:
            client.replicaof("NO", "ONE")

    def promote(self) -> None:
        """The first one dies; services find this one in its place."""
        self._stack.kill("redis")
        self._house.lead_redis_to(self.port)

    def stop(self) -> None:
        """End it."""
        self._house._site.processes.stop(_REPLICA, ((signal.SIGKILL, 5.0),))

    def _follows(self) -> bool:
        try:
            with redis.Redis.from_url(self._url()) as client:
                return bool(client.info("replication").get("master_link_status") == "up")
        except redis.RedisError:
            return False

    def _url(self) -> str:
        first = self._stack.redis.url()
        return first.replace(f":{self._stack.ports['redis']}/", f":{self.port}/")
