"""The SMTP sink as a process of the bench, and what it wrote."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paceline_common import ids
from paceline_local.process import wait_until

PATIENCE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message at the sink: when its MAIL FROM came, by CLOCK_REALTIME."""

    job: int
    mailbox: int
    at_ns: int


class Sink:
    """What the SMTP sink wrote to `output`."""

    def __init__(self, output: Path) -> None:
        self._output = output
        # Of what was counted: so many octets, so many lines.
        self._read, self._lines = 0, 0

    def port(self) -> int:
        """Wait for the sink to listen; return where."""
        await_(lambda: self.count() >= 0, "the sink listens")
        with self._output.open("rb") as stream:
            return int(stream.readline())

    def count(self) -> int:
        """Return how many messages it has taken; -1 before it listens."""
        with self._output.open("rb") as stream:
            stream.seek(self._read)
            more = stream.read()
        self._read += len(more)
        self._lines += more.count(b"\n")
        return self._lines - 1

    def octets(self) -> int:
        """Return the size of the last message taken."""
        return int(self._output.read_bytes().splitlines()[-1].split()[-1])

    def arrivals(self) -> list[Arrival]:
        """Return every message taken so far."""
        rows = [line.split() for line in self._output.read_text().splitlines()[1:]]
        return [
            Arrival(ids.decode("job", job), int(sender[1 : sender.index("@")]), int(at))
            for job, sender, at, _ in rows
        ]


@contextmanager
def process(output: Path, *argv: str) -> Iterator[None]:
    """Run a module of the bench; it ends with its standard input."""
    with output.open("wb") as stream:
        child = subprocess.Popen(
            [sys.executable, "-m", *argv], stdin=subprocess.PIPE, stdout=stream
        )
    try:
        yield
    finally:
        child.communicate(timeout=30)


@contextmanager
def sink(*certificate: Path) -> Iterator[Sink]:
    """Run a sink; with a certificate and its key it speaks implicit TLS."""
    with tempfile.TemporaryDirectory(prefix="pl-bench-") as folder:
        output = Path(folder) / "sink"
        with process(output, "bench.smtp_sink", *map(str, certificate)):
            yield Sink(output)


def await_(condition: Callable[[], bool], what: str, every: float = 0.1) -> None:
    """Wait for `condition`; raise `TimeoutError` after `PATIENCE_S`."""
    if not wait_until(condition, PATIENCE_S, every):
        raise TimeoutError(f"waited {PATIENCE_S:g} s in vain: {what}")
