"""`python -m tests.chaos`: break the house on purpose, and let somebody else judge what is left."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from paceline_common import failpoints
from tests.chaos import broken
from tests.chaos.campaign import Customer
from tests.chaos.checker import check
from tests.chaos.controller import Controller, Plan, Tally
from tests.chaos.diary import Diary
from tests.chaos.evidence import gather
from tests.chaos.house import House, default_run
from tests.chaos.report import RULES, Done, compose

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

REPORT: Final = "report.json"
BROKEN: Final = 1
_RUN: Final = default_run()
RunDir = Annotated[
    Path, typer.Option("--run", help="directory of the stack and its report", envvar="CHAOS_RUN")
]


class Board:
    """Shows a run while it goes on: a live table, or a line now and then without a terminal."""

    def __init__(self, console: Console, kills: int, *, quiet: bool) -> None:
        self._console, self._kills, self._quiet = console, kills, quiet
        self._began = time.monotonic()
        self._told = 0.0
        live = console.is_terminal and not quiet
        self._live = Live(console=console, refresh_per_second=4) if live else None

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Return seconds since it was made."""
        return time.monotonic() - self._began

    def say(self, line: str) -> None:
        """Print one line."""
        if not self._quiet:
            self._console.print(f"[dim]{self.elapsed_s:6.1f} s[/]  {escape(line)}", highlight=False)

    def show(self, tally: Tally, faults: Counter[str]) -> None:
        """Show where a run is."""
        if self._live:
            self._live.update(self._table(tally, faults))
        elif not self._quiet and time.monotonic() - self._told > 5:
            self._told = time.monotonic()
            self.say(
                f"{tally.phase}: {tally.kills}/{self._kills} kills at {len(tally.transitions)}"
                f" transitions, {faults.total()} faults, {tally.open}"
            )

    def _table(self, tally: Tally, faults: Counter[str]) -> Table:
        table = Table(title=f"{tally.phase} · {self.elapsed_s:.0f} s", show_header=False)
        table.add_row("kills", f"{tally.kills} of {self._kills}")
        table.add_row("transitions", f"{len(tally.transitions)} of {len(failpoints.declared())}")
        table.add_row("faults", ", ".join(f"{n} {c}" for n, c in sorted(faults.items())))
        table.add_row("ahead", str(tally.open or ""))
        return table


@app.command()
def run(
    *,
    kills: Annotated[int, typer.Option(min=0, help="how many processes to kill")] = 500,
    seed: Annotated[int, typer.Option(help="what is drawn follows from it")] = 1,
    run_dir: RunDir = _RUN,
    keep: Annotated[bool, typer.Option("--keep", help="leave the house up")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print only the report")] = False,
    aim: Annotated[str | None, typer.Option(help="only these failpoints, by commas")] = None,
    faults: Annotated[str | None, typer.Option(help="only these faults, by commas")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="how many faults at least")] = 0,
    patience: Annotated[float, typer.Option(help="seconds to wait for rest")] = 240.0,
) -> None:
    """Run chaos; exit 0 when every promise held, 1 when one did not, 3 when it could not run."""
    # SIGTERM ends it as Ctrl-C does: in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=as_json)
    folder = run_dir.resolve()
    house = House(folder)
    plan = Plan(kills, seed, rounds, _listed(aim), _listed(faults))
    code = 3
    try:
        with Board(console, kills, quiet=as_json) as board:
            house.up(board.say)
            asyncio.run(_drive(house, plan, board, patience))
            verdict = subprocess.run(
                [sys.executable, "-m", "tests.chaos", "verdict", "--run", str(folder), "--json"],
                check=False, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            code = verdict.returncode
        if as_json:
            typer.echo(verdict.stdout, nl=False)
        else:
            _tell(console, folder)
    finally:
        if not keep:
            house.down()
    raise typer.Exit(code)


def _listed(names: str | None) -> list[str] | None:
    return None if names is None else [name for name in names.split(",") if name]


async def _drive(house: House, plan: Plan, board: Board, patience_s: float) -> None:
    customer = Customer(house, random.Random(f"{plan.seed} customer"), is_short=plan.is_short)
    controller = Controller(house, customer, plan, board.show)
    try:
        tally = await controller.run(patience_s)
    finally:
        await customer.close()
        customer.diary.write(_evidence(house.stack.layout.run) / "diary.json")
    Done(
        kills=tally.kills,
        transitions={one.key: tally.transitions[one.key] for one in controller.points},
        faults={name: controller.faults.counts[name] for name in controller.faults.names},
        crashed=tally.crashed,
        rested=tally.rested,
        took_s=round(board.elapsed_s, 1),
        least=plan.least,
    ).write(_evidence(house.stack.layout.run) / "done.json")


def _evidence(run_dir: Path) -> Path:
    folder = run_dir / "evidence"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@app.command()
def verdict(
    *,
    run_dir: RunDir = _RUN,
    as_json: Annotated[bool, typer.Option("--json", help="print the report")] = False,
) -> None:
    """Judge what a run left: providers' truth and the ledger, without asking Paceline."""
    folder = run_dir.resolve()
    house = House(folder)
    diary = Diary.read(_evidence(folder) / "diary.json")
    evidence = gather(
        diary,
        dsn=house.stack.dsn(),
        postfix_log=house.stack.mailhost.log_path,
        maildirs=house.stack.mailhost.maildir("x@example.test").parents[1],
        twins={kind: twin.url() for kind, twin in house.stack.twins.items()},
    )
    breaches, doubts = check(diary, evidence)
    report, findings = compose(
        Done.read(_evidence(folder) / "done.json"), evidence, breaches, doubts
    )
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    (folder / "findings.txt").write_text("".join(f"{line}\n" for line in findings))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    raise typer.Exit(0 if report["ok"] else BROKEN)


@app.command()
def selftest(
    *,
    run_dir: RunDir = _RUN,
    name: Annotated[str, typer.Option(help="only builds whose name contains this")] = "",
) -> None:
    """Break the code on purpose: the checker must notice each, and nothing in what is sound."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    chosen = [build for build in broken.load() if name in build.name]
    right = 0
    try:
        for build in chosen:
            console.print(f"[bold]{escape(build.name)}[/]")
            found = broken.judge(build, run_dir.resolve() / "selftest")
            right += found.right
            good, bad = ("caught", "NOT CAUGHT") if build.breaks else ("holds", "DOES NOT HOLD")
            mark = f"[green]{good}[/]" if found.right else f"[bold red]{bad}[/]"
            what = build.breaks or "findings"
            console.print(f"  {mark}: {what} {found.count}, {found.took_s:.0f} s")
            for line in found.findings:
                console.print(f"    {escape(line)}", soft_wrap=True, highlight=False)
    finally:
        House(run_dir.resolve() / "selftest").down()
    console.print(f"{right} of {len(chosen)} builds judged as they are")
    raise typer.Exit(0 if right == len(chosen) else BROKEN)


@app.command()
def points() -> None:
    """List every declared transition."""
    failpoints.main()


def _tell(console: Console, folder: Path) -> None:
    report: dict[str, Any] = json.loads((folder / REPORT).read_text())
    table = Table("promise", "breaches", title="Chaos, as the providers saw it")
    for rule in RULES:
        mark = "[green]0[/]" if not report[rule] else f"[bold red]{report[rule]}[/]"
        table.add_row(rule, mark)
    console.print(table)
    for line in (folder / "findings.txt").read_text().splitlines()[:60]:
        console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)
    killed = [one["killed_at"] for one in report["transitions"].values()]
    console.print(
        f"{report['kills']} kills, {sum(map(bool, killed))} of {len(killed)} transitions"
        f" (least {min(killed, default=0)}), {sum(report['faults'].values())} faults,"
        f" {report['submissions']} submissions, {report['jobs']} jobs,"
        f" {report['in_doubt_open']} in doubt, {report['took_s']} s:"
        f" {'ok' if report['ok'] else 'BROKEN'}"
    )
    console.print(f"report: {folder / REPORT}", soft_wrap=True)


if __name__ == "__main__":
    app()
