"""Who is calling: an API key names its workspace and what it may do there."""

import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy import select

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.domain import apikey
from paceline_gateway.parts import PartsDep
from paceline_gateway.store.tables import ApiKey, Workspace

_bearer = HTTPBearer(
    auto_error=False, scheme_name="apiKey", bearerFormat="pl_…", description="An API key."
)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated API key."""

    workspace_id: int
    key_id: int
    scopes: frozenset[str]
    source_ip: str | None

    @property
    def workspace(self) -> str:
        """Public id of the workspace."""
        return ids.encode("ws", self.workspace_id)

    @property
    def actor(self) -> str:
        """Public id of the key, as audit records name it."""
        return ids.encode("key", self.key_id)


async def _caller(
    needs: SecurityScopes,
    request: Request,
    parts: PartsDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    key = credentials.credentials if credentials else ""
    # The checksum spares the database invented keys.
    if not apikey.is_well_formed(key):
        raise Problem(problems.UNAUTHENTICATED, headers={"WWW-Authenticate": "Bearer"})
    digest = apikey.digest(key)
    # The key names the workspace, so this one look-up goes across tenants.
    async with parts.db.transaction(worker=True) as tx:
        found = (
            await tx.execute(
                select(
                    ApiKey.workspace_id, ApiKey.key_id, ApiKey.key_hash, ApiKey.scopes,
                    Workspace.is_active,
                )
                .join(Workspace, Workspace.workspace_id == ApiKey.workspace_id)
                .where(ApiKey.key_hash == digest, ApiKey.revoked_at.is_(None))
            )
        ).one_or_none()  # fmt: skip
    if found is None or not hmac.compare_digest(bytes(found.key_hash), digest):
        raise Problem(problems.UNAUTHENTICATED, headers={"WWW-Authenticate": "Bearer"})
    if not found.is_active:
        raise Problem(problems.WORKSPACE_INACTIVE)
    scopes = frozenset(found.scopes)
    for scope in needs.scopes:
        if not apikey.allows(scopes, scope):
            raise Problem(problems.FORBIDDEN, f"this needs the scope {scope!r}", needs=scope)
    return Caller(
        found.workspace_id, found.key_id, scopes, request.client.host if request.client else None
    )


Reader = Annotated[Caller, Security(_caller, scopes=["read"])]
Writer = Annotated[Caller, Security(_caller, scopes=["write"])]
Enroller = Annotated[Caller, Security(_caller, scopes=["enroll"])]
