"""Signed-in SMTP connections, kept a short while for the next message of the same mailbox.

A mailbox whose slots are minutes apart leaves nothing open. A node that sends several
messages a second gets its connection back, within what its host allows: so many at once, so
many messages on each, so long idle, so old.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final

from paceline_common.clock import Clock
from paceline_providers.base import Session, Unsent

_FORGET_ABOVE: Final = 1000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one mailbox may hold open. Durations in seconds."""

    connections: int = 4
    messages: int = 100
    idle_s: float = 10.0
    age_s: float = 300.0


@dataclass(eq=False, slots=True)
class Lease:
    """A connection in use by one message. `mark` tells which settings opened it."""

    session: Session
    key: Hashable
    mark: Hashable
    limits: Limits
    opened_at: float
    messages: int = 1


@dataclass(eq=False, slots=True)
class _Place:
    """One mailbox's connections. `taken_at`: the last two times one was wanted."""

    turns: asyncio.Semaphore
    limit: int
    idle: deque[tuple[Lease, asyncio.TimerHandle]] = field(default_factory=deque)
    taken_at: tuple[float, float] = (float("-inf"), float("-inf"))
    wanted: int = 0


class ConnectionPool:
    """Hands connections out and takes them back; for one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._places: dict[Hashable, _Place] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    async def take(
        self,
        key: Hashable,
        mark: Hashable,
        limits: Limits,
        open_: Callable[[], Awaitable[Session | Unsent]],
    ) -> Lease | Unsent:
        """Return a connection of `key` that `mark` opened, else a new one by `open_`.

        Waits while the mailbox has as many as it may. Whoever got a lease gives it back.
        """
        place = self._place(key, limits)
        place.wanted += 1
        try:
            await place.turns.acquire()
        except BaseException:  # a cancelled wait, too, must not be counted for ever
            place.wanted -= 1
            self._forget(key, place)
            raise
        place.taken_at = (place.taken_at[1], self._clock.monotonic())
        try:
            while place.idle:
                lease, timer = place.idle.pop()
                timer.cancel()
                if lease.mark == mark and self._good(lease):
                    lease.messages += 1
                    return lease
                self._leave(lease)
            opened = await open_()
        except BaseException:  # a cancelled connect, too, gives its turn back
            self._done(key, place)
            raise
        if isinstance(opened, Unsent):
            self._done(key, place)
            return opened
        return Lease(opened, key, mark, limits, self._clock.monotonic())

    async def give_back(self, lease: Lease) -> None:
        """Keep the connection where another message is likely soon, else close it."""
        place = self._places[lease.key]
        asked_before, _ = place.taken_at
        busy = place.wanted > 1 or (self._clock.monotonic() - asked_before < lease.limits.idle_s)
        if busy and self._good(lease) and lease.messages < lease.limits.messages:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(lease.limits.idle_s, self._expire, lease)
            place.idle.append((lease, timer))
            self._done(lease.key, place)
            return
        self._done(lease.key, place)
        await lease.session.close()

    async def close(self) -> None:
        """Take leave of every idle connection."""
        for place in self._places.values():
            while place.idle:
                lease, timer = place.idle.pop()
                timer.cancel()
                self._leave(lease)
        self._places.clear()
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _place(self, key: Hashable, limits: Limits) -> _Place:
        place = self._places.get(key)
        if place is None or (place.limit != limits.connections and not place.wanted):
            idle = place.idle if place is not None else deque()
            place = _Place(asyncio.Semaphore(limits.connections), limits.connections, idle)
            self._places[key] = place
        return place

    def _good(self, lease: Lease) -> bool:
        age_s = self._clock.monotonic() - lease.opened_at
        return lease.session.is_reusable and age_s < lease.limits.age_s

    def _done(self, key: Hashable, place: _Place) -> None:
        place.wanted -= 1
        place.turns.release()
        self._forget(key, place)

    def _forget(self, key: Hashable, place: _Place) -> None:
        # What is left of a quiet mailbox is a few words; only many of them matter.
        if not place.wanted and not place.idle and len(self._places) > _FORGET_ABOVE:
            self._places.pop(key, None)

    def _expire(self, lease: Lease) -> None:
        place = self._places.get(lease.key)
        if place is None:
            return
        place.idle = deque(one for one in place.idle if one[0] is not lease)
        self._leave(lease)
        self._forget(lease.key, place)

    def _leave(self, lease: Lease) -> None:
        task = asyncio.create_task(lease.session.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
