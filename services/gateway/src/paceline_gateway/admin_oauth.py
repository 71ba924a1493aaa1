"""The gateway's group `oauth-app` of `paceline-admin`: the operator's OAuth apps."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert

from paceline_common.admin import AdminSettings, JsonFlag, refuse, show, show_rows
from paceline_common.keys import KeyService
from paceline_gateway import admin
from paceline_gateway.app_secret import seal_for_installation
from paceline_gateway.domain.consent import OAUTH_PROVIDERS
from paceline_gateway.store.oauth_tables import OAuthInstallationApp

oauth_app = typer.Typer(
    help="OAuth apps at Google and Microsoft, for workspaces without their own.",
    no_args_is_help=True,
)

ProviderName = Annotated[str, typer.Argument(help=" or ".join(OAUTH_PROVIDERS))]


@oauth_app.command("set")
def set_app(
    provider: ProviderName,
    client_id: Annotated[str, typer.Option(help="As the provider shows it.")],
    secret_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds the client secret; asked for if left out."),
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Microsoft: the only tenant that may sign in.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Set the app that mailboxes are connected through from now on.

    The secret is sealed before it is stored and never shown again.
    """
    _known(provider)
    if tenant is not None and provider != "microsoft":
        refuse("only Microsoft has tenants")
    if secret_file is not None:
        secret = secret_file.read_text(encoding="utf-8").strip()
    else:
        secret = typer.prompt("Client secret", hide_input=True).strip()
    if not secret:
        refuse("the client secret is empty")
    settings = AdminSettings()
    now = datetime.now(UTC)
    values = {
        "client_id": client_id,
        "client_secret": asyncio.run(_seal(settings, provider, secret)),
        "tenant": tenant,
        "updated_at": now,
    }
    with admin.transaction(settings) as tx:
        tx.execute(
            insert(OAuthInstallationApp)
            .values(provider=provider, **values)
            .on_conflict_do_update(index_elements=[OAuthInstallationApp.provider], set_=values)
        )
        admin.audit(tx, "oauth_app.set", provider, client_id=client_id)
    show({"provider": provider, "client_id": client_id, "tenant": tenant}, json_)


@oauth_app.command("list")
def list_apps(json_: JsonFlag = False) -> None:
    """List the installation's apps; secrets are not shown."""
    with admin.transaction(AdminSettings()) as tx:
        rows = tx.execute(
            select(OAuthInstallationApp.__table__).order_by(OAuthInstallationApp.provider)
        ).all()
    columns = ("provider", "client_id", "tenant", "updated_at")
    show_rows([{name: getattr(row, name) for name in columns} for row in rows], columns, json_)


@oauth_app.command("remove")
def remove_app(provider: ProviderName, json_: JsonFlag = False) -> None:
    """Take an app away; mailboxes that are connected through it go on."""
    _known(provider)
    with admin.transaction(AdminSettings()) as tx:
        gone = tx.execute(
            delete(OAuthInstallationApp).where(OAuthInstallationApp.provider == provider)
        ).rowcount
        if not gone:
            refuse(f"there is no app for {provider}")
        admin.audit(tx, "oauth_app.removed", provider)
    show({"provider": provider}, json_)


async def _seal(settings: AdminSettings, provider: str, secret: str) -> bytes:
    async with KeyService(settings) as keys:
        return await seal_for_installation(keys, provider, secret)


def _known(provider: str) -> None:
    if provider not in OAUTH_PROVIDERS:
        refuse(f"{provider!r} is none of {', '.join(OAUTH_PROVIDERS)}")
