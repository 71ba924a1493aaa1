"""Every failpoint is declared once, and every declared one is passed somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from paceline_common import failpoints, topics

ROOT = Path(__file__).resolve().parents[2]
PASSED = re.compile(r'(?:failpoints\.hit|hit_after_commit)\(\s*(?:tx, )?"([\w.]+)"')


def sources(folder: Path) -> str:
    """Return all code below `folder` but for the declarations."""
    files = [path for path in folder.rglob("*.py") if path.name != "failpoints.py"]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("service", topics.SERVICES)
def test_a_service_passes_what_it_declares_and_nothing_else(service: str) -> None:
    own = {
        one.name for one in failpoints.declared() if one.service == service and ":" not in one.name
    }
    code = sources(ROOT / "services" / service / "src")
    assert {name for name in own if f'"{name}"' not in code} == set()
    assert set(PASSED.findall(code)) <= own


def test_libraries_pass_what_they_declare_and_nothing_else() -> None:
    code = sources(ROOT / "libs")
    assert {name for name in failpoints.NAMES if f'"{name}"' not in code} == set()
    assert set(PASSED.findall(code)) <= failpoints.NAMES


def test_each_has_a_name_of_its_own_and_says_what_it_stands_behind() -> None:
    points = failpoints.declared()
    assert len({one.key for one in points}) == len(points)
    assert all(one.meaning for one in points)


def test_each_consumer_of_each_topic_has_one() -> None:
    found = {(one.service, one.name.partition(":")[2]) for one in failpoints.declared()}
    assert {(service, one.name) for one in topics.ALL for service in one.consumers} <= found


def test_one_command_lists_them() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "paceline_common.failpoints"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert all(one.name in listed for one in failpoints.declared())
