"""What can go wrong beside a kill, by name. Each fault undoes itself; the last heal undoes all."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import httpx
import hvac.exceptions
import psycopg
import redis
import requests

from paceline_local.parts.base import PartFailed
from tests.chaos.campaign import Customer, Refused
from tests.chaos.house import OUTWARD, House, Instance
from tests.chaos.ledger import Ledger
from tests.chaos.traffic import Traffic

# Parts fail in turn, not at once: what two outages together would show, one shows sooner.
HEAVY: Final = frozenset({"restart_kafka", "restart_postgres"})
_GENTLE: Final = 2
# Later than a draft may be destroyed (`house.SETTINGS`), and than its lease's end before that.
_LATER_S: Final = 25.0
_LOOKS: Final = 80
# Faults of the twins (`tests.twins.wire.FaultKind`) that nobody waits minutes for.
_ERRORS: Final = ("reset_before", "reset_after", "reset_in_answer", "status", "done_then_status")


class Faults:
    """Injects one fault after another."""

    def __init__(
        self,
        house: House,
        customer: Customer,
        traffic: Traffic,
        rng: random.Random,
        only: Sequence[str] | None = None,
    ) -> None:
        self._house = house
        self._customer = customer
        self._traffic = traffic
        self._rng = rng
        self.counts: Counter[str] = Counter()
        self._ledger = Ledger(house)
        self.down: set[str] = set()
        self._kinds: Final[Mapping[str, Callable[[], Awaitable[None]]]] = {
            "stop_and_continue": self._stop_and_continue,
            "restart_kafka": self._restart_kafka,
            "restart_postgres": self._restart_postgres,
            "restart_redis": self._restart_redis,
            "flush_redis": self.flush_redis,
            "seal_keys": self._seal,
            "cut": self._cut,
            "cut_in_message": self.cut_in_message,
            "stall": self._stall,
            "provider_errs": self._provider_errs,
            "provider_throttles": self._provider_throttles,
            "slow": self._slow,
            "duplicate_and_reorder": self._again,
            "skew_clock": self._skew,
            "suspend_mailbox": self.suspend,
            "suspend_workspace": self.suspend_workspace,
            "pause_campaign": self._pause,
            "suppress": self.suppress,
            "send_done_later": self._done_later,
        }
        self._only = list(self._kinds) if only is None else list(only)
        self._left: list[str] = []

    @property
    def names(self) -> list[str]:
        """Return every fault's name."""
        return list(self._kinds)

    async def run(self, stop: asyncio.Event, rounds: int) -> None:
        """Inject until told to stop, but so many at least: each kind in random order, and again."""
        while self._only and not (stop.is_set() and self.counts.total() >= rounds):
            name = self._next()
            await self.inject(name)
            pause = self._rng.uniform(0.2, 1.5)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def inject(self, name: str) -> None:
        """Do one fault, to its end. What meets another outage on the way is tried another time."""
        try:
            await self._kinds[name]()
        except (PartFailed, httpx.HTTPError, Refused, redis.RedisError, OSError,
                hvac.exceptions.VaultError, requests.RequestException, psycopg.Error):  # fmt: skip
            self.counts[f"{name} (disturbed)"] += 1
        else:
            self.counts[name] += 1

    def _next(self) -> str:
        if not self._left:
            # The heavy ones once, the light ones twice a round.
            self._left = [*self._only, *(name for name in self._only if name not in HEAVY)]
            self._rng.shuffle(self._left)
        return self._left.pop()

    # ---- processes and parts

    def _any(self) -> Instance:
        return self._rng.choice(self._house.instances)

    async def _stop_and_continue(self) -> None:
        one = self._any()
        one.send(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.3, 5.0))
        one.send(signal.SIGCONT)

    async def stop_all(self, service: str, seconds: float) -> None:
        """Stop every instance of a service for a while."""
        instances = self._house.of(service)
        for one in instances:
            one.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        for one in instances:
            one.send(signal.SIGCONT)

    async def _restart_kafka(self) -> None:
        await asyncio.to_thread(self._house.kill_part, "kafka")

    async def _restart_postgres(self) -> None:
        await asyncio.to_thread(self._house.crash_postgres)

    async def _restart_redis(self) -> None:
        await asyncio.to_thread(self._house.kill_part, "redis")

    async def flush_redis(self) -> None:
        """Lose all pacing state."""
        await asyncio.to_thread(self._house.flush_redis)

    async def _seal(self) -> None:
        await asyncio.to_thread(self._house.seal)
        await asyncio.sleep(self._rng.uniform(0.5, 3.0))
        await asyncio.to_thread(self._house.unseal)

    async def _skew(self) -> None:
        one = self._any()
        one.skew(self._rng.choice((-1, 1)) * self._rng.uniform(1.0, 120.0))
        await asyncio.sleep(self._rng.uniform(3.0, 8.0))
        one.skew(0)

    # ---- ways

    def _way(self, *, outward: bool) -> str:
        ways = sorted(self._house.ways())
        return self._rng.choice([one for one in ways if outward or one not in OUTWARD])

    async def _cut(self) -> None:
        way = self._way(outward=True)
        await asyncio.to_thread(self._house.proxies.cut, way)
        await asyncio.sleep(self._rng.uniform(0.2, 2.0))
        await asyncio.to_thread(self._house.proxies.heal)

    async def cut_in_message(self) -> None:
        """Let connections that carry mail out end after a number of bytes, for a while."""
        way = self._rng.choice(OUTWARD)
        await asyncio.to_thread(
            self._house.proxies.add, way, "limit_data", "upstream",
            bytes=self._rng.randrange(900, 6000),
        )  # fmt: skip
        await asyncio.sleep(self._rng.uniform(0.5, 1.5))
        await asyncio.to_thread(self._house.proxies.heal)

    async def _stall(self) -> None:
        """Swallow everything on a way, then end its connections."""
        way, stream = self._way(outward=True), self._rng.choice(("upstream", "downstream"))
        await asyncio.to_thread(
            self._house.proxies.add, way, "timeout", stream, timeout=self._rng.randrange(300, 2500)
        )
        await asyncio.sleep(self._rng.uniform(0.5, 3.0))
        await asyncio.to_thread(self._house.proxies.heal)

    async def _slow(self) -> None:
        """Delay one direction; towards a provider only its answers, or a send would seem late."""
        way = self._way(outward=True)
        stream = "downstream" if way in OUTWARD else self._rng.choice(("upstream", "downstream"))
        await asyncio.to_thread(
            self._house.proxies.add, way, "latency", stream,
            latency=self._rng.randrange(20, 900), jitter=self._rng.randrange(0, 200),
        )  # fmt: skip
        await asyncio.sleep(self._rng.uniform(1.0, 4.0))
        await asyncio.to_thread(self._house.proxies.heal)

    async def _provider_errs(self) -> None:
        """Let a provider's API fail a few requests: before, in or after doing what is asked."""
        twin = self._rng.choice(list(self._house.stack.twins.values()))
        fault = {"operation": "any", "kind": self._rng.choice(_ERRORS), "times": 3}
        await asyncio.to_thread(twin.control, "POST", "faults", fault)
        await asyncio.sleep(self._rng.uniform(1.0, 3.0))
        await asyncio.to_thread(twin.control, "DELETE", "faults")

    async def _provider_throttles(self) -> None:
        """Let Gmail put a few messages off: it has too many requests."""
        twin = self._house.stack.twins["gmail"]
        fault = {
            "operation": "users.drafts.send", "kind": "status", "status": 429,
            "code": "rateLimitExceeded", "times": 3,
        }  # fmt: skip
        await asyncio.to_thread(twin.control, "POST", "faults", fault)
        await asyncio.sleep(self._rng.uniform(2.0, 5.0))
        await asyncio.to_thread(twin.control, "DELETE", "faults")

    async def _done_later(self) -> None:
        """Let Gmail act upon a send request long after its sender has lost the answer."""
        twin = self._house.stack.twins["gmail"]
        before = (await asyncio.to_thread(twin.control, "GET", "faults"))["done"]
        fault = {"operation": "users.drafts.send", "kind": "done_later", "delay_s": _LATER_S}
        await asyncio.to_thread(twin.control, "POST", "faults", fault)
        for _ in range(_LOOKS):
            if (await asyncio.to_thread(twin.control, "GET", "faults"))["done"] != before:
                await asyncio.to_thread(self._house.proxies.cut, "sender-gmail")
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(twin.control, "DELETE", "faults")
        await asyncio.to_thread(self._house.proxies.heal)

    # ---- deliveries and people

    async def _again(self) -> None:
        await asyncio.to_thread(self._traffic.again, 60)

    async def suspend(self) -> None:
        """Suspend a mailbox for seconds."""
        await self._customer.hold(self._rng.uniform(1.0, 4.0))

    async def suspend_workspace(self) -> None:
        """Suspend everything until an instant."""
        await self._customer.hold_for_a_while(self._rng.uniform(0.5, 2.0))

    async def _pause(self) -> None:
        await self._customer.pause(self._rng.uniform(0.5, 3.0))

    async def suppress(self) -> None:
        """Suppress a few addresses, and one to which a message is about to leave."""
        leased = await asyncio.to_thread(self._ledger.about_to_leave)
        if leased:
            await self._customer.suppress(self._rng.choice(leased))
        for _ in range(_GENTLE):
            await self._customer.suppress()
