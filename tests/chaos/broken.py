"""Deliberately broken builds: planted in a copy of the tree, run under aimed chaos, judged.

Before them the build as it is, under all that they run under: it must hold.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.mutants.__main__ import ROOT, Tree

CATALOG: Final = Path(__file__).with_name("broken.toml")
LOG: Final = "selftest.log"
_PATIENCE_S: Final = 900
_SHOWN: Final = 4
# A breach shows before all of the load has left; that there is none only when all has.
_REST_S: Final = 40
_REST_OF_SOUND_S: Final = 240


@dataclass(frozen=True, slots=True)
class Edit:
    """In `file`, `old` (which occurs once) becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Build:
    """A broken build, the chaos that is to bring it out, and the rule that must be breached.

    One that `breaks` nothing is the build as it is.
    """

    name: str
    breaks: str
    aim: tuple[str, ...]
    faults: tuple[str, ...]
    edits: tuple[Edit, ...]
    kills: int = 0
    rounds: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What the checker said of a build; `right`: a broken one is caught, the sound one holds."""

    right: bool
    count: int
    findings: Sequence[str]
    took_s: float


def load() -> list[Build]:
    """Return the catalog."""
    builds: list[dict[str, Any]] = tomllib.loads(CATALOG.read_text())["build"]
    return [
        Build(
            name=one["name"],
            breaks=one.get("breaks", ""),
            aim=tuple(one["aim"]),
            faults=tuple(one["faults"]),
            edits=tuple(Edit(**edit) for edit in one.get("edit", ())),
            kills=one.get("kills", 0),
            rounds=one.get("rounds", 0),
        )
        for one in builds
    ]


def stale(build: Build) -> list[str]:
    """Return what of a build can no longer be planted, one line each."""
    return [
        f"{edit.file}: {found} times: {edit.old.strip()[:80]!r}"
        for edit in build.edits
        if (found := (ROOT / edit.file).read_text().count(edit.old)) != 1 or edit.old == edit.new
    ]


def judge(build: Build, run: Path) -> Found:
    """Plant a build in a copy, run aimed chaos there, and return what the checker found.

    The house stays up for the next one; raise `LookupError` for a build that is out of date.
    """
    if wrong := stale(build):
        raise LookupError("; ".join(wrong))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="paceline-chaos-") as folder:
        copy = Path(folder)
        Tree(copy)
        for edit in build.edits:
            file = copy / edit.file
            file.write_text(file.read_text().replace(edit.old, edit.new))
        (run / "report.json").unlink(missing_ok=True)
        run.mkdir(parents=True, exist_ok=True)
        with (run / LOG).open("wb") as log:
            subprocess.run(
                [
                    sys.executable, "-m", "tests.chaos", "run", "--run", str(run), "--keep",
                    "--kills", str(build.kills), "--rounds", str(build.rounds),
                    "--aim", ",".join(build.aim), "--faults", ",".join(build.faults),
                    "--patience", str(_REST_S if build.breaks else _REST_OF_SOUND_S),
                ],
                cwd=copy, env=_environment(copy), timeout=_PATIENCE_S, check=False,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
    took = time.monotonic() - began
    if not (run / "report.json").exists():
        return Found(False, 0, [f"it did not get as far as a report: {run / LOG}"], took)
    report = json.loads((run / "report.json").read_text())
    findings = (run / "findings.txt").read_text().splitlines()
    if not build.breaks:
        return Found(report["ok"], len(findings), findings[:_SHOWN], took)
    told = [line for line in findings if line.startswith(f"{build.breaks}:")]
    return Found(report[build.breaks] > 0, report[build.breaks], told[:_SHOWN], took)


def _environment(copy: Path) -> dict[str, str]:
    sources = sorted(str(path) for path in (*copy.glob("*/*/src"), *copy.glob("*/src")))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(copy), *sources]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
