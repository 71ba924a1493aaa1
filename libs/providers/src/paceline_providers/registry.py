"""Which providers there are: kind of a mailbox → what builds its provider."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from paceline_providers.base import Provider
from paceline_providers.hosts import HostPolicy
from paceline_providers.smtp import SmtpProvider


class Factory(Protocol):
    """Builds the provider of one mailbox from its stored settings and its opened credential.

    Raises `msgspec.ValidationError` for settings of another shape.
    """

    def __call__(
        self,
        settings: Mapping[str, Any],
        credential: Mapping[str, Any],
        hosts: HostPolicy,
        ca_file: Path | None = None,
    ) -> Provider: ...


PROVIDERS: Final[Mapping[str, Factory]] = {
    "smtp": SmtpProvider.of,
}
