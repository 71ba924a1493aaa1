"""What each service's own Kafka principal may write and read, and that the rest is denied."""

import asyncio
from datetime import timedelta
from functools import partial

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    TopicAuthorizationFailedError,
)
from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from tests.waiting import until

from paceline_common import grants, topics
from paceline_local.stack import Stack

NAMES = sorted(
    {topic.name for topic in topics.ALL if not topic.pattern}
    | {topic.dead_letter for topic in topics.ALL if not topic.pattern}
)


def connection(stack: Stack, principal: str) -> dict[str, object]:
    return {
        "bootstrap_servers": f"127.0.0.1:{stack.ports['kafka']}",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": principal,
        "sasl_plain_password": stack.passwords.get(principal, "paceline_kafka_password"),
    }


def librdkafka(stack: Stack, principal: str) -> dict[str, str | int | float | bool]:
    return {
        "bootstrap.servers": f"127.0.0.1:{stack.ports['kafka']}",
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": principal,
        "sasl.password": stack.passwords.get(principal, "paceline_kafka_password"),
    }


def declared(principal: str, operation: str) -> set[str]:
    rules = [
        acl
        for acl in grants.kafka_acls()
        if (acl.principal, acl.resource, acl.operation) == (principal, "topic", operation)
    ]
    return {
        name
        for name in NAMES
        for acl in rules
        if name == acl.name or (acl.prefixed and name.startswith(acl.name))
    }


async def first_record(consumer: AIOKafkaConsumer) -> object:
    """Join, subscribe and read: wherever the denial comes, it comes here."""
    await consumer.start()
    return await asyncio.wait_for(consumer.getone(), 10)


@pytest.mark.parametrize("principal", topics.SERVICES)
async def test_writing_elsewhere_is_denied(stack: Stack, principal: str) -> None:
    producer = AIOKafkaProducer(**connection(stack, principal), enable_idempotence=False)
    await producer.start()
    try:
        for name in set(NAMES) - declared(principal, "write"):
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait(name, b"{}")
    finally:
        await producer.stop()


def seen(reading: asyncio.Future[object], log: pytest.LogCaptureFixture, refusal: str) -> bool:
    return reading.done() or refusal in log.messages


@pytest.mark.parametrize("principal", topics.SERVICES)
async def test_reading_elsewhere_is_denied(
    stack: Stack, principal: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in set(NAMES) - declared(principal, "read"):
        consumer = AIOKafkaConsumer(name, **connection(stack, principal))
        reading = asyncio.ensure_future(first_record(consumer))
        try:
            # A topic that may be described is refused at the fetch, which aiokafka logs every
            # time and raises only when it happens to be asked for a record just then.
            refusal = f"Not authorized to read from topic {name}."
            await until(partial(seen, reading, caplog, refusal))
            if reading.done():
                assert isinstance(reading.exception(), TopicAuthorizationFailedError)
        finally:
            reading.cancel()
            await consumer.stop()


@pytest.mark.parametrize("principal", topics.SERVICES)
async def test_reading_what_is_declared_is_allowed(stack: Stack, principal: str) -> None:
    for name in declared(principal, "read"):
        consumer = AIOKafkaConsumer(**connection(stack, principal), group_id=None)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(name, 0)])
            assert await consumer.end_offsets([TopicPartition(name, 0)])
        finally:
            await consumer.stop()


@pytest.mark.parametrize("principal", topics.SERVICES)
def test_only_readers_of_personal_data_delete_records(stack: Stack, principal: str) -> None:
    admin = AdminClient(librdkafka(stack, principal))
    personal = {
        topic.name
        for topic in topics.ALL
        if topic.personal_data and principal in topic.consumers and not topic.pattern
    }
    # Before offset 0 there is nothing: only the permission is asked for.
    asked = [Place(name, 0, 0) for name in NAMES]
    done = set()
    for place, deleted in admin.delete_records(asked, request_timeout=10).items():
        try:
            deleted.result(30)
        except KafkaException as error:
            assert "AUTHORIZATION" in str(error)  # noqa: PT017 - which of them pass is the question
        else:
            done.add(place.topic)
    # The family's prefix, which READ has too, takes in the dead letters.
    assert done == personal | {topics.LEAD_ENROLLED.dead_letter for _ in personal}


def test_personal_data_and_its_dead_letters_stay_for_a_short_time(stack: Stack) -> None:
    admin = AdminClient(librdkafka(stack, "stack"))
    wanted = {topic.name: topic.retention for topic in topics.ALL if not topic.pattern}
    wanted |= {topic.dead_letter: topic.retention for topic in topics.ALL}
    asked = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in wanted]
    found = {
        resource.name: timedelta(milliseconds=int(described.result(30)["retention.ms"].value))
        for resource, described in admin.describe_configs(asked, request_timeout=10).items()
    }
    assert found == wanted
    assert found[topics.LEAD_ENROLLED.dead_letter] <= timedelta(days=2)


@pytest.mark.parametrize("principal", topics.SERVICES)
async def test_joining_another_group_is_denied(stack: Stack, principal: str) -> None:
    readable = sorted(declared(principal, "read"))
    other = "audit" if principal != "audit" else "scheduler"
    foreign = topics.AUDIT_RECORDED if other == "audit" else topics.SENT
    consumer = AIOKafkaConsumer(
        *readable[:1], **connection(stack, principal), group_id=topics.group(other, foreign)
    )
    try:
        with pytest.raises(GroupAuthorizationFailedError):
            await first_record(consumer)
    finally:
        await consumer.stop()


@pytest.mark.parametrize("principal", topics.SERVICES)
def test_no_service_administers_the_broker(stack: Stack, principal: str) -> None:
    admin = AdminClient(librdkafka(stack, principal))
    made = admin.create_topics([NewTopic(f"{principal}-intruder", 1, 1)])
    with pytest.raises(KafkaException, match="AUTHORIZATION"):
        made[f"{principal}-intruder"].result(10)
    wish = AclBinding(
        ResourceType.TOPIC, "sent", ResourcePatternType.LITERAL, f"User:{principal}", "*",
        AclOperation.ALL, AclPermissionType.ALLOW,
    )  # fmt: skip
    with pytest.raises(KafkaException, match="AUTHORIZATION"):
        admin.create_acls([wish])[wish].result(10)


async def test_a_wrong_password_signs_nobody_in(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    settings = connection(stack, "sender") | {"sasl_plain_password": "not it"}
    producer = AIOKafkaProducer(**settings)
    try:
        with pytest.raises(KafkaConnectionError, match="bootstrap"):
            await producer.start()
        assert "SaslAuthenticationFailed" in caplog.text
    finally:
        await producer.stop()
