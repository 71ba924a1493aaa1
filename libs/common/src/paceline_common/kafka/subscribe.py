"""The one way to consume.

A subscription reads one topic (or one family of topics) in batches. Each batch
is one Postgres transaction with its inbox rows; then, and only then, its
offsets are committed, while the next batch is applied. A batch that fails is
halved until the bad record stands alone. A lost dependency is waited for
without limit; an event's own fault gets a few tries, then the record goes into
quarantine in one transaction; past a rate of those the subscription halts.

A family does not halt, since one bad publisher would stop all: the rate is
counted per topic, and past it that publisher's bad records go into quarantine
after one try, counted in `paceline_quarantined_past_limit_total`. They are not
left in Kafka instead, where the short retention of personal data would lose
them. Only a record that cannot be quarantined at all halts a family.
"""

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from faststream import AckPolicy
from faststream.exceptions import StopConsume
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaAckableMessage
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, failpoints, telemetry, topics
from paceline_common.db.inbox import Inbox, Seen
from paceline_common.db.session import Database
from paceline_common.kafka.envelope import INSTALLATION, Delivery, EnvelopeReader, Item
from paceline_common.kafka.quarantine import (
    EventFault,
    Fault,
    Halted,
    Quarantine,
    Quarantined,
    RateLimit,
    classify,
    is_splittable,
    reason_of,
)
from paceline_common.settings import ServiceSettings
from paceline_common.telemetry import Metrics
from paceline_common.topics import Topic

__all__ = ["Delivery", "EventFault", "Subscriber", "Subscription"]

E = TypeVar("E", bound=events.Event)

_RETRY_S: Final = (0.1, 0.4, 1.6)
_OUTAGE_FIRST_S: Final = 0.2
_OUTAGE_CAP_S: Final = 15.0
_REVOKE_WAIT_S: Final = 5.0
# FastStream asks for records and, when there were none in that time, is deaf for as long again.
# aiokafka answers the moment there are some, so it is asked once and without an end (ten years).
_ENDLESS_MS: Final = 315_576_000_000
# aiokafka's fetcher wakes for what happens; this is how often it looks besides.
_LOOK_MS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription(Generic[E]):
    """What a service does with the events of one topic.

    `handler(tx, deliveries)` is set-based and runs inside the wrapper's
    transaction, which names the workspaces of the batch (or, with `worker`,
    runs as the worker role). It may be called again with the same deliveries,
    in other groupings, whenever the transaction did not commit.

    `dedupe`: the wrapper keeps inbox rows and drops events already applied.
    Without it the handler must be idempotent on the effect's own key.

    `on_quarantine(tx, delivery)` runs in the transaction that quarantines a
    record whose envelope could be read (`body` is None if the body could not):
    a stop event suspends what it could not stop. If it raises `EventFault` or
    `ValueError` there is nothing to stop; any other error halts the subscription.

    `belongs(tx, delivery)`, for a family of topics: may the publisher use the
    workspace that the record names? Otherwise, and without it, a quarantined
    record is the installation's.
    """

    topic: Topic
    handler: Callable[[AsyncConnection, Sequence[Delivery[E]]], Awaitable[None]]
    dedupe: bool = True
    on_quarantine: Callable[[AsyncConnection, Delivery[E | None]], Awaitable[None]] | None = None
    belongs: Callable[[AsyncConnection, Delivery[E | None]], Awaitable[bool]] | None = None
    worker: bool = False
    max_records: int = 500
    max_poll_interval_s: float = 300.0
    body: type[E] | None = None


# By topic and partition: the offset to go on from.
_Offsets = dict[tuple[str, int], int]


class _LostDependency(Exception):
    """What the batch needs is away; everything not yet applied is read again later."""


class _Refused(Exception):
    """Some items turned out to be refused; the transaction starts again without them."""


class Subscriber:
    """Runs one subscription for one service."""

    def __init__(
        self,
        service: str,
        subscription: Subscription[Any],
        *,
        settings: ServiceSettings,
        db: Database,
        metrics: Metrics,
    ) -> None:
        self.subscription = subscription
        self.topic = subscription.topic
        self.group = topics.group(service, self.topic)
        self.state: Literal["running", "waiting", "halted"] = "running"
        self._db = db
        self._metrics = metrics
        self._attempts = settings.event_attempts
        self._session_ms = int(settings.kafka_session_timeout_s * 1000)
        self._limits: defaultdict[str, RateLimit] = defaultdict(
            lambda: RateLimit(settings.quarantine_limit, settings.quarantine_window_s)
        )
        self._past_limit: set[str] = set()
        self._quarantine = Quarantine(db)
        self._inbox = Inbox(db.schema, self.group) if subscription.dedupe else None
        self._reader = EnvelopeReader(self.topic, subscription.body)
        self._log = telemetry.logger("subscribe").bind(topic=self.topic.name, group=self.group)
        self._outages = 0
        self._stopping = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()
        self._committing: asyncio.Task[None] | None = None
        self._consumer_of: Callable[[], Any] = lambda: None

    def attach(self, broker: KafkaBroker) -> None:
        """Declare the subscriber on `broker`; call once, before the broker starts."""
        sources: dict[str, Any] = {"pattern": topics.family_pattern(self.topic)}
        names: tuple[str, ...] = ()
        if not self.topic.pattern:
            sources, names = {}, (self.topic.name,)
        subscriber = broker.subscriber(
            *names,
            **sources,
            group_id=self.group,
            batch=True,
            batch_timeout_ms=_ENDLESS_MS,
            consumer_timeout_ms=_LOOK_MS,
            max_records=self.subscription.max_records,
            ack_policy=AckPolicy.MANUAL,
            # FastStream's own parser loses a whole batch on one null or
            # non-UTF-8 header.
            parser=_parse,
            decoder=_decode,
            auto_offset_reset="earliest",
            max_poll_interval_ms=int(self.subscription.max_poll_interval_s * 1000),
            session_timeout_ms=self._session_ms,
            heartbeat_interval_ms=self._session_ms // 3,
            listener=_WaitForBatch(self._ended),
            no_reply=True,
        )
        subscriber(self._consume)
        self._consumer_of = lambda: subscriber.consumer

    async def _consume(self, records: Sequence[Any]) -> None:
        """Apply one batch, then have its offsets committed. FastStream calls it, one at a time."""
        started = asyncio.get_running_loop().time()
        done: _Offsets = {}
        items = [self._reader.read(record) for record in records]
        self._free.clear()
        try:
            try:
                await self._apply(items, done)
            finally:
                await self.committed()  # those of the batch before: one after the other
                self._committing = asyncio.create_task(self._commit(done))
                if self._stopping.is_set():
                    await self.committed()
        except _LostDependency:
            self._rewind(items, done)
            self._free.set()
            await self._wait_out()
        except Halted as halt:
            self.state = "halted"
            self._metrics.gauge("paceline_subscription_halted").labels(self.topic.name).set(1)
            self._log.error("subscription halted", reason_code=str(halt))
            self._free.set()
            await self.committed()
            if (consumer := self._consumer_of()) is not None:
                # FastStream cancels its own task first and would not get to
                # leave the group; the partitions would wait for the session's end.
                await consumer.stop()
            # Any other exception would be swallowed, and a later commit would
            # pass the record.
            raise StopConsume from halt
        else:
            self._running()
            self._metrics.histogram("paceline_event_batch_seconds").labels(self.topic.name).observe(
                asyncio.get_running_loop().time() - started
            )
        finally:
            self._free.set()

    def stopping(self) -> None:
        """Cut waiting short: the process is about to stop."""
        self._stopping.set()

    async def committed(self) -> None:
        """Return once the offsets of all batches applied until now are committed, or lost."""
        if (task := self._committing) is not None:
            await asyncio.wait([task])  # a caller that is cancelled cancels no commit
            task.result()

    async def _ended(self) -> None:
        await self._free.wait()
        await self.committed()

    async def _apply(self, items: Sequence[Item], done: _Offsets) -> None:
        """Apply `items` in their order, marking in `done` what has committed."""
        for refused, group in itertools.groupby(items, key=lambda item: item.code is not None):
            run = list(group)
            if not refused:
                await self._apply_run(run, done)
                continue
            for item in run:
                await self._put_away(item)
                _advance(done, [item])

    async def _apply_run(self, run: Sequence[Item], done: _Offsets) -> None:
        try:
            await self._effect(run)
        except _Refused:
            await self._apply(run, done)
        except Exception as error:
            lost = classify(error) is Fault.DEPENDENCY
            if lost and not (len(run) > 1 and is_splittable(error)):
                self._lost(error)
                raise _LostDependency from error
            if len(run) > 1:
                middle = len(run) // 2
                await self._apply_run(run[:middle], done)
                await self._apply_run(run[middle:], done)
                return
            await self._try_again(run[0], error, done)
        else:
            self._running()
            _advance(done, run)

    async def _try_again(self, item: Item, error: Exception, done: _Offsets) -> None:
        """Give a record that failed alone its remaining tries, then put it away."""
        while item.attempts < self._attempts and not self._is_past_limit(item):
            self._count_retry("event")
            await asyncio.sleep(_RETRY_S[min(item.attempts, len(_RETRY_S)) - 1])
            item.attempts += 1
            try:
                await self._effect([item])
            except _Refused:
                break
            except Exception as again:  # noqa: BLE001 - every failure is judged, none passes
                error = again
                if classify(error) is Fault.DEPENDENCY:
                    self._lost(error)
                    raise _LostDependency from error
            else:
                _advance(done, [item])
                return
        if item.code is None:
            item.refuse(*reason_of(error))
            self._log.warning(
                "event cannot be handled",
                event_id=item.event_id,
                attempt=item.attempts,
                **telemetry.describe_error(error),
            )
        if isinstance(error, EventFault) and error.installation:
            item.installation = True
        await self._put_away(item)
        _advance(done, [item])

    async def _effect(self, run: Sequence[Item]) -> None:
        """One transaction: inbox rows, then the handler with what is new."""
        deliveries = [item.delivery for item in run if item.delivery is not None]
        workspaces = {one.workspace_id for one in deliveries} - {INSTALLATION}
        with telemetry.consumer_spans(
            f"{self.topic.name} process", (one.traceparent for one in deliveries)
        ):
            async with self._db.transaction(workspaces, worker=self.subscription.worker) as tx:
                fresh = deliveries if self._inbox is None else await self._unseen(tx, run)
                if fresh:
                    await self.subscription.handler(tx, fresh)
                failpoints.hit("subscribe.before_effect_commit")
        failpoints.hit("subscribe.after_effect_commit", self.topic.name)
        consumed = self._metrics.counter("paceline_events_consumed_total")
        consumed.labels(self.topic.name, "applied").inc(len(fresh))
        consumed.labels(self.topic.name, "duplicate").inc(len(deliveries) - len(fresh))

    async def _unseen(self, tx: AsyncConnection, run: Sequence[Item]) -> list[Delivery[Any]]:
        """Insert inbox rows; return the deliveries that had none. Raises `_Refused`."""
        assert self._inbox is not None
        first: dict[tuple[str, str, str], Delivery[Any]] = {}
        for item in run:
            assert item.delivery is not None
            first.setdefault(_identity(item.delivery), item.delivery)
        seen = [Seen(*identity, digest=one.digest) for identity, one in first.items()]
        known = await self._inbox.insert(tx, seen)
        refused = False
        for item in run:
            assert item.delivery is not None
            identity = _identity(item.delivery)
            expected = known.get(identity, first[identity].digest)
            if item.delivery.digest != expected:
                item.refuse(
                    "digest_mismatch",
                    "another event of the same source has this ce_id, with another body",
                )
                refused = True
        if refused:
            raise _Refused
        return [one for identity, one in first.items() if identity not in known]

    async def _put_away(self, item: Item) -> None:
        """Quarantine one record: stop hook, row, dead letter and inbox row in one transaction."""
        limit = self._limits[item.record.topic]
        past_limit = self._is_past_limit(item)
        if not past_limit:
            limit.check()
        assert item.code is not None
        delivery = item.delivery
        workspace = None if delivery is None else delivery.workspace_id or None
        try:
            async with self._db.transaction([] if workspace is None else [workspace]) as tx:
                if delivery is not None:
                    await self._stop_what_it_meant(tx, delivery)
                    if self._inbox is not None and item.code != "digest_mismatch":
                        await self._inbox.insert(
                            tx, [Seen(*_identity(delivery), digest=delivery.digest)]
                        )
                new = await self._quarantine.put(
                    tx,
                    self.topic,
                    Quarantined(
                        record=item.record,
                        workspace_id=await self._owner(tx, item),
                        event_id=item.event_id,
                        source=item.source,
                        type=item.type,
                        reason_code=item.code,
                        reason=item.reason,
                        attempts=item.attempts,
                    ),
                )
                failpoints.hit("subscribe.before_quarantine_commit")
            failpoints.hit("subscribe.after_quarantine_commit")
        except Halted:
            raise
        except Exception as error:
            if classify(error) is Fault.DEPENDENCY:
                self._lost(error)
                raise _LostDependency from error
            self._log.exception("a record cannot be quarantined", event_id=item.event_id)
            raise Halted("a record cannot be quarantined") from error
        if new:
            limit.count()
            if past_limit:
                self._metrics.counter("paceline_quarantined_past_limit_total").labels(
                    item.record.topic
                ).inc()
            self._metrics.counter("paceline_quarantined_total").labels(
                self.topic.name, item.code
            ).inc()
            self._log.warning(
                "quarantined",
                event_id=item.event_id,
                partition=item.record.partition,
                offset=item.record.offset,
                reason_code=item.code,
            )
        self._metrics.counter("paceline_events_consumed_total").labels(
            self.topic.name, "quarantined"
        ).inc()

    def _is_past_limit(self, item: Item) -> bool:
        """Tell whether a family's topic has used up its limit, and alarm when it just did."""
        if not self.topic.pattern:
            return False
        topic = item.record.topic
        if not self._limits[topic].is_reached():
            self._past_limit.discard(topic)
            return False
        if topic not in self._past_limit:
            self._past_limit.add(topic)
            self._log.error(
                "publisher past its quarantine limit",
                publisher=topic.removeprefix(self.topic.name),
            )
        return True

    async def _stop_what_it_meant(self, tx: AsyncConnection, delivery: Delivery[Any]) -> None:
        if self.subscription.on_quarantine is None:
            return
        try:
            async with tx.begin_nested():
                await self.subscription.on_quarantine(tx, delivery)
        except Exception as error:
            # Nothing to stop: the event names what does not exist. Whatever
            # else goes wrong, a stop that is not kept must not be passed.
            if classify(error) is not Fault.EVENT:
                raise
            self._log.warning(
                "nothing to stop", event_id=delivery.event_id, **telemetry.describe_error(error)
            )

    async def _owner(self, tx: AsyncConnection, item: Item) -> int | None:
        """Return the workspace whose row a quarantined record becomes; None: the installation's."""
        delivery = item.delivery
        if delivery is None or delivery.workspace_id == INSTALLATION or item.installation:
            return None
        if delivery.publisher is not None and (
            self.subscription.belongs is None or not await self.subscription.belongs(tx, delivery)
        ):
            return None
        return delivery.workspace_id

    async def _commit(self, done: _Offsets) -> None:
        consumer = self._consumer_of()
        if not done or consumer is None:
            return
        offsets = {one: done[one] for one in consumer.assignment() if one in done}
        try:
            if offsets:
                await consumer.commit(offsets)
                failpoints.hit("subscribe.after_offset_commit")
        except (CommitFailedError, IllegalStateError, KafkaError) as error:
            # The effect stands. Whoever reads these records again finds it done.
            self._log.warning("offsets not committed", **telemetry.describe_error(error))

    def _rewind(self, items: Sequence[Item], done: _Offsets) -> None:
        """Have everything not yet applied fetched again."""
        consumer = self._consumer_of()
        if consumer is None:
            return
        first: dict[TopicPartition, int] = {}
        for item in items:
            if item.record.offset >= done.get(item.partition, 0):
                first.setdefault(item.partition, item.record.offset)
        for partition in first.keys() & consumer.assignment():
            consumer.seek(partition, first[partition])

    def _lost(self, error: BaseException) -> None:
        self._count_retry("dependency")
        self.state = "waiting"
        self._metrics.gauge("paceline_dependency_lost").labels(self.topic.name).set(1)
        self._log.warning(
            "dependency lost", attempt=self._outages + 1, **telemetry.describe_error(error)
        )

    def _running(self) -> None:
        if self.state == "waiting":
            self._log.info("dependency is back", attempt=self._outages)
        self.state = "running"
        self._outages = 0
        self._metrics.gauge("paceline_dependency_lost").labels(self.topic.name).set(0)

    async def _wait_out(self) -> None:
        delay = min(_OUTAGE_CAP_S, _OUTAGE_FIRST_S * 2 ** min(self._outages, 10))
        self._outages += 1
        # Spread, so that members do not all come back in the same moment.
        delay *= random.uniform(0.7, 1.0)  # noqa: S311 - no secret
        try:
            async with asyncio.timeout(delay):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _count_retry(self, cause: str) -> None:
        self._metrics.counter("paceline_event_retries_total").labels(self.topic.name, cause).inc()


def _identity(delivery: Delivery[Any]) -> tuple[str, str, str]:
    return delivery.topic, delivery.source, delivery.event_id


def _advance(done: _Offsets, items: Sequence[Item]) -> None:
    for item in items:
        record = item.record
        done[record.topic, record.partition] = record.offset + 1


async def _parse(records: Any) -> KafkaAckableMessage:
    return KafkaAckableMessage(
        body=b"", raw_message=records, consumer=FAKE_CONSUMER, message_id="", correlation_id=""
    )


async def _decode(message: KafkaAckableMessage) -> Any:
    return message.raw_message


class _WaitForBatch(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lets the batch at hand end before its partitions go to another member."""

    def __init__(self, ended: Callable[[], Awaitable[None]]) -> None:
        self._ended = ended

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        try:
            async with asyncio.timeout(_REVOKE_WAIT_S):
                await self._ended()
        except TimeoutError:
            # The next member repeats what is not committed; the inbox knows it.
            return

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        return
