"""The house under chaos: the real parts, toxiproxy on every way, several of the busiest services.

Each service instance has its own proxied ways to the other parts, a directory of failpoint
orders and a clock of its own (libfaketime moves wall time and leaves the monotonic clock alone).
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Final

import httpx
import hvac
import redis

from paceline_common import grants, topics
from paceline_local import apt
from paceline_local.layout import REPOSITORY
from paceline_local.parts.base import PartFailed, await_ready
from paceline_local.parts.kafka import Kafka
from paceline_local.ports import LOOPBACK
from paceline_local.process import wait_until
from paceline_local.stack import Stack
from tests.chaos import nursery
from tests.chaos.proxies import PROCESS as TOXIPROXY
from tests.chaos.proxies import Proxies

REPLICAS: Final[Mapping[str, int]] = {"scheduler": 2, "sender": 2}
TWINS: Final = ("gmail", "graph")
# Ways over which mail leaves: what is slowed there on its way out would seem to be sent late.
OUTWARD: Final = ("sender-smtp", "sender-gmail", "sender-graph")
_READY_S: Final = 180.0
_FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")

# Minutes of waiting become seconds; what is promised does not depend on them.
SETTINGS: Final[Mapping[str, Mapping[str, str]]] = {
    "sender": {
        "BEAT_S": "0.5", "DEAD_AFTER_S": "4", "RECONCILE_S": "0.5", "PREPARE_AHEAD_S": "3",
        "FIRST_LOOK_S": "2", "GMAIL_DESTROY_AFTER_S": "8", "GRAPH_DESTROY_AFTER_S": "8",
        "TIDY_DRAFTS_S": "3", "FIND_SENT_TIMEOUT_S": "20",
    },
    "reply": {
        "POLL_S": "2", "API_POLL_S": "3", "LEASE_S": "6", "SUPERVISE_S": "1",
        "RECONNECT_CAP_S": "2", "AUTH_RETRY_S": "3",
    },
    "bounce": {"HEALTH_RECOMPUTE_S": "3", "HEALTH_COOLDOWN": '{"bounces": 1}'},
    "audit": {"CHECKPOINT_S": "3"},
}  # fmt: skip


class _ProxiedKafka(Kafka):
    """The broker as ever, but everybody is told to come by way of the proxy.

    A consumer that was killed is given up soon: until then its topics stand still.
    """

    def _config(self) -> str:
        ports = self._site.ports
        own = f"advertised.listeners=SASL_PLAINTEXT://{LOOPBACK}:"
        settings = super()._config().replace(f"{own}{ports['kafka']}", f"{own}{ports['kafka_via']}")
        return f"{settings}\ngroup.min.session.timeout.ms=1000\n"


class ChaosStack(Stack):
    """The local stack with a proxy before its broker."""

    def __init__(self, run: Path) -> None:
        super().__init__(run)
        self.kafka = _ProxiedKafka(self._site)  # type: ignore[misc]
        self.proxies = Proxies(self._site)

    def assign(self, names: Sequence[str], used: Sequence[str]) -> None:
        """Give every name a port; those in `used` keep theirs."""
        self._ports.assign(names, used)

    def await_answer(self, process: str, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until a process is ready; raise `PartFailed` otherwise."""
        await_ready(self._site, process, process, ready, seconds, "read the log")


class Instance:
    """One process of a service."""

    def __init__(self, stack: ChaosStack, service: str, number: int) -> None:
        self.service = service
        self.name = service if number == 1 else f"{service}-{number}"
        self._stack = stack
        # Every pid it had: whoever took an order is told by one that may be gone.
        self.pids: list[int] = []
        self.orders = stack.layout.run / "orders" / service
        # Whoever looks after it and whoever heals the house may start it at once.
        self._one = Lock()
        self._nursery = f"{self.name}-nursery"
        self._door = stack.layout.run / "doors" / self.name
        self.clock = stack.layout.run / "clock" / self.name

    @property
    def pid(self) -> int | None:
        """Return the pid of the running process, None when there is none."""
        record = self._stack.processes.find(self.name)
        return None if record is None else record.pid

    def url(self) -> str:
        """Return its own address, past every proxy."""
        return f"http://{LOOPBACK}:{self._stack.ports[self.name]}"

    def spawn(self) -> None:
        """Start the process, unless it runs; does not wait for it."""
        with self._one:
            if (pid := self.pid) is None:
                self._open_nursery()
                pid = nursery.ask(self._door)
                self._stack.processes.adopt(self.name, pid, print_="")
            if pid not in self.pids:
                self.pids.append(pid)

    def _open_nursery(self) -> None:
        processes = self._stack.processes
        if processes.find(self._nursery) is not None:
            return
        self._door.parent.mkdir(exist_ok=True)
        self._door.unlink(missing_ok=True)
        log = str(processes.log_path(self.name))
        argv = [
            sys.executable, "-m", nursery.__name__, self.service, str(self._door), log,
        ]  # fmt: skip
        processes.spawn(self._nursery, argv, print_="", env=self._environment(), cwd=REPOSITORY)
        self._stack.await_answer(self._nursery, self._door.exists, _READY_S)

    def end(self) -> None:
        """End the process, and what starts it."""
        for name in (self.name, self._nursery):
            steps = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0))
            self._stack.processes.stop(name, steps)

    def ready(self) -> bool:
        """Tell whether it says that all it needs is there."""
        try:
            return httpx.get(f"{self.url()}/readyz", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def send(self, signum: int) -> bool:
        """Send a signal; False when it does not run."""
        return self._stack.processes.send(self.name, signum)

    def skew(self, seconds: float) -> None:
        """Set its wall clock off by so many seconds; it notices within one."""
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(f"{seconds:+.3f}\n")
        fresh.replace(self.clock)

    def _environment(self) -> dict[str, str]:
        stack, ports = self._stack, self._stack.ports
        settings = stack.env(self.service)
        ways = {
            f":{ports[to]}": f":{ports[f'via_{self.service}_{to}']}" for to in _ways(self.service)
        }
        for name, value in settings.items():
            for direct, proxied in ways.items():
                if value.endswith(direct) or f"{direct}/" in value:
                    settings[name] = value.replace(direct, proxied)
        settings["PACELINE_POSTGRES_PORT"] = str(ports[f"via_{self.service}_postgres"])
        settings["PACELINE_KAFKA_BOOTSTRAP"] = f"{LOOPBACK}:{ports['kafka_via']}"
        if "PACELINE_REDIS_PORT" in settings:
            settings["PACELINE_REDIS_PORT"] = str(ports[f"via_{self.service}_redis"])
        settings |= {
            f"PACELINE_{name}": value for name, value in SETTINGS.get(self.service, {}).items()
        }
        # A hung way is noticed soon.
        return settings | {
            "PACELINE_HTTP_PORT": str(ports[self.name]),
            "PACELINE_FAILPOINTS_DIR": str(self.orders),
            "PACELINE_DRAIN_GRACE_S": "5",
            "PACELINE_KAFKA_SESSION_TIMEOUT_S": "5",
            "PACELINE_STATEMENT_TIMEOUT_MS": "8000",
            "PYTHONUNBUFFERED": "1",
            "LD_PRELOAD": str(_FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }


def _ways(service: str) -> list[str]:
    """Return the parts (by their port's name) that a service talks to, but for Kafka."""
    principal = grants.BY_NAME[service]
    ways = ["postgres"]
    if principal.keys:
        ways.append("keys")
    if principal.redis:
        ways.append("redis")
    ways += sorted(principal.calls)
    if service in ("gateway", "sender", "reply"):
        ways += [f"{twin}_twin" for twin in TWINS]
    return ways


class House:
    """All instances and parts; what chaos does is done to it."""

    def __init__(self, run: Path) -> None:
        self.stack = ChaosStack(run)
        # The customer's, once there is one.
        self.workspace = ""
        self._ordered: set[int] = set()
        self.instances: Final = [
            Instance(self.stack, service, number)
            for service in topics.SERVICES
            for number in range(1, REPLICAS.get(service, 1) + 1)
        ]

    @property
    def proxies(self) -> Proxies:
        """The ways between the parts."""
        return self.stack.proxies

    def of(self, service: str) -> list[Instance]:
        """Return the instances of a service."""
        return [one for one in self.instances if one.service == service]

    def ways(self) -> dict[str, tuple[int, int]]:
        """Return every proxied way: name → (its port, the port behind it)."""
        ports = self.stack.ports
        found = {
            f"{service}-{to.removesuffix('_twin')}": (ports[f"via_{service}_{to}"], ports[to])
            for service in topics.SERVICES
            for to in _ways(service)
        }
        return found | {
            "all-kafka": (ports["kafka_via"], ports["kafka"]),
            "sender-smtp": (ports["via_smtp"], ports["smtp_starttls"]),
            "reply-imap": (ports["via_imap"], ports["imaps"]),
        }

    def up(self, say: Callable[[str], None]) -> None:
        """Start everything from nothing and wait until all is ready."""
        stack = self.stack
        if not _FAKETIME.exists():
            apt.install(("libfaketime",), stack.layout.log / "apt.log", say)
        names = ["kafka", "kafka_controller", "kafka_via", "postgres", "redis", "keys",
                 "keys_cluster", TOXIPROXY, "via_smtp", "via_imap",
                 *(name for twin in stack.twins.values() for name in twin.port_names),
                 *stack.mailhost.port_names, *(one.name for one in self.instances)]  # fmt: skip
        names += [f"via_{service}_{to}" for service in topics.SERVICES for to in _ways(service)]
        # While a house stands, its ports are its own.
        stands = stack.processes.find(TOXIPROXY) is not None
        stack.assign(names, names if stands else [])
        stack.proxies.start(self.ways())
        stack.up(
            keys="vault", services=False, twins=True,
            report=lambda part, state, _: say(f"{part} {state}"),
        )  # fmt: skip
        stack.proxies.start(self.ways())
        # A run that was broken off has left them as they were.
        stack.proxies.heal()
        for one in self.instances:
            one.orders.mkdir(parents=True, exist_ok=True)
            one.clock.parent.mkdir(parents=True, exist_ok=True)
            one.skew(0)
        self.withdraw()
        # Whatever runs may be of another tree.
        self.end_services()
        self.start_services()
        say("services ready")

    def start_services(self) -> None:
        """Start the instances that do not run, and wait until each is ready."""
        for one in self.instances:
            one.send(signal.SIGCONT)
        with ThreadPoolExecutor(len(self.instances)) as pool:
            list(pool.map(Instance.spawn, self.instances))
        for one in self.instances:
            self.stack.await_answer(one.name, one.ready, _READY_S)

    def down(self) -> None:
        """End every process."""
        self.end_services()
        self.stack.down()
        self.stack.proxies.stop()

    def end_services(self) -> None:
        """End every instance."""
        for one in self.instances:
            one.send(signal.SIGCONT)
        with ThreadPoolExecutor(len(self.instances)) as pool:
            list(pool.map(Instance.end, self.instances))

    # ---- orders to failpoints

    def order(self, service: str, point: str, action: str) -> Path:
        """Have the next passage of a failpoint in a service act; return the order."""
        order = self.of(service)[0].orders / point
        fresh = order.with_name(f".{point}.new")
        fresh.write_text(action)
        fresh.replace(order)
        return order

    def taken(self, order: Path) -> Instance | None:
        """Return the instance that took an order, None as long as nobody has."""
        for path in order.parent.glob(f"{order.name}.*"):
            pid_text = path.name.removeprefix(f"{order.name}.")
            if not pid_text.isdigit():
                continue
            pid = int(pid_text)
            self._ordered.add(pid)
            path.unlink()
            for one in self.of(order.parent.name):
                if pid in one.pids:
                    return one
        return None

    def was_ordered(self, pid: int) -> bool:
        """Tell whether a process took an order before it died."""
        return pid in self._ordered or any(
            path.suffix == f".{pid}" for one in self.instances for path in one.orders.iterdir()
        )

    def withdraw(self) -> None:
        """Forget every order."""
        for one in self.instances:
            for path in one.orders.iterdir():
                path.unlink(missing_ok=True)

    # ---- what breaks the parts

    def crash_postgres(self) -> None:
        """End the server as a power cut would (no checkpoint, WAL replayed), and start it."""
        # SIGQUIT is Postgres's own word for it: a killed postmaster leaves its children holding
        # the shared memory for a moment, and the next one would not start.
        self.stack.processes.stop("postgres", ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)))
        self.stack.start("postgres")

    def kill_part(self, part: str) -> None:
        """SIGKILL a part's process and start it again."""
        self.stack.kill(part)
        self.stack.start(part)

    def flush_redis(self) -> None:
        """Lose everything that Redis holds."""
        with redis.Redis.from_url(self.stack.redis.url()) as client:
            client.flushall()

    def seal(self) -> None:
        """Seal the key service: it answers 503 to everybody."""
        self._vault().sys.seal()

    def unseal(self) -> None:
        """Unseal the key service, if it is sealed."""
        client = self._vault()
        if client.sys.is_sealed():
            client.sys.submit_unseal_key(self.stack.passwords.get("vault", "unseal_key"))
        if not wait_until(self.stack.keys.ready, 20):
            raise PartFailed("keys", "it stays sealed", "read the log")

    def _vault(self) -> hvac.Client:
        return hvac.Client(url=self.stack.keys.url(), token=self.stack.keys.root_token())

    def heal(self) -> None:
        """Undo everything: processes run, ways are open, the key service is unsealed, clocks go."""
        self.withdraw()
        self.proxies.heal()
        for one in self.instances:
            one.skew(0)
            one.send(signal.SIGCONT)
        self.unseal()
        for part in ("postgres", "redis", "kafka"):
            if self.stack.processes.find(part) is None:
                self.stack.start(part)
        # A process that dies of its start is told of by `start_services`.
        deadline = time.monotonic() + _READY_S
        while True:
            with suppress(PartFailed):
                self.start_services()
                return
            if time.monotonic() > deadline:
                self.start_services()
                return


def default_run() -> Path:
    """Return the run directory of chaos: beside the demo's, a stack of its own."""
    return Path(os.environ.get("PACELINE_RUN_DIR") or REPOSITORY / ".run" / "chaos")
