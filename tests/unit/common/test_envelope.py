"""Reading a record: envelope and body. What is refused, and in which words, is tried on a real
broker (`tests/integration/common`)."""

from datetime import UTC, datetime

import msgspec
import pytest
from aiokafka import ConsumerRecord

from paceline_common import events, ids, topics
from paceline_common.kafka.envelope import INSTALLATION, EnvelopeReader, Item
from paceline_common.topics import Topic

WS = ids.encode("ws", 7)
HEADERS = {
    "ce_specversion": b"1.0",
    "ce_id": b"id-1",
    "ce_type": b"paceline.mailbox-changed.v1",
    "ce_source": b"tests",
    "ce_time": b"2026-11-20T09:00:00Z",
    "ce_workspaceid": WS.encode(),
    "content-type": b"application/json",
}


def read(
    *more: tuple[str, bytes | None], topic: Topic = topics.MAILBOX_CHANGED, name: str = ""
) -> Item:
    """Read a record with `HEADERS`; those in `more` replace the ones of their names."""
    headers = (*((n, v) for n, v in HEADERS.items() if n not in dict(more)), *more)
    body = events.MailboxChanged(workspace_id=WS, mailbox_id="mbx_1", version=3)
    value = msgspec.json.encode(body)
    record: ConsumerRecord[bytes, bytes] = ConsumerRecord(
        name or topic.name, 2, 41, 0, 0, b"mbx_1", value, None, 5, len(value), headers
    )
    return EnvelopeReader(topic, events.MailboxChanged).read(record)


def test_a_delivery_says_what_the_record_says() -> None:
    item = read(("ce_subject", b"mbx_1"), ("traceparent", b"00-1-2-01"), ("x", b"\xff"))
    assert (item.code, item.reason) == (None, "")
    one = item.delivery
    assert one is not None
    assert (one.topic, one.partition, one.offset, one.key) == ("mailbox-changed", 2, 41, "mbx_1")
    assert (one.event_id, one.source, one.workspace_id) == ("id-1", "tests", 7)
    assert (one.subject, one.traceparent, one.publisher) == ("mbx_1", "00-1-2-01", None)
    assert one.body == events.MailboxChanged(workspace_id=WS, mailbox_id="mbx_1", version=3)


@pytest.mark.parametrize("text", ["2026-11-20T09:00:00+00:00", "2026-11-20T14:30:00+05:30"])
def test_time_is_told_in_utc(text: str) -> None:
    delivery = read(("ce_time", text.encode())).delivery
    assert delivery is not None
    assert delivery.time == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert delivery.time.tzinfo is UTC


@pytest.mark.parametrize("header", ["ce_subject", "traceparent"])
@pytest.mark.parametrize("value", [None, b"\xff", b"a\0b"])
def test_a_header_nobody_needs_may_be_unreadable(header: str, value: bytes | None) -> None:
    delivery = read((header, value)).delivery
    assert delivery is not None
    assert (delivery.subject, delivery.traceparent) == (None, None)


def test_of_two_headers_of_one_name_the_first_holds() -> None:
    delivery = read(("ce_id", b"first"), ("ce_id", b"second")).delivery
    assert delivery is not None
    assert delivery.event_id == "first"


@pytest.mark.parametrize("media", [b"application/json; charset=utf-8", b"Application/JSON"])
def test_a_media_type_may_have_parameters(media: bytes) -> None:
    assert read(("content-type", media)).code is None


def test_a_refused_record_keeps_what_could_be_read() -> None:
    item = read(("ce_time", b"yesterday"))
    assert (item.delivery, item.code) == (None, "malformed_envelope")
    assert (item.event_id, item.source) == ("id-1", "tests")
    assert item.type == "paceline.mailbox-changed.v1"


def test_a_bad_envelope_counts_before_a_bad_body() -> None:
    item = read(("ce_workspaceid", ids.encode("ws", 8).encode()))
    assert item.code == "workspace_mismatch"
    item = read(("ce_workspaceid", b"ws_8"))
    assert (item.code, item.delivery) == ("malformed_envelope", None)


@pytest.mark.parametrize("workspace", [None, b"\xff"])
def test_an_unreadable_workspace_is_no_installation(workspace: bytes | None) -> None:
    item = read(
        ("ce_workspaceid", workspace), ("ce_type", b"paceline.audit-recorded.v1"),
        topic=topics.AUDIT_RECORDED,
    )  # fmt: skip
    assert (item.code, item.delivery) == ("malformed_envelope", None)
    audited = read(
        ("ce_workspaceid", b""), ("ce_type", b"paceline.audit-recorded.v1"),
        topic=topics.AUDIT_RECORDED,
    )  # fmt: skip
    assert audited.delivery is not None
    assert audited.delivery.workspace_id == INSTALLATION


def test_a_publisher_is_the_last_part_of_its_topics_name() -> None:
    family = topics.LEAD_ENROLLED_BY_PUBLISHER
    kind = ("ce_type", events.event_type(family).encode())
    delivery = read(kind, topic=family, name="lead-enrolled.crm").delivery
    assert delivery is not None
    assert delivery.publisher == "crm"
