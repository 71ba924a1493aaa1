"""Secrets of OAuth apps, sealed under the gateway's own key (scope `gateway`)."""

from typing import Final

from paceline_common.keys import KeyService

WORKSPACE_TABLE: Final = "oauth_app"
INSTALLATION_TABLE: Final = "oauth_installation_app"
# The installation's own secrets are no workspace's.
INSTALLATION: Final = 0


async def seal_for_workspace(
    keys: KeyService, workspace_id: int, provider: str, secret: str
) -> bytes:
    """Return a workspace's app secret, sealed."""
    return await keys.seal(
        "gateway", workspace_id, secret.encode(), table=WORKSPACE_TABLE, row=provider
    )


async def seal_for_installation(keys: KeyService, provider: str, secret: str) -> bytes:
    """Return the installation's app secret, sealed."""
    return await keys.seal(
        "gateway", INSTALLATION, secret.encode(), table=INSTALLATION_TABLE, row=provider
    )
