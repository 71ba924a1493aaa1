"""The stack: its parts in order, started, checked and ended as one."""

import fcntl
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from paceline_common import topics
from paceline_local import apt
from paceline_local.layout import Layout
from paceline_local.parts import services as service_parts
from paceline_local.parts.base import Part, PartFailed, Site
from paceline_local.parts.kafka import Kafka
from paceline_local.parts.keys import Keys, Kind
from paceline_local.parts.mailhost import MailHost
from paceline_local.parts.postgres import Postgres
from paceline_local.parts.redis import Redis
from paceline_local.parts.services import Service
from paceline_local.parts.twins import DOMAINS, Twin
from paceline_local.parts.twins import Kind as TwinKind
from paceline_local.passwords import Passwords
from paceline_local.ports import Ports
from paceline_local.process import Processes, wait_until
from paceline_local.schema import Schema

_KILLED_S: Final = 10.0

Report = Callable[[str, str, str], None]
"""Takes a part's name, its state (`waiting working ready failed`) and a short detail."""


class StackFailed(Exception):
    """One or more parts did not start."""

    def __init__(self, failures: Sequence[PartFailed]) -> None:
        super().__init__("; ".join(str(failure) for failure in failures))
        self.failures = list(failures)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `status`: a process of the stack."""

    part: str
    process: str
    pid: int | None
    port: int
    version: str
    ready: bool


def _silent(_part: str, _state: str, _detail: str) -> None:
    return None


class Stack:
    """One local stack. Every method is idempotent and safe to call from another process."""

    def __init__(self, run: Path | None = None) -> None:
        self.layout: Final = Layout.of(run)
        self.layout.create()
        self.processes: Final = Processes(self.layout.pids, self.layout.log)
        self.passwords: Final = Passwords(self.layout.secrets)
        self._ports: Final = Ports(self.layout.ports_file)
        self._site = Site(self.layout, self._ports, self.passwords, self.processes)
        self.postgres: Final = Postgres(self._site)
        self.redis: Final = Redis(self._site)
        self.kafka: Final = Kafka(self._site)
        self.keys: Final = Keys(self._site)
        self.mailhost: Final = MailHost(self._site)
        self.twins: Final[dict[TwinKind, Twin]] = {kind: Twin(kind, self._site) for kind in DOMAINS}
        self.schema: Final = Schema(self._site, self.postgres)
        self.services: Final = {
            name: Service(name, self._site, self.keys, self.mailhost) for name in topics.SERVICES
        }

    @property
    def ports(self) -> Mapping[str, int]:
        """Port by name, as in `ports.env`."""
        return self._ports

    def up(
        self,
        *,
        keys: Kind | None = None,
        services: bool = True,
        twins: bool = False,
        report: Report = _silent,
    ) -> "Stack":
        """Start what does not run; return when all is ready, raise `StackFailed` otherwise.

        The `twins` of Gmail and Graph are for whoever asks for them; services are pointed
        at their ports always.

        `keys=None` keeps the key service that this stack used last (at first the twin).
        Another one than last time means another database: what one key service sealed
        or signed, the other can neither open nor verify.
        """
        with self._lock():
            anew = keys is not None and self.keys.chosen not in (None, keys)
            if keys is not None and keys != self.keys.kind:
                self._stop(self.keys, report)
            self.keys.choose(keys or self.keys.kind)
            everything: list[Part] = [
                *self._infrastructure(), *self.twins.values(), *self.services.values()
            ]  # fmt: skip
            self._install(everything, report)
            self._assign(everything)
            self._start_all(
                [
                    [self.postgres, self.schema],
                    *([part] for part in (self.redis, self.kafka, self.keys, self.mailhost)),
                    *([twin] for twin in self.twins.values() if twins),
                ],
                report,
            )
            if anew:
                self._recreate(report)
            if services:
                self._start_all([[service] for service in self.services.values()], report)
        return self

    def down(self, report: Report = _silent) -> None:
        """End every recorded process, services first."""
        with self._lock():
            groups: list[Sequence[Part]] = [
                list(self.services.values()), [*self.twins.values(), *self._infrastructure()]
            ]  # fmt: skip
            for group in groups:
                with ThreadPoolExecutor(len(group)) as pool:
                    list(pool.map(lambda part: self._stop(part, report), group))

    def env(self, principal: str) -> dict[str, str]:
        """Return the settings of a service, or of `admin` (paceline-admin)."""
        return service_parts.environment(principal, self._site, self.keys, self.mailhost)

    def restart(self, service: str, extra: Mapping[str, str] | None = None) -> None:
        """End a service if it runs, and start it, with more settings when given."""
        with self._lock():
            part = self.services[service]
            part.stop()
            part.start_with(lambda _line: None, extra or {})

    def recreate(self, report: Report = _silent) -> None:
        """Drop the stack's database, empty its topics, and make the database anew.

        Services that run are ended before and started again: none may carry what
        it read of the old database into the new one.
        """
        with self._lock():
            self._recreate(report)

    def _recreate(self, report: Report) -> None:
        running = [one for one in self.services.values() if self.processes.find(one.name)]
        for service in running:
            self._stop(service, report)
        report(self.kafka.name, "working", "emptying the topics")
        self.kafka.empty_topics()
        self.schema.recreate(partial(report, self.schema.name, "working"))
        if running:
            self._start_all([[service] for service in running], report)

    def kill(self, service: str, signum: int = signal.SIGKILL) -> None:
        """Send a signal to a process of the stack; raise `ProcessLookupError` when none runs.

        After SIGKILL the process is gone, and its ports are free.
        """
        if not self.processes.send(service, signum):
            raise ProcessLookupError(f"{service} does not run")
        if signum == signal.SIGKILL and not wait_until(
            lambda: self.processes.find(service) is None, _KILLED_S, every=0.01
        ):
            raise TimeoutError(f"{service} does not end")

    def erase(self) -> None:
        """Delete data, secrets, logs and ports; the stack must be down."""
        running = [name for name in self.processes.recorded() if self.processes.find(name)]
        if running:
            raise RuntimeError(f"still running: {', '.join(running)}")
        for folder in (self.layout.state, self.layout.secrets, self.layout.log, self.layout.pids):
            shutil.rmtree(folder)
        shutil.rmtree(self.layout.run / "tls", ignore_errors=True)
        self.layout.ports_file.unlink(missing_ok=True)
        self.layout.create()

    def status(self) -> list[Row]:
        """Return one row per process, running or not; of the twins those that were started."""
        rows = []
        recorded = set(self.processes.recorded())
        twins = [twin for twin in self.twins.values() if twin.name in recorded]
        for part in (*self._infrastructure(), *twins, *self.services.values()):
            known = all(name in self._ports for name in part.port_names)
            running = {name: self.processes.find(name) for name in part.processes}
            alive = known and all(running.values())
            ready = alive and part.ready()
            version = part.version() if ready else ""
            for process, record in running.items():
                port = self._ports.get(process, self._ports.get(part.port_names[0], 0))
                rows.append(
                    Row(part.name, process, record.pid if record else None, port, version, ready)
                )
        return rows

    def start(self, name: str) -> None:
        """Start one part and wait until it is ready."""
        part = self.parts()[name]
        with self._lock():
            self._assign([part])
            part.start(lambda _line: None)

    def stop(self, name: str) -> None:
        """End one part."""
        self.parts()[name].stop()

    def dsn(self, role: str = "postgres", database: str = "paceline") -> str:
        """Return a libpq URI for a login role; `postgres` is the superuser."""
        return self.postgres.dsn(role, database)

    def _infrastructure(self) -> list[Part]:
        return [self.postgres, self.redis, self.kafka, self.keys, self.mailhost]

    def parts(self) -> dict[str, Part]:
        """Return every part that `start` and `stop` take, by name."""
        every: list[Part] = [
            *self._infrastructure(), *self.twins.values(), *self.services.values()
        ]  # fmt: skip
        return {part.name: part for part in every}

    def _install(self, parts: Sequence[Part], report: Report) -> None:
        missing = [
            package
            for part in parts
            for need in part.needs()
            if not need.present()
            for package in need.packages
        ]
        if not missing:
            return
        try:
            apt.install(
                missing,
                self.layout.log / "apt.log",
                lambda line: report("packages", "working", line),
            )
        except PartFailed as failure:
            raise StackFailed([failure]) from failure
        report("packages", "ready", "")

    def _assign(self, parts: Sequence[Part]) -> None:
        names = [name for part in parts for name in part.port_names]
        used = [
            name
            for part in parts
            if any(self.processes.find(process) for process in part.processes)
            for name in part.port_names
        ]
        self._ports.assign(names, used)

    def _start_all(self, chains: Sequence[Sequence[Part]], report: Report) -> None:
        """Start the chains side by side, and the parts of a chain one after another."""
        failures: list[PartFailed] = []

        def start(chain: Sequence[Part]) -> None:
            for part in chain:
                report(part.name, "working", "")
                failure = self._try(part, report)
                if failure:
                    failures.append(failure)
                    report(part.name, "failed", failure.reason)
                    return
                report(part.name, "ready", part.version())

        with ThreadPoolExecutor(len(chains)) as pool:
            list(pool.map(start, chains))
        if failures:
            raise StackFailed(failures)

    def _try(self, part: Part, report: Report) -> PartFailed | None:
        try:
            part.start(partial(report, part.name, "working"))
        except PartFailed as failure:
            return failure
        except Exception as error:  # noqa: BLE001 - one bad part must not hide the others
            reason = f"{type(error).__name__}: {error}"
            tail = self.processes.tail(part.name)
            return PartFailed(part.name, reason, "unforeseen: please report it", tail)
        return None

    def _stop(self, part: Part, report: Report) -> None:
        if not any(self.processes.find(process) for process in part.processes):
            return
        report(part.name, "working", "stopping")
        part.stop()
        report(part.name, "ready", "stopped")

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.layout.run / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
