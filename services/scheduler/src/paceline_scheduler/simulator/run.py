"""Runs a simulation: one process per group of workspaces, each followed by its check."""

import hashlib
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final

from paceline_scheduler.simulator.checker import CLASSES, check
from paceline_scheduler.simulator.engine import Engine
from paceline_scheduler.simulator.events import EventList
from paceline_scheduler.simulator.fleet import generate
from paceline_scheduler.simulator.plans import GROUPS

_DAY: Final = 86_400_000

# Hears of a group's virtual instant (ms) and sends so far.
Progress = Callable[[int, int, int], None]


class SimulationFailed(Exception):
    """A process of the run ended without a result."""


@dataclass(frozen=True, slots=True)
class Size:
    """What is simulated: equal sizes and seeds give equal event lists."""

    days: int
    mailboxes: int
    leads: int
    steps: int
    seed: int


def simulate(
    size: Size, folder: Path | None = None, progress: Progress = lambda *_: None, workers: int = 2
) -> dict[str, Any]:
    """Return the report of a run, `ok` where it holds the size's sends without a violation.

    The event lists are written to `folder`, where one is given, and checked as
    read back from there. `workers` 1 runs in this process, with the same
    result. Raises `SimulationFailed`, and `ValueError` for an impossible size.
    """
    started = time.monotonic()
    results: dict[int, dict[str, Any]] = {}
    if workers == 1:
        for group in range(GROUPS):
            results[group] = _run_group(size, group, folder, progress)
    else:
        results = _run_processes(size, folder, progress)
    parts = [results[group] for group in range(GROUPS)]
    violations = {name: sum(part["violations"][name] for part in parts) for name in CLASSES}
    sends = sum(part["sends"] for part in parts)
    per_day: Counter[str] = Counter()
    for part in parts:
        per_day.update(part["per_day"])
    own = _peak_rss_mb()
    return {
        "ok": sends > 0 and not any(violations.values()),
        "sends": sends,
        "violations": violations,
        "took_s": round(time.monotonic() - started, 1),
        "peak_rss_mb": round(own if workers == 1 else own + sum(part["rss"] for part in parts)),
        "digest": hashlib.sha256("".join(part["digest"] for part in parts).encode()).hexdigest(),
        "days": size.days,
        "mailboxes": size.mailboxes,
        "leads": size.leads,
        "steps": size.steps,
        "seed": size.seed,
        "submissions": sum(part["submissions"] for part in parts),
        "facts": sum(part["facts"] for part in parts),
        "enrollments": {
            name: sum(part["enrollments"][name] for part in parts)
            for name in parts[0]["enrollments"]
        },
        "check_s": max(part["check_s"] for part in parts),
        "per_day": dict(sorted(per_day.items())),
    }


def _run_group(size: Size, group: int, folder: Path | None, progress: Progress) -> dict[str, Any]:
    plans = [
        one
        for one in generate(size.days, size.mailboxes, size.leads, size.steps, size.seed)
        if one.group == group
    ]
    engine = Engine(plans, f"{size.seed}/events/{group}")
    events = engine.run(size.days, lambda at, sends: progress(group, at, sends))
    enrollments = engine.enrollments()
    del engine
    if folder is not None:
        events.write(folder / str(group))
        events = EventList.read(folder / str(group))
    started = time.monotonic()
    violations = check(events)
    checked = time.monotonic()
    days = Counter(at // _DAY for at in events.columns["at"])
    return {
        "sends": sum(events.columns["accepted"]),
        "submissions": len(events),
        "facts": len(events.facts),
        "enrollments": enrollments,
        "violations": violations,
        "check_s": round(checked - started, 1),
        "digest": events.digest(),
        "per_day": {_date(day): count for day, count in sorted(days.items())},
        "rss": _peak_rss_mb(),
    }


def _run_processes(
    size: Size, folder: Path | None, progress: Progress
) -> dict[int, dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    ends: dict[Connection, int] = {}
    processes = []
    results: dict[int, dict[str, Any]] = {}
    try:
        for group in range(GROUPS):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(size, group, folder, theirs))
            process.start()
            theirs.close()
            processes.append(process)
            ends[ours] = group
        while ends:
            for end in wait(list(ends)):
                assert isinstance(end, Connection)
                try:
                    told = end.recv()
                except EOFError:
                    raise SimulationFailed(f"group {ends[end]} ended without a result") from None
                if isinstance(told, dict):
                    results[ends.pop(end)] = told
                else:
                    progress(*told)
    finally:
        for process in processes:
            if ends:
                process.terminate()
            process.join()
    return results


def _child(size: Size, group: int, folder: Path | None, end: Connection) -> None:
    end.send(_run_group(size, group, folder, lambda *told: end.send(told)))


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes on Linux, bytes on macOS.
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * 86_400))
