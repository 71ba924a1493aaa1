"""Several reply processes: each mailbox has one reader at a time, and never none for long."""

import asyncio
import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.reply.world import World
from tests.waiting import until

from paceline_local.stack import Stack
from paceline_reply.reader import Parts
from paceline_reply.readers import Readers

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def boxes(world: World) -> list[int]:
    """Six mailboxes to read; all others of the database are asleep."""
    world.rows("UPDATE reply.cursor SET is_active = false WHERE is_active")
    world.rows("DELETE FROM reply.instance")
    made = [world.mailbox_id]
    made += [await world.add_mailbox(f"tom{n}-{world.email}") for n in range(5)]
    for mailbox_id in made:
        world.connect(mailbox_id)
    return made


def readers(world: World) -> dict[int, str | None]:
    """Who reads which mailbox."""
    return {
        row["mailbox_id"]: None if row["reader"] is None else str(row["reader"])
        for row in world.rows(
            "SELECT mailbox_id, reader FROM reply.cursor WHERE workspace_id = %s AND is_active",
            world.workspace_id,
        )
    }


def shares(world: World) -> list[int]:
    """How many mailboxes each reader has, most first; unread ones count as none's."""
    held = [one for one in readers(world).values() if one is not None]
    return sorted((held.count(one) for one in set(held)), reverse=True)


def reading(parts: Parts, box: int) -> int:
    """How many tasks of this process read a mailbox."""
    return sum(task.get_name() == f"reader-{box}" for task in asyncio.all_tasks())


async def end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_instances_share_the_mailboxes_and_each_is_read_once(
    world: World, parts: Parts, boxes: list[int]
) -> None:
    parts = replace(parts, settings=parts.settings.model_copy(update={"lease_s": 4.0}))
    first = asyncio.create_task(Readers(parts).run())
    await until(lambda: shares(world) == [6])

    second = asyncio.create_task(Readers(parts).run())
    await until(lambda: shares(world) == [3, 3])
    third = asyncio.create_task(Readers(parts).run())
    await until(lambda: shares(world) == [2, 2, 2])
    await until(lambda: all(reading(parts, box) == 1 for box in boxes))

    sent = await world.sent()
    world.deliver(world.sample("human-gmail", sent))
    await until(lambda: world.inbound())
    # Whoever leaves hands its mailboxes over at once.
    await end(third)
    assert sum(shares(world)) == 4
    await until(lambda: shares(world) == [3, 3])
    await end(second)
    await until(lambda: shares(world) == [6])
    assert all(reading(parts, box) <= 1 for box in boxes)
    await end(first)
    assert set(readers(world).values()) == {None}


async def test_the_mailboxes_of_a_silent_instance_are_read_by_another(
    world: World, parts: Parts, boxes: list[int]
) -> None:
    parts = replace(parts, settings=parts.settings.model_copy(update={"lease_s": 2.0}))
    # A process that was stopped: it says nothing any more, and its session stands.
    ghost = "00000000-0000-4000-8000-000000000000"
    key = "hashtext('reply.instance'), hashtext(%s)"
    world.rows(f"SELECT pg_advisory_lock({key})", ghost)
    world.rows("INSERT INTO reply.instance (instance_id) VALUES (%s)", ghost)
    world.rows(
        "UPDATE reply.cursor SET reader = %s, reader_until = now() + interval '3 s'"
        " WHERE workspace_id = %s",
        ghost, world.workspace_id,
    )  # fmt: skip

    task = asyncio.create_task(Readers(parts).run())
    await until(lambda: world.rows("SELECT 1 FROM reply.instance WHERE instance_id <> %s", ghost))
    assert set(readers(world).values()) == {ghost}
    await until(lambda: shares(world) == [6] and ghost not in readers(world).values())
    await end(task)
    world.rows(f"SELECT pg_advisory_unlock({key})", ghost)


async def test_an_instance_that_lost_its_lease_stops_reading(
    world: World, parts: Parts, boxes: list[int]
) -> None:
    task = asyncio.create_task(Readers(parts).run())
    await until(lambda: all(reading(parts, box) == 1 for box in boxes))

    ghost = "00000000-0000-4000-8000-000000000001"
    world.rows(
        "UPDATE reply.cursor SET reader = %s, reader_until = now() + interval '1 hour'"
        " WHERE workspace_id = %s",
        ghost, world.workspace_id,
    )  # fmt: skip

    await until(lambda: all(reading(parts, box) == 0 for box in boxes))
    await end(task)


async def test_two_processes_share_and_a_killed_ones_mail_is_read_by_the_other(
    world: World, stack: Stack, boxes: list[int], tmp_path: Path
) -> None:
    environment = {
        **os.environ, **stack.env("reply"), "PACELINE_LEASE_S": "600",
        "PACELINE_SUPERVISE_S": "0.5",
        "PACELINE_HTTP_PORT": "0", "PACELINE_HOST_ALLOWLIST": "127.0.0.0/8",
    }  # fmt: skip
    log = (tmp_path / "reply.log").open("wb")
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "paceline_reply", cwd=ROOT, env=environment, stdout=log,
            stderr=log,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        await until(lambda: shares(world) == [3, 3], within_s=60)
        sent = await world.sent()
        world.deliver(world.sample("human-gmail", sent))
        await until(lambda: len(world.inbound()) == 1)

        processes[0].kill()
        world.deliver(world.sample("human-outlook", sent))
        await until(lambda: shares(world) == [6], within_s=60)
        await until(lambda: len(world.inbound()) == 2)
        world.deliver(world.sample("human-apple-mail", sent))
        await until(lambda: len(world.inbound()) == 3)
        assert len(world.rows(
            "SELECT 1 FROM reply.reply WHERE workspace_id = %s", world.workspace_id
        )) == 3  # fmt: skip
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        log.close()
