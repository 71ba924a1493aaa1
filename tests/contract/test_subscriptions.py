"""Each service subscribes to exactly the topics that the table says it reads."""

import ast
from pathlib import Path

import pytest

from paceline_common import topics

ROOT = Path(__file__).parents[2]


def subscribed(service: str) -> set[str]:
    """Names of the topics in `Subscription(topic=topics.NAME)` anywhere in a service."""
    found = set()
    for path in (ROOT / "services" / service / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Subscription"):
                for keyword in node.keywords:
                    if keyword.arg == "topic" and isinstance(keyword.value, ast.Attribute):
                        found.add(getattr(topics, keyword.value.attr).name)
    return found


@pytest.mark.parametrize("service", topics.SERVICES)
def test_service_reads_what_the_table_says(service: str) -> None:
    assert subscribed(service) == {t.name for t in topics.ALL if service in t.consumers}
