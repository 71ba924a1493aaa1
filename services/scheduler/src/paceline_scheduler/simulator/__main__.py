"""`python -m paceline_scheduler.simulator`: thirty virtual days, checked, with a report."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from paceline_scheduler.simulator.plans import GROUPS, START
from paceline_scheduler.simulator.run import Size, simulate

_PLAIN_EVERY_S: Final = 10.0
_START_MS: Final = round(START.timestamp() * 1000)
_DAY: Final = 86_400_000


class _Told:
    """What the groups told last, as one line: virtual date, sends, rate."""

    def __init__(self, days: int) -> None:
        self._span = days * _DAY
        self._at = dict.fromkeys(range(GROUPS), _START_MS)
        self._sends = dict.fromkeys(range(GROUPS), 0)
        self._began = time.monotonic()

    def hear(self, group: int, at: int, sends: int) -> None:
        self._at[group], self._sends[group] = at, sends

    @property
    def share(self) -> float:
        return sum(at - _START_MS for at in self._at.values()) / (GROUPS * self._span)

    @property
    def line(self) -> str:
        sends = sum(self._sends.values())
        date = time.strftime("%Y-%m-%d", time.gmtime(min(self._at.values()) / 1000))
        rate = sends / max(0.001, time.monotonic() - self._began)
        return f"{date}  {sends:,} sends  {rate:,.0f}/s"

    @property
    def eta_s(self) -> float:
        passed = time.monotonic() - self._began
        return passed / self.share - passed if self.share > 0 else 0.0


def main() -> int:
    """Run with the arguments of the command line; return 1 where a limit was broken."""
    parser = argparse.ArgumentParser(prog="simulate", description=__doc__)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--mailboxes", type=int, default=2000)
    parser.add_argument("--leads", type=int, default=600_000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(".run/simulate"))
    parser.add_argument("--workers", type=int, choices=(1, 2), default=2)
    parser.add_argument("--json", action="store_true", help="print the report")
    options = parser.parse_args()
    size = Size(options.days, options.mailboxes, options.leads, options.steps, options.seed)
    console = Console(stderr=True)
    report = _watched(size, options.out / "events", options.workers, console)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        _tell(report, options.out, console)
    return 0 if report["ok"] else 1


def _watched(size: Size, folder: Path, workers: int, console: Console) -> dict[str, Any]:
    told = _Told(size.days)
    if not console.is_terminal:
        last = time.monotonic()

        def plain(group: int, at: int, sends: int) -> None:
            nonlocal last
            told.hear(group, at, sends)
            if time.monotonic() - last >= _PLAIN_EVERY_S:
                last = time.monotonic()
                console.print(f"{told.line}  {told.eta_s:,.0f} s left", highlight=False)

        return simulate(size, folder, plain, workers)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(told.line, total=1.0)

        def live(group: int, at: int, sends: int) -> None:
            told.hear(group, at, sends)
            bar.update(task, completed=told.share, description=told.line)

        return simulate(size, folder, live, workers)


def _tell(report: dict[str, Any], folder: Path, console: Console) -> None:
    broken = {name: count for name, count in report["violations"].items() if count}
    console.print(
        f"{report['sends']:,} sends in {report['took_s']} s, {report['peak_rss_mb']} MB,"
        f" digest {report['digest'][:16]}",
        highlight=False,
    )
    console.print(
        f"violations: {broken or 'none'}; report in {folder / 'report.json'}", highlight=False
    )


if __name__ == "__main__":
    sys.exit(main())
