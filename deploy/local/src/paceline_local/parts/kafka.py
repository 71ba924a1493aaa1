"""Kafka: one broker and controller in one process, SCRAM principals, ACLs, the house's topics."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar, Final

from confluent_kafka import OFFSET_END, KafkaError, KafkaException, TopicPartition
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
    UserScramCredentialUpsertion,
)

from paceline_common import grants, topics
from paceline_local.layout import REPOSITORY, cache_dir
from paceline_local.parts.base import Need, PartFailed, Say, Site, await_ready
from paceline_local.ports import LOOPBACK
from paceline_local.process import fingerprint, wait_until

VERSION: Final = "4.1.0"
_POM: Final = REPOSITORY / "deploy" / "local" / "kafka" / "pom.xml"
_SCRAM: Final = "SCRAM-SHA-512"
_CALL_SECONDS: Final = 30
_LEADERS_S: Final = 30.0
_NO_LEADER: Final = frozenset(
    {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
)

# The session timeouts bring a killed broker back in under 4 s instead of 11 s.
_CONFIG: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller}
listeners=SASL_PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=SASL_PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
inter.broker.listener.name=SASL_PLAINTEXT
sasl.enabled.mechanisms=SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=SCRAM-SHA-512
listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required \
username="stack" password="{password}";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:stack;User:ANONYMOUS
log.dirs={data}
auto.create.topics.enable=false
num.partitions=3
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=16777216
"""
_LOGGING: Final = """\
Configuration:
  Appenders:
    Console:
      name: out
      PatternLayout: {pattern: "%d{ISO8601} %p %c{1}: %m%n"}
  Loggers:
    Root:
      level: WARN
      AppenderRef: {ref: out}
    Logger:
      - {name: kafka.server.KafkaRaftServer, level: INFO}
"""


class Kafka:
    """The event log of the stack. Principal `stack` may do all, for provisioning and tests."""

    name: ClassVar[str] = "kafka"
    processes: ClassVar[tuple[str, ...]] = ("kafka",)
    port_names: ClassVar[tuple[str, ...]] = ("kafka", "kafka_controller")

    def __init__(self, site: Site) -> None:
        self._site = site
        self._home = site.layout.state / "kafka"
        self._jars = cache_dir() / f"kafka-{VERSION}"

    def needs(self) -> list[Need]:
        java = Need(lambda: shutil.which("java") is not None, ("openjdk-17-jre-headless",))
        maven = Need(lambda: shutil.which("mvn") is not None, ("maven",))
        return [java] if self._jars.exists() else [java, maven]

    def bootstrap(self) -> str:
        """Return the client listener, `host:port`."""
        return f"{LOOPBACK}:{self._site.ports['kafka']}"

    def admin(self) -> AdminClient:
        """Return an admin client with every right."""
        return AdminClient(self.client_config("stack"))

    def client_config(self, principal: str) -> dict[str, Any]:
        """Return librdkafka settings for a principal of the stack."""
        return {
            "bootstrap.servers": self.bootstrap(),
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": _SCRAM,
            "sasl.username": principal,
            "sasl.password": self._site.passwords.get(principal, "paceline_kafka_password"),
            # A broker that starts or stops is no news here; `ready` says it.
            "log_level": 0,
        }

    def start(self, say: Say) -> None:
        java = shutil.which("java")
        if java is None:
            raise PartFailed(self.name, "no java", "apt-get install openjdk-17-jre-headless")
        self._fetch(say)
        self._home.mkdir(mode=0o700, exist_ok=True)
        config, text = self._home / "server.properties", self._config()
        logging = self._home / "log4j2.yaml"
        arguments = [
            java, "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={logging}", "-cp", f"{self._jars}/*",
        ]  # fmt: skip
        mark = fingerprint(arguments, text)
        running = self._site.processes.find(self.name)
        if running and running.fingerprint != mark:
            say("restarting with changed settings")
            self.stop()
            running = None
        if running is None:
            logging.write_text(_LOGGING)
            config.touch(mode=0o600)
            config.write_text(text)
            self._format(arguments, config)
            say("starting")
            self._site.processes.spawn(
                self.name, [*arguments, "kafka.Kafka", str(config)], print_=mark, cwd=self._home
            )
        await_ready(self._site, self.name, self.name, self.ready, 90, "read the log")
        say("principals, topics, ACLs")
        try:
            self._provision()
        except KafkaException as error:
            tail = self._site.processes.tail(self.name)
            raise PartFailed(self.name, f"provisioning: {error}", "read the log", tail) from error

    def ready(self) -> bool:
        try:
            self.admin().list_topics(timeout=2)
        except KafkaException:
            return False
        return True

    def version(self) -> str:
        return VERSION

    def stop(self) -> None:
        self._site.processes.stop(self.name, ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)))

    def _config(self) -> str:
        return _CONFIG.format(
            host=LOOPBACK,
            port=self._site.ports["kafka"],
            controller=self._site.ports["kafka_controller"],
            password=self._site.passwords.get("stack", "paceline_kafka_password"),
            data=self._home / "data",
        )

    def _fetch(self, say: Say) -> None:
        """Bring Kafka's jars into the per-user cache, once for all stacks."""
        if self._jars.exists():
            return
        self._jars.parent.mkdir(parents=True, exist_ok=True)
        with (self._jars.parent / "kafka.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._jars.exists():
                return
            began = time.monotonic()
            say(f"fetching Kafka {VERSION} through Maven (43 MB)")
            with tempfile.TemporaryDirectory(dir=self._jars.parent) as folder:
                fetched = subprocess.run(
                    [
                        "mvn", "-q", "-B", "-f", str(_POM),
                        "dependency:copy-dependencies", f"-DoutputDirectory={folder}/jars",
                    ],
                    capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
                )  # fmt: skip
                if fetched.returncode:
                    raise PartFailed(
                        self.name,
                        "Maven could not fetch Kafka",
                        "check the network, or set a mirror in ~/.m2/settings.xml",
                        fetched.stdout.splitlines()[-12:],
                    )
                os.replace(f"{folder}/jars", self._jars)
            say(f"fetched in {time.monotonic() - began:.0f} s")

    def _format(self, arguments: list[str], config: Path) -> None:
        if (self._home / "data" / "meta.properties").exists():
            return
        password = self._site.passwords.get("stack", "paceline_kafka_password")
        formatted = subprocess.run(
            [
                *arguments, "kafka.tools.StorageTool", "format", "--standalone",
                "--cluster-id", uuid.uuid4().hex[:22], "--config", str(config),
                "--add-scram", f"{_SCRAM}=[name=stack,password={password}]",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if formatted.returncode:
            lines = (formatted.stdout + formatted.stderr).splitlines()
            shutil.rmtree(self._home / "data", ignore_errors=True)
            raise PartFailed(
                self.name, "the storage could not be formatted", "read the log", lines[-12:]
            )

    def _provision(self) -> None:
        """Make principals, topics and ACLs equal to what the code declares."""
        acls = grants.kafka_acls()
        principals = sorted({acl.principal for acl in acls})
        passwords = [self.client_config(name)["sasl.password"] for name in principals]
        stamp = fingerprint(acls, topics.ALL, passwords)
        marker = self._home / "provisioned"
        if marker.exists() and marker.read_text() == stamp:
            return
        admin = self.admin()
        self.add_principals(principals)
        # By name: two families share one dead letter, and librdkafka crashes on a repeated name.
        wanted = {topic.dead_letter: topic for topic in topics.ALL}
        wanted |= {topic.name: topic for topic in topics.ALL if not topic.pattern}
        _settle(
            admin.create_topics([_new_topic(name, topic) for name, topic in wanted.items()]),
            but=KafkaError.TOPIC_ALREADY_EXISTS,
        )
        self._set_acls(principals, acls)
        marker.write_text(stamp)

    def empty_topics(self) -> None:
        """Delete every record; topics, ACLs and the groups' offsets stay as they are."""
        # A broker that has just come up does not lead every partition at once.
        if not wait_until(self._delete_records, _LEADERS_S):
            raise PartFailed(self.name, "partitions without a leader", "read the log")

    def _delete_records(self) -> bool:
        admin = self.admin()
        described = admin.list_topics(timeout=_CALL_SECONDS).topics
        everything = [
            TopicPartition(name, partition, OFFSET_END)
            for name, topic in described.items()
            if not name.startswith("__")
            for partition in topic.partitions
        ]
        try:
            _settle(admin.delete_records(everything))
        except KafkaException as error:
            if error.args[0].code() not in _NO_LEADER:
                raise
            return False
        return True

    def add_publisher(self, publisher: str) -> dict[str, Any]:
        """Make an external publisher's principal, topic and ACLs; return its client settings."""
        principal = grants.publisher_principal(publisher)
        self.add_principals([principal])
        admin = self.admin()
        family = topics.LEAD_ENROLLED_BY_PUBLISHER
        _settle(
            admin.create_topics([_new_topic(topics.publisher_topic(publisher), family)]),
            but=KafkaError.TOPIC_ALREADY_EXISTS,
        )
        self._set_acls([principal], grants.publisher_acls(publisher))
        return self.client_config(principal)

    def add_principals(self, principals: Iterable[str]) -> None:
        """Give each principal SCRAM credentials with its password of this stack."""
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        # Results come only while their client lives.
        admin = self.admin()
        _settle(
            admin.alter_user_scram_credentials(
                [
                    UserScramCredentialUpsertion(
                        name, info, self.client_config(name)["sasl.password"].encode()
                    )
                    for name in principals
                ]
            )
        )

    def _set_acls(self, principals: Iterable[str], acls: Iterable[grants.KafkaAcl]) -> None:
        """Create what is missing and delete what these principals hold beyond `acls`."""
        admin = self.admin()
        wanted = {_binding(acl) for acl in acls}
        held: set[AclBinding] = set()
        for name in principals:
            held |= set(admin.describe_acls(_filter(f"User:{name}")).result(_CALL_SECONDS))
        if wanted - held:
            _settle(admin.create_acls(list(wanted - held)))
        if held - wanted:
            _settle(admin.delete_acls([_exactly(binding) for binding in held - wanted]))


def _new_topic(name: str, topic: topics.Topic) -> NewTopic:
    retention = int(topic.retention.total_seconds() * 1000)
    config = {"retention.ms": str(retention)}
    if topic.personal_data:
        # A segment is deleted whole, by its youngest record: short ones, lest a trickle keep old.
        config["segment.ms"] = str(retention // 8)
    return NewTopic(
        name,
        num_partitions=topic.partitions if name != topic.dead_letter else 1,
        replication_factor=1,
        config=config,
    )


def _binding(acl: grants.KafkaAcl) -> AclBinding:
    resource = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "cluster": ResourceType.BROKER,
    }[acl.resource]
    pattern = ResourcePatternType.PREFIXED if acl.prefixed else ResourcePatternType.LITERAL
    operation = {
        "read": AclOperation.READ,
        "write": AclOperation.WRITE,
        "delete": AclOperation.DELETE,
        "describe": AclOperation.DESCRIBE,
        "idempotent_write": AclOperation.IDEMPOTENT_WRITE,
    }[acl.operation]
    return AclBinding(
        resource, acl.name, pattern, f"User:{acl.principal}", "*", operation,
        AclPermissionType.ALLOW,
    )  # fmt: skip


def _filter(principal: str) -> AclBindingFilter:
    return AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, principal, None,  # type: ignore[arg-type]
        AclOperation.ANY, AclPermissionType.ANY,
    )  # fmt: skip


def _exactly(binding: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        binding.restype, binding.name, binding.resource_pattern_type, binding.principal,
        binding.host, binding.operation, binding.permission_type,
    )  # fmt: skip


def _settle(futures: dict[Any, "Future[Any]"], but: int | None = None) -> None:
    """Wait for an admin call's results; raise the first error other than `but`."""
    for future in futures.values():
        try:
            future.result(timeout=_CALL_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != but:
                raise
