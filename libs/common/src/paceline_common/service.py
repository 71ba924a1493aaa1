"""The runner: one process of one service, from its first connection to its last.

A service's `app.py` makes a `Service`, hangs subscriptions, background tasks,
routes and readiness checks on it and calls `run`.
"""

import asyncio
import contextlib
import gc
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import uvicorn
import uvloop
from fastapi import APIRouter, Depends
from faststream.kafka import KafkaBroker

from paceline_common import failpoints, telemetry
from paceline_common.clock import SystemClock
from paceline_common.db import inbox
from paceline_common.db.outbox import Outbox, Relay
from paceline_common.db.session import Database
from paceline_common.http import Check, Readiness, create_app, require_token
from paceline_common.kafka.broker import Publisher, consuming_broker
from paceline_common.kafka.quarantine import Fault, classify, lost_dependency_types
from paceline_common.kafka.subscribe import Subscriber, Subscription
from paceline_common.kafka.trim import Trimmer
from paceline_common.settings import RedisSettings, ServiceSettings
from paceline_common.telemetry import Metric, Metrics

if TYPE_CHECKING:
    from paceline_common.keys import KeyService

Task = Callable[[], Awaitable[object]]

_RESTART_FIRST_S: Final = 0.2
_RESTART_CAP_S: Final = 15.0
_FLUSH_S: Final = 5.0
_TRIM_EVERY_S: Final = 3600.0
# An inbox row outlives the last record it could meet again.
_INBOX_MARGIN: Final = timedelta(days=1)


class Service:
    """One service's parts and its life.

    `stopping` is set after SIGTERM, once no more events come in: a background
    task made with `drain` ends its work then; all others are cancelled.
    `settings.drain_grace_s` is the longest that stopping waits for handlers,
    requests and draining tasks.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        *,
        metrics: Iterable[Metric] = (),
        failpoint_names: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = SystemClock()
        self.log = telemetry.logger(name)
        self.metrics = Metrics(metrics)
        self.db = Database(settings)
        self.outbox = Outbox(self.db)
        self.stopping = asyncio.Event()
        self._told = asyncio.Event()
        self.port = settings.http_port
        self._readiness = Readiness(self.metrics)
        self.http = create_app(name, self.metrics, self._readiness)
        # One for plain topics, one for families.
        self._brokers: dict[bool, KafkaBroker] = {}
        self._publisher = Publisher(settings, name)
        self._relay = Relay(self.db, self.outbox, self._publisher, self.metrics, name)
        self._subscribers: list[Subscriber] = []
        self._tasks: list[tuple[str, Task, bool]] = []
        self._consuming = False
        self._crashed = False
        self._failpoint_names = failpoint_names
        self.readiness("postgres", self.db.ping)
        self.readiness("kafka", self._kafka_ready)
        if isinstance(settings, RedisSettings):
            from redis import exceptions

            lost_dependency_types(
                exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError
            )

    @cached_property
    def keys(self) -> "KeyService":
        """The key service's client, made on first use."""
        from paceline_common.keys import KeyService, KeyServiceUnavailable

        lost_dependency_types(KeyServiceUnavailable)
        return KeyService(self.settings)

    def subscribe(self, subscription: Subscription[Any]) -> None:
        """Consume a topic, or a family of topics, once the service runs.

        Personal data behind the committed offsets is deleted from time to time.
        """
        subscriber = Subscriber(
            self.name, subscription, settings=self.settings, db=self.db, metrics=self.metrics
        )
        family = subscription.topic.pattern
        if family not in self._brokers:
            self._brokers[family] = consuming_broker(self.settings, self.name, families=family)
        subscriber.attach(self._brokers[family])
        self._subscribers.append(subscriber)
        if subscription.topic.personal_data:
            trimmer = Trimmer(
                self.name, subscription.topic, settings=self.settings, metrics=self.metrics
            )
            self.background(f"trim {subscription.topic.name}", trimmer.run)

    def background(self, name: str, task: Task, *, drain: bool = False) -> None:
        """Run `task` for the life of the process.

        A task that fails on a lost dependency starts again after a pause; one
        that fails otherwise ends the process. With `drain` it returns by itself
        soon after `stopping` is set; without, it is cancelled then.
        """
        self._tasks.append((name, task, drain))

    def readiness(self, name: str, check: Check) -> None:
        """Add a check to `/readyz`: it fails by raising, or by returning False."""
        self._readiness.add(name, check)

    def include(self, router: APIRouter) -> None:
        """Serve public routes."""
        self.http.include_router(router)

    def internal(self, router: APIRouter) -> None:
        """Serve routes under `/internal`, for holders of this service's token only."""
        self.http.include_router(
            router,
            prefix="/internal",
            dependencies=[Depends(require_token(self.settings.internal_token))],
        )

    def run(self) -> None:
        """Run until SIGTERM or SIGINT, or a bug; exit 0 or 1."""
        telemetry.configure_logging(self.name, self.settings.log_level)
        telemetry.configure_tracing(
            self.name, endpoint=self.settings.otlp_endpoint, ratio=self.settings.trace_ratio
        )
        failpoints.configure(
            self.settings.failpoints,
            extra_names=self._failpoint_names,
            orders=self.settings.failpoints_dir,
        )
        sys.exit(uvloop.run(self.main()))

    async def main(self) -> int:
        """Serve until stopped; return the exit code. `run` without the process's own setup."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._told.set)
        server = _Server(
            uvicorn.Config(
                self.http,
                host=self.settings.http_host,
                port=self.settings.http_port,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=max(1, int(self.settings.drain_grace_s)),
            )
        )
        serving = asyncio.create_task(server.serve(), name="http")
        relay = self._start("outbox-relay", self._relay.run)
        consumers = self._start("consumers", self._start_consuming)
        plain = [
            self._start("inbox-trim", self._trim_inbox),
            *(self._start(name, task) for name, task, drain in self._tasks if not drain),
        ]
        draining = [self._start(name, task) for name, task, drain in self._tasks if drain]
        told = asyncio.create_task(self._told.wait(), name="told")
        await asyncio.wait([told, serving], return_when=asyncio.FIRST_COMPLETED)
        crashed = self._crashed or serving.done()

        self.log.info("stopping", state="crashed" if crashed else "told to")
        self._readiness.stopping = True
        await _cancel([consumers])
        with contextlib.suppress(TimeoutError):
            # While Kafka is away, leaving a group has nobody to talk to.
            async with asyncio.timeout(self.settings.drain_grace_s + _FLUSH_S):
                await self._stop_consuming()
        self.stopping.set()
        await _cancel(plain)
        server.should_exit = True
        await asyncio.wait([serving, *draining], timeout=self.settings.drain_grace_s)
        await _cancel([*draining, serving, told])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self._relay.drained()
        await _cancel([relay])
        await self._publisher.close()
        await self.db.close()
        if "keys" in self.__dict__:
            self.keys.close()
        self.log.info("stopped", state="crashed" if crashed else "told to")
        return 1 if crashed else 0

    def _start(self, name: str, task: Task) -> asyncio.Task[None]:
        return asyncio.create_task(self._supervise(name, task), name=name)

    async def _supervise(self, name: str, task: Task) -> None:
        """Run `task`, again and again while it fails on a lost dependency; stop all on a bug."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            started = loop.time()
            try:
                await task()
            except Exception as error:  # noqa: BLE001 - every failure is judged, none passes
                if classify(error) is not Fault.DEPENDENCY:
                    self.log.critical("task failed", task=name, **telemetry.describe_error(error))
                    self._crashed = True
                    self._told.set()
                    return
                self.log.warning(
                    "task lost a dependency", task=name, **telemetry.describe_error(error)
                )
            else:
                return
            failures = 1 if loop.time() - started > _RESTART_CAP_S else failures + 1
            self.metrics.counter("paceline_background_restarts_total").labels(name).inc()
            delay = min(_RESTART_CAP_S, _RESTART_FIRST_S * 2 ** min(failures - 1, 10))
            # Spread, so that replicas do not all come back in the same moment.
            delay *= random.uniform(0.7, 1.0)  # noqa: S311 - no secret
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._told.wait()
                return

    async def _start_consuming(self) -> None:
        try:
            for broker in self._brokers.values():
                await broker.start()
        except BaseException:
            await self._stop_brokers()
            raise
        # What is there now stays: a full collection that walked it would stop the loop for 0.1 s.
        gc.collect()
        gc.freeze()
        self._consuming = True
        self.log.info("consuming", count=len(self._subscribers))

    async def _stop_consuming(self) -> None:
        for subscriber in self._subscribers:
            subscriber.stopping()
        await asyncio.gather(*(one.committed() for one in self._subscribers))
        await self._stop_brokers()
        self._consuming = False

    async def _stop_brokers(self) -> None:
        for broker in self._brokers.values():
            await broker.stop()

    async def _kafka_ready(self) -> bool:
        return self._consuming and all(one.state == "running" for one in self._subscribers)

    async def _trim_inbox(self) -> None:
        kept = max((one.topic.retention for one in self._subscribers), default=None)
        while kept is not None:
            deleted = await inbox.trim(self.db, kept + _INBOX_MARGIN)
            if deleted:
                self.log.info("inbox trimmed", count=deleted)
            await asyncio.sleep(_TRIM_EVERY_S)


class _Server(uvicorn.Server):
    """Leaves the signals to the runner, which stops other things first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    alive = [task for task in tasks if not task.done()]
    for task in alive:
        task.cancel()
    if alive:
        await asyncio.wait(alive)
