"""Failpoints act where they are told, and nowhere by a typing mistake."""

from collections.abc import Iterator

import pytest

from paceline_common import failpoints
from paceline_common.failpoints import FailpointHit


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.configure("")


def test_nothing_happens_unless_named() -> None:
    failpoints.hit("outbox.after_publish")
    failpoints.configure("outbox.before_publish=raise")
    failpoints.hit("outbox.after_publish")
    with pytest.raises(FailpointHit):
        failpoints.hit("outbox.before_publish")


def test_the_nth_passage_acts() -> None:
    failpoints.configure("outbox.after_publish=raise@2, outbox.after_delete=raise")
    failpoints.hit("outbox.after_publish")
    with pytest.raises(FailpointHit):
        failpoints.hit("outbox.after_publish")
    failpoints.hit("outbox.after_publish")


@pytest.mark.parametrize("spec", ["outbox.nowhere=kill", "outbox.after_publish=explode", "x"])
def test_a_typing_mistake_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="unknown"):
        failpoints.configure(spec)


def test_a_service_adds_its_own() -> None:
    failpoints.configure("sender.x=raise", extra_names=frozenset({"sender.x"}))
    with pytest.raises(FailpointHit):
        failpoints.hit("sender.x")
