"""What logs, traces and metrics may carry."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import generate_latest

from paceline_common import telemetry
from paceline_common.telemetry import METRICS, Metric, Metrics, metrics_markdown

SECRET = "somebody@example.test"


@pytest.fixture
def configured(capsys: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """The capture; the root logger is put back afterwards."""
    root = logging.getLogger()
    before = (root.handlers, root.level)
    yield capsys
    root.handlers, level = before
    root.setLevel(level)
    structlog.reset_defaults()


def lines(captured: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured.readouterr().out.splitlines()]


def test_a_field_outside_the_allow_list_is_dropped(
    configured: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure_logging("sender", "info")
    telemetry.logger("x").info("submitted", job="job_1", recipient=SECRET, password="p")
    found = lines(configured)
    assert len(found) == 1
    line = found[0]
    assert line["event"] == "submitted"
    assert (line["service"], line["level"], line["job"]) == ("sender", "info", "job_1")
    assert not {"recipient", "password"} & line.keys()


def test_an_exception_is_told_without_its_text(configured: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging("sender", "info")
    try:
        raise ValueError(SECRET)
    except ValueError:
        telemetry.logger("x").exception("failed")
        logging.getLogger("paceline.other").exception("failed too")
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    found = lines(configured)
    assert [line["error"] for line in found] == ["ValueError"] * 3
    assert "test_telemetry.py" in str(found[0]["error_at"])
    assert SECRET not in json.dumps(found)


def test_libraries_say_what_but_not_about_whom(configured: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging("sender", "info")
    library = logging.getLogger("smtp.library")
    library.error("refused %s", SECRET)
    library.error(f"refused {SECRET}")
    library.info("not shown")
    logging.getLogger("aiokafka.client").error("no broker at %s", "10.0.0.1:9092")
    found = lines(configured)
    assert [line["event"] for line in found] == [
        "refused %s",
        found[1]["event"],
        "no broker at 10.0.0.1:9092",
    ]
    assert SECRET not in json.dumps(found)


def test_a_trace_goes_on_through_spans() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert telemetry.current_traceparent() is None
    with telemetry.span("x", traceparent=parent):
        current = telemetry.current_traceparent()
    assert current is not None
    assert current.split("-")[1] == parent.split("-")[1]
    with telemetry.consumer_spans("x", [parent, None]):
        assert telemetry.current_traceparent() is None
    assert telemetry.is_sampled(parent)
    assert not telemetry.is_sampled(parent[:-2] + "00")


def test_metrics_exist_as_declared_and_not_otherwise() -> None:
    own = Metric("paceline_x_total", "counter", "things", "Things seen.", ("kind",))
    metrics = Metrics([own])
    metrics.counter("paceline_x_total").labels("a").inc()
    metrics.gauge("paceline_ready").labels("kafka").set(1)
    page = generate_latest(metrics.registry).decode()
    assert 'paceline_x_total{kind="a"} 1.0' in page
    assert "# HELP paceline_x_total Things seen. Unit: things." in page
    with pytest.raises(KeyError):
        metrics.counter("paceline_undeclared_total")


def test_every_metric_says_its_unit_and_meaning() -> None:
    names = [metric.name for metric in METRICS]
    assert len(names) == len(set(names))
    for metric in METRICS:
        assert metric.name.startswith("paceline_")
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.unit
        assert metric.meaning.endswith(".")


def test_the_document_lists_every_metric() -> None:
    text = metrics_markdown({"common": METRICS, "audit": []})
    assert "## common" in text
    assert "## audit" not in text
    for metric in METRICS:
        assert f"`{metric.name}`" in text
