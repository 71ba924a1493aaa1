"""The mail hosts that are known beforehand: whole, sourced, and in the rules' own words."""

import pytest

from paceline_providers.classes import rules
from paceline_providers.presets import GENERIC, Preset, presets
from paceline_providers.registry import PROVIDERS

WANTED = {
    "gmail", "workspace-relay", "microsoft365", "outlook", "yahoo", "aol", "zoho", "fastmail",
    "icloud", GENERIC,
}  # fmt: skip
ALL = list(presets().values())


def test_the_usual_hosts_are_there() -> None:
    assert presets().keys() >= WANTED


@pytest.mark.parametrize("preset", ALL, ids=lambda one: one.name)
def test_a_preset_is_whole_and_says_where_it_stands(preset: Preset) -> None:
    assert preset.sources
    assert preset.password.endswith(".")
    if preset.name == GENERIC:
        assert (preset.smtp, preset.imap) == (None, None)
        return
    assert preset.smtp is not None
    assert preset.imap is not None
    # RFC 8314: implicit TLS on 465 and 993, STARTTLS on 587.
    assert (preset.smtp.port, preset.smtp.tls) in ((465, "implicit"), (587, "starttls"))
    assert (preset.imap.port, preset.imap.tls) == (993, "implicit")
    assert "app" in preset.password.lower() or preset.oauth


@pytest.mark.parametrize("preset", ALL, ids=lambda one: one.name)
def test_a_dialect_has_rules_of_its_own(preset: Preset) -> None:
    if preset.dialect:
        assert any(rule.name.startswith(f"{preset.dialect}-") for rule in rules())


def test_a_domain_has_one_preset() -> None:
    domains = [domain for preset in ALL for domain in preset.domains]
    assert len(domains) == len(set(domains))


@pytest.mark.parametrize("preset", ALL, ids=lambda one: one.name)
def test_the_smtp_provider_takes_a_presets_server(preset: Preset) -> None:
    if preset.smtp is not None:
        server = preset.smtp
        settings = {"host": server.host, "port": server.port, "tls": server.tls}
        PROVIDERS["smtp"](settings, {"password": "x"}, hosts=None)  # type: ignore[arg-type]
