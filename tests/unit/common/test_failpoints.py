"""Failpoints act where they are told, and nowhere by a typing mistake."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline_common import failpoints
from paceline_common.failpoints import FailpointHit


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.configure("")


def test_nothing_happens_unless_named() -> None:
    failpoints.hit("outbox.after_publish")
    failpoints.configure("outbox.before_publish=raise")
    failpoints.hit("outbox.after_publish")
    with pytest.raises(FailpointHit):
        failpoints.hit("outbox.before_publish")


def test_the_nth_passage_acts() -> None:
    failpoints.configure("outbox.after_publish=raise@2, outbox.after_delete=raise")
    failpoints.hit("outbox.after_publish")
    with pytest.raises(FailpointHit):
        failpoints.hit("outbox.after_publish")
    failpoints.hit("outbox.after_publish")


@pytest.mark.parametrize("spec", ["outbox.nowhere=kill", "outbox.after_publish=explode", "x"])
def test_a_typing_mistake_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        failpoints.configure(spec)


def test_a_service_adds_its_own() -> None:
    failpoints.configure("sender.x=raise", extra_names=frozenset({"sender.x"}))
    with pytest.raises(FailpointHit):
        failpoints.hit("sender.x")


def ordered(orders: Path, name: str, code: str) -> int:
    """Run `code` in a process that takes orders from `orders`; return what it ended with."""
    script = (
        "from pathlib import Path\n"
        "from paceline_common import failpoints\n"
        f"failpoints.configure('', orders=Path({str(orders)!r}))\n{code}\n"
    )
    (orders / name).write_text("kill")
    return subprocess.run([sys.executable, "-c", script], check=False).returncode


def test_an_order_kills_who_passes_next_and_says_whom(tmp_path: Path) -> None:
    hit = "failpoints.hit('outbox.after_publish')"
    assert ordered(tmp_path, "outbox.after_publish", hit) == -signal.SIGKILL
    (taken,) = tmp_path.iterdir()
    assert re.fullmatch(r"outbox\.after_publish\.\d+", taken.name)


def test_an_order_for_one_topic_lets_the_others_pass(tmp_path: Path) -> None:
    name, hit = "subscribe.after_effect_commit", "failpoints.hit('subscribe.after_effect_commit', "
    assert ordered(tmp_path, f"{name}:sent", f"{hit}'bounced')") == 0
    assert ordered(tmp_path, f"{name}:sent", f"{hit}'sent')") == -signal.SIGKILL


def test_an_order_can_stop_instead(tmp_path: Path) -> None:
    failpoints.configure("", orders=tmp_path)
    (tmp_path / "outbox.after_publish").write_text("stop")
    child = os.fork()
    if not child:
        failpoints.hit("outbox.after_publish")
        os._exit(0)
    _, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(child, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
