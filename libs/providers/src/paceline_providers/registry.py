"""Which providers there are: kind of a mailbox → what builds its provider."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from paceline_providers.base import Provider
from paceline_providers.gmail import GmailProvider
from paceline_providers.graph import GraphProvider
from paceline_providers.hosts import HostPolicy
from paceline_providers.proof import ApiProvider, Now, Tokens
from paceline_providers.smtp import SmtpProvider


class Factory(Protocol):
    """Builds the provider of one mailbox from its stored settings and its opened credential.

    `tokens` are those of a grant, where the node is signed in to with one. Raises
    `msgspec.ValidationError` for settings of another shape.
    """

    def __call__(
        self,
        settings: Mapping[str, Any],
        credential: Mapping[str, Any],
        hosts: HostPolicy,
        ca_file: Path | None = None,
        tokens: Tokens | None = None,
    ) -> Provider: ...


class ApiFactory(Protocol):
    """Builds the provider of one mailbox behind an HTTP API from its stored settings.

    `settings` hold the granted `scopes`. `base_url`, without a slash at its end, is the
    operator's choice and never a user's: the token is sent there. Raises
    `msgspec.ValidationError` for settings of another shape.
    """

    def __call__(
        self,
        settings: Mapping[str, Any],
        http: httpx.AsyncClient,
        tokens: Tokens,
        now: Now,
        base_url: str | None = None,
    ) -> ApiProvider: ...


PROVIDERS: Final[Mapping[str, Factory]] = {
    "smtp": SmtpProvider.of,
}

API_PROVIDERS: Final[Mapping[str, ApiFactory]] = {
    "gmail": GmailProvider.of,
    "graph": GraphProvider.of,
}
