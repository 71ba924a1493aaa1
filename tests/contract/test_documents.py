"""The generated documents are what the code says, and the public contract holds."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from paceline_common import docs, events, topics
from paceline_common.topics import Topic
from tests.contract.compat import breaks

DOCS = Path(__file__).parents[2] / "docs"
RELEASED: dict[str, Any] = json.loads((Path(__file__).parent / "released_events.json").read_text())
PUBLIC = [topic for topic in topics.ALL if topic.public and not topic.pattern]


@pytest.mark.parametrize("path", sorted(docs.documents()))
def test_generated_document_is_current(path: str) -> None:
    assert (DOCS / path).read_text() == docs.documents()[path], "run `make docs`"


def test_no_document_of_a_topic_that_is_gone() -> None:
    made = {Path(path).name for path in docs.documents() if path.startswith("events/")}
    assert {path.name for path in (DOCS / "events").iterdir()} == made


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_schema_is_valid_json_schema(topic: Topic) -> None:
    jsonschema.Draft202012Validator.check_schema(events.json_schema(topic))


@pytest.mark.parametrize("topic", PUBLIC, ids=lambda topic: topic.name)
def test_public_event_is_compatible_with_its_release(topic: Topic) -> None:
    produced = topic is not topics.LEAD_ENROLLED
    assert breaks(RELEASED[topic.name], events.json_schema(topic), produced=produced) == []


def _changed(topic: Topic, change: Any) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(json.dumps(events.json_schema(topic)))
    change(next(iter(schema["$defs"].values())))
    return schema


@pytest.mark.parametrize(
    ("topic", "change", "sentence"),
    [
        (topics.SENT, lambda s: s["properties"].pop("provider"), "$.provider was removed"),
        (
            topics.SENT,
            lambda s: s["required"].remove("sent_at"),
            "$.sent_at is no longer always there",
        ),
        (
            topics.SENT,
            lambda s: s["properties"].update(sent_at={"type": "integer"}),
            "$.sent_at may now be integer",
        ),
        (
            topics.LEAD_ENROLLED,
            lambda s: s["required"].append("company"),
            "$.company became required",
        ),
        (
            topics.LEAD_ENROLLED,
            lambda s: s["properties"]["email"].update(maxLength=64),
            "$.email changed its maxLength from 320 to 64",
        ),
    ],
)
def test_incompatible_change_is_named(topic: Topic, change: Any, sentence: str) -> None:
    found = breaks(
        events.json_schema(topic), _changed(topic, change), produced=topic is topics.SENT
    )
    assert sentence in found


def test_added_optional_field_is_compatible() -> None:
    def add(schema: dict[str, Any]) -> None:
        schema["properties"]["queue"] = {"type": "string"}

    assert breaks(events.json_schema(topics.SENT), _changed(topics.SENT, add), produced=True) == []


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_topic_has_readers_and_one_writer(topic: Topic) -> None:
    assert bool(topic.consumers) == (topic.name not in topics.UNREAD)
    if topic.name not in topics.SHARED:
        assert len(topic.producers) == 1


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_topic_has_a_body(topic: Topic) -> None:
    assert topic.name in events.BODIES


PERSONAL = {"email", "first_name", "last_name", "company", "fields", "subject_line", "text", "body"}


@pytest.mark.parametrize("topic", topics.ALL, ids=lambda topic: topic.name)
def test_personal_data_only_where_declared(topic: Topic) -> None:
    fields = set(events.BODIES[topic.name].__struct_fields__)
    assert bool(fields & PERSONAL) == topic.personal_data
