"""The scratch service as a process of its own, to be killed: `worker.py <topic> [outgoing topic]`.

It counts each event as `test_subscribe` does and, with an outgoing topic,
passes each one on through its outbox.
"""

import sys
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection
from tests.integration.common.test_subscribe import count

from paceline_common import events
from paceline_common.db import Outgoing
from paceline_common.kafka.subscribe import Delivery, Subscription
from paceline_common.service import Service
from paceline_common.settings import ServiceSettings
from paceline_common.topics import Topic


def topic(name: str) -> Topic:
    return Topic(name, "enrollment", ("scratch",), ("scratch",), timedelta(days=1))


def main() -> None:
    service = Service("scratch", ServiceSettings())
    names = sys.argv[1:]

    async def handler(
        tx: AsyncConnection, deliveries: Sequence[Delivery[events.SendInDoubt]]
    ) -> None:
        await count(tx, deliveries)
        for name in names[1:]:
            await service.outbox.add(
                tx,
                [
                    Outgoing(topic=topic(name), key=one.key, body=one.body, subject=one.body.job_id)
                    for one in deliveries
                ],
            )

    if names:
        service.subscribe(
            Subscription(
                topic=topic(names[0]), handler=handler, body=events.SendInDoubt, max_records=50
            )
        )
    service.run()


if __name__ == "__main__":
    main()
