"""How campaigns reach mailboxes: classes of mailboxes, lanes of pools, routes of campaigns.

A class gathers mailboxes that every campaign of a workspace treats alike; its
number says which: types (3 bits), host (2 bits), and one more than the highest
of the campaigns' health floors that they reach (0: none). A lane is a pool's
share of one class; its number is given out once per epoch, the same for all
schedulers.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row

from paceline_common import telemetry
from paceline_scheduler.pacing.base import (
    MAX_LANES,
    MAX_RANK,
    CampaignRoute,
    Mode,
    Place,
    PoolRoute,
    TierRoute,
)

_HOST: Final = 3
_FLOOR: Final = 5

_log = telemetry.logger("scheduler.routes")


def class_of(types: int, host: int, health: int | None, floors: Sequence[int]) -> int:
    """Return the class of a mailbox; `health` None where it is unknown or no floor holds;
    `floors` are those of all campaigns of the workspace, ascending."""
    reached = len(floors) if health is None else bisect_right(floors, health)
    return types | host << _HOST | (floors[reached - 1] + 1 if reached else 0) << _FLOOR


def admits(klass: int, campaign_type: int, min_health: int) -> bool:
    """Return whether a campaign may be served by mailboxes of the class."""
    return bool(klass & campaign_type) and klass >> _FLOOR > min_health


def host_of(klass: int) -> int:
    """Return the host code of a class."""
    return klass >> _HOST & 3


class Lanes:
    """The numbers of (pool, class), as the shard's row lists them."""

    def __init__(self, listed: Iterable[Sequence[int]]) -> None:
        self._numbers = {(pool, klass): n for n, (pool, klass) in enumerate(listed)}
        self.has_grown = False

    def number(self, pool_id: int, klass: int) -> int | None:
        """Return the lane of a pool's class; None when a store has no more lanes (see the log):
        the next epoch numbers anew those that are in use."""
        found = self._numbers.get((pool_id, klass))
        if found is None:
            if len(self._numbers) >= MAX_LANES:
                _log.error("no lane left", count=len(self._numbers))
                return None
            found = self._numbers[pool_id, klass] = len(self._numbers)
            self.has_grown = True
        return found

    def listed(self) -> list[tuple[int, int]]:
        """Return them in order."""
        return list(self._numbers)


@dataclass(frozen=True, slots=True)
class Members:
    """Who is in which pool, from rows of `load_pools.sql`."""

    places: Mapping[int, tuple[Place, ...]]
    classes: Mapping[int, int]
    pools: Mapping[int, Sequence[Row[Any]]]

    @classmethod
    def of(cls, rows: Sequence[Row[Any]], floors: Sequence[int], lanes: Lanes) -> "Members":
        """Number the lanes of all members and give each its places."""
        places: dict[int, list[Place]] = defaultdict(list)
        pools: dict[int, list[Row[Any]]] = defaultdict(list)
        classes: dict[int, int] = {}
        for row in rows:
            klass = class_of(row.types, row.host, row.health, floors)
            lane = lanes.number(row.pool_id, klass)
            if lane is not None:
                classes[row.mailbox_id] = klass
                pools[row.pool_id].append(row)
                places[row.mailbox_id].append(Place(lane, row.pool_id, row.rotation, _key(row)))
        return cls({one: tuple(found) for one, found in places.items()}, classes, pools)

    def routes(self, campaigns: Sequence[Row[Any]], lanes: Lanes) -> list[CampaignRoute]:
        """Return the routes of campaigns, rows of `load_routes.sql`, that any pool can serve."""
        # By pool: its mode, its classes, and its members by rank.
        modes: dict[int, Mode] = {pool: rows[0].rotation for pool, rows in self.pools.items()}
        classes = {
            pool: sorted({self.classes[row.mailbox_id] for row in rows})
            for pool, rows in self.pools.items()
        }
        every = sorted(set(self.classes.values()))
        routes = []
        for campaign in campaigns:
            open_to = {one for one in every if admits(one, campaign.type, campaign.min_health)}
            tiers = [
                TierRoute(
                    tuple(
                        PoolRoute(
                            pool,
                            modes[pool],
                            tuple(
                                (lane, host_of(one))
                                for one in classes[pool]
                                if one in open_to and (lane := lanes.number(pool, one)) is not None
                            ),
                            self._ranks(pool, open_to) if modes[pool] == "priority" else (),
                        )
                        for pool in dict.fromkeys(tier["pools"])
                        if pool in self.pools
                    ),
                    None if tier["after_s"] is None else tier["after_s"] * 1000,
                )
                for tier in campaign.tiers
            ]
            if tiers:
                routes.append(
                    CampaignRoute(
                        campaign.campaign_id, frozenset(open_to), tuple(tiers), campaign.esp_match
                    )
                )
        return routes

    def _ranks(self, pool: int, open_to: set[int]) -> tuple[tuple[int, ...], ...]:
        """Return, by rank, the members that hold backups off: those the campaign may use."""
        ranks: dict[int, list[int]] = defaultdict(list)
        for row in self.pools[pool]:
            if self.classes[row.mailbox_id] in open_to:
                ranks[min(row.rank, MAX_RANK)].append(row.mailbox_id)
        return tuple(tuple(ranks[rank]) for rank in range(max(ranks, default=-1) + 1))


def _key(row: Row[Any]) -> int:
    match row.rotation:
        case "round_robin":
            return int(row.position)
        case "weighted":
            return int(row.weight)
        case "priority":
            return min(int(row.rank), MAX_RANK)
        case _:
            return 0
