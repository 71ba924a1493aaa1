"""Drafts between being made and being written down: found, and gone once nobody can send them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from tests.integration.sender.test_kill import SCOPES, mailbox
from tests.integration.sender.test_process import QUICK, publish, running
from tests.twins.gmail.oauth import CLIENT_ID, CLIENT_SECRET
from tests.twins.gmail.server import running as gmail_running
from tests.waiting import until

from paceline_common.db import Database
from paceline_common.keys import KeyService
from paceline_local.stack import Stack
from paceline_providers.base import Fence
from paceline_sender.accounts import Accounts
from paceline_sender.domain import message
from paceline_sender.intents import Intents
from paceline_sender.job import Job
from paceline_sender.settings import SenderSettings

from .api_mailbox import DRAFTS, Api, ApiKind, api
from .conftest import World

both = pytest.mark.parametrize("kind", ["gmail", "graph"])


@pytest.fixture
async def box(
    kind: ApiKind, world: World, keys: KeyService, own_keys: KeyService, settings: SenderSettings
) -> AsyncIterator[Api]:
    async with api(kind, world, keys, own_keys, settings) as one:
        await one.connect()
        yield one


Make = Callable[[timedelta], Intents]


@pytest.fixture
async def make(box: Api, own_keys: KeyService, settings: SenderSettings) -> AsyncIterator[Make]:
    """Make the part under test; its argument is how late a draft may come."""
    db = Database(settings)
    yield lambda late_by: Intents(
        db, Accounts(db, own_keys), box.mail, own_keys, first_look=timedelta(0),
        late_by={box.kind: late_by}, every_s=60, jobs_per_batch=10,
    )  # fmt: skip
    await db.close()


@pytest.fixture
def draft(
    box: Api, own_keys: KeyService, settings: SenderSettings
) -> Callable[[Job], Awaitable[Any]]:
    """Leave a draft of a job with the provider, as a sender does that then dies."""

    async def made(job: Job) -> Any:
        db = Database(settings)
        account = await Accounts(db, own_keys).load(job.workspace_id, job.mailbox_id)
        await db.close()
        assert account is not None
        session = await box.mail.open(account)
        [mac] = await own_keys.mac([message.job_mac_input(job.workspace, job.public_id)])
        token = message.job_token(job.workspace, job.public_id, mac)
        data = (
            f"From: {box.world.email}\r\nTo: bob@example.test\r\nSubject: Hello\r\n"
            f"Message-ID: <{job.public_id}.{job.fence}@north.test>\r\nX-Paceline-Job: {token}\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\nHi\r\n"
        )
        try:
            return await session.prepare(data.encode(), None)  # type: ignore[union-attr]
        finally:
            await session.close()  # type: ignore[union-attr]

    return made


def over(world: World) -> Job:
    """Return a lease that has just ended."""
    return world.job(world.lead("bob@example.test"), in_ms=-1000, grace_ms=100)


def open_intents(world: World) -> int:
    found = world.rows(
        "SELECT 1 FROM sender.draft_intent WHERE workspace_id = %s", world.workspace_id
    )
    return len(found)


@both
async def test_a_draft_whose_maker_died_is_destroyed_once_its_lease_is_over(
    world: World, box: Api, make: Make, draft: Callable[[Job], Awaitable[Any]]
) -> None:
    intents, job = make(timedelta(0)), over(world)
    await intents.note(job, box.kind)
    assert isinstance(await draft(job), Fence)
    assert box.drafts() == 1
    assert await intents.sweep() >= 1
    assert (box.drafts(), open_intents(world)) == (0, 0)
    assert box.sent() == []


@both
async def test_a_draft_whose_answer_was_lost_is_found_as_well(
    world: World, box: Api, make: Make, draft: Callable[[Job], Awaitable[Any]]
) -> None:
    intents, job = make(timedelta(0)), over(world)
    await intents.note(job, box.kind)
    box.fail(DRAFTS[box.kind], "reset_after")
    assert not isinstance(await draft(job), Fence)
    assert box.drafts() == 1
    await intents.sweep()
    assert (box.drafts(), open_intents(world)) == (0, 0)


@both
async def test_a_draft_that_comes_late_is_looked_for_again(
    world: World, box: Api, make: Make, draft: Callable[[Job], Awaitable[Any]]
) -> None:
    intents, job = make(timedelta(minutes=30)), over(world)
    await intents.note(job, box.kind)
    await intents.sweep()
    assert open_intents(world) == 1
    await draft(job)
    world.rows(
        "UPDATE sender.draft_intent SET not_after = not_after - interval '1 h', look_at = now()"
        " WHERE job_id = %s",
        job.job_id,
    )
    await intents.sweep()
    # Now none can come any more.
    assert (box.drafts(), open_intents(world)) == (0, 0)


@both
async def test_the_draft_of_a_later_lease_is_never_touched(
    world: World, box: Api, make: Make, draft: Callable[[Job], Awaitable[Any]]
) -> None:
    intents, first = make(timedelta(0)), over(world)
    await intents.note(first, box.kind)
    await draft(first)
    second = replace(first, fence=first.fence + 1, not_after=first.not_after + timedelta(hours=1))
    await intents.note(second, box.kind)
    kept = await draft(second)
    await intents.sweep()
    # Which one is whose, nobody can tell before the second is written down.
    assert box.drafts() == 2
    world.rows(
        "INSERT INTO sender.attempt (workspace_id, job_id, fence, attempt_no, mailbox_id, provider,"
        " message_id, instance_id, claimed_at, not_after, draft)"
        " VALUES (%s, %s, %s, 1, %s, %s, '<x@y>', gen_random_uuid(), now(), now(), %s)",
        second.workspace_id, second.job_id, second.fence, second.mailbox_id, box.kind,
        Jsonb({"kind": kept.kind, "draft_id": kept.draft_id,
               "provider_message_id": kept.provider_message_id}),
    )  # fmt: skip
    await intents.sweep()
    assert box.drafts() == 1
    assert draft_ids(box) == [kept.draft_id]


def draft_ids(box: Api) -> list[str]:
    if box.kind == "gmail":
        return list(box.mailbox.drafts)
    return [item.immutable_id for item in box.mailbox.listed("drafts")]


@both
async def test_what_attempts_have_is_not_looked_for(
    world: World, box: Api, make: Make, draft: Callable[[Job], Awaitable[Any]]
) -> None:
    intents, job = make(timedelta(0)), over(world)
    await intents.note(job, box.kind)
    fence = await draft(job)
    world.rows(
        "INSERT INTO sender.attempt (workspace_id, job_id, fence, attempt_no, mailbox_id, provider,"
        " message_id, instance_id, claimed_at, not_after, draft)"
        " VALUES (%s, %s, %s, 1, %s, %s, '<x@y>', gen_random_uuid(), now(), now(), %s)",
        job.workspace_id, job.job_id, job.fence, job.mailbox_id, box.kind,
        Jsonb({"kind": fence.kind, "draft_id": fence.draft_id}),
    )  # fmt: skip
    before = len(box.twin.calls)
    await intents.sweep()
    assert (box.drafts(), open_intents(world), len(box.twin.calls)) == (1, 0, before)


@pytest.fixture
def ended(house: Stack) -> Iterator[None]:
    yield
    house.stop("sender")


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize(("failpoint", "made"), [("draft_intended", 0), ("draft_made", 1)])
async def test_a_kill_around_the_making_of_a_draft_leaves_none_behind(
    house: Stack, world: World, keys: KeyService, failpoint: str, made: int
) -> None:
    async with gmail_running() as (twin, url):
        email = f"g-{world.workspace_id}@gmail.test"
        twin.add_mailbox(email)
        granted = twin.identity.grant(email, SCOPES)
        oauth = {
            "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET,
            "refresh_token": granted["refresh_token"], "scopes": list(SCOPES),
        }  # fmt: skip
        one = await mailbox(
            world, keys, email, "gmail", {"oauth": oauth}, provider="google",
            scopes=list(SCOPES), tenant=None, account="1", app="installation", client_id=CLIENT_ID,
        )  # fmt: skip
        there = QUICK | {
            "PACELINE_GMAIL_API_URL": url,
            "PACELINE_GOOGLE_TOKEN_URL": f"{url}/token",
            "PACELINE_FIRST_LOOK_S": "0.5",
            "PACELINE_GMAIL_DESTROY_AFTER_S": "1",
            "PACELINE_TIDY_DRAFTS_S": "0.5",
        }
        house.restart("sender", there | {"PACELINE_FAILPOINTS": f"sender.{failpoint}=kill"})
        job = one.job(one.lead(f"bob-{world.workspace_id}@example.test"), in_ms=3000, grace_ms=500)
        publish(house, job)
        await until(lambda: not running(house), "killed", within_s=30)
        assert len(twin.mailboxes[email].drafts) == made

        house.restart("sender", there)
        # The scheduler gives the job a new lease, and its draft is one of two for a while.
        row = world.one(
            "UPDATE scheduler.send_job SET fence = fence + 1,"
            " slot_at = clock_timestamp() + interval '2 s',"
            " not_after = clock_timestamp() + interval '90 s' WHERE job_id = %s RETURNING *",
            job.job_id,
        )
        publish(
            house,
            replace(job, fence=row["fence"], slot_at=row["slot_at"], not_after=row["not_after"]),
        )
        # Kafka hands its partitions on only when it has given up on the member that was killed.
        await until(lambda: world.job_row(job)["state"] == "sent", "sent", within_s=80)
        await until(lambda: not twin.mailboxes[email].drafts, "nothing is left in Drafts")
        assert len(twin.submissions) == 1
        # The second lease's lasts as long as a request of it may.
        await until(lambda: open_intents(world) <= 1, "the first lease's is settled", within_s=60)
