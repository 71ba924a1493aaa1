"""What request handlers work with; `app.py` makes it, routes get it as a dependency."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from paceline_common.address import AddressHasher
from paceline_common.clock import Clock
from paceline_common.db import Database, Outbox
from paceline_common.keys import ADDRESS_HASH_SECRET, KeyService
from paceline_common.storage import AttachmentFiles
from paceline_gateway.oauth import OAuthClient
from paceline_gateway.pacing import Pacing
from paceline_gateway.preview import Previewer
from paceline_gateway.probe import Prober
from paceline_gateway.settings import GatewaySettings
from paceline_gateway.settling import Settling


@dataclass(slots=True)
class Parts:
    """The gateway's dependencies, one of each per process."""

    settings: GatewaySettings
    db: Database
    outbox: Outbox
    keys: KeyService
    prober: Prober
    previewer: Previewer
    files: AttachmentFiles
    pacing: Pacing
    settling: Settling
    oauth: OAuthClient
    clock: Clock
    _hasher: AddressHasher | None = field(default=None, init=False)

    async def hasher(self) -> AddressHasher:
        """Return the address hasher; its key is read on first use and then kept."""
        if self._hasher is None:
            self._hasher = AddressHasher(await self.keys.secret(ADDRESS_HASH_SECRET))
        return self._hasher


def _parts(request: Request) -> Parts:
    made: Parts = request.app.state.parts
    return made


PartsDep = Annotated[Parts, Depends(_parts)]
