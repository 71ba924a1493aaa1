"""What reply does with events: mailboxes that come, change and go."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids, topics
from paceline_common.db import Queries
from paceline_common.db.session import after_commit
from paceline_common.events import MailboxChanged
from paceline_common.kafka.subscribe import Delivery, Subscription
from paceline_reply.readers import Readers

_QUERIES: Final = Queries("paceline_reply")


def mailbox_changed(readers: Readers) -> Subscription[MailboxChanged]:
    """Keep the cursor table in step with the gateway's mailboxes, and wake the readers."""

    async def handle(tx: AsyncConnection, deliveries: Sequence[Delivery[MailboxChanged]]) -> None:
        # The first event of a mailbox tells when it was connected, the last its version.
        first: dict[tuple[int, int], Delivery[MailboxChanged]] = {}
        last: dict[tuple[int, int], int] = {}
        for delivery in deliveries:
            key = (delivery.workspace_id, ids.decode("mbx", delivery.body.mailbox_id))
            first.setdefault(key, delivery)
            last[key] = max(last.get(key, 0), delivery.body.version)
        named = {
            "workspaces": [workspace for workspace, _ in first],
            "mailboxes": [mailbox for _, mailbox in first],
        }
        await tx.execute(
            _QUERIES["upsert_cursors"],
            {
                **named,
                "versions": [last[key] for key in first],
                "instants": [delivery.time for delivery in first.values()],
            },
        )
        await tx.execute(_QUERIES["drop_tokens"], named)
        after_commit(tx, "readers", readers.wake.set)

    # The view holds the newest state whatever event it is read for: no inbox needed.
    return Subscription(topic=topics.MAILBOX_CHANGED, handler=handle, dedupe=False)
