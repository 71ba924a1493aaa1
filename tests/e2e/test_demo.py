"""The whole demo on the shared stack with the real Vault, undisturbed and with services killed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline_demo.checker import RULES
from paceline_local.stack import Stack

PATIENCE_S = 420


@pytest.fixture(scope="module")
def house(stack: Stack) -> Iterator[Stack]:
    """Return the stack with its services up, for all runs; those it started are ended."""
    before = {name for name in stack.services if stack.processes.find(name)}
    yield stack.up()
    for name in stack.services.keys() - before:
        stack.stop(name)


def demo(report: Path, *options: str) -> dict[str, Any]:
    """Run the demo as people do; return its report, or fail with what it said."""
    done = subprocess.run(
        [
            sys.executable, "-m", "paceline_demo.cli", "run",
            "--keys", "vault", "--json", "--report", str(report), *options,
        ],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert report.exists(), done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    assert told == json.loads(report.read_text())
    broken = {p["name"]: p["evidence"] for p in told["promises"] if not p["held"]}
    assert broken == {}, done.stderr[-3000:]
    assert told["ok"] is True
    assert done.returncode == 0
    return told


@pytest.mark.timeout(PATIENCE_S + 30)
def test_demo_holds(house: Stack, tmp_path: Path) -> None:
    told = demo(tmp_path / "report.json")
    assert list(told) == ["ok", "took_s", "leads", "promises", "parts", "urls"]
    # Every rule and the look into the logs.
    assert len(told["promises"]) == len(RULES) + 1
    assert all(
        list(promise) == ["name", "expected", "seen", "held", "evidence"]
        for promise in told["promises"]
    )
    assert told["leads"]["in the CSV"] == 100
    assert told["leads"]["published"] == 20
    assert told["leads"]["enrolled"] == 109
    assert told["parts"]["vault"].endswith("(vault)"), "the real one"


@pytest.mark.timeout(PATIENCE_S + 30)
@pytest.mark.parametrize("service", ["sender", "scheduler"])
def test_demo_holds_through_the_kill_of(house: Stack, tmp_path: Path, service: str) -> None:
    demo(tmp_path / "report.json", "--kill", service)
