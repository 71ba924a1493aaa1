"""The generated documents: one command writes them all, `--check` says which are stale.

A package contributes documents through the entry point group `paceline.docs`:
a callable that returns a mapping from path (below `docs/`) to text.
"""

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from paceline_common import events, grants, telemetry, topics
from paceline_common.telemetry import Metric
from paceline_common.topics import Topic


def documents() -> dict[str, str]:
    """Return every generated document: path below `docs/` → text."""
    found: dict[str, str] = {}
    for point in sorted(entry_points(group="paceline.docs"), key=lambda p: p.name):
        made: Mapping[str, str] = point.load()()
        found.update(made)
    return found


def common_documents() -> dict[str, str]:
    """Return what `paceline_common` itself documents: grants, topics, events, AsyncAPI, metrics."""
    made = {
        "grants.md": grants.markdown(),
        "metrics.md": telemetry.metrics_markdown(_metrics()),
        "events/README.md": _topic_table(),
        "events/asyncapi.json": _json(asyncapi()),
    }
    for topic in topics.ALL:
        if not topic.pattern:
            made[f"events/{topic.name}.v1.json"] = _json(_schema_document(topic))
    return made


def _metrics() -> dict[str, Iterable[Metric]]:
    """Return the metric tables by owner; a service has one where it has a `metrics` module."""
    tables: dict[str, Iterable[Metric]] = {"common": telemetry.METRICS}
    for service in topics.SERVICES:
        module = f"paceline_{service}.metrics"
        if find_spec(module) is not None:
            tables[service] = import_module(module).METRICS
    return tables


def asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document of all topics, CloudEvents headers included."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    for topic in topics.ALL:
        name = topic.name.rstrip(".")
        channel = f"{name}-by-publisher" if topic.pattern else name
        messages[name] = {
            "name": events.event_type(topic),
            "contentType": "application/json",
            "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
            "payload": {"$ref": f"./{name}.v1.json"},
        }
        channels[channel] = {
            "address": f"{topic.name}{{publisher}}" if topic.pattern else topic.name,
            "description": _describe(topic),
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        }
        if topic.pattern:
            channels[channel]["parameters"] = {
                "publisher": {"description": "An external publisher: `paceline-admin publisher`."}
            }
        reference = {"channel": {"$ref": f"#/channels/{channel}"}}
        for producer in topic.producers:
            operations[f"{producer}-sends-{channel}"] = {"action": "send", **reference}
        for consumer in topic.consumers:
            operations[f"{consumer}-receives-{channel}"] = {"action": "receive", **reference}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Paceline events",
            "version": "1.0.0",
            "description": (
                "CloudEvents 1.0 over Kafka in binary mode. Public contract: "
                + ", ".join(f"`{t.name}`" for t in topics.ALL if t.public and not t.pattern)
                + ". Everything else may change."
            ),
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"CloudEventHeaders": _headers()},
        },
    }


def _schema_document(topic: Topic) -> dict[str, Any]:
    schema = events.json_schema(topic)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": events.event_type(topic),
        **schema,
    }


def _headers() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": [
            "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "ce_workspaceid",
        ],
        "properties": {
            "ce_specversion": {"const": "1.0"},
            "ce_id": {**text, "description": "unique per source; a repeat is dropped"},
            "ce_type": {**text, "description": "paceline.<event>.v<version>"},
            "ce_source": {**text, "description": "/paceline/<service>, or the publisher's own"},
            "ce_time": {**text, "format": "date-time"},
            "ce_subject": {**text, "description": "public id of what the event is about"},
            "ce_workspaceid": {**text, "description": "public id of the workspace"},
            "traceparent": {**text, "description": "W3C Trace Context"},
            "content-type": {"const": "application/json"},
        },
    }  # fmt: skip


def _describe(topic: Topic) -> str:
    readers = ", ".join(topic.consumers) or "nobody inside"
    return (
        f"Key: {topic.key}. Written by {', '.join(topic.producers)}; read by {readers}. "
        f"Kept {topic.retention.days} days. "
        + ("Personal data." if topic.personal_data else "Ids only.")
    )


def _topic_table() -> str:
    rows = [
        "# Topics",
        "",
        "Generated from `libs/common/src/paceline_common/topics.py` by `make docs`. **Bold** is",
        "public contract; the rest may change. Bodies: one JSON Schema a topic, in this folder;",
        "envelope and channels: `asyncapi.json`.",
        "",
        "| topic | key | written by | read by | kept | personal data |",
        "|---|---|---|---|---|---|",
    ]
    for topic in topics.ALL:
        name = f"`{topic.name}{'<publisher>' if topic.pattern else ''}`"
        rows.append(
            f"| {f'**{name}**' if topic.public else name} | {topic.key} "
            f"| {', '.join(topic.producers)} | {', '.join(topic.consumers)} "
            f"| {topic.retention.days} d | {'yes' if topic.personal_data else 'no'} |"
        )
    return "\n".join(rows) + "\n"


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def main(
    root: Annotated[Path, typer.Option(help="the folder to write below")] = Path("docs"),
    check: Annotated[bool, typer.Option("--check", help="write nothing, fail if stale")] = False,
) -> None:
    """Write the generated documents, or tell which are stale."""
    stale = []
    for name, text in documents().items():
        path = root / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(str(path))
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    for name in stale:
        typer.echo(f"{'stale' if check else 'written'}: {name}", err=check)
    if check and stale:
        typer.echo("Run `make docs` and commit what it writes.", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
