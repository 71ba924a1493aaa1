"""API mailboxes of a workspace: the account at its twin, and the row that reads it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx
from tests.conformance.sources.accounts import FULL, ApiAccount, account
from tests.integration.reply.world import World

from paceline_common.clock import SystemClock
from paceline_common.db import Database
from paceline_common.keys import KeyService
from paceline_providers.hosts import HostPolicy
from paceline_reply.access import Doors
from paceline_reply.app import resolver, tls_contexts
from paceline_reply.reader import Parts, Reader
from paceline_reply.settings import ReplySettings


def make_doors(
    settings: ReplySettings, db: Database, keys: KeyService, http: httpx.AsyncClient
) -> Doors:
    """Return what opens mailboxes, as the service would have it."""
    return Doors(
        settings=settings, db=db, keys=keys, clock=SystemClock(), http=http,
        resolve=resolver(HostPolicy(settings.host_allowlist)), tls=tls_contexts(settings),
    )  # fmt: skip


@dataclass
class Box:
    """One mailbox, connected; `settings` lead to its twin."""

    world: World
    account: ApiAccount
    mailbox_id: int
    settings: ReplySettings
    doors: Doors
    parts: Parts

    @property
    def kind(self) -> str:
        return self.account.kind

    def reader(self, **changes: Any) -> Reader:
        """Return a reader of the mailbox; `changes` are settings."""
        parts = replace(self.parts, settings=self.settings.model_copy(update=changes))
        return Reader(parts, self.world.workspace_id, self.mailbox_id)

    def sample(self, name: str, sent: Any, **replacements: str) -> bytes:
        """Return a sample as it would come to this mailbox."""
        raw = self.world.sample(name, sent, **replacements)
        return raw.replace(self.world.email.encode(), self.account.email.encode())


@asynccontextmanager
async def connected(
    kind: str,
    world: World,
    parts: Parts,
    keys: KeyService,
    http: httpx.AsyncClient,
    scopes: tuple[str, ...] | None = None,
) -> AsyncIterator[Box]:
    """Connect an account of a new twin, until the block ends."""
    async with account(kind, f"ann-{uuid4().hex[:8]}@north.test") as one:
        credential, oauth = one.credential(*(scopes or FULL[kind]))
        mailbox_id = await world.add_api_mailbox(kind, one.email, credential, oauth)
        settings = parts.settings.model_copy(update=one.settings())
        doors = make_doors(settings, parts.patient, keys, http)
        adapted = replace(parts, settings=settings, doors=doors)
        yield Box(world, one, mailbox_id, settings, doors, adapted)
