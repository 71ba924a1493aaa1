"""The run: load, kills aimed at every declared transition, faults beside them; then heal and wait.

Seeded: the seed decides what is drawn; when each process gets there is the machine's affair.
"""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from paceline_common import failpoints, topics
from paceline_common.failpoints import Point
from tests.chaos.acts import Acts
from tests.chaos.campaign import Customer, Refused
from tests.chaos.faults import Faults
from tests.chaos.house import House, Instance
from tests.chaos.ledger import Ledger, Open
from tests.chaos.people import People
from tests.chaos.traffic import Traffic

# Who is killed beside whom: services of one group are not killed at the same time.
GROUPS: Final = (("sender",), ("scheduler",), ("gateway",), ("reply",), ("bounce", "audit"))
# How often each transition is killed at least, of so many kills; fewer where they are fewer.
LEAST: Final = 5
WHOLE: Final = 500
# Fewer kills than this are a short run: small caps, a small backlog.
SHORT: Final = 100
_TAKEN_S: Final = 5.0
# By how many kills one of a group's transitions may be ahead of another.
_AHEAD: Final = 2
_AGAIN_S: Final = 25.0
_BACK_S: Final = 30.0
_ANSWERED_S: Final = 120.0
# How long kills go on past their number for those transitions that have not had their share.
_OVERTIME_S: Final = 900.0
# Leads enrolled at once, and how many jobs at least wait meanwhile; fewer where a run is short.
_ROW: Final = 30
_BACKLOG: Final = 60
_SHORT_ROW: Final = 9
_SHORT_BACKLOG: Final = 24
_HURRY_S: Final = 8.0
# Longer than anything that still acts by itself: a DSN, a poll of an inbox, a look for abandoned.
_STILL_S: Final = 6.0


@dataclass(slots=True)
class Tally:
    """What was done to the house."""

    kills: int = 0
    transitions: Counter[str] = field(default_factory=Counter)
    random_kills: int = 0
    crashed: list[str] = field(default_factory=list)
    open: Open | None = None
    phase: str = "starting"
    rested: bool = False


@dataclass(slots=True)
class _Standing:
    """An order to a service to die at a point; `victim` is who took it."""

    point: Point
    service: str
    order: Path
    again_at: float = 0.0
    victim: Instance | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is wanted of a run: kills, faults in a row at least, and what both are limited to.

    `aim` names failpoints, `faults` faults; None leaves all.
    """

    kills: int
    seed: int
    rounds: int = 0
    aim: Sequence[str] | None = None
    faults: Sequence[str] | None = None

    @property
    def is_short(self) -> bool:
        """Tell whether caps and backlog are to be small."""
        return self.kills < SHORT

    @property
    def least(self) -> int:
        """How often each transition is killed at least; an aimed run owes that to none."""
        return min(LEAST, self.kills * LEAST // WHOLE) if self.aim is None else 0


Show = Callable[[Tally, Counter[str]], None]
"""Shows the tally and the faults so far."""


class Controller:
    """One chaos run."""

    def __init__(self, house: House, customer: Customer, plan: Plan, show: Show) -> None:
        seed = plan.seed
        self._house = house
        self._customer = customer
        self._rng = random.Random(seed)
        self._plan = plan
        self._wanted = plan.kills
        self._backlog, self._row = (
            (_SHORT_BACKLOG, _SHORT_ROW) if plan.is_short else (_BACKLOG, _ROW)
        )
        self._show = show
        self._traffic = Traffic(house, random.Random(f"{seed} traffic"))
        self.faults = Faults(
            house, customer, self._traffic, random.Random(f"{seed} faults"), plan.faults
        )
        self.tally = Tally()
        self.points: list[Point] = [
            one for one in failpoints.declared() if plan.aim is None or one.name in plan.aim
        ]
        self._acts = Acts(
            house, customer, self.faults, self._traffic, random.Random(f"{seed} acts"),
            self._abandon,
        )  # fmt: skip
        self._standing: dict[str, _Standing] = {}
        self._expected: set[int] = set()
        self._wanted_at: float | None = None
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    # ---- the whole

    async def run(self, patience_s: float) -> Tally:
        """Do it all; on return the house is whole and at rest, or `patience_s` are over."""
        tally, customer = self.tally, self._customer
        tally.phase = "opening"
        self._show(tally, self.faults.counts)
        ledger = Ledger(self._house)
        await asyncio.to_thread(ledger.silence)
        await customer.open(self._traffic)
        self._house.workspace = customer.diary.workspace
        self._traffic.start()
        people = People(self._house, customer)
        await customer.enroll(self._backlog)
        tally.phase = "chaos"
        around = [
            asyncio.create_task(one)
            for one in (
                self._respawn(),
                self._collect(),
                self._load(ledger),
                people.live(),
                self._watch(ledger),
            )
        ]
        try:
            workers = [self._aim(group) for group in GROUPS]
            faults = asyncio.create_task(self.faults.run(self._done, self._plan.rounds))
            await asyncio.gather(*workers)
            self._done.set()
            await faults
            tally.phase = "healing"
            await asyncio.to_thread(self._house.heal)
            # What the customer has begun is answered now; until then the diary is not whole.
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=_ANSWERED_S)
            with suppress(Refused):
                await customer.conclude()
            tally.phase = "coming to rest"
            tally.rested = await self._rest(ledger, patience_s)
        finally:
            self._done.set()
            for task in around:
                task.cancel()
            await asyncio.gather(*around, return_exceptions=True)
            await asyncio.to_thread(self._traffic.stop)
        return tally

    async def _rest(self, ledger: Ledger, patience_s: float) -> bool:
        """Wait until nothing lies ahead, and stays so; tell whether that came."""
        deadline = time.monotonic() + patience_s
        still: float | None = None
        last: Open | None = None
        while time.monotonic() < deadline:
            with suppress(psycopg.OperationalError):
                now = await asyncio.to_thread(ledger.look)
                await asyncio.to_thread(ledger.hurry)
                if not now.at_rest or now != last:
                    still, last = None, now
                elif still is None:
                    still = time.monotonic()
                elif time.monotonic() - still >= _STILL_S:
                    return True
            await asyncio.sleep(0.5)
        return False

    # ---- kills

    async def _aim(self, group: tuple[str, ...]) -> None:
        """Kill one service of a group after the other, each at the least killed transition.

        An order that nobody takes soon stands until somebody does; meanwhile others are given.
        """
        while not self._enough():
            point = self._choose(group)
            if point is None:
                await asyncio.sleep(0.3)
                continue
            standing = self._standing.get(point.key)
            if standing is None:
                service = point.service or self._rng.choice(group)
                order = self._house.order(service, point.name, "kill")
                standing = self._standing[point.key] = _Standing(point, service, order)
            standing.again_at = time.monotonic() + _AGAIN_S
            self._keep(asyncio.create_task(self._stir(standing.service, point)))
            victim = await self._taken(standing)
            if victim is not None:
                await self._back(victim)
            if self._plan.aim is None and self._slack() > 0 and self._rng.random() < 0.1:
                await self._kill_at_random(group)

    def _owed(self) -> int:
        """Return how many kills transitions lack to their share."""
        killed, least = self.tally.transitions, self._plan.least
        return sum(max(0, least - killed[one.key]) for one in self.points)

    def _slack(self) -> int:
        """Return how many kills are left that no transition is owed."""
        return self._wanted - self.tally.kills - self._owed()

    def _enough(self) -> bool:
        if self.tally.kills < self._wanted:
            return False
        now = time.monotonic()
        self._wanted_at = self._wanted_at or now
        return not self._owed() or now - self._wanted_at > _OVERTIME_S

    def _choose(self, group: tuple[str, ...]) -> Point | None:
        now = time.monotonic()
        killed = self.tally.transitions
        mine = [one for one in self.points if one.service in group or not one.service]
        if self._slack() <= 0 and self._owed():
            # The rest belongs to those that have not had their share.
            mine = [one for one in mine if killed[one.key] < self._plan.least]
        # Who is reached seldom needs a house that stands for a while.
        most = _AHEAD + min((killed[one.key] for one in mine), default=0)
        free = [
            one
            for one in mine
            if killed[one.key] <= most
            and (one.key not in self._standing or self._standing[one.key].again_at <= now)
        ]
        if not free:
            return None
        least = min(killed[one.key] for one in free)
        return self._rng.choice([one for one in free if killed[one.key] == least])

    async def _taken(self, standing: "_Standing") -> Instance | None:
        """Wait a moment for somebody to die of an order; return who, None if nobody did yet."""
        deadline = time.monotonic() + _TAKEN_S
        while time.monotonic() < deadline:
            if standing.victim is not None:
                return standing.victim
            await asyncio.sleep(0.05)
        return None

    async def _collect(self) -> None:
        """Note who has taken which order, until cancelled."""
        while True:
            for key, standing in list(self._standing.items()):
                victim = self._house.taken(standing.order)
                if victim is not None:
                    del self._standing[key]
                    standing.victim = victim
                    self._expected.update(victim.pids)
                    self._count(standing.point)
            await asyncio.sleep(0.05)

    def _count(self, point: Point) -> None:
        self.tally.kills += 1
        self.tally.transitions[point.key] += 1
        self._show(self.tally, self.faults.counts)

    async def _kill_at_random(self, group: tuple[str, ...]) -> None:
        service = self._rng.choice(group)
        one = self._rng.choice(self._house.of(service))
        await asyncio.sleep(self._rng.uniform(0.0, 1.0))
        if one.pid is None:
            return
        self._expected.add(one.pid)
        if one.send(signal.SIGKILL):
            self.tally.kills += 1
            self.tally.random_kills += 1
            await self._back(one)

    async def _back(self, victim: Instance) -> None:
        """Wait until a killed one is back, most of the time; sometimes the next dies before."""
        self._expected.update(victim.pids)
        if self._rng.random() < 0.15:
            return
        deadline = time.monotonic() + _BACK_S
        while time.monotonic() < deadline:
            if await asyncio.to_thread(victim.ready):
                return
            await asyncio.sleep(0.2)

    async def _respawn(self) -> None:
        """Start again whatever ended, as a supervisor would; note what ended by itself."""
        while True:
            for one in self._house.instances:
                if one.pid is None:
                    # Whoever took an order noted it before it died.
                    await asyncio.sleep(0.15)
                    last = one.pids[-1]
                    if last not in self._expected and not self._is_victim(one):
                        self.tally.crashed.append(f"{one.name} (pid {last})")
                    self._expected.add(last)
                    # Where nobody answers yet it is asked again.
                    with suppress(OSError):
                        await asyncio.to_thread(one.spawn)
            await asyncio.sleep(0.1)

    def _is_victim(self, one: Instance) -> bool:
        return self._house.was_ordered(one.pids[-1])

    # ---- load and what brings rare transitions about

    async def _load(self, ledger: Ledger) -> None:
        """Keep enough queued that every mailbox sends at its cadence."""
        while True:
            with suppress(psycopg.OperationalError):
                now = await asyncio.to_thread(ledger.look)
                # What was imported and has not arrived yet is on its way.
                coming = len(self._customer.diary.leads) - now.received
                if self.tally.phase == "chaos" and now.queued + coming < self._backlog:
                    with suppress(Refused):
                        await self._customer.enroll(self._row)
            await asyncio.sleep(0.5)

    async def _watch(self, ledger: Ledger) -> None:
        hurried = time.monotonic()
        while True:
            with suppress(psycopg.OperationalError):
                self.tally.open = await asyncio.to_thread(ledger.look)
                if time.monotonic() - hurried > _HURRY_S:
                    hurried = time.monotonic()
                    await asyncio.to_thread(ledger.hurry)
            self._show(self.tally, self.faults.counts)
            await asyncio.sleep(1.0)

    def _keep(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.tally.crashed.append(f"controller: {task.exception()!r}")

    async def _stir(self, service: str, point: Point) -> None:
        """Bring about what leads to a transition, where the load alone seldom does."""
        act = self._acts.of(service, point.name)
        if act is not None and self.tally.phase == "chaos":
            await self._acts.do(act)

    async def _abandon(self, name: str) -> None:
        """Kill a sender between claim and answer, so that its try is found abandoned."""
        point = next((one for one in self.points if one.name == name), None)
        if point is not None and point.key not in self._standing:
            order = self._house.order("sender", name, "kill")
            again_at = time.monotonic() + _AGAIN_S
            self._standing[point.key] = _Standing(point, "sender", order, again_at)


assert {service for group in GROUPS for service in group} == set(topics.SERVICES)
