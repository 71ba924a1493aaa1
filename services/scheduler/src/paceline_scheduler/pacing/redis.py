"""The pacing store on Redis: one script reserves, plain commands tell it what changed."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
from redis.asyncio import Redis

from paceline_common.redis import Script
from paceline_scheduler.pacing.base import Batch, MailboxRecord, Proposal, QueuedJob

_KEYS: Final = ("meta", "incoming", "ready", "idle", "mailbox", "due", "queue", "turn", "route")
_FIELDS: Final = 6
_JOBS_PER_MESSAGE: Final = 500


def _batch(answer: list[Any]) -> Batch | None:
    if not answer:
        return None
    epoch, now_ms, wake_ms, flat, stale = answer
    return Batch(
        epoch=epoch,
        now_ms=now_ms,
        wake_ms=None if wake_ms < 0 else wake_ms,
        proposals=tuple(Proposal(*flat[n : n + _FIELDS]) for n in range(0, len(flat), _FIELDS)),
        stale=tuple(stale),
    )


class RedisPacing:
    """Pacing state under `pace:{<workspace>}:…`, the workspace being the hash tag.

    Time is Redis's own unless `clock_ms` is set: a fixed instant, for suites
    that compare stores step by step.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._reserve = Script("paceline_scheduler", "pacing/reserve_batch.lua", _batch)
        self.clock_ms: int | None = None

    async def reserve(self, workspace_id: int, draws: Sequence[float]) -> Batch | None:
        now = "" if self.clock_ms is None else self.clock_ms
        return await self._reserve(
            self._client,
            [_key(workspace_id, name) for name in _KEYS],
            [len(draws), msgspec.msgpack.encode(draws), now],
        )

    async def push(self, workspace_id: int, jobs: Sequence[QueuedJob], now_ms: int) -> None:
        due = [job for job in jobs if job.due_ms <= now_ms]
        later = {f"{job.queue}:{job.job_id}": job.due_ms for job in jobs if job.due_ms > now_ms}
        messages: list[Any] = []
        # Of one list the order holds; `due` is as given.
        for queue, group in groupby(sorted(due, key=lambda job: job.queue), lambda job: job.queue):
            ids = [job.job_id for job in group]
            messages += [
                ("q", queue, ids[n : n + _JOBS_PER_MESSAGE])
                for n in range(0, len(ids), _JOBS_PER_MESSAGE)
            ]
        if later:
            await self._client.zadd(_key(workspace_id, "due"), later)
        await self._tell(workspace_id, messages)

    async def put_back(self, workspace_id: int, refused: Sequence[Proposal]) -> None:
        ordered = sorted(refused, key=lambda one: one.queue)
        await self._tell(
            workspace_id,
            [
                ("f", queue, [one.job_id for one in group])
                for queue, group in groupby(ordered, lambda one: one.queue)
            ],
        )

    async def set_mailboxes(self, workspace_id: int, records: Sequence[MailboxRecord]) -> None:
        await self._tell(
            workspace_id,
            [("m", one.mailbox_id, one.eligible_ms, _fields(one)) for one in records],
        )

    async def drop_mailboxes(self, workspace_id: int, mailbox_ids: Sequence[int]) -> None:
        await self._tell(workspace_id, [("x", mailbox_id) for mailbox_id in mailbox_ids])

    async def set_rotation(self, workspace_id: int, campaigns: Mapping[int, Sequence[int]]) -> None:
        await self._tell(workspace_id, [("t", [(one, campaigns[one]) for one in campaigns])])

    async def clear(self, workspace_id: int) -> None:
        await self._client.delete(*(_key(workspace_id, name) for name in _KEYS))

    async def open(self, workspace_id: int, epoch: int) -> None:
        await self._client.hset(_key(workspace_id, "meta"), "epoch", str(epoch))

    async def now_ms(self) -> int:
        if self.clock_ms is not None:
            return self.clock_ms
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def _tell(self, workspace_id: int, messages: Sequence[Any]) -> None:
        if messages:
            await self._client.rpush(
                _key(workspace_id, "incoming"), *map(msgspec.msgpack.encode, messages)
            )


def _key(workspace_id: int, name: str) -> str:
    return f"pace:{{{workspace_id}}}:{name}"


def _fields(one: MailboxRecord) -> tuple[Any, ...]:
    return (
        one.next_ms, one.cadence_ms, one.jitter_min_ms, one.jitter_max_ms, one.grace_ms,
        one.lead_ms, one.open_from_ms, one.open_until_ms, one.left, one.pools,
    )  # fmt: skip
