"""What the sender does with events."""

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import topics
from paceline_common.events import SendScheduled
from paceline_common.ids import InvalidIdError
from paceline_common.kafka.subscribe import Delivery, EventFault, Subscription
from paceline_sender.job import Job
from paceline_sender.prepare import Preparer


def send_scheduled(preparer: Preparer) -> Subscription[SendScheduled]:
    """Push leased slots into the timer heap.

    Nothing is written: the lease protects the job, not Kafka, and one seen
    twice or too late is refused by its claim.
    """
    return Subscription(topic=topics.SEND_SCHEDULED, handler=_hold(preparer), dedupe=False)


def _hold(
    preparer: Preparer,
) -> Callable[[AsyncConnection, Sequence[Delivery[SendScheduled]]], Awaitable[None]]:
    async def handle(_tx: AsyncConnection, deliveries: Sequence[Delivery[SendScheduled]]) -> None:
        preparer.hold([_job(delivery) for delivery in deliveries])

    return handle


def _job(delivery: Delivery[SendScheduled]) -> Job:
    try:
        return Job.of(delivery.workspace_id, delivery.body, delivery.traceparent)
    except InvalidIdError as error:
        raise EventFault("invalid_id", str(error)) from None
