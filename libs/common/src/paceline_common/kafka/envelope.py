"""Records of Kafka as deliveries: CloudEvents 1.0 in binary mode, read without trust."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, Generic, TypeVar

import msgspec
from aiokafka import TopicPartition

from paceline_common import events, ids, topics
from paceline_common.topics import Topic

E_co = TypeVar("E_co", bound=events.Event | None, covariant=True)

INSTALLATION: Final = 0
# Topics whose events may be about the installation instead of a workspace.
_WITHOUT_WORKSPACE: Final = frozenset({topics.AUDIT_RECORDED.name})

_Headers = Mapping[str, bytes | None]


# Structs, not frozen dataclasses: one of those costs as much as all the rest of reading a record.
class Delivery(msgspec.Struct, Generic[E_co], frozen=True, kw_only=True):
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


class Item(msgspec.Struct, kw_only=True, eq=False):
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
        headers: dict[str, bytes | None] = {}
        for name, value in record.headers:
            headers.setdefault(name, value)
        item = Item(
            record=record,
            event_id=_optional(headers, "ce_id"),
            source=_optional(headers, "ce_source"),
            type=_optional(headers, "ce_type"),
        )
        workspace = _optional(headers, "ce_workspaceid")
        try:
            item.delivery = self._delivery(
                item, headers, workspace, self._body(item, workspace or "")
            )
        except ValueError as error:
            item.refuse("malformed_envelope", str(error))
        return item

    def _body(self, item: Item, workspace: str) -> Any:
        """Return a record's body; or None, and refuse the record for it."""
        try:
            if item.record.value is None:
                raise ValueError("no body")
            body = self._decoder.decode(item.record.value)
        except ValueError as error:  # msgspec's errors name the JSON path, never the value
            item.refuse("malformed_body", str(error))
            return None
        if body.workspace_id != workspace:
            item.refuse("workspace_mismatch", "workspace_id of the body is not ce_workspaceid")
            return None
        return body

    def _delivery(
        self, item: Item, headers: _Headers, workspace: str | None, body: Any
    ) -> Delivery[Any]:
        """Return the delivery; raise `ValueError` for a bad envelope, whatever its body."""
        record = item.record
        if headers.get("ce_specversion") != b"1.0":
            _required(headers, "ce_specversion")
            raise ValueError("header ce_specversion is not 1.0")
        if item.type != self._type:
            _required(headers, "ce_type")
            raise ValueError(f"header ce_type is not {self._type}")
        time = _instant(_required(headers, "ce_time"))
        if headers.get("content-type") != b"application/json":
            media_type = _required(headers, "content-type").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise ValueError("header content-type is not application/json")
        if record.key is None:
            raise ValueError("the record has no key")
        try:
            key = record.key.decode()
        except UnicodeDecodeError:
            raise ValueError("the record's key is not UTF-8 text") from None
        return Delivery(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=key,
            event_id=item.event_id or _required(headers, "ce_id"),
            source=item.source or _required(headers, "ce_source"),
            workspace_id=self._workspace(headers, workspace),
            time=time,
            body=body,
            digest=hashlib.sha256(record.value or b"").digest(),
            publisher=record.topic.removeprefix(self._topic.name) if self._topic.pattern else None,
            subject=_optional(headers, "ce_subject"),
            traceparent=_optional(headers, "traceparent"),
        )

    def _workspace(self, headers: _Headers, text: str | None) -> int:
        if text:
            return _workspace_number(text)
        if self._topic.name in _WITHOUT_WORKSPACE and (
            text == "" or "ce_workspaceid" not in headers
        ):
            return INSTALLATION
        raise ValueError("header ce_workspaceid is missing or not UTF-8 text")


def _optional(headers: _Headers, name: str) -> str | None:
    """Return a header's text; None where it is missing, null or no text."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _required(headers: _Headers, name: str) -> str:
    """Return a header's text; raise `ValueError` where there is none."""
    text = _optional(headers, name)
    if text:
        return text
    if text is None and name in headers:
        raise ValueError(f"header {name} is null or not UTF-8 text")
    raise ValueError(f"header {name} is missing")


def _instant(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("header ce_time is not an RFC 3339 instant") from None
    if time.tzinfo is UTC:
        return time
    if time.tzinfo is None:
        raise ValueError("header ce_time has no offset from UTC")
    return time.astimezone(UTC)


# A batch speaks of few workspaces.
@lru_cache(maxsize=1024)
def _workspace_number(text: str) -> int:
    try:
        return ids.decode("ws", text)
    except ids.InvalidIdError:
        raise ValueError("header ce_workspaceid is not a workspace id (ws_…)") from None
