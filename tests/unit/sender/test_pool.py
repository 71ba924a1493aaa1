"""Connections are shared within what the host allows, and none is left open for nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from paceline_common.clock import ManualClock
from paceline_providers.base import Session, Unsent
from paceline_sender.pool import ConnectionPool, Lease, Limits

KEY = (1, 2)
LIMITS = Limits(connections=2, messages=3, idle_s=60.0, age_s=300.0)


@dataclass
class Connection:
    """A signed-in connection that remembers whether it was closed."""

    is_reusable: bool = True
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def close(self) -> None:
        self.closed.set()


class Host:
    """Opens connections and counts them."""

    def __init__(self) -> None:
        self.opened: list[Connection] = []
        self.refusal: Unsent | None = None

    async def __call__(self) -> Session | Unsent:
        await asyncio.sleep(0)
        if self.refusal is not None:
            return self.refusal
        self.opened.append(Connection())
        return cast("Session", self.opened[-1])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 20, tzinfo=UTC))


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def take(clock: ManualClock, host: Host) -> Callable[..., Awaitable[Lease]]:
    pool = ConnectionPool(clock)

    async def taken(mark: Any = 1, limits: Limits = LIMITS) -> Lease:
        lease = await pool.take(KEY, mark, limits, host)
        assert isinstance(lease, Lease)
        return lease

    taken.pool = pool  # type: ignore[attr-defined]
    return taken


def pool_of(take: Any) -> ConnectionPool:
    return cast("ConnectionPool", take.pool)


def connection(lease: Lease) -> Connection:
    return cast("Connection", lease.session)


async def test_a_mailbox_whose_slots_are_far_apart_leaves_nothing_open(
    take: Any, clock: ManualClock, host: Host
) -> None:
    for _ in range(3):
        lease = await take()
        await pool_of(take).give_back(lease)
        assert connection(lease).closed.is_set()
        clock.advance(timedelta(seconds=90))
    assert len(host.opened) == 3


async def test_a_busy_node_gets_its_connection_back(
    take: Any, clock: ManualClock, host: Host
) -> None:
    await pool_of(take).give_back(await take())
    clock.advance(timedelta(seconds=1))
    kept = await take()
    await pool_of(take).give_back(kept)
    clock.advance(timedelta(seconds=1))
    again = await take()
    assert again is kept
    assert again.messages == 2
    assert len(host.opened) == 2


async def test_no_more_connections_than_the_host_allows_are_open_at_once(
    take: Any, host: Host
) -> None:
    first, second = await take(), await take()
    third = asyncio.create_task(take())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not third.done()
    await pool_of(take).give_back(first)
    assert (await third) is first
    assert len(host.opened) == 2
    await pool_of(take).give_back(second)


@pytest.mark.parametrize("why", ["spoilt", "settings changed", "too old", "enough messages"])
async def test_a_connection_that_must_not_be_used_again_is_closed(
    take: Any, clock: ManualClock, host: Host, why: str
) -> None:
    await pool_of(take).give_back(await take())
    lease = await take()
    mark = 1
    match why:
        case "spoilt":
            connection(lease).is_reusable = False
        case "settings changed":
            mark = 2
        case "enough messages":
            for _ in range(2):
                await pool_of(take).give_back(lease)
                assert (await take()) is lease
    await pool_of(take).give_back(lease)
    if why == "too old":
        clock.advance(timedelta(seconds=301))
    other = await take(mark)
    assert other is not lease
    await connection(lease).closed.wait()
    assert len(host.opened) == 3


async def test_an_idle_connection_is_closed_after_a_while(take: Any) -> None:
    limits = Limits(connections=2, messages=3, idle_s=0.01, age_s=300.0)
    one, other = await take(limits=limits), await take(limits=limits)
    await pool_of(take).give_back(one)
    async with asyncio.timeout(5):
        await connection(one).closed.wait()
    await pool_of(take).give_back(other)


async def test_closing_the_pool_takes_leave_of_what_is_idle(take: Any) -> None:
    one, other = await take(), await take()
    await pool_of(take).give_back(one)
    assert not connection(one).closed.is_set()
    await pool_of(take).give_back(other)
    await pool_of(take).close()
    assert connection(one).closed.is_set()
    assert connection(other).closed.is_set()


async def test_refused_and_abandoned_waits_give_their_turn_back(
    take: Any, clock: ManualClock, host: Host
) -> None:
    first, second = await take(), await take()
    waiting = asyncio.create_task(take())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await pool_of(take).give_back(first)
    await pool_of(take).give_back(second)
    clock.advance(timedelta(seconds=400))
    host.refusal = Unsent("connect_refused")
    for _ in range(5):
        refused = await pool_of(take).take(KEY, 1, LIMITS, host)
        assert refused == host.refusal
    host.refusal = None
    async with asyncio.timeout(5):
        await take()
        await take()
