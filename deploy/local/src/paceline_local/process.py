"""Processes of the stack: started once, recorded by pid, ended by pid and by nothing else."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_LOG_BYTES: Final = 32 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One started process, told apart from a later one with the same pid.

    `start_ticks` is field 22 of proc(5) `stat` (clock ticks since boot), so that
    `(boot, pid, start_ticks)` names one process for ever. `fingerprint` digests
    the configuration it was started with.
    """

    name: str
    pid: int
    start_ticks: int
    boot: str
    fingerprint: str


def fingerprint(*parts: object) -> str:
    """Return a digest of a part's configuration; equal inputs need no restart."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def wait_until(check: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Poll `check` until it is true or `seconds` have passed; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


class Processes:
    """The process records of one stack, in `<run>/pid/<name>.json`."""

    def __init__(self, pids: Path, log: Path) -> None:
        self._pids = pids
        self._log = log
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def log_path(self, name: str) -> Path:
        """Return the file that holds the output of `name`."""
        return self._log / f"{name}.log"

    def tail(self, name: str, lines: int = 12) -> list[str]:
        """Return the last lines that `name` wrote, oldest first."""
        path = self.log_path(name)
        if not path.exists():
            return []
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 32_768))
            return stream.read().decode(errors="replace").splitlines()[-lines:]

    def find(self, name: str) -> Record | None:
        """Return the running process recorded as `name`; a stale record is removed."""
        path = self._path(name)
        try:
            record = Record(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            path.unlink(missing_ok=True)
            return None
        child = self._children.get(record.pid)
        if child is not None:
            child.poll()
        if record.boot == _boot() and _start_ticks(record.pid) == record.start_ticks:
            return record
        path.unlink(missing_ok=True)
        return None

    def recorded(self) -> list[str]:
        """Return every name that has a record, running or stale."""
        return sorted(path.stem for path in self._pids.glob("*.json"))

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
        """Start `argv` detached, its output appended to the log of `name`, and record it.

        `env` is added to a small inherited environment; `user` is an account to
        run as (root only). The caller has made sure that `name` is not running.
        """
        log_path = self.log_path(name)
        if log_path.exists() and log_path.stat().st_size > _LOG_BYTES:
            log_path.replace(log_path.with_suffix(".log.1"))
        base = {k: v for k, v in os.environ.items() if not k.startswith("PACELINE_")}
        with log_path.open("ab") as log:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=base | dict(env or {}),
                cwd=cwd,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                start_new_session=True,
            )
        self._children[child.pid] = child
        return self.adopt(name, child.pid, print_=print_)

    def adopt(self, name: str, pid: int, *, print_: str) -> Record:
        """Record a process that somebody else has started, and reaps, as `name`."""
        ticks = _start_ticks(pid)
        record = Record(name, pid, -1 if ticks is None else ticks, _boot(), print_)
        temporary = self._path(name).with_suffix(".new")
        temporary.write_text(json.dumps(asdict(record)))
        temporary.replace(self._path(name))
        return record

    def send(self, name: str, signum: int) -> bool:
        """Send a signal to the recorded process of `name`; False when it is not running."""
        record = self.find(name)
        if record is None:
            return False
        try:
            os.kill(record.pid, signum)
        except ProcessLookupError:
            return False
        return True

    def stop(
        self,
        name: str,
        steps: Sequence[tuple[int, float]] = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)),
    ) -> bool:
        """End the process of `name`: each signal in turn, with its patience in seconds.

        Return False when nothing was running; raise `TimeoutError` when it outlives SIGKILL.
        """
        if self.find(name) is None:
            return False
        for signum, patience in steps:
            self.send(name, signum)
            if wait_until(lambda: self.find(name) is None, patience):
                return True
        raise TimeoutError(f"{name} does not end")

    def _path(self, name: str) -> Path:
        return self._pids / f"{name}.json"


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _start_ticks(pid: int) -> int | None:
    """Return the start time of a live process; None for a dead one or a zombie (proc(5)).

    A zombie with further threads is alive: until the last of them has ended
    (a killed JVM has dozens) its ports stay taken.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, field 2, is in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    threads = int(fields[17])
    return None if fields[0] in "ZX" and threads <= 1 else int(fields[19])
