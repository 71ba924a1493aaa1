"""Suppression and pause raced against claims: what has committed holds."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from psycopg import AsyncConnection

from .conftest import WS, World

ROUNDS = 2_000
GROUP = 4

Connection = AsyncConnection[Any]


@pytest.fixture
async def connections(world: World) -> AsyncIterator[list[Connection]]:
    """Two claimers and a finisher as the sender, one more as the gateway."""
    made = []
    for role in ("sender", "sender", "sender", "gateway"):
        connection = await AsyncConnection.connect(world.stack.dsn(role), autocommit=True)
        await connection.execute(f"SET app.workspace_ids = '{WS}'")
        made.append(connection)
    yield made
    for connection in made:
        await connection.close()


async def claim(connection: Connection, jobs: Sequence[int]) -> set[int]:
    """Claim a group as the sender does: in a transaction of its own, committed at once."""
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT job_id FROM scheduler.claim_send(%s, %s, %s) WHERE claimed",
            ([WS] * len(jobs), list(jobs), [1] * len(jobs)),
        )
        return {job for (job,) in await cursor.fetchall()}


async def finish(connection: Connection, jobs: Sequence[int]) -> None:
    async with connection.transaction():
        await connection.execute(
            "SELECT scheduler.finish_send(%s, %s, %s, %s, %s, %s)",
            (
                [WS] * len(jobs),
                list(jobs),
                [1] * len(jobs),
                ["accepted"] * len(jobs),
                [None] * len(jobs),
                [None] * len(jobs),
            ),
        )


async def states(connection: Connection, jobs: Sequence[int]) -> dict[int, str]:
    cursor = await connection.execute(
        "SELECT job_id, state FROM scheduler.v_job_content WHERE job_id = ANY (%s)", (list(jobs),)
    )
    return dict(await cursor.fetchall())


async def stop(connection: Connection, statement: str, jobs: Sequence[int]) -> dict[int, str]:
    """Commit a suppression or pause; return the jobs' states as it left them, still locked."""
    async with connection.transaction():
        await connection.execute(statement.encode())
        cursor = await connection.execute(
            "SELECT job_id, job_state FROM scheduler.v_job_recipient WHERE job_id = ANY (%s)",
            (list(jobs),),
        )
        return dict(await cursor.fetchall())


async def race(
    connections: Sequence[Connection], statements: Sequence[str], targets: Sequence[Sequence[int]]
) -> tuple[list[set[int]], list[dict[int, str]]]:
    """Race every statement against two group claims of the same jobs, at full speed.

    Returns, per round, what was claimed and what the stop left. Raises on a deadlock.
    """
    one, other, finisher, stopper = connections
    rng = random.Random(7)
    claimed: list[set[int]] = []
    left: list[dict[int, str]] = []
    done: set[int] = set()
    for n, statement in enumerate(statements):
        jobs = range(n * GROUP + 1, (n + 1) * GROUP + 1)
        tasks = [
            claim(one, rng.sample(jobs, GROUP)),
            claim(other, rng.sample(jobs, GROUP)),
            stop(stopper, statement, targets[n]),
        ]
        if done:
            tasks.append(finish(finisher, sorted(done)))  # type: ignore[arg-type]
        order = rng.sample(range(len(tasks)), len(tasks))
        results: dict[int, Any] = dict(
            zip(order, await asyncio.gather(*(tasks[i] for i in order)), strict=True)
        )
        assert not results[0] & results[1], "claimed twice"
        done = results[0] | results[1]
        claimed.append(done)
        left.append(results[2])
    return claimed, left


@pytest.mark.timeout(300)
async def test_no_claim_commits_after_a_suppression(
    world: World, connections: list[Connection]
) -> None:
    world.reserved(ROUNDS * GROUP, grace="1 h", per_mailbox=GROUP)
    victims = [n * GROUP + 1 + n % GROUP for n in range(ROUNDS)]
    claimed, left = await race(
        connections,
        [
            f"SELECT scheduler.suppress({WS}, 'address', sha256('{victim}'::bytea), 'manual',"
            " 'tests', NULL)"
            for victim in victims
        ],
        [[victim] for victim in victims],
    )
    final = dict(world.sql("SELECT job_id, state FROM send_job"))
    won = 0
    for n, victim in enumerate(victims):
        was_claimed = victim in claimed[n]
        won += was_claimed
        # The stop saw the job claimed before it, or cancelled it: nothing between, nothing after.
        assert left[n][victim] == ("sending" if was_claimed else "cancelled")
        assert final[victim] in (("sending", "sent") if was_claimed else ("cancelled",))
        others = set(range(n * GROUP + 1, (n + 1) * GROUP + 1)) - {victim}
        assert others <= claimed[n], "who is not suppressed is claimed"
    assert 20 < won < ROUNDS - 20, f"no race: {won} of {ROUNDS} claimed"


@pytest.mark.timeout(300)
async def test_no_claim_commits_after_a_pause(world: World, connections: list[Connection]) -> None:
    world.reserved(ROUNDS * GROUP, grace="1 h", per_mailbox=GROUP)
    world.sql(f"UPDATE enrollment SET campaign_id = 10 + (enrollment_id - 1) / {GROUP}")
    world.sql(f"UPDATE send_job SET campaign_id = 10 + (job_id - 1) / {GROUP}")
    world.sql(
        "INSERT INTO gate SELECT DISTINCT workspace_id, 'campaign', campaign_id FROM send_job"
    )
    groups = [range(n * GROUP + 1, (n + 1) * GROUP + 1) for n in range(ROUNDS)]
    claimed, left = await race(
        connections,
        [
            f"SELECT scheduler.suspend({WS}, 'campaign', {10 + n}, 'paused', NULL, 'tests', NULL)"
            for n in range(ROUNDS)
        ],
        groups,
    )
    final = dict(world.sql("SELECT job_id, state FROM send_job"))
    won = 0
    for n, group in enumerate(groups):
        for job in group:
            was_claimed = job in claimed[n]
            won += was_claimed
            assert left[n][job] == ("sending" if was_claimed else "queued")
            assert final[job] in (("sending", "sent") if was_claimed else ("queued",))
    assert 20 < won < ROUNDS * GROUP - 20, f"no race: {won} claimed"
    # Every lease that was returned gave its capacity back, and no other did.
    assert (
        world.one("SELECT count(*) FROM slot WHERE returned_at IS NOT NULL") == ROUNDS * GROUP - won
    )


async def test_suppressions_and_claims_of_many_cross_without_deadlock(
    world: World, connections: list[Connection]
) -> None:
    """Groups that overlap in every gate, while enrollments of the same address end."""
    jobs = world.reserved(400, grace="1 h", per_mailbox=40)
    one, other, _, stopper = connections
    rng = random.Random(3)

    async def claims(connection: Connection) -> set[int]:
        found: set[int] = set()
        for _ in range(100):
            found |= await claim(connection, rng.sample(jobs, 40))
        return found

    async def suppressions() -> None:
        for victim in rng.sample(jobs, 200):
            await stopper.execute(
                "SELECT scheduler.suppress(%s, 'address', sha256(%s::text::bytea), 'manual',"
                " 'tests', NULL)",
                (WS, victim),
            )

    first, second, _ = await asyncio.gather(claims(one), claims(other), suppressions())
    assert not first & second
    final = dict(world.sql("SELECT job_id, state FROM send_job"))
    assert {job for job in jobs if final[job] == "sending"} == first | second
    assert set(final.values()) <= {"sending", "cancelled", "reserved"}
