"""A service's page tells its events, its settings, and what to do when something is wrong."""

import ast
import importlib

import pytest

from paceline_common import topics
from paceline_common.settings import OAuthEndpoints, ServiceSettings
from paceline_local.layout import REPOSITORY


def page(service: str) -> str:
    """Return a service's README."""
    return (REPOSITORY / "services" / service / "README.md").read_text()


def named(service: str) -> set[str]:
    """Return the topics that a service's code names as `topics.NAME`."""
    known = {
        name: topic.name for name, topic in vars(topics).items() if isinstance(topic, topics.Topic)
    }
    return {
        known[node.attr]
        for path in (REPOSITORY / "services" / service / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in known
    }


@pytest.mark.parametrize("service", topics.SERVICES)
def test_one_page_with_the_same_sections(service: str) -> None:
    text = page(service)
    assert text.startswith(f"# {service}\n\n")
    for section in ("Events", "Settings", "When something is wrong"):
        assert f"\n## {section}" in text, section
    assert len(text.splitlines()) <= 90


@pytest.mark.parametrize("service", topics.SERVICES)
def test_every_topic_in_and_out_is_on_the_page(service: str) -> None:
    told = page(service)
    assert [name for name in sorted(named(service)) if f"`{name}" not in told] == []


@pytest.mark.parametrize("service", topics.SERVICES)
def test_every_setting_of_its_own_is_on_the_page(service: str) -> None:
    module = importlib.import_module(f"paceline_{service}.settings")
    settings = getattr(module, f"{service.capitalize()}Settings")
    shared = {*ServiceSettings.model_fields, *OAuthEndpoints.model_fields}
    own = set(settings.model_fields) - shared
    told = page(service)
    assert [name for name in sorted(own) if f"`{name.upper()}`" not in told] == []
