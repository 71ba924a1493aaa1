"""The pacing store on Redis: one script reserves, plain commands tell it what changed."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from paceline_common.redis import Script
from paceline_scheduler.pacing.base import (
    Batch,
    CampaignRoute,
    JobList,
    MailboxRecord,
    Match,
    Mode,
    Proposal,
    QueuedJob,
    seconds,
)

_KEYS: Final = (
    "meta", "incoming", "ready", "free", "held", "mailbox", "due", "queue", "turn", "route",
)  # fmt: skip
_FIELDS: Final = 9
_JOBS_PER_MESSAGE: Final = 500
_MODES: Final[Mapping[Mode, int]] = {
    "next_in_line": 0, "round_robin": 1, "random": 2, "weighted": 3, "priority": 4,
}  # fmt: skip
_MATCHES: Final[Mapping[Match, int]] = {"off": 0, "prefer": 1, "strict": 2}

_pack: Final = msgspec.msgpack.encode
_Answer = tuple[int, int, int, list[int], list[int]]
_unpack: Final = msgspec.msgpack.Decoder(_Answer).decode


def _batch(answer: bytes | None) -> Batch | None:
    if answer is None:
        return None
    epoch, now_ms, wake_ms, flat, stale = _unpack(answer)
    # Fields of one kind lie `_FIELDS` apart.
    columns: list[Any] = [flat[n::_FIELDS] for n in range(_FIELDS)]
    columns[6] = map(bool, columns[6])
    return Batch(
        epoch=epoch,
        now_ms=now_ms,
        wake_ms=None if wake_ms < 0 else wake_ms,
        proposals=tuple(map(Proposal, *columns)),
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

    async def reserve(
        self, workspace_id: int, draws: Sequence[float], picks: Sequence[float]
    ) -> Batch | None:
        now = "" if self.clock_ms is None else self.clock_ms
        try:
            return await self._reserve(
                self._client,
                [_key(workspace_id, name) for name in _KEYS],
                [len(draws), _pack((draws, picks)), now],
            )
        except ResponseError as error:
            # A part of the state is missing; the script has closed the rest.
            if str(error).startswith("LOST "):
                return None
            raise

    async def push(self, workspace_id: int, jobs: Sequence[QueuedJob], now_ms: int) -> None:
        lists: dict[tuple[int, int | None, int, bool], tuple[list[int], list[int]]] = {}
        for job in jobs:
            # Only that mailbox may send it, whatever the host. Those due later are apart: a list
            # begins with its first job that is due.
            host = 0 if job.mailbox_id else job.host
            name = (job.campaign_id, job.mailbox_id, host, job.due_ms > now_ms)
            ids, dues = lists.setdefault(name, ([], []))
            ids.append(job.job_id)
            dues.append(job.due_ms)
        made = [JobList(*name[:3], *columns) for name, columns in lists.items()]
        await self.push_lists(workspace_id, made, now_ms)

    async def push_lists(self, workspace_id: int, lists: Sequence[JobList], now_ms: int) -> None:
        later: dict[bytes, int] = {}
        messages: list[Any] = []
        for one in lists:
            mailbox = one.mailbox_id or 0
            name = (mailbox, one.campaign_id, 0 if mailbox else one.host)
            ids, dues = one.job_ids, one.due_ms
            if max(dues) > now_ms:
                for job, due_ms in zip(ids, dues, strict=True):
                    if due_ms > now_ms:
                        later[struct.pack(">QQBQ", *name, job)] = due_ms
                ids = [job for job, due_ms in zip(ids, dues, strict=True) if due_ms <= now_ms]
                dues = [due_ms for due_ms in dues if due_ms <= now_ms]
            messages += [
                ("q", *name, _text(blob)) for blob in _chunks(ids, list(map(seconds, dues)))
            ]
        if later:
            await self._client.zadd(_key(workspace_id, "due"), later)
        await self._tell(workspace_id, messages)

    async def put_back(self, workspace_id: int, refused: Sequence[Proposal]) -> None:
        lists: dict[tuple[int, int, int], tuple[list[int], list[int]]] = {}
        for one in refused:
            name = (one.mailbox_id if one.sticky else 0, one.campaign_id, one.host)
            ids, dues = lists.setdefault(name, ([], []))
            ids.append(one.job_id)
            dues.append(seconds(one.due_ms))
        await self._tell(
            workspace_id,
            [
                ("f", *name, _text(blob))
                for name, columns in lists.items()
                for blob in reversed(list(_chunks(*columns)))
            ],
        )

    async def set_mailboxes(self, workspace_id: int, records: Sequence[MailboxRecord]) -> None:
        await self._tell(
            workspace_id,
            [("m", one.mailbox_id, one.eligible_ms, _record(one)) for one in records],
        )

    async def drop_mailboxes(self, workspace_id: int, mailbox_ids: Sequence[int]) -> None:
        await self._tell(workspace_id, [("x", mailbox_id) for mailbox_id in mailbox_ids])

    async def set_rotation(self, workspace_id: int, campaigns: Sequence[CampaignRoute]) -> None:
        routes: list[Any] = []
        for one in campaigns:
            routes += (one.campaign_id, _text(_route(one)))
        await self._tell(workspace_id, [("t", routes)])

    async def clear(self, workspace_id: int) -> None:
        # Not `del`: a million jobs are freed beside the next commands.
        await self._client.unlink(*(_key(workspace_id, name) for name in _KEYS))

    async def open(self, workspace_id: int, epoch: int) -> None:
        await self._client.hset(_key(workspace_id, "meta"), "epoch", str(epoch))

    async def now_ms(self) -> int:
        if self.clock_ms is not None:
            return self.clock_ms
        seconds, micros = await self._client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    async def _tell(self, workspace_id: int, messages: Sequence[Any]) -> None:
        if messages:
            await self._client.rpush(_key(workspace_id, "incoming"), *map(_pack, messages))


def _text(blob: bytes) -> msgspec.Raw:
    # Redis's msgpack is older than its type for bytes: a string holds them.
    return msgspec.Raw(b"\xdb" + len(blob).to_bytes(4, "big") + blob)


def _key(workspace_id: int, name: str) -> str:
    return f"pace:{{{workspace_id}}}:{name}"


def _chunks(jobs: Sequence[int], dues: Sequence[int]) -> Iterator[bytes]:
    """Yield jobs with their due instants (s) as chunks of a list, see the script's header."""
    for n in range(0, len(jobs), _JOBS_PER_MESSAGE):
        part, due = jobs[n : n + _JOBS_PER_MESSAGE], dues[n : n + _JOBS_PER_MESSAGE]
        first, first_due = part[0], due[0]
        flat = [0] * (2 * len(part))
        flat[::2] = [one - first for one in part]
        flat[1::2] = [one - first_due for one in due]
        try:
            yield struct.pack(f"<qI{len(flat)}i", first, first_due, *flat)
        except struct.error:
            # Ids or instants further apart than a chunk can say.
            half = len(part) // 2
            yield from _chunks(part[:half], due[:half])
            yield from _chunks(part[half:], due[half:])


def _record(one: MailboxRecord) -> list[int]:
    values = [
        one.next_ms, one.cadence_ms, one.jitter_min_ms, one.jitter_max_ms, one.grace_ms,
        one.lead_ms, one.open_from_ms, one.open_until_ms, one.left, one.klass, 0, 0,
    ]  # fmt: skip
    for place in one.places:
        values += (place.lane, place.pool_id, _MODES[place.mode], place.key, 0)
    return values


def _route(one: CampaignRoute) -> bytes:
    return _pack(
        (
            _MATCHES[one.match],
            sorted(one.classes),
            [
                (
                    -1 if tier.after_ms is None else tier.after_ms,
                    [
                        (
                            pool.pool_id,
                            _MODES[pool.mode],
                            [value for lane in pool.lanes for value in lane],
                            pool.ranks,
                        )
                        for pool in tier.pools
                    ],
                )
                for tier in one.tiers
            ],
        )
    )
