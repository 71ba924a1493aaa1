"""What `paceline-local` answers, and its exit codes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from paceline_common import grants, topics
from paceline_local.cli import app
from paceline_local.stack import Stack


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack of which nothing ever ran, and the one that commands mean."""
    monkeypatch.setenv("PACELINE_RUN_DIR", str(tmp_path / "run"))
    stack = Stack()
    yield stack
    shutil.rmtree(stack.layout.state)


def answer(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("part", "code", "words"),
    [
        ("sendre", 2, "no part is called 'sendre'; logs: postfix"),
        ("", 2, "whose log? (make logs SVC=sender); logs: postfix"),
        ("sender", 1, "sender has not run yet, so it has no log (make up); logs: postfix"),
        ("../ports", 2, "no part is called '../ports'"),
    ],
)
def test_a_log_that_is_not_there(empty: Stack, part: str, code: int, words: str) -> None:
    empty.processes.log_path("postfix").write_text("")
    found, output = answer("logs", *([part] if part else []))
    assert found == code
    assert words in output


def test_an_unknown_part_is_not_restarted(empty: Stack) -> None:
    code, output = answer("restart", "sendre")
    assert code == 2
    assert "no part is called 'sendre'; parts: postgres, redis, kafka, keys, mailhost" in output


def test_the_status_of_nothing_is_a_table_of_everything_and_exit_1(empty: Stack) -> None:
    code, output = answer("status", "--json")
    assert code == 1
    rows = json.loads(output)
    assert {*topics.SERVICES, "postgres", "redis", "kafka", "keys"} <= {one["part"] for one in rows}
    assert not any(one["ready"] or one["pid"] for one in rows)
    code, output = answer("status")
    assert code == 1
    assert "sender" in output


def test_a_publisher_without_kafka_is_told_what_is_missing(empty: Stack) -> None:
    assert answer("publisher", "acme") == (1, "kafka does not run (make up)\n")


def test_a_publisher_gets_what_its_client_needs(stack: Stack) -> None:
    code, output = answer("publisher", "tests-cli")
    assert code == 0
    found = dict(line.split(maxsplit=1) for line in output.splitlines())
    principal = grants.publisher_principal("tests-cli")
    assert (found["topic"], found["sasl.username"]) == (
        topics.publisher_topic("tests-cli"), principal,
    )  # fmt: skip
    password = Path(found["sasl.password"].removeprefix("in "))
    assert password.read_text() == stack.kafka.client_config(principal)["sasl.password"]
    assert password.read_text() not in output
    # Results come only while their client lives.
    admin = stack.kafka.admin()
    admin.delete_topics([found["topic"]])[found["topic"]].result(30)
