"""Interleaved measurement: ours, theirs, ours, theirs, … and the median of each."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report. `ratio` is ours over theirs; `goal` bounds it.

    `better` says which side of the goal is met: a speed wants a higher ratio,
    a cost a lower one.
    """

    row: int
    name: str
    unit: str
    ours: float
    theirs: float
    goal: float
    better: Better

    @property
    def ratio(self) -> float:
        """Ours divided by theirs."""
        return self.ours / self.theirs

    @property
    def met(self) -> bool:
        """Whether the ratio reaches its goal."""
        return self.ratio >= self.goal if self.better == "higher" else self.ratio <= self.goal

    def as_json(self) -> dict[str, Any]:
        """The shape of `bench/results/latest.json`."""
        return asdict(self) | {"ratio": round(self.ratio, 3), "met": self.met}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds this process spends in `work`."""
    start = time.process_time()
    work()
    return time.process_time() - start


def process_cpu_s(*pids: int) -> float:
    """Return the CPU seconds of this process and of `pids` with their children, dead ones too."""
    return time.process_time() + others_cpu_s(*pids)


def others_cpu_s(*pids: int) -> float:
    """Return the CPU seconds of `pids` with their children, dead ones too."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The command, in brackets, may hold blanks. proc(5): ppid 4, utime 14 … cstime 17.
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        own, parent = int(stat.parent.name), int(fields[1])
        if own in pids:
            ticks += sum(map(int, fields[11:15]))
        elif parent in pids:
            ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def interleave(
    ours: Callable[[], float], theirs: Callable[[], float], repeats: int
) -> tuple[float, float]:
    """Run both in turn, `repeats` times each, and return the medians of what they return."""
    mine, others = in_turn(repeats, ours, theirs)
    return mine, others


def in_turn(repeats: int, *runs: Callable[[], float]) -> list[float]:
    """Run all in turn, once to warm up and `repeats` times to count; return each one's median."""
    rounds = [[run() for run in runs] for _ in range(repeats + 1)]
    return [statistics.median(values) for values in zip(*rounds[1:], strict=True)]
