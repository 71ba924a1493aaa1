"""What bounce does with events: refusals, reports, volumes."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_bounce.classify import Classifier, by_workspace
from paceline_bounce.health import Counted, Health
from paceline_common import ids, topics
from paceline_common.db import Queries
from paceline_common.events import InboundReceived, MailboxChanged, SendRejected, Sent
from paceline_common.kafka.subscribe import Delivery, Subscription

_QUERIES: Final = Queries("paceline_bounce")


def send_rejected(classifier: Classifier) -> Subscription[SendRejected]:
    """Turn refusals within the submission into bounces; a job bounces once per source."""
    return Subscription(
        topic=topics.SEND_REJECTED,
        handler=classifier.refused,
        dedupe=False,
        on_quarantine=_hold_enrollment,
    )


def inbound_received(classifier: Classifier) -> Subscription[InboundReceived]:
    """Read the delivery reports among what arrived; each part of a report counts once."""

    async def handle(tx: AsyncConnection, deliveries: Sequence[Delivery[InboundReceived]]) -> None:
        for workspace_id, inbound_ids in sorted(by_workspace(deliveries).items()):
            await classifier.reported(tx, workspace_id, inbound_ids)

    # Small batches: a report may be a megabyte.
    return Subscription(topic=topics.INBOUND_RECEIVED, handler=handle, dedupe=False, max_records=50)


def sent(health: Health) -> Subscription[Sent]:
    """Count what each mailbox sent; each event once."""

    async def handle(tx: AsyncConnection, deliveries: Sequence[Delivery[Sent]]) -> None:
        await health.record(
            tx,
            [
                Counted(
                    one.workspace_id,
                    ids.decode("mbx", one.body.mailbox_id),
                    "sent",
                    one.body.sent_at,
                )
                for one in deliveries
            ],
        )

    return Subscription(topic=topics.SENT, handler=handle)


def mailbox_changed(health: Health) -> Subscription[MailboxChanged]:
    """Measure anew by the settings as they are now: an attestation given or withdrawn counts."""

    async def handle(tx: AsyncConnection, deliveries: Sequence[Delivery[MailboxChanged]]) -> None:
        await health.review(
            tx, {(one.workspace_id, ids.decode("mbx", one.body.mailbox_id)) for one in deliveries}
        )

    return Subscription(topic=topics.MAILBOX_CHANGED, handler=handle, dedupe=False)


async def _hold_enrollment(tx: AsyncConnection, delivery: Delivery[SendRejected | None]) -> None:
    """A refusal that cannot be handled must not let the sequence go on."""
    if delivery.body is None or delivery.body.enrollment_id is None:
        return
    await tx.execute(
        _QUERIES["suspend"],
        {
            "workspace": delivery.workspace_id,
            "scope": "enrollment",
            "ref": ids.decode("enr", delivery.body.enrollment_id),
            "reason": "bounce_unhandled",
            "until": None,
            "detail": "a refusal of its message is in quarantine",
        },
    )
