"""An external publisher's side of Kafka: its topic, its SCRAM principal, its ACLs."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from paceline_common import grants, topics
from paceline_common.admin import AdminSettings

_CALL_S: Final = 30
_ITERATIONS: Final = 8192
_REFUSALS: Final = frozenset(
    {
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._AUTHENTICATION,
    }
)
_RESOURCES: Final = {
    "topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "cluster": ResourceType.BROKER,
}  # fmt: skip
_OPERATIONS: Final = {
    "read": AclOperation.READ, "write": AclOperation.WRITE, "describe": AclOperation.DESCRIBE,
    "idempotent_write": AclOperation.IDEMPOTENT_WRITE,
}  # fmt: skip


class NotAllowed(Exception):
    """The principal `admin` may not provision Kafka in this installation."""


def provision(settings: AdminSettings, publisher: str, password: str) -> None:
    """Make topic, principal and ACLs; a repeat gives the principal the new `password`.

    Raises `NotAllowed`, and `KafkaException` when Kafka is away.
    """
    admin = _client(settings)
    family = topics.LEAD_ENROLLED_BY_PUBLISHER
    topic = NewTopic(
        topics.publisher_topic(publisher),
        num_partitions=family.partitions,
        config={"retention.ms": str(int(family.retention.total_seconds() * 1000))},
    )
    _settle(lambda: admin.create_topics([topic]), but=KafkaError.TOPIC_ALREADY_EXISTS)
    credential = UserScramCredentialUpsertion(
        grants.publisher_principal(publisher),
        ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, _ITERATIONS),
        password.encode(),
    )
    _settle(lambda: admin.alter_user_scram_credentials([credential]))
    bindings = [_binding(acl) for acl in grants.publisher_acls(publisher)]
    _settle(lambda: admin.create_acls(bindings))


def withdraw(settings: AdminSettings, publisher: str) -> None:
    """Remove principal and ACLs; the topic and what is in it stay. Raises as `provision` does."""
    admin = _client(settings)
    principal = grants.publisher_principal(publisher)
    all_of_it = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{principal}", None,  # type: ignore[arg-type]
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip
    _settle(lambda: admin.delete_acls([all_of_it]))
    gone = UserScramCredentialDeletion(principal, ScramMechanism.SCRAM_SHA_512)
    _settle(lambda: admin.alter_user_scram_credentials([gone]), but=KafkaError.RESOURCE_NOT_FOUND)


def _client(settings: AdminSettings) -> AdminClient:
    return AdminClient(
        {
            "bootstrap.servers": settings.kafka_bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": settings.kafka_user,
            "sasl.password": settings.kafka_password.get_secret_value(),
            "log_level": 0,
        }
    )


def _binding(acl: grants.KafkaAcl) -> AclBinding:
    return AclBinding(
        _RESOURCES[acl.resource],
        acl.name,
        ResourcePatternType.PREFIXED if acl.prefixed else ResourcePatternType.LITERAL,
        f"User:{acl.principal}",
        "*",
        _OPERATIONS[acl.operation],
        AclPermissionType.ALLOW,
    )


def _settle(call: Callable[[], Mapping[Any, "Future[Any]"]], but: int | None = None) -> None:
    for future in call().values():
        try:
            future.result(timeout=_CALL_S)
        except KafkaException as error:
            code = error.args[0].code()
            if code in _REFUSALS:
                raise NotAllowed from error
            if code != but:
                raise
