"""What an installation gets without saying anything."""

from paceline_gateway.settings import GatewaySettings


def test_special_use_domains_are_refused_unless_the_installation_says_otherwise() -> None:
    assert GatewaySettings.model_fields["accept_test_domains"].default is False
