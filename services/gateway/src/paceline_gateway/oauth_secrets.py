"""The newest secret of each OAuth app, where sender and reply find it.

A mailbox's sealed credential keeps the secret that its app had when it was connected, and
only the leg's own service can open it. So the secret lies beside the credentials as well,
sealed once per workspace and leg: a secret that is set anew reaches every connected mailbox
with its next refresh. The operator's secret gets to the workspaces by `share`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import and_, or_, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids, telemetry
from paceline_common.keys import KeyMissing, KeyService, SealBroken
from paceline_common.tokens import APP_TABLE, app_row
from paceline_gateway.app_secret import INSTALLATION, INSTALLATION_TABLE
from paceline_gateway.parts import Parts
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Mailbox, OAuthInstallationApp, OAuthSecret

# What mailboxes are held for while the provider refuses their app.
REFUSED: Final = "app_refused"
_LEGS: Final[tuple[Literal["send", "read"], ...]] = ("send", "read")
_SHARE_EVERY_S: Final = 5.0

_log = telemetry.logger("oauth_secrets")


@dataclass(frozen=True, slots=True)
class Of:
    """Which app, in which workspace."""

    workspace_id: int
    provider: str
    client_id: str

    @property
    def row(self) -> str:
        """The row for which its secret is sealed."""
        return app_row(self.provider, self.client_id)


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret, set at `set_at` (aware); `sealed` are its columns."""

    of: Of
    sealed: Mapping[str, bytes]
    set_at: datetime


async def seal(keys: KeyService, of: Of, secret: str, set_at: datetime) -> Secret:
    """Return the secret sealed for each leg; the gateway cannot open it again."""
    plain, sealed = secret.encode(), {}
    for leg in _LEGS:
        sealed[f"{leg}_sealed"] = await keys.seal(
            leg, of.workspace_id, plain, table=APP_TABLE, row=of.row
        )
    return Secret(of, sealed, set_at)


async def save(tx: AsyncConnection, secret: Secret, *, is_newest: bool = False) -> bool:
    """Publish a secret; return False where one was published that was set later.

    `is_newest`: the caller holds the app's row, so whatever the clocks said, this is the last.
    """
    of, values = secret.of, {**secret.sealed, "set_at": secret.set_at}
    statement = insert(OAuthSecret).values(
        workspace_id=of.workspace_id, provider=of.provider, client_id=of.client_id, **values
    )
    done = await tx.execute(
        statement.on_conflict_do_update(
            index_elements=[
                OAuthSecret.workspace_id, OAuthSecret.provider, OAuthSecret.client_id,
            ],
            set_=values,
            where=true() if is_newest else OAuthSecret.set_at <= statement.excluded.set_at,
        ).returning(OAuthSecret.set_at)
    )  # fmt: skip
    return done.one_or_none() is not None


async def let_go_on(tx: AsyncConnection, of: Of, by: str) -> None:
    """Open the mailboxes that are held because the provider refused this app."""
    held = foreign.SUSPENSION.c
    found = await tx.execute(
        select(Mailbox.mailbox_id)
        .join(
            foreign.SUSPENSION,
            and_(
                held.workspace_id == Mailbox.workspace_id, held.ref == Mailbox.mailbox_id,
                held.scope == "mailbox", held.reason == REFUSED, held.closed_at.is_(None),
            ),
        )
        .where(
            Mailbox.workspace_id == of.workspace_id,
            or_(*(_reached_by(leg, of) for leg in (Mailbox.send_oauth, Mailbox.read_oauth))),
        )
        .order_by(Mailbox.mailbox_id)
    )  # fmt: skip
    for mailbox_id in found.scalars().all():
        await foreign.resume(tx, of.workspace_id, "mailbox", mailbox_id, REFUSED, by)


def _reached_by(leg: Any, of: Of) -> Any:
    return and_(
        leg["provider"].as_string() == of.provider, leg["client_id"].as_string() == of.client_id
    )


async def share_when_due(parts: Parts) -> None:
    """Bring the operator's newest secrets to the workspaces, for the life of the process."""
    while True:
        await share(parts)
        await asyncio.sleep(_SHARE_EVERY_S)


async def share(parts: Parts) -> int:
    """Do so once; return in how many workspaces it was missing."""
    app, kept = OAuthInstallationApp, OAuthSecret
    async with parts.db.transaction(worker=True) as tx:
        behind = (
            await tx.execute(
                select(
                    kept.workspace_id, app.provider, app.client_id, app.client_secret,
                    app.updated_at,
                )
                .join(app, and_(app.provider == kept.provider, app.client_id == kept.client_id))
                .where(kept.set_at < app.updated_at)
                .order_by(kept.workspace_id)
            )
        ).all()  # fmt: skip
    for one in behind:
        of = Of(one.workspace_id, one.provider, one.client_id)
        try:
            secret = await parts.keys.open(
                "gateway", INSTALLATION, bytes(one.client_secret), table=INSTALLATION_TABLE,
                row=one.provider,
            )  # fmt: skip
            sealed = await seal(parts.keys, of, secret.decode(), one.updated_at)
        except (SealBroken, KeyMissing) as error:
            # Keys of a workspace that is being deleted, or a secret to be set again.
            _log.warning(
                "an app's secret was not shared", workspace=ids.encode("ws", one.workspace_id),
                **telemetry.describe_error(error),
            )  # fmt: skip
            continue
        async with parts.db.transaction([one.workspace_id]) as tx:
            if await save(tx, sealed):
                await let_go_on(tx, of, "gateway")
    return len(behind)
