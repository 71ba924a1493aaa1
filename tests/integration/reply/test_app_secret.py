"""An OAuth app whose secret was changed at the provider: reading goes on, or one issue says why."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.conformance.sources.accounts import READ_ONLY
from tests.integration.reply.boxes import Box, connected
from tests.integration.reply.world import World
from tests.waiting import until

from paceline_common.keys import KeyService
from paceline_common.tokens import APP_TABLE, app_row
from paceline_reply.reader import Parts, Reader

ROTATED = "rotated-secret"
PROVIDERS = {"gmail": "google", "graph": "microsoft"}


@pytest.fixture(params=["gmail", "graph"])
async def box(
    request: pytest.FixtureRequest,
    world: World,
    parts: Parts,
    keys: KeyService,
    http: httpx.AsyncClient,
) -> AsyncIterator[Box]:
    kind = request.param
    async with connected(kind, world, parts, keys, http, READ_ONLY[kind]) as one:
        world.connect(one.mailbox_id)
        yield one


@pytest.fixture
async def reader(box: Box) -> AsyncIterator[Reader]:
    one = box.reader(reconnect_first_s=0.05, reconnect_cap_s=0.1)
    task = asyncio.create_task(one.run())
    yield one
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def client_id(box: Box) -> str:
    (one,) = box.account.twin.identity.clients
    return one


async def set_secret(box: Box, secret: str) -> None:
    """Set the app's secret in Paceline, as the gateway's API publishes it."""
    world, provider = box.world, PROVIDERS[box.kind]
    sealed = await world.gateway_keys.seal(
        "read", world.workspace_id, secret.encode(), table=APP_TABLE,
        row=app_row(provider, client_id(box)),
    )  # fmt: skip
    world.rows(
        "INSERT INTO gateway.oauth_secret (workspace_id, provider, client_id, send_sealed,"
        " read_sealed, set_at) VALUES (%s, %s, %s, 'x', %s, now())"
        " ON CONFLICT (workspace_id, provider, client_id) DO UPDATE"
        " SET read_sealed = excluded.read_sealed",
        world.workspace_id, provider, client_id(box), sealed,
    )  # fmt: skip


async def test_a_wrong_secret_is_one_issue_about_the_app_and_the_right_one_mends_it(
    box: Box, world: World, reader: Reader
) -> None:
    box.account.twin.identity.clients[client_id(box)] = ROTATED
    await set_secret(box, "mistyped")
    await until(lambda: world.events("issue-raised"))
    (issue,) = world.events("issue-raised")
    subject = f"oauth_app:{PROVIDERS[box.kind]}:{client_id(box)}"
    assert (issue.subject, issue.code, issue.severity) == (subject, "app_refused", "error")
    # The grant is as good as ever: nothing stops sending, nobody is asked to connect anew.
    assert world.suspensions() == []
    assert reader.state == "lost"
    await set_secret(box, ROTATED)
    await until(lambda: reader.state == "reading")
    assert len(world.events("issue-raised")) == 1


async def test_a_secret_that_is_set_anew_reaches_connected_mailboxes_by_itself(
    box: Box, world: World, reader: Reader
) -> None:
    await until(lambda: reader.state == "reading")
    sent = await world.sent(mailbox_id=box.mailbox_id)
    identity = box.account.twin.identity
    identity.clients[client_id(box)] = ROTATED
    identity.expire(box.account.email)
    await set_secret(box, ROTATED)
    box.account.deliver(box.sample("human-gmail", sent))
    await until(lambda: world.inbound())
    assert [one.enrollment_id for one in world.events("replied")] == [sent.enrollment]
    assert world.events("issue-raised") == []
