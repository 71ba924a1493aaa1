"""The OAuth apps that mailboxes are connected through: the workspace's own, else the operator's.

A workspace that has none of its own uses the installation's.
"""

from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.http import Problem
from paceline_common.keys import SealBroken
from paceline_gateway import problems
from paceline_gateway.app_secret import INSTALLATION, INSTALLATION_TABLE, WORKSPACE_TABLE
from paceline_gateway.domain.consent import OAuthProvider
from paceline_gateway.oauth import App
from paceline_gateway.parts import Parts
from paceline_gateway.store.oauth_tables import OAuthApp, OAuthInstallationApp


async def find(
    tx: AsyncConnection, workspace_id: int, provider: OAuthProvider
) -> tuple[str, Row[Any]] | None:
    """Return the app in effect, as (`workspace` or `installation`, its row); None without one."""
    own = (
        await tx.execute(
            select(OAuthApp.__table__).where(
                OAuthApp.workspace_id == workspace_id, OAuthApp.provider == provider
            )
        )
    ).one_or_none()
    if own is not None:
        return "workspace", own
    common = (
        await tx.execute(
            select(OAuthInstallationApp.__table__).where(OAuthInstallationApp.provider == provider)
        )
    ).one_or_none()
    return None if common is None else ("installation", common)


async def load(parts: Parts, workspace_id: int, provider: OAuthProvider) -> App:
    """Return the app in effect with its secret; raise the problem `oauth_app_missing`."""
    async with parts.db.transaction([workspace_id]) as tx:
        found = await find(tx, workspace_id, provider)
    if found is None:
        raise Problem(problems.OAUTH_APP_MISSING)
    source, row = found
    whose, table = (
        (workspace_id, WORKSPACE_TABLE)
        if source == "workspace"
        else (INSTALLATION, INSTALLATION_TABLE)
    )
    try:
        secret = await parts.keys.open(
            "gateway", whose, bytes(row.client_secret), table=table, row=provider
        )
    except SealBroken:
        raise Problem(
            problems.OAUTH_APP_MISSING, "the app's stored secret cannot be opened: set it again"
        ) from None
    return App(provider, source, row.client_id, secret.decode(), row.tenant, row.updated_at)


async def save(
    tx: AsyncConnection, workspace_id: int, provider: OAuthProvider, values: dict[str, Any]
) -> None:
    """Set a workspace's own app; `values` are its columns."""
    row = {"workspace_id": workspace_id, "provider": provider, **values}
    await tx.execute(
        insert(OAuthApp)
        .values(row)
        .on_conflict_do_update(
            index_elements=[OAuthApp.workspace_id, OAuthApp.provider], set_=values
        )
    )


async def remove(tx: AsyncConnection, workspace_id: int, provider: OAuthProvider) -> bool:
    """Take a workspace's own app away; tell whether there was one."""
    gone = await tx.execute(
        delete(OAuthApp)
        .where(OAuthApp.workspace_id == workspace_id, OAuthApp.provider == provider)
        .returning(OAuthApp.provider)
    )
    return gone.one_or_none() is not None
