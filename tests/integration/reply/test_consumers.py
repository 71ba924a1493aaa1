"""What `mailbox-changed` does: mailboxes of every kind are read, gone ones lose their tokens."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest
from tests.integration.reply.boxes import connected
from tests.integration.reply.world import World
from tests.waiting import until

from paceline_common import events, ids, topics
from paceline_common.kafka.subscribe import Delivery
from paceline_common.keys import KeyService
from paceline_reply.consumers import mailbox_changed
from paceline_reply.reader import Parts
from paceline_reply.readers import Readers


async def change(parts: Parts, readers: Readers, world: World, mailbox_id: int) -> None:
    version = world.one("SELECT version FROM gateway.mailbox WHERE mailbox_id = %s", mailbox_id)
    body = events.MailboxChanged(
        workspace_id=ids.encode("ws", world.workspace_id),
        mailbox_id=ids.encode("mbx", mailbox_id),
        version=version["version"],
    )
    delivery = Delivery(
        topic=topics.MAILBOX_CHANGED.name, partition=0, offset=0, key=body.mailbox_id,
        event_id="e", source="/paceline/gateway", workspace_id=world.workspace_id,
        time=datetime.now(UTC), body=body, digest=b"", publisher=None, traceparent=None,
    )  # fmt: skip
    async with parts.db.transaction([world.workspace_id]) as tx:
        await mailbox_changed(readers).handler(tx, [delivery])


@pytest.mark.parametrize("kind", ["gmail", "graph"])
async def test_a_mailbox_behind_an_api_is_read_until_it_is_disconnected(
    kind: str, world: World, parts: Parts, keys: KeyService, http: httpx.AsyncClient
) -> None:
    async with connected(kind, world, parts, keys, http) as box:
        readers = Readers(box.parts)
        task = asyncio.create_task(readers.run())
        await change(parts, readers, world, box.mailbox_id)
        await until(lambda: world.tokens(box.mailbox_id))
        await until(lambda: world.cursor(box.mailbox_id)["read_at"] is not None)

        world.rows(
            "UPDATE gateway.mailbox SET is_active = false, deleted_at = now(),"
            " send_credential = NULL, read_credential = NULL, version = version + 1"
            " WHERE mailbox_id = %s",
            box.mailbox_id,
        )
        await change(parts, readers, world, box.mailbox_id)

        assert world.tokens(box.mailbox_id) == []
        assert not world.cursor(box.mailbox_id)["is_active"]
        # At the moment of a wake, too.
        task.cancel()
        await asyncio.wait([task], timeout=20)
        assert task.done()
