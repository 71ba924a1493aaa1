"""Volumes per mailbox and day: what health scores will be computed from."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.db import Queries
from paceline_common.events import BounceClass

Volume = Literal["sent", "hard", "soft", "block", "other"]
_QUERIES: Final = Queries("paceline_bounce")


@dataclass(frozen=True, slots=True)
class Counted:
    """One message that counts for its mailbox's day."""

    workspace_id: int
    mailbox_id: int
    volume: Volume
    at: datetime


def volume_of(bounce_class: BounceClass) -> Volume:
    """Return which volume a bounce of this class belongs to."""
    match bounce_class:
        case "hard" | "soft" | "block":
            return bounce_class
        case "limit" | "auth" | "config":
            return "other"


async def count(tx: AsyncConnection, counted: Sequence[Counted]) -> None:
    """Add to the volumes; not idempotent, so call it with what is new only."""
    if counted:
        await tx.execute(
            _QUERIES["count_health"],
            {
                "workspaces": [one.workspace_id for one in counted],
                "mailboxes": [one.mailbox_id for one in counted],
                "kinds": [one.volume for one in counted],
                "instants": [one.at for one in counted],
            },
        )
