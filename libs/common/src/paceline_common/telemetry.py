"""Logs, traces and metrics, declared so that none of them can carry a secret or an address.

Logs are JSON lines on standard output with the fields of `LOG_FIELDS` and no
others. Metrics exist only as rows of a table (`METRICS`, and `METRICS` of
`paceline_<service>.metrics`), from which `docs/metrics.md` is generated. Traces
(W3C Trace Context) follow an event through Kafka and HTTP headers.
"""

import logging
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# ---- logs

LOG_FIELDS: Final = frozenset(
    {
        "event", "level", "time", "service", "logger", "trace", "error", "error_at", "sqlstate",
        "constraint", "count", "ms", "seconds", "attempt", "reason_code", "state", "name",
        "topic", "partition", "offset", "group", "event_id", "event_type", "source", "publisher",
        "workspace", "job", "enrollment", "campaign", "mailbox", "lead", "step", "fence",
        "import_id", "row", "inbound", "suspension", "quarantine", "issue", "key_id", "address_id",
        "outcome", "outcome_class", "provider", "code", "status", "kind", "version", "host_port",
        "method", "route", "http_status", "lane", "port", "signal", "task", "action", "seq",
    }
)  # fmt: skip

# Libraries whose messages name brokers, topics and ports only.
_TRUSTED_LIBRARIES: Final = ("aiokafka", "alembic", "uvicorn", "paceline")


def configure_logging(service: str, level: str = "info") -> None:
    """Send all logs of the process, libraries' included, to standard output as JSON lines.

    Own messages are constants with fields; a field outside `LOG_FIELDS` is
    dropped. Of exceptions only type, SQLSTATE, constraint and place are
    written: their texts quote rows. Libraries' arguments are left out, except
    for the few that never see message content.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _Stamp(service),
        _exception_without_text,
        _allow_listed,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_foreign, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
            pass_foreign_args=True,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("paceline").setLevel(level.upper())
    for noisy in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).handlers = []
        logging.getLogger(noisy).propagate = noisy != "uvicorn.access"


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger `paceline.<name>`."""
    bound: structlog.stdlib.BoundLogger = structlog.get_logger(f"paceline.{name}")
    return bound


class _Stamp:
    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event["service"] = self._service
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace"] = f"{context.trace_id:032x}"
        return event


def _foreign(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    record: logging.LogRecord = event["_record"]
    event["logger"] = record.name
    if not record.name.startswith(_TRUSTED_LIBRARIES):
        # The template without its arguments; a text built before the call
        # has no template, so only where it was logged is told.
        told = event.get("positional_args")
        event["event"] = record.msg if told else f"{record.module}:{record.lineno}"
    return event


def _exception_without_text(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    info = event.pop("exc_info", None)
    if info is None or info is False:
        return event
    error = (
        info
        if isinstance(info, BaseException)
        else info[1]
        if isinstance(info, tuple)
        else sys.exc_info()[1]
    )
    if error is not None:
        event.update(describe_error(error))
    return event


def describe_error(error: BaseException) -> dict[str, Any]:
    """Return what may be logged of an exception: type, SQLSTATE, constraint, innermost frames."""
    described: dict[str, Any] = {"error": type(error).__qualname__}
    original = getattr(error, "orig", None) or error
    if (state := getattr(original, "sqlstate", None)) is not None:
        described["sqlstate"] = state
    diagnostics = getattr(original, "diag", None)
    if (constraint := getattr(diagnostics, "constraint_name", None)) is not None:
        described["constraint"] = constraint
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    described["error_at"] = [
        f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames
    ]
    return described


def _allow_listed(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for field in [f for f in event if f not in LOG_FIELDS and not f.startswith("_")]:
        del event[field]
    return event


# ---- traces

_PROPAGATOR: Final = TraceContextTextMapPropagator()


def configure_tracing(service: str, *, endpoint: str | None, ratio: float) -> TracerProvider | None:
    """Export spans to the OTLP/HTTP `endpoint`, sampling `ratio` of the traces that start here.

    Without an endpoint nothing is recorded; trace contexts are still passed on.
    """
    if endpoint is None:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(
        resource=Resource.create({"service.name": f"paceline-{service}"}),
        sampler=ParentBased(TraceIdRatioBased(ratio)),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint}/v1/traces")))
    trace.set_tracer_provider(provider)
    return provider


def current_traceparent() -> str | None:
    """Return the current span as a `traceparent` header, or None outside a trace."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@contextmanager
def span(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    traceparent: str | None = None,
    attributes: Mapping[str, str | int] | None = None,
) -> Iterator[trace.Span]:
    """Run the block in a span; with `traceparent` it continues that trace."""
    parent = _PROPAGATOR.extract({"traceparent": traceparent}) if traceparent else None
    with trace.get_tracer("paceline").start_as_current_span(
        name, context=parent, kind=kind, attributes=attributes, record_exception=False
    ) as opened:
        yield opened


@contextmanager
def consumer_spans(name: str, traceparents: Iterable[str | None]) -> Iterator[None]:
    """Run the block as one consumer span in each sampled trace.

    A lone event's span is the current one, so that what its handler does
    belongs to it; in a batch no event's is.
    """
    parents = list(traceparents)
    if len(parents) == 1:
        with span(name, kind=SpanKind.CONSUMER, traceparent=parents[0]):
            yield
        return
    tracer = trace.get_tracer("paceline")
    opened = [
        tracer.start_span(
            name, context=_PROPAGATOR.extract({"traceparent": parent}), kind=SpanKind.CONSUMER
        )
        for parent in parents
        if parent is not None and is_sampled(parent)
    ]
    try:
        yield
    finally:
        for one in opened:
            one.end()


def is_sampled(traceparent: str | None) -> bool:
    """Tell whether a `traceparent` header asks for its trace to be recorded."""
    return traceparent is not None and traceparent.endswith("-01")


# ---- metrics


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it counts or measures, in which unit, by which labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_LATENCY: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "paceline_events_consumed_total", "counter", "events",
        "Records handled and committed, by outcome: applied, duplicate, quarantined.",
        ("topic", "outcome"),
    ),
    Metric(
        "paceline_event_batch_seconds", "histogram", "seconds",
        "From a batch's arrival to its effect's commit.", ("topic",), _LATENCY,
    ),
    Metric(
        "paceline_event_retries_total", "counter", "retries",
        "Further tries of a record or batch, by cause: event (its own fault) or dependency.",
        ("topic", "cause"),
    ),
    Metric(
        "paceline_dependency_lost", "gauge", "0 or 1",
        "1 while a subscription waits for a lost dependency (Postgres, key service, Redis).",
        ("topic",),
    ),
    Metric(
        "paceline_subscription_halted", "gauge", "0 or 1",
        "1 once a subscription has halted: more records quarantined than its limit allows.",
        ("topic",),
    ),
    Metric(
        "paceline_quarantined_total", "counter", "records",
        "Records put into quarantine, by reason code.", ("topic", "reason_code"),
    ),
    Metric(
        "paceline_quarantined_past_limit_total", "counter", "records",
        "Records of one publisher's topic quarantined past its limit, without retries.",
        ("topic",),
    ),
    Metric(
        "paceline_trim_failures_total", "counter", "rounds",
        "Rounds in which personal data behind the committed offsets could not be deleted.",
        ("topic",),
    ),
    Metric(
        "paceline_outbox_age_seconds", "gauge", "seconds",
        "Age of the oldest event waiting to be published; 0 when none waits.",
    ),
    Metric(
        "paceline_outbox_waiting", "gauge", "events",
        "Events read by the relay and not yet acknowledged by Kafka.",
    ),
    Metric(
        "paceline_outbox_published_total", "counter", "events",
        "Events acknowledged by Kafka and deleted from the outbox.", ("topic",),
    ),
    Metric(
        "paceline_outbox_failures_total", "counter", "attempts",
        "Publications that Kafka refused or that did not get through.", ("topic",),
    ),
    Metric(
        "paceline_background_restarts_total", "counter", "restarts",
        "Background tasks started again after a lost dependency.", ("task",),
    ),
    Metric(
        "paceline_http_request_seconds", "histogram", "seconds",
        "Time to answer an HTTP request, by route template.",
        ("method", "route", "status"), _LATENCY,
    ),
    Metric(
        "paceline_ready", "gauge", "0 or 1",
        "What /readyz last answered, by check.", ("check",),
    ),
)  # fmt: skip


class Metrics:
    """The metrics of one process, made from declaration tables."""

    def __init__(self, *tables: Iterable[Metric]) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in (one for table in (METRICS, *tables) for one in table):
            arguments: dict[str, Any] = {
                "name": metric.name,
                "documentation": f"{metric.meaning} Unit: {metric.unit}.",
                "labelnames": metric.labels,
                "registry": self.registry,
            }
            match metric.kind:
                case "counter":
                    self._counters[metric.name] = Counter(**arguments)
                case "gauge":
                    self._gauges[metric.name] = Gauge(**arguments)
                case "histogram":
                    self._histograms[metric.name] = Histogram(
                        **arguments, buckets=metric.buckets or _LATENCY
                    )

    def counter(self, name: str) -> Counter:
        """Return the counter declared as `name`; raise `KeyError` for an undeclared one."""
        return self._counters[name]

    def gauge(self, name: str) -> Gauge:
        """Return the gauge declared as `name`; raise `KeyError` for an undeclared one."""
        return self._gauges[name]

    def histogram(self, name: str) -> Histogram:
        """Return the histogram declared as `name`; raise `KeyError` for an undeclared one."""
        return self._histograms[name]


def metrics_markdown(tables: Mapping[str, Iterable[Metric]]) -> str:
    """Return `docs/metrics.md` from the tables by owner (`common` or a service)."""
    lines = [
        "# Metrics",
        "",
        "Generated by `make docs` from `METRICS` in `paceline_common.telemetry` and in",
        "`paceline_<service>.metrics`. Every service serves them at `/metrics`.",
    ]
    for owner, table in tables.items():
        rows = sorted(table, key=lambda metric: metric.name)
        if not rows:
            continue
        lines += [
            "", f"## {owner}", "",
            "| metric | kind | unit | labels | meaning |", "| --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        for one in rows:
            labels = ", ".join(f"`{label}`" for label in one.labels) or "–"
            lines.append(f"| `{one.name}` | {one.kind} | {one.unit} | {labels} | {one.meaning} |")
    return "\n".join(lines) + "\n"
