"""The matrix says of every provider what its code does, and leaves none out."""

from dataclasses import fields
from typing import get_args

import pytest
from tests.conformance.providers import gmail_stage, graph_stage

from paceline_providers import smtp
from paceline_providers.base import Capabilities
from paceline_providers.docs import CAPABILITIES, GRANTS, LIMITS, capabilities, documents
from paceline_providers.presets import presets
from paceline_providers.registry import API_PROVIDERS, PROVIDERS
from paceline_providers.smtp_auth import Auth

PAGE = documents()["providers/matrix.md"]


def test_every_kind_capability_mode_and_preset_is_there() -> None:
    assert set(GRANTS) == set(API_PROVIDERS)
    assert set(LIMITS) == {*API_PROVIDERS, *PROVIDERS}
    assert set(CAPABILITIES) == {one.name for one in fields(Capabilities)}
    for kind in (*API_PROVIDERS, *PROVIDERS):
        assert f"| {kind} |" in PAGE
    for mode in (*get_args(smtp.TlsMode), *get_args(Auth)):
        assert f"`{mode}`" in PAGE
    for preset in presets().values():
        assert f"| {preset.title} |" in PAGE


@pytest.mark.parametrize(
    ("kind", "scopes", "entry"),
    [
        ("gmail", ("gmail.modify",), gmail_stage.ENTRIES["gmail-modify"]),
        ("gmail", ("gmail.send", "gmail.readonly"), gmail_stage.ENTRIES["gmail-send-readonly"]),
        ("gmail", ("gmail.send",), gmail_stage.ENTRIES["gmail-send"]),
        ("graph", ("Mail.Send", "Mail.ReadWrite"), graph_stage.ENTRIES["graph-readwrite"]),
        ("graph", ("Mail.Send",), graph_stage.ENTRIES["graph-send"]),
    ],
)
def test_it_says_what_the_conformance_suite_demands(
    kind: str, scopes: tuple[str, ...], entry: object
) -> None:
    assert capabilities(kind, scopes) == entry.capabilities  # type: ignore[attr-defined]


def test_a_grant_that_cannot_send_can_do_nothing() -> None:
    assert capabilities("gmail", ("gmail.readonly",)) is None
    assert capabilities("graph", ("Mail.ReadWrite",)) is None
