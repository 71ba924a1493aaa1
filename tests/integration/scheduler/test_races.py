"""Suppression and pause raced against claims: what has committed holds."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from psycopg import AsyncConnection
from tests.waiting import until

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


async def claim(connection: Connection, jobs: Sequence[int], fence: int = 1) -> set[int]:
    """Claim a group as the sender does: in a transaction of its own, committed at once."""
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT job_id FROM scheduler.claim_send(%s, %s, %s) WHERE claimed",
            ([WS] * len(jobs), list(jobs), [fence] * len(jobs)),
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


async def lease(connection: Connection, jobs: Sequence[int]) -> None:
    """Lease what is queued of a group, as the scheduler's worker."""
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE scheduler_worker")
        await connection.execute(
            "UPDATE scheduler.send_job SET state = 'reserved', mailbox_id = 1, pool_id = 1,"
            " slot_at = now(), not_after = now() + interval '1 h'"
            " WHERE job_id = ANY (%s) AND fence = 1 AND state = 'queued'",
            (list(jobs),),
        )


async def race(
    connections: Sequence[Connection],
    statements: Sequence[str],
    targets: Sequence[Sequence[int]],
    pacer: Connection | None = None,
) -> tuple[list[set[int]], list[dict[int, str]]]:
    """Race every statement against two group claims of the same jobs, at full speed.

    With `pacer`, jobs that are still queued are leased in the same moment.
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
        if pacer is not None:
            tasks.append(lease(pacer, jobs))  # type: ignore[arg-type]
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
    world.sql(
        "UPDATE send_job SET state = 'queued', slot_at = NULL, not_after = NULL,"
        " mailbox_id = NULL, pool_id = NULL WHERE job_id %% 2 = 0"
    )
    groups = [range(n * GROUP + 1, (n + 1) * GROUP + 1) for n in range(ROUNDS)]
    pacer = await AsyncConnection.connect(world.stack.dsn("scheduler"), autocommit=True)
    claimed, left = await race(
        connections,
        [
            f"SELECT scheduler.suspend({WS}, 'campaign', {10 + n}, 'paused', NULL, 'tests', NULL)"
            for n in range(ROUNDS)
        ],
        groups,
        pacer,
    )
    await pacer.close()
    final = dict(world.sql("SELECT job_id, state FROM send_job"))
    won = 0
    for n, group in enumerate(groups):
        for job in group:
            if job in claimed[n]:
                won += 1
                # The pause, holding its gate, saw the claim committed.
                assert left[n][job] == "sending"
                assert final[job] in ("sending", "sent")
            else:
                # Leased too late to be returned by the pause: it stays unclaimed.
                assert left[n][job] in ("queued", "reserved")
                assert final[job] in ("queued", "reserved")
    assert 20 < won < ROUNDS * GROUP - 20, f"no race: {won} claimed"
    assert not world.sql(
        "SELECT 1 FROM slot JOIN send_job USING (workspace_id, job_id)"
        " WHERE returned_at IS NOT NULL AND state IN ('sending', 'sent')"
    )


@pytest.mark.parametrize(
    "scope",
    [
        "workspace", "campaign", "pool", "mailbox", "domain", "enrollment", "address",
        "recipient-domain",
    ],
)  # fmt: skip
async def test_claim_waits_for_a_stop_that_has_not_committed_yet(
    world: World, connections: list[Connection], scope: str
) -> None:
    """The stop touches nothing but its own gate: the claim's lock on it is what orders them."""
    world.reserved(1, grace="1 h")
    domain = world.one("SELECT hashtextextended('send.test', 0)")
    refs = {"workspace": WS, "campaign": 5, "pool": 1, "mailbox": 1, "domain": domain}
    async with await AsyncConnection.connect(world.stack.dsn()) as stopper:
        if scope in refs or scope == "enrollment":
            table, key = (
                ("enrollment", "enrollment_id = 1")
                if scope == "enrollment"
                else ("gate", f"scope = '{scope}' AND ref = {refs[scope]}")
            )
            await stopper.execute(
                f"SELECT 1 FROM scheduler.{table} WHERE {key} FOR NO KEY UPDATE".encode()
            )
            await stopper.execute(
                "INSERT INTO scheduler.suspension (workspace_id, scope, ref, reason, opened_by)"
                " VALUES (%s, %s, %s, 'paused', 'tests')",
                (WS, scope, refs.get(scope, 1)),
            )
            expected = f"suspended:{scope}"
        else:
            await stopper.execute(
                "UPDATE scheduler.address SET suppressed_at = now(), reason = 'x', source = 'x'"
                " WHERE kind = %s",
                ("address" if scope == "address" else "domain",),
            )
            expected = "suppressed"
        claiming = asyncio.create_task(
            connections[0].execute(
                "SELECT reason FROM scheduler.claim_send(%s, %s, %s)", ([WS], [1], [1])
            )
        )
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: asyncio.to_thread(world.one, waiting), "the claim waits")
        assert not claiming.done()
        await stopper.commit()
    cursor = await claiming
    assert await cursor.fetchall() == [(expected,)]


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


async def settle(
    connection: Connection, jobs: Sequence[int], outcome: str, fence: int = 1
) -> set[int]:
    """Tell an outcome; return the jobs it applied to."""
    async with connection.transaction():
        cursor = await connection.execute(
            "SELECT job_id FROM scheduler.finish_send(%s, %s, %s, %s, %s, %s) WHERE applied",
            (
                [WS] * len(jobs),
                list(jobs),
                [fence] * len(jobs),
                [outcome] * len(jobs),
                [None] * len(jobs),
                [None] * len(jobs),
            ),
        )
        return {job for (job,) in await cursor.fetchall()}


async def lease_elsewhere(connection: Connection, jobs: Sequence[int], mailbox: int) -> None:
    """Lease what was given back, for another mailbox and under its new fence."""
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE scheduler_worker")
        await connection.execute(
            "UPDATE scheduler.send_job AS j SET state = 'reserved', mailbox_id = %s, pool_id = 1,"
            " slot_at = now(), not_after = now() + interval '1 h'"
            " FROM (SELECT workspace_id, job_id FROM scheduler.send_job"
            "       WHERE job_id = ANY (%s) AND fence = 2 AND state = 'queued'"
            "       ORDER BY job_id FOR UPDATE) AS w"
            " WHERE (j.workspace_id, j.job_id) = (w.workspace_id, w.job_id)",
            (mailbox, list(jobs)),
        )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("then", ["rerouted", "reconnected"])
async def test_a_failed_nodes_leases_are_claimed_there_or_elsewhere_but_once(
    world: World, connections: list[Connection], then: str
) -> None:
    """The node fails in the moment of its claims. What was not claimed goes to another mailbox, or
    back to the same one once it was connected again; the old leases are claimed no more."""
    rounds = 600
    world.reserved(rounds * GROUP, grace="1 h", per_mailbox=GROUP)
    one, other, finisher, stopper = connections
    pacer = await AsyncConnection.connect(world.stack.dsn("scheduler"), autocommit=True)
    spare = 500_000
    world.reserved(1, first=spare, grace="1 h", per_mailbox=1)
    suspend = "SELECT scheduler.suspend(%s, 'mailbox', %s, 'auth_failed', NULL, 'sender', '535')"
    resume = "SELECT scheduler.resume(%s, 'mailbox', %s, 'auth_failed', 'reconnect')"
    rng = random.Random(11)
    first: set[int] = set()
    second: set[int] = set()
    for n in range(rounds):
        jobs, mailbox = range(n * GROUP + 1, (n + 1) * GROUP + 1), n + 1
        halves = rng.sample(jobs, GROUP)
        calls: list[Any] = [
            claim(one, halves[:2]),
            claim(other, halves[2:]),
            stopper.execute(suspend, (WS, mailbox)),
        ]
        rng.shuffle(calls)
        claimed = [found for found in await asyncio.gather(*calls) if isinstance(found, set)]
        here = claimed[0] | claimed[1]
        left = set(jobs) - here
        target = spare if then == "rerouted" else mailbox
        # An old lease that its sender still holds, against the new one.
        calls = [claim(one, sorted(jobs)), lease_elsewhere(pacer, sorted(left), target)]
        if then == "reconnected":
            calls.append(stopper.execute(resume, (WS, mailbox)))
        again, *_ = await asyncio.gather(*calls)
        assert again == set(), "an old lease was claimed after its node had failed"
        there, late = await asyncio.gather(
            claim(other, sorted(left), fence=2), claim(one, sorted(left), fence=1)
        )
        assert late == set()
        first |= here
        second |= there
        if here:
            await finish(finisher, sorted(here))
    await pacer.close()
    assert not first & second
    assert first | second == set(range(1, rounds * GROUP + 1)), "each is claimed in the end"
    assert min(len(first), len(second)) > 50, f"no race: {len(first)}, {len(second)}"
    # Who was claimed in the failing node used its slot; every other gave it back, once.
    returned = {
        job for (job,) in world.sql("SELECT job_id FROM slot WHERE returned_at IS NOT NULL")
    }
    assert returned == second


@pytest.mark.timeout(300)
async def test_a_late_answer_and_the_proof_that_nothing_was_sent_never_both_hold(
    world: World, connections: list[Connection]
) -> None:
    """And what was queued again by the proof is out of reach of the old attempt for good."""
    rounds = 600
    world.reserved(rounds * GROUP, grace="1 h", per_mailbox=GROUP)
    one, other, _, _ = connections
    pacer = await AsyncConnection.connect(world.stack.dsn("scheduler"), autocommit=True)
    rng = random.Random(13)
    answered: set[int] = set()
    proven: set[int] = set()
    for n in range(rounds):
        jobs = list(range(n * GROUP + 1, (n + 1) * GROUP + 1))
        assert await claim(one, jobs) == set(jobs)
        assert await settle(one, jobs, "in_doubt") == set(jobs)
        calls = [
            settle(one, rng.sample(jobs, GROUP), "accepted"),
            settle(other, rng.sample(jobs, GROUP), "proven_unsent"),
        ]
        order = rng.sample((0, 1), 2)
        done = dict(zip(order, await asyncio.gather(*(calls[i] for i in order)), strict=True))
        assert not done[0] & done[1], "both held"
        assert done[0] | done[1] == set(jobs), "neither held"
        await lease_elsewhere(pacer, sorted(done[1]), n + 1)
        late, again = await asyncio.gather(
            settle(one, jobs, "accepted"), claim(other, sorted(done[1]), fence=2)
        )
        assert late == set(), "the old attempt changed what is no longer its own"
        assert again == done[1]
        answered |= done[0]
        proven |= done[1]
    await pacer.close()
    assert min(len(answered), len(proven)) > 50, f"no race: {len(answered)}, {len(proven)}"
    final = dict(world.sql("SELECT job_id, state FROM send_job"))
    assert {job for job, state in final.items() if state == "sent"} == answered
    assert {job for job, state in final.items() if state == "sending"} == proven
