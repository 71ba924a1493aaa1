"""Records of Kafka as deliveries: CloudEvents 1.0 in binary mode, read without trust."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

import msgspec
from aiokafka import TopicPartition

from paceline_common import events, ids, topics
from paceline_common.topics import Topic

E_co = TypeVar("E_co", bound=events.Event | None, covariant=True)

INSTALLATION: Final = 0
# Topics whose events may be about the installation instead of a workspace.
_WITHOUT_WORKSPACE: Final = frozenset({topics.AUDIT_RECORDED.name})
_REQUIRED: Final = ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "content-type")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Generic[E_co]):
    """One event as it arrived.

    `workspace_id` is the row number (`INSTALLATION`, 0, for events about the
    installation); `time` is aware UTC; `digest` the SHA-256 of the body's bytes;
    `publisher` the last part of `lead-enrolled.<publisher>`, which Kafka's ACLs
    vouch for.
    """

    topic: str
    partition: int
    offset: int
    key: str
    event_id: str
    source: str
    workspace_id: int
    time: datetime
    body: E_co
    digest: bytes
    publisher: str | None = None
    subject: str | None = None
    traceparent: str | None = None


@dataclass(slots=True, kw_only=True)
class Item:
    """A record on its way: readable (`delivery`) or refused (`code`, `reason`)."""

    record: Any
    delivery: Delivery[Any] | None = None
    event_id: str | None = None
    source: str | None = None
    type: str | None = None
    code: str | None = None
    reason: str = ""
    attempts: int = 1
    installation: bool = False

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(self.record.topic, self.record.partition)

    def refuse(self, code: str, reason: str) -> None:
        self.code, self.reason = code, reason


class EnvelopeReader:
    """Reads records of one topic into deliveries; what it cannot read comes back refused."""

    def __init__(self, topic: Topic, body: type[events.Event] | None = None) -> None:
        self._topic = topic
        self._type = events.event_type(topic)
        self._decoder = msgspec.json.Decoder(body or events.BODIES[topic.name])

    def read(self, record: Any) -> Item:
        """Read envelope (CloudEvents 1.0, binary mode) and body of one record."""
        item = Item(record=record)
        headers: dict[str, str] = {}
        unreadable: list[str] = []
        for name, value in record.headers:
            try:
                text = value.decode()
            except (UnicodeDecodeError, AttributeError):
                unreadable.append(name)
                continue
            if "\0" in text:
                unreadable.append(name)
            else:
                headers.setdefault(name, text)
        item.event_id = headers.get("ce_id")
        item.source = headers.get("ce_source")
        item.type = headers.get("ce_type")
        try:
            envelope = self._envelope(record, headers, unreadable)
        except ValueError as error:
            item.refuse("malformed_envelope", str(error))
            return item
        body = self._body(item, headers)
        item.delivery = Delivery(**envelope, body=body)
        return item

    def _body(self, item: Item, headers: dict[str, str]) -> Any:
        """Return a record's body; or None, and refuse the record for it."""
        try:
            if item.record.value is None:
                raise ValueError("no body")
            body = self._decoder.decode(item.record.value)
        except ValueError as error:  # msgspec's errors name the JSON path, never the value
            item.refuse("malformed_body", str(error))
            return None
        if body.workspace_id != headers.get("ce_workspaceid", ""):
            item.refuse("workspace_mismatch", "workspace_id of the body is not ce_workspaceid")
            return None
        return body

    def _envelope(
        self, record: Any, headers: dict[str, str], unreadable: list[str]
    ) -> dict[str, Any]:
        """Return what a `Delivery` holds besides its body; raise `ValueError` for a bad one."""
        for name in _REQUIRED:
            if name in unreadable:
                raise ValueError(f"header {name} is null or not UTF-8 text")
            if not headers.get(name):
                raise ValueError(f"header {name} is missing")
        if headers["ce_specversion"] != "1.0":
            raise ValueError("header ce_specversion is not 1.0")
        if headers["ce_type"] != self._type:
            raise ValueError(f"header ce_type is not {self._type}")
        media_type = headers["content-type"].partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise ValueError("header content-type is not application/json")
        if record.key is None:
            raise ValueError("the record has no key")
        try:
            key = record.key.decode()
        except UnicodeDecodeError:
            raise ValueError("the record's key is not UTF-8 text") from None
        try:
            time = datetime.fromisoformat(headers["ce_time"])
        except ValueError:
            raise ValueError("header ce_time is not an RFC 3339 instant") from None
        if time.tzinfo is None:
            raise ValueError("header ce_time has no offset from UTC")
        return {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "key": key,
            "event_id": headers["ce_id"],
            "source": headers["ce_source"],
            "workspace_id": self._workspace(headers, unreadable),
            "time": time.astimezone(UTC),
            "digest": hashlib.sha256(record.value or b"").digest(),
            "publisher": (
                record.topic.removeprefix(self._topic.name) if self._topic.pattern else None
            ),
            "subject": headers.get("ce_subject"),
            "traceparent": headers.get("traceparent"),
        }

    def _workspace(self, headers: dict[str, str], unreadable: list[str]) -> int:
        text = headers.get("ce_workspaceid")
        if not text:
            if self._topic.name in _WITHOUT_WORKSPACE and "ce_workspaceid" not in unreadable:
                return INSTALLATION
            raise ValueError("header ce_workspaceid is missing or not UTF-8 text")
        try:
            return ids.decode("ws", text)
        except ids.InvalidIdError:
            raise ValueError("header ce_workspaceid is not a workspace id (ws_…)") from None
