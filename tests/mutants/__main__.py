"""`make mutants`: break the rules one at a time in a copy of the tree and see the tests go red.

`catalog.toml` holds the bugs: a rule, a file, a snippet that occurs once there,
what replaces it, and the test that must fail. A mutant whose snippet is gone is
an error, as is a test that fails without any mutant.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
CATALOG: Final = Path(__file__).with_name("catalog.toml")
COPIED: Final = ("libs", "services", "deploy", "demo", "tests", "pyproject.toml")
CACHES: Final = ("__pycache__", ".pytest_cache", ".hypothesis", "*.egg-info")
# pytest's exit codes: tests failed; anything else means that they could not be run.
RED: Final = 1
GREEN: Final = 0
TIMEOUT_S: Final = 300

Fate = Literal["killed", "survived", "error"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug: in `file`, `old` (which occurs once) becomes `new`; `test` must fail."""

    rule: str
    file: str
    old: str
    new: str
    test: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant; `detail` is the end of pytest's output where it was not killed."""

    mutant: Mutant
    fate: Fate
    detail: str = ""


def load() -> list[Mutant]:
    """Return the catalog."""
    return [Mutant(**entry) for entry in tomllib.loads(CATALOG.read_text())["mutant"]]


def stale(mutants: Sequence[Mutant]) -> list[str]:
    """Return what is wrong with the catalog itself, one line each."""
    return [
        f"{one.file}: {found} times: {one.old.strip()!r}"
        for one in mutants
        if (found := (ROOT / one.file).read_text().count(one.old)) != 1 or one.old == one.new
    ]


class Tree:
    """A copy of the sources, put before the installed packages by PYTHONPATH."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns(*CACHES)
                shutil.copytree(source, folder / name, ignore=ignored, symlinks=True)
            else:
                shutil.copy(source, folder / name)

    def judge(self, mutant: Mutant) -> Verdict:
        """Plant the bug, run its test, take the bug out again."""
        file = self._root / mutant.file
        right = file.read_text()
        file.write_text(right.replace(mutant.old, mutant.new))
        try:
            code, output = self.run([mutant.test])
        finally:
            file.write_text(right)
        if code == RED:
            return Verdict(mutant, "killed")
        return Verdict(mutant, "survived" if code == GREEN else "error", output[-2000:])

    def run(self, tests: Sequence[str]) -> tuple[int, str]:
        """Run tests in the copy; return pytest's exit code and output."""
        sources = sorted(str(path) for path in self._root.glob("*/*/src"))
        sources += sorted(str(path) for path in self._root.glob("*/src"))
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(self._root), *sources]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider",
                   "--hypothesis-seed=0", *tests]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=self._root, env=environment, capture_output=True, text=True,
                timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            # A bug that makes the code run for ever has been noticed.
            return RED, ""
        return done.returncode, done.stdout + done.stderr


def judge_all(mutants: Sequence[Mutant], workers: int) -> Iterator[Verdict]:
    """Judge every mutant, `workers` at a time, each worker in its own copy of the tree."""
    with tempfile.TemporaryDirectory(prefix="paceline-mutants-") as folder:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for n in range(workers):
            (Path(folder) / str(n)).mkdir()
            trees.put(Tree(Path(folder) / str(n)))

        def judge(mutant: Mutant) -> Verdict:
            tree = trees.get()
            try:
                return tree.judge(mutant)
            finally:
                trees.put(tree)

        tree = trees.get()
        code, output = tree.run(sorted({one.test for one in mutants}))
        trees.put(tree)
        if code != GREEN:
            raise SystemExit(f"the tests fail without any mutant:\n{output[-4000:]}")
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(judge, mutants)


def main(
    rule: Annotated[str, typer.Option(help="only rules that contain this")] = "",
    workers: Annotated[int, typer.Option(min=1, help="tests run at a time")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Judge the mutants; exit 1 when one survives, 2 when the catalog is out of date."""
    chosen = [one for one in load() if rule in one.rule]
    if wrong := stale(chosen):
        typer.echo("not found once in its file, write the mutant anew:", err=True)
        typer.echo("\n".join(wrong), err=True)
        raise typer.Exit(2)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    verdicts: list[Verdict] = []
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("mutants", total=len(chosen))
        for verdict in judge_all(chosen, workers):
            verdicts.append(verdict)
            progress.advance(task)
            if verdict.fate != "killed":
                progress.console.print(f"[red]{verdict.fate}[/] {verdict.mutant.rule}")
                progress.console.print(verdict.detail, markup=False, highlight=False)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in verdicts], indent=2))
    else:
        _show(verdicts)
    raise typer.Exit(0 if all(one.fate == "killed" for one in verdicts) else 1)


def _show(verdicts: Sequence[Verdict]) -> None:
    table = Table("rule", "file", "found by", "fate")
    for one in verdicts:
        colour = "green" if one.fate == "killed" else "red"
        table.add_row(
            one.mutant.rule, Path(one.mutant.file).name, one.mutant.test.rpartition("::")[2],
            f"[{colour}]{one.fate}[/]",
        )  # fmt: skip
    Console().print(table)
    killed = sum(one.fate == "killed" for one in verdicts)
    Console().print(f"{killed} of {len(verdicts)} mutants killed")


if __name__ == "__main__":
    typer.run(main)
