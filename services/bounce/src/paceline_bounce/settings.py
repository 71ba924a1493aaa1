"""Bounce's settings."""

from paceline_common.settings import ServiceSettings


class BounceSettings(ServiceSettings):
    """Nothing beyond `ServiceSettings`: what a failure means is in `rules/*.toml`."""
