"""Nobody consumes past `paceline_common.kafka.subscribe`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
ALLOWED = REPOSITORY / "libs/common/src/paceline_common/kafka/subscribe.py"
CONSUMERS = {"AIOKafkaConsumer", "DeserializingConsumer", "KafkaConsumer", "ShareConsumer"}
LIBRARIES = {"aiokafka", "aiokafka.consumer", "confluent_kafka", "kafka"}
METHODS = {"subscriber", "getmany", "getone"}


def other_ways(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of whatever consumes from Kafka."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in CONSUMERS:
                yield node.lineno, name
            case ast.ImportFrom(module=module, names=names) if module in LIBRARIES:
                for alias in names:
                    if alias.name in CONSUMERS | {"Consumer"}:
                        yield node.lineno, alias.name
            case ast.Attribute(value=ast.Name(id="confluent_kafka"), attr="Consumer"):
                yield node.lineno, "Consumer"
            case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
                yield node.lineno, name
            case ast.ImportFrom(module="faststream" | "faststream.middlewares", names=names):
                for alias in names:
                    if alias.name == "AckPolicy":
                        yield node.lineno, alias.name


def test_services_and_libraries_consume_through_the_wrapper_only() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line} {name}"
        for top in ("libs", "services")
        for path in (REPOSITORY / top).glob("*/src/**/*.py")
        if path != ALLOWED
        for line, name in other_ways(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_the_wrapper_is_where_the_rule_expects_it() -> None:
    assert "subscriber" in {name for _, name in other_ways(ALLOWED.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    "source",
    [
        "from aiokafka import AIOKafkaConsumer",
        "import aiokafka\naiokafka.AIOKafkaConsumer()",
        "from confluent_kafka import Consumer",
        "import confluent_kafka\nconfluent_kafka.Consumer({})",
        "@broker.subscriber('sent')\nasync def handle(message): ...",
        "from faststream import AckPolicy",
        "records = await consumer.getmany()",
    ],
)
def test_the_rule_sees_each_other_way(source: str) -> None:
    assert list(other_ways(source))
