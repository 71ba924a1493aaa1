"""What a shard in memory keeps of mailboxes, campaigns and routes."""

from collections import deque
from dataclasses import dataclass, field

from paceline_scheduler.pacing.base import CampaignRoute, MailboxRecord, PoolRoute

Entry = tuple[int, int]  # (key, mailbox)
Lanes = dict[int, list[Entry]]


class Box:
    """One mailbox. `keys` are those of its lanes while it is free."""

    __slots__ = (
        "free", "keys", "left", "mailbox", "next_ms", "passes", "ready_ms", "record", "served"
    )  # fmt: skip

    def __init__(self, record: MailboxRecord, served: int, passes: dict[int, int]) -> None:
        self.mailbox = record.mailbox_id
        self.record = record
        self.next_ms = record.next_ms
        self.left = record.left
        self.served = served
        self.passes = passes
        self.free = False
        self.keys: list[int] = []
        self.ready_ms = -1


@dataclass(slots=True)
class HostJobs:
    """Jobs of one campaign and host: (id, due seconds). `stuck` in the call of that number."""

    jobs: deque[tuple[int, int]] = field(default_factory=deque)
    stuck: int = -1


@dataclass(slots=True)
class Campaign:
    """What waits in a campaign, and whom it went to last; `turn` is when it was served last."""

    turn: int = 0
    lists: dict[int, HostJobs] = field(default_factory=dict)
    # Pool served last, by tier; position served last, by pool.
    pools: dict[int, int] = field(default_factory=dict)
    cursors: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class FollowUps:
    """Follow-ups of one mailbox by campaign, in turn.

    Parked are those of campaigns that, in that rotation, do not let a mailbox
    of that class send: they cost nothing until either changes.
    """

    active: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)
    parked: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)
    rotation: int = 0
    klass: int = 0


class Pool:
    """A pool route over the free sets of its lanes."""

    def __init__(self, route: PoolRoute, lanes: Lanes) -> None:
        self.pool_id = route.pool_id
        self.mode = route.mode
        self.ranks = route.ranks
        self.all = [lanes.setdefault(lane, []) for lane, _ in route.lanes]
        self.by_host: dict[int, list[list[Entry]]] = {}
        for lane, host in route.lanes:
            self.by_host.setdefault(host, []).append(lanes[lane])


class Route:
    """A campaign's tiers of pools, and how long each is waited for."""

    def __init__(self, route: CampaignRoute, lanes: Lanes) -> None:
        self.classes = route.classes
        self.match = route.match
        self.tiers = [
            ([Pool(pool, lanes) for pool in tier.pools], tier.after_ms) for tier in route.tiers
        ]
