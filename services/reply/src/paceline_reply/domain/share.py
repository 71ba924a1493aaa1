"""Which mailboxes an instance reads when several share them: each has one reader at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Key = tuple[int, int]
"""Workspace and mailbox."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A mailbox to read, and whose it is; this instance's own for `left_s` more."""

    key: Key
    whose: Literal["mine", "others", "nobodys"]
    left_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read on, what to let go, what to take or to lengthen."""

    keep: frozenset[Key]
    leave: tuple[Key, ...]
    take: tuple[Key, ...]


def plan(seen: Sequence[Seen], instances: int, lease_s: float) -> Plan:
    """Return what an instance does about its share, when `instances` are alive, itself included.

    It holds no more than its share, so that one that has just started gets some; a lease
    is lengthened once half of it is over.
    """
    share = math.ceil(len(seen) / max(1, instances))
    mine = sorted((one for one in seen if one.whose == "mine"), key=lambda one: one.key)
    free = sorted(one.key for one in seen if one.whose == "nobodys")
    kept = mine[:share]
    lengthen = [one.key for one in kept if one.left_s < lease_s / 2]
    return Plan(
        keep=frozenset(one.key for one in kept if one.left_s > 0),
        leave=tuple(one.key for one in mine[share:]),
        take=(*lengthen, *free[: max(0, share - len(kept))]),
    )
