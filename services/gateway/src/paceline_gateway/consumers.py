"""What the gateway learns from events: issues for people, and the last test of each mailbox."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids, topics
from paceline_common.db import Queries
from paceline_common.events import IssueRaised, MailboxProbed
from paceline_common.kafka import Delivery, EventFault, Subscription

_queries = Queries("paceline_gateway")


async def record_issues(tx: AsyncConnection, deliveries: Sequence[Delivery[IssueRaised]]) -> None:
    """Fold issues by workspace, subject and code; the inbox keeps each from counting twice."""
    await tx.execute(
        _queries["record_issues"],
        {
            "workspaces": [one.workspace_id for one in deliveries],
            "subjects": [one.body.subject for one in deliveries],
            "codes": [one.body.code for one in deliveries],
            "severities": [one.body.severity for one in deliveries],
            "details": [one.body.detail for one in deliveries],
            "sources": [one.source for one in deliveries],
            "raised": [one.body.raised_at for one in deliveries],
        },
    )


async def record_probes(tx: AsyncConnection, deliveries: Sequence[Delivery[MailboxProbed]]) -> None:
    """Keep the newest test of each mailbox and leg; older ones change nothing."""
    await tx.execute(
        _queries["record_probes"],
        {
            "workspaces": [one.workspace_id for one in deliveries],
            "mailboxes": [_mailbox(one) for one in deliveries],
            "legs": [one.body.leg for one in deliveries],
            "oks": [one.body.ok for one in deliveries],
            "codes": [one.body.code for one in deliveries],
            "probed": [one.body.probed_at for one in deliveries],
        },
    )


def subscriptions() -> list[Subscription[IssueRaised] | Subscription[MailboxProbed]]:
    """Return what the gateway consumes."""
    return [
        Subscription(topic=topics.ISSUE_RAISED, handler=record_issues),
        Subscription(topic=topics.MAILBOX_PROBED, handler=record_probes, dedupe=False),
    ]


def _mailbox(delivery: Delivery[MailboxProbed]) -> int:
    try:
        return ids.decode("mbx", delivery.body.mailbox_id)
    except ids.InvalidIdError as error:
        raise EventFault("mailbox_id_invalid", str(error)) from error
