"""Refreshed OAuth tokens, sealed under a service's own key and replaced by compare-and-set.

One row per mailbox in the table `oauth_token` of the service's schema. It belongs to one
connect of the mailbox (`credential_version`): a row of an older connect counts as absent,
and nothing is stored for a connect that is no longer the mailbox's.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import CheckConstraint, TextClause, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from paceline_common.db.session import Database
from paceline_common.db.tables import Ddl, declarative_base, enable_tenancy
from paceline_common.keys import KeyService, Scope

TABLE: Final = "oauth_token"
# Where the gateway keeps the secrets of OAuth apps, sealed for each leg.
APP_TABLE: Final = "oauth_secret"

# Where each service sees which connect is the mailbox's.
_VIEWS: Final[dict[Scope, str]] = {
    "send": "gateway.v_mailbox_send",
    "read": "gateway.v_mailbox_read",
}


class Superseded(Exception):
    """The mailbox was connected anew, or disconnected, since its credential was read."""


def app_row(provider: str, client_id: str) -> str:
    """Return the row for which an app's secret is sealed, in `APP_TABLE`."""
    return f"{provider}/{client_id}"


def app_subject(provider: str, client_id: str) -> str:
    """Return what issues about an OAuth app are about, whoever raises them."""
    return f"oauth_app:{provider}:{client_id}"


def token_table(base: type[DeclarativeBase]) -> type[DeclarativeBase]:
    """Declare `oauth_token` in a service's `base`; call once per base."""

    class OauthToken(base):  # type: ignore[misc, valid-type]
        """The newest tokens of a mailbox; `version` grows with each refresh that was stored."""

        __tablename__ = TABLE
        __table_args__ = (CheckConstraint("version > 0", name="version"),)

        workspace_id: Mapped[int] = mapped_column(primary_key=True)
        mailbox_id: Mapped[int] = mapped_column(primary_key=True)
        credential_version: Mapped[int]
        version: Mapped[int]
        sealed: Mapped[bytes]
        expires_at: Mapped[datetime]

    return OauthToken


def create_token_table(op: Ddl, schema: str) -> None:
    """Create `<schema>.oauth_token` with row-level security: part of a revision."""
    base = declarative_base(schema)
    token_table(base)
    base.metadata.tables[f"{schema}.{TABLE}"].create(op.get_bind())
    enable_tenancy(op, schema, TABLE, f"{schema}_worker")


class SealedTokens:
    """The tokens of one mailbox as its credential of `credential_version` began them.

    `load` and `replace` give `version`, `expires_at` (aware, UTC) and what else was stored, and
    raise `Superseded`. Every method raises what `KeyService` and Postgres raise.
    """

    def __init__(
        self,
        db: Database,
        keys: KeyService,
        scope: Scope,
        *,
        workspace_id: int,
        mailbox_id: int,
        credential_version: int,
    ) -> None:
        self._db = db
        self._keys = keys
        self._scope: Scope = scope
        self._view = _VIEWS[scope]
        self._workspace_id = workspace_id
        self._mailbox_id = mailbox_id
        self._credential_version = credential_version
        self._named = {"workspace": workspace_id, "mailbox": mailbox_id}

    async def load(self) -> dict[str, Any] | None:
        """Return what is stored, None when nothing is."""
        async with self._db.transaction([self._workspace_id]) as tx:
            result = await tx.execute(_select(self._db.schema, self._view), self._named)
            row = result.one_or_none()
        if row is None or row.connected != self._credential_version:
            raise Superseded("the mailbox was disconnected or connected anew")
        if row.credential_version != self._credential_version:
            return None
        return await self._opened(row.version, row.sealed)

    async def replace(self, seen_version: int, tokens: Mapping[str, Any]) -> dict[str, Any]:
        """Store `tokens` if `seen_version` (0: nothing) is the newest; return the newest.

        `tokens["expires_at"]` is aware; the rest is text.
        """
        expires_at: datetime = tokens["expires_at"]
        plain = json.dumps({**tokens, "expires_at": expires_at.isoformat()}).encode()
        sealed = await self._keys.seal(
            self._scope, self._workspace_id, plain, table=TABLE, row=self._mailbox_id
        )
        async with self._db.transaction([self._workspace_id]) as tx:
            version = await tx.scalar(
                _replace(self._db.schema, self._view),
                self._named
                | {
                    "credential_version": self._credential_version,
                    "seen": seen_version,
                    "sealed": sealed,
                    "expires_at": expires_at,
                },
            )
        if version is not None:
            return {**tokens, "version": version}
        winner = await self.load()
        if winner is None:
            raise Superseded("the mailbox was disconnected")
        return winner

    async def app_secret(self) -> str | None:
        """Return the newest secret of the app that the mailbox was connected through.

        None when it was not set again since: then the credential's is the newest.
        """
        async with self._db.transaction([self._workspace_id]) as tx:
            row = (await tx.execute(_select_app(self._view), self._named)).one_or_none()
        if row is None or row.app_secret is None:
            return None
        plain = await self._keys.open(
            self._scope, self._workspace_id, bytes(row.app_secret), table=APP_TABLE,
            row=app_row(row.provider, row.client_id),
        )  # fmt: skip
        return plain.decode()

    async def _opened(self, version: int, sealed: bytes) -> dict[str, Any]:
        plain = await self._keys.open(
            self._scope, self._workspace_id, bytes(sealed), table=TABLE, row=self._mailbox_id
        )
        tokens: dict[str, Any] = json.loads(plain)
        tokens["expires_at"] = datetime.fromisoformat(tokens["expires_at"])
        return {**tokens, "version": version}


async def drop(db: Database, workspace_id: int, mailbox_id: int) -> bool:
    """Delete a mailbox's refreshed tokens; return whether there were any."""
    async with db.transaction([workspace_id]) as tx:
        result = await tx.execute(
            text(
                f"DELETE FROM {db.schema}.{TABLE}"  # noqa: S608 - a schema's name
                " WHERE workspace_id = :workspace AND mailbox_id = :mailbox"
            ),
            {"workspace": workspace_id, "mailbox": mailbox_id},
        )
    return bool(result.rowcount)


def _select(schema: str, view: str) -> TextClause:
    return text(
        f"""
        SELECT c.credential_version AS connected, t.credential_version, t.version, t.sealed
        FROM {view} AS c
        LEFT JOIN {schema}.{TABLE} AS t USING (workspace_id, mailbox_id)
        WHERE c.workspace_id = :workspace AND c.mailbox_id = :mailbox
        """  # noqa: S608 - names of ours
    )


def _select_app(view: str) -> TextClause:
    return text(
        f"""
        SELECT c.oauth ->> 'provider' AS provider, c.oauth ->> 'client_id' AS client_id,
               c.app_secret
        FROM {view} AS c
        WHERE c.workspace_id = :workspace AND c.mailbox_id = :mailbox
        """  # noqa: S608 - names of ours
    )


def _replace(schema: str, view: str) -> TextClause:
    return text(
        f"""
        INSERT INTO {schema}.{TABLE} AS t
            (workspace_id, mailbox_id, credential_version, version, sealed, expires_at)
        SELECT c.workspace_id, c.mailbox_id, c.credential_version, CAST(:seen AS bigint) + 1,
               CAST(:sealed AS bytea), CAST(:expires_at AS timestamptz)
        FROM {view} AS c
        WHERE c.workspace_id = :workspace AND c.mailbox_id = :mailbox
          AND c.credential_version = CAST(:credential_version AS bigint)
        ON CONFLICT (workspace_id, mailbox_id) DO UPDATE
        SET credential_version = excluded.credential_version, version = excluded.version,
            sealed = excluded.sealed, expires_at = excluded.expires_at
        WHERE t.credential_version < excluded.credential_version
           OR (t.credential_version = excluded.credential_version AND t.version = :seen)
        RETURNING t.version
        """  # noqa: S608 - names of ours
    )
