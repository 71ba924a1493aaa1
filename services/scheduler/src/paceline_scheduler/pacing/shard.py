"""The machine of `reserve_batch.lua`, tie for tie, in this process's memory and without waiting."""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import Final

from paceline_scheduler.domain.rotation import loaded, rejoined
from paceline_scheduler.pacing.base import (
    Batch,
    CampaignRoute,
    JobList,
    MailboxRecord,
    Place,
    Proposal,
    QueuedJob,
    seconds,
)
from paceline_scheduler.pacing.lanes import (
    Box,
    Campaign,
    Entry,
    FollowUps,
    HostJobs,
    Lanes,
    Pool,
    Route,
)

_STALE_MS: Final = 1000
_PROMOTE: Final = 1000
_RANK: Final = 1 << 32
_MAX_SERVED: Final = (1 << 32) - 1
_MAX_VIRTUAL: Final = 1 << 40

_DueKey = tuple[int, int, int, int]  # (mailbox or 0, campaign, host, job)


class Shard:
    """One workspace. Instants are given by the caller, in ms; answers are `PacingStore`'s."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._epoch: int | None = None
        self._served = 0
        self._calls = 0
        self._boxes: dict[int, Box] = {}
        # Lazily cleaned: an entry counts while the mailbox's `ready_ms` is its instant.
        self._ready: list[tuple[int, int]] = []
        self._lanes: Lanes = {}
        self._free = 0
        self._held: set[int] = set()
        self._virtual: dict[int, int] = {}
        self._own: dict[int, FollowUps] = {}
        self._rotation = 0
        self._due: list[tuple[int, _DueKey]] = []
        self._due_ms: dict[_DueKey, int] = {}
        self._campaigns: dict[int, Campaign] = {}
        self._routes: dict[int, Route] = {}
        # Campaigns in rotation with work, least recently served first.
        self._turns: list[tuple[int, int]] = []
        self._active: set[int] = set()

    def open(self, epoch: int) -> None:
        self._epoch = epoch

    def push(self, jobs: Sequence[QueuedJob], now_ms: int) -> None:
        for job in jobs:
            mailbox = job.mailbox_id or 0
            # Only that mailbox may send it, whatever the host.
            host = 0 if mailbox else job.host
            if job.due_ms > now_ms:
                key = (mailbox, job.campaign_id, host, job.job_id)
                self._due_ms[key] = job.due_ms
                heappush(self._due, (job.due_ms, key))
            else:
                self._append(mailbox, job.campaign_id, host, (job.job_id, seconds(job.due_ms)))

    def push_lists(self, lists: Sequence[JobList], now_ms: int) -> None:
        for one in lists:
            pairs = zip(one.job_ids, one.due_ms, strict=True)
            self.push(
                [
                    QueuedJob(job, one.campaign_id, one.mailbox_id, due_ms, one.host)
                    for job, due_ms in pairs
                ],
                now_ms,
            )

    def put_back(self, refused: Sequence[Proposal]) -> None:
        groups: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        for one in refused:
            name = (one.mailbox_id if one.sticky else 0, one.campaign_id, one.host)
            groups.setdefault(name, []).append((one.job_id, seconds(one.due_ms)))
        for (mailbox, campaign, host), jobs in groups.items():
            self._list(mailbox, campaign, host).extendleft(reversed(jobs))
            self._wake(mailbox, campaign)

    def set_mailboxes(self, records: Sequence[MailboxRecord]) -> None:
        for record in records:
            old = self._boxes.get(record.mailbox_id)
            if old is None:
                box = Box(record, 0, {})
            else:
                self._unfree(old)
                pools = {place.pool_id for place in record.places}
                passes = {pool: spent for pool, spent in old.passes.items() if pool in pools}
                box = Box(record, old.served, passes)
            self._boxes[record.mailbox_id] = box
            self._at(box, record.eligible_ms)

    def drop_mailboxes(self, mailbox_ids: Sequence[int]) -> None:
        for mailbox in mailbox_ids:
            box = self._boxes.pop(mailbox, None)
            if box is not None:
                self._unfree(box)

    def set_rotation(self, campaigns: Sequence[CampaignRoute]) -> None:
        self._routes = {one.campaign_id: Route(one, self._lanes) for one in campaigns}
        self._rotation += 1
        self._turns = []
        self._active = set()
        for campaign in self._routes:
            self._activate(campaign)
        for mailbox in self._held:
            self._at(self._boxes[mailbox], 0)
        self._held.clear()

    def reserve(self, now_ms: int, draws: Sequence[float], picks: Sequence[float]) -> Batch | None:
        """Propose as `PacingStore.reserve` does, at `now_ms`."""
        if self._epoch is None or self._served >= _MAX_SERVED:
            return None
        self._calls += 1
        self._promote(now_ms)
        most = len(draws)
        proposals: list[Proposal] = []
        stale: list[int] = []
        for box in self._eligible(now_ms, most):
            if self._settle(box, now_ms, stale):
                job = self._own_job(box)
                if job is not None:
                    campaign, (job_id, due) = job
                    self._unfree(box)
                    draw = draws[len(proposals)]
                    proposals.append(
                        self._propose(box, now_ms, draw, job_id, campaign, 0, True, 0, due)
                    )
                else:
                    self._set_free(box)
        wake: int | None = None
        waiting: list[tuple[int, int]] = []
        while self._turns and self._free and len(proposals) < most:
            turn = heappop(self._turns)
            name, made = turn[1], len(proposals)
            served = self._campaigns[name]
            found = self._serve(self._routes[name], served, now_ms, picks[made], stale)
            if isinstance(found, int):
                waiting.append(turn)
                if found >= 0 and (wake is None or found < wake):
                    wake = found
                continue
            box, pool, host = found
            jobs = served.lists[host].jobs
            job_id, due = jobs.popleft()
            if not jobs:
                del served.lists[host]
            proposals.append(
                self._propose(box, now_ms, draws[made], job_id, name, pool, False, host, due)
            )
            served.turn = self._served
            if served.lists:
                heappush(self._turns, (served.turn, name))
            else:
                self._active.discard(name)
        for turn in waiting:
            heappush(self._turns, turn)
        wake = now_ms if len(proposals) >= most else self._next_wake(now_ms, wake)
        return Batch(self._epoch, now_ms, wake, tuple(proposals), tuple(stale))

    # Work.

    def _list(self, mailbox: int, campaign: int, host: int) -> deque[tuple[int, int]]:
        if mailbox:
            own = self._own.get(mailbox)
            if own is None:
                own = self._own[mailbox] = FollowUps(rotation=self._rotation)
            parked = own.parked.get(campaign)
            return own.active.setdefault(campaign, deque()) if parked is None else parked
        found = self._campaigns.setdefault(campaign, Campaign())
        return found.lists.setdefault(host, HostJobs()).jobs

    def _append(self, mailbox: int, campaign: int, host: int, job: tuple[int, int]) -> None:
        self._list(mailbox, campaign, host).append(job)
        self._wake(mailbox, campaign)

    def _wake(self, mailbox: int, campaign: int) -> None:
        if mailbox:
            box = self._boxes.get(mailbox)
            if box is not None and box.free:
                self._at(box, 0)
        else:
            self._activate(campaign)

    def _activate(self, campaign: int) -> None:
        found = self._campaigns.get(campaign)
        if campaign in self._routes and campaign not in self._active and found and found.lists:
            self._active.add(campaign)
            heappush(self._turns, (found.turn, campaign))

    def _promote(self, now_ms: int) -> None:
        left = _PROMOTE
        while left and self._due and self._due[0][0] <= now_ms:
            at, key = heappop(self._due)
            if self._due_ms.get(key) == at:
                del self._due_ms[key]
                mailbox, campaign, host, job = key
                self._append(mailbox, campaign, host, (job, seconds(at)))
                left -= 1

    # Mailboxes.

    def _at(self, box: Box, at_ms: int) -> None:
        if box.ready_ms != at_ms:
            box.ready_ms = at_ms
            heappush(self._ready, (at_ms, box.mailbox))

    def _eligible(self, now_ms: int, most: int) -> list[Box]:
        found: list[Box] = []
        ready, boxes = self._ready, self._boxes
        while ready and ready[0][0] <= now_ms and len(found) < most:
            at, mailbox = heappop(ready)
            box = boxes.get(mailbox)
            if box is not None and box.ready_ms == at:
                box.ready_ms = -1
                found.append(box)
        return found

    def _settle(self, box: Box, now_ms: int, stale: list[int]) -> bool:
        """Tell whether the mailbox may send at once; otherwise note when to look again."""
        record = box.record
        soonest = now_ms + record.lead_ms
        slot = max(soonest, box.next_ms, record.open_from_ms)
        if slot >= record.open_until_ms or box.left == 0:
            self._unfree(box)
            stale.append(box.mailbox)
            # Until it is compiled anew; asked for again if that gets lost.
            self._at(box, now_ms + _STALE_MS)
            return False
        if slot > soonest:
            self._unfree(box)
            self._at(box, slot - record.lead_ms)
            return False
        return True

    def _set_free(self, box: Box) -> None:
        record = box.record
        # A free mailbox is looked at again when its stretch ends.
        self._at(box, record.open_until_ms - record.lead_ms)
        if box.mailbox in self._own:
            self._held.add(box.mailbox)
        if box.free:
            return
        box.free = True
        box.keys = []
        for place in record.places:
            key = self._key(box, place)
            box.keys.append(key)
            insort(self._lanes.setdefault(place.lane, []), (key, box.mailbox))
        self._free += len(record.places)

    def _key(self, box: Box, place: Place) -> int:
        match place.mode:
            case "next_in_line":
                return box.served
            case "weighted":
                # No credit for the time it was not free.
                spent = rejoined(
                    box.passes.get(place.pool_id, 0), self._virtual.get(place.pool_id, 0)
                )
                box.passes[place.pool_id] = spent
                return spent
            case "round_robin":
                return place.key
            case "priority":
                return place.key * _RANK + box.served
            case "random":
                return 0

    def _unfree(self, box: Box) -> None:
        if not box.free:
            return
        box.free = False
        for place, key in zip(box.record.places, box.keys, strict=True):
            entries = self._lanes[place.lane]
            del entries[bisect_left(entries, (key, box.mailbox))]
        self._free -= len(box.keys)
        self._held.discard(box.mailbox)

    def _own_job(self, box: Box) -> tuple[int, tuple[int, int]] | None:
        own = self._own.get(box.mailbox)
        if own is None:
            return None
        klass = box.record.klass
        if own.rotation != self._rotation or own.klass != klass:
            own.active |= own.parked
            own.parked = {}
            own.rotation, own.klass = self._rotation, klass
        while own.active:
            campaign = next(iter(own.active))
            jobs = own.active.pop(campaign)
            route = self._routes.get(campaign)
            if route is not None and klass in route.classes:
                job = jobs.popleft()
                if jobs:
                    # To the end: its campaigns take turns.
                    own.active[campaign] = jobs
                elif not own.active and not own.parked:
                    del self._own[box.mailbox]
                return campaign, job
            own.parked[campaign] = jobs
        return None

    # Choices.

    def _serve(
        self, route: Route, campaign: Campaign, now_ms: int, pick: float, stale: list[int]
    ) -> tuple[Box, int, int] | int:
        """Return mailbox, pool and host for a head job, or the next tier's deadline (-1 none)."""
        wake = -1
        heads = [
            (waiting.jobs[0][1], waiting.jobs[0][0], host, waiting)
            for host, waiting in campaign.lists.items()
            if waiting.stuck != self._calls
        ]
        if len(heads) > 1:
            heads.sort(key=lambda head: head[:3])
        for due, _, host, waiting in heads:
            late = now_ms - due * 1000
            for tier, (pools, after_ms) in enumerate(route.tiers):
                found = self._pick(route, campaign, tier, pools, host, now_ms, pick, stale)
                if found is not None:
                    return found[0], found[1], host
                if after_ms is None:
                    break
                if late < after_ms:
                    at = due * 1000 + after_ms
                    wake = at if wake < 0 else min(wake, at)
                    break
            waiting.stuck = self._calls
        return wake

    def _pick(
        self,
        route: Route,
        campaign: Campaign,
        tier: int,
        pools: list[Pool],
        host: int,
        now_ms: int,
        pick: float,
        stale: list[int],
    ) -> tuple[Box, int] | None:
        last = campaign.pools.get(tier)
        for n, pool in enumerate(pools):
            if pool.pool_id == last and len(pools) > 1:
                pools = pools[n + 1 :] + pools[: n + 1]
                break
        matching = host != 0 and route.match != "off"
        for by_host in (True, False) if matching else (False,):
            if matching and not by_host and route.match == "strict":
                break
            for pool in pools:
                lanes = pool.by_host.get(host, []) if by_host else pool.all
                while (entry := self._choose(pool, lanes, campaign, now_ms, pick)) is not None:
                    key, mailbox = entry
                    box = self._boxes[mailbox]
                    if not self._settle(box, now_ms, stale):
                        continue
                    self._unfree(box)
                    campaign.pools[tier] = pool.pool_id
                    if pool.mode == "round_robin":
                        campaign.cursors[pool.pool_id] = key
                    else:
                        self._spend(box, pool.pool_id, key)
                    return box, pool.pool_id
        return None

    def _choose(
        self,
        pool: Pool,
        lanes: list[list[Entry]],
        campaign: Campaign,
        now_ms: int,
        pick: float,
    ) -> Entry | None:
        if pool.mode == "random":
            n = int(pick * sum(map(len, lanes)))
            for entries in lanes:
                if n < len(entries):
                    return entries[n]
                n -= len(entries)
            return None
        best: Entry | None = None
        if pool.mode == "round_robin":
            cursor = campaign.cursors.get(pool.pool_id)
            if cursor is not None:
                for entries in lanes:
                    n = bisect_right(entries, (cursor, 1 << 63))
                    if n < len(entries) and (best is None or entries[n] < best):
                        best = entries[n]
                if best is not None:
                    return best
        for entries in lanes:
            if entries and (best is None or entries[0] < best):
                best = entries[0]
        if best is not None and pool.mode == "priority":
            for members in pool.ranks[: best[0] // _RANK]:
                if any(self._is_open(mailbox, now_ms) for mailbox in members):
                    return None
        return best

    def _is_open(self, mailbox: int, now_ms: int) -> bool:
        box = self._boxes.get(mailbox)
        return (
            box is not None
            and box.left != 0
            and box.record.open_from_ms <= now_ms < box.record.open_until_ms
        )

    def _spend(self, box: Box, pool_id: int, key: int) -> None:
        for place in box.record.places:
            if place.pool_id == pool_id and place.mode == "weighted":
                box.passes[pool_id] = loaded(key, place.key)
                self._virtual[pool_id] = max(key, self._virtual.get(pool_id, 0))
                if key >= _MAX_VIRTUAL:
                    # Rather rebuilt than counted wrong.
                    self._served = _MAX_SERVED

    def _propose(
        self,
        box: Box,
        now_ms: int,
        draw: float,
        job_id: int,
        campaign: int,
        pool: int,
        sticky: bool,
        host: int,
        due: int,
    ) -> Proposal:
        record = box.record
        slot = now_ms + record.lead_ms
        spread = record.jitter_max_ms - record.jitter_min_ms
        box.next_ms = slot + record.cadence_ms + record.jitter_min_ms + int(spread * draw)
        if box.left > 0:
            box.left -= 1
        self._served += 1
        box.served = self._served
        self._at(box, box.next_ms - record.lead_ms)
        not_after = min(slot + record.grace_ms, record.open_until_ms)
        return Proposal(
            box.mailbox, job_id, campaign, pool, slot, not_after, sticky, host, due * 1000
        )

    def _next_wake(self, now_ms: int, wake: int | None) -> int | None:
        ready, due = self._ready, self._due
        while ready and self._is_old(ready[0]):
            heappop(ready)
        while due and self._due_ms.get(due[0][1]) != due[0][0]:
            heappop(due)
        instants = [heap[0][0] for heap in (ready, due) if heap]
        if wake is not None:
            instants.append(wake)
        return max(now_ms, min(instants)) if instants else None

    def _is_old(self, entry: tuple[int, int]) -> bool:
        box = self._boxes.get(entry[1])
        return box is None or box.ready_ms != entry[0]
