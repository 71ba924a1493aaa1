"""The short form: thirty kills and every kind of fault over the whole house, judged outside."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paceline_common import failpoints
from paceline_local.layout import REPOSITORY
from tests.chaos.report import RULES

KILLS = 30
# Several times what it takes on two idle cores: other houses stand beside it.
PATIENCE_S = 600


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """Run chaos as `make chaos KILLS=30 SEED=1` does, in a house of its own; return its report."""
    folder = REPOSITORY / ".run" / "chaos-short"
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.chaos", "run", "--kills", str(KILLS), "--seed", "1",
            "--run", str(folder), "--json",
        ],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (folder / "report.json").exists(), done.stderr[-3000:]
    report: dict[str, Any] = json.loads(done.stdout)
    findings = (folder / "findings.txt").read_text()
    assert (report["ok"], done.returncode) == (True, 0), findings
    return report


@pytest.mark.timeout(PATIENCE_S + 60)
def test_no_promise_is_broken_by_thirty_kills(told: dict[str, Any]) -> None:
    assert {rule: told[rule] for rule in RULES} == dict.fromkeys(RULES, 0)
    assert told["kills"] >= KILLS
    assert told["submissions"] > KILLS
    assert told["jobs"] >= told["submissions"]


def test_the_report_names_every_declared_transition(told: dict[str, Any]) -> None:
    assert set(told["transitions"]) == {one.key for one in failpoints.declared()}
    assert sum(bool(one["killed_at"]) for one in told["transitions"].values()) > KILLS / 2
    assert list(told) == [
        "ok", "kills", "transitions", "faults", "submissions", "jobs", *RULES, "in_doubt_open",
        "took_s",
    ]  # fmt: skip


def test_the_house_is_gone_afterwards(told: dict[str, Any]) -> None:
    assert told["ok"]
    assert list(Path(REPOSITORY, ".run", "chaos-short", "pid").glob("*.json")) == []
