"""Leads on their way: the API and imports publish `lead-enrolled`, like anybody else."""

import uuid
from collections.abc import Iterable
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, ids, topics
from paceline_common.address import AddressHasher, InvalidAddress, normalise
from paceline_common.db import Outgoing
from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.api.types import email_fault
from paceline_gateway.domain.campaign import ENDED
from paceline_gateway.domain.csv_row import Lead
from paceline_gateway.store.tables import Campaign

# Event ids that follow from the request, so that a repeated one is the same event.
_NAMESPACE: Final = uuid.UUID("6f0d6c1e-5b0e-5d6a-9d2b-6c1f0f3a7e55")


def event_id(*parts: object) -> str:
    """Return the id of the event that these parts name, always the same."""
    return str(uuid.uuid5(_NAMESPACE, "/".join(map(str, parts))))


def address_fault(email: str) -> str | None:
    """Return why the scheduler could not take this address, None if it can."""
    if fault := email_fault(email):
        return fault
    try:
        normalise(email)
    except InvalidAddress as error:
        return str(error)
    return None


async def demand_open(tx: AsyncConnection, workspace_id: int, campaign_id: int) -> None:
    """Raise `not_found` or `campaign_state` unless the campaign takes leads."""
    status = (
        await tx.execute(
            select(Campaign.status).where(
                Campaign.workspace_id == workspace_id, Campaign.campaign_id == campaign_id
            )
        )
    ).scalar_one_or_none()
    if status is None:
        raise Problem(problems.NOT_FOUND, "there is no such campaign in this workspace")
    if status in ENDED:
        raise Problem(
            problems.CAMPAIGN_STATE,
            f"a campaign that is {status} takes no leads",
            status_now=status,
        )


def outgoing(
    hasher: AddressHasher,
    workspace_id: int,
    campaign_id: int,
    leads: Iterable[tuple[str, Lead, int | None]],
    *,
    import_id: int | None = None,
    replay_of: str | None = None,
) -> list[Outgoing]:
    """Return one `lead-enrolled` per (event id, lead, row number); the key is the address's hash.

    The addresses passed `address_fault`.
    """
    workspace, campaign = ids.encode("ws", workspace_id), ids.encode("cmp", campaign_id)
    return [
        Outgoing(
            topic=topics.LEAD_ENROLLED,
            key=hasher.address(lead.email).hex(),
            event_id=identity,
            body=events.LeadEnrolled(
                workspace_id=workspace,
                campaign_id=campaign,
                email=lead.email,
                first_name=lead.first_name,
                last_name=lead.last_name,
                company=lead.company,
                timezone=lead.timezone,
                fields=dict(lead.fields),
                import_id=None if import_id is None else ids.encode("imp", import_id),
                row=row,
                replay_of=replay_of,
            ),
        )
        for identity, lead, row in leads
    ]
