"""Giving a reading grant back: revoked where the provider lets us, its tokens dropped."""

from dataclasses import dataclass
from typing import Literal

import httpx

from paceline_common import failpoints, telemetry, tokens
from paceline_common.db import Database
from paceline_providers.oauth import Revocation, revoke
from paceline_providers.proof import TokenUnavailable
from paceline_reply.access import Doors
from paceline_reply.settings import ReplySettings
from paceline_reply.sources.base import SourceError

_log = telemetry.logger("revoke")


@dataclass(frozen=True, slots=True)
class Revoked:
    """What became of a grant; `message` is the provider's own words. `dropped`: our own tokens."""

    result: Revocation | Literal["none"]
    message: str
    dropped: bool


class Revoker:
    """Ends reading grants, best effort; may be asked again."""

    def __init__(
        self, *, doors: Doors, db: Database, http: httpx.AsyncClient, settings: ReplySettings
    ) -> None:
        self._doors = doors
        self._db = db
        self._http = http
        self._settings = settings

    async def revoke(self, workspace_id: int, mailbox_id: int) -> Revoked:
        """Revoke a mailbox's grant and drop its refreshed tokens.

        Raises what Postgres raises and `KeyServiceUnavailable`; nothing is dropped then.
        """
        result, words = await self._at_provider(workspace_id, mailbox_id)
        failpoints.hit("reply.grant_revoked")
        dropped = await tokens.drop(self._db, workspace_id, mailbox_id)
        _log.info("grant given back", outcome=result)
        return Revoked(result, words, dropped)

    async def _at_provider(
        self, workspace_id: int, mailbox_id: int
    ) -> tuple[Revocation | Literal["none"], str]:
        try:
            loaded = await self._doors.load(workspace_id, mailbox_id)
        except SourceError as error:
            return "failed", error.message
        if loaded is None:
            return "none", "the mailbox is not connected"
        access = loaded[0]
        identity = (access.oauth or {}).get("provider")
        if access.tokens is None or identity not in ("google", "microsoft"):
            return "none", "the mailbox has no grant"
        try:
            grant = await access.tokens.newest()
        except TokenUnavailable as failure:
            return "failed", str(failure)
        url = self._settings.revoke_url(identity)
        return await revoke(self._http, url, grant.refresh_token)
