"""Which free mailbox of a pool serves next: the pool's mode as a pure choice.

Promises, each among the mailboxes that are free:

- `next_in_line`: the one served longest ago; between two turns of one, every
  other that stayed free has one.
- `round_robin`: by position, from behind the campaign's own cursor; no free
  mailbox is passed over.
- `random`: each with equal chance.
- `weighted`: counts converge to the weights among those that stay free, within
  one turn each; time not free earns no credit.
- `priority`: no backup serves while a mailbox of a better rank is open, busy or
  not; within a rank as `next_in_line`.

A slow mailbox is not free while its cadence runs and so delays no other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Mode = Literal["next_in_line", "round_robin", "random", "weighted", "priority"]

MODES: Final[tuple[Mode, ...]] = (
    "next_in_line", "round_robin", "random", "weighted", "priority",
)  # fmt: skip

WEIGHT_MAX: Final = 1000
# What a turn costs a mailbox of weight 1. Whole numbers, so that Python and
# Lua's doubles agree; a weight's share is exact to a thousandth.
_TURN: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Free:
    """A free mailbox as its pool sees it.

    `key` is its position (round_robin), weight (weighted) or rank (priority),
    else 0; `turn` the running number of its last turn, 0 for none; `load` what
    its turns in this pool cost so far (weighted), see `loaded`.
    """

    mailbox_id: int
    key: int = 0
    turn: int = 0
    load: int = 0


@dataclass(frozen=True, slots=True)
class Draw:
    """What a choice depends on besides the mailboxes.

    `cursor` is the position that served the campaign last in this pool, -1 for
    none; `pick` in [0, 1) is its random number; `best_open` the best rank of
    which any member is open, None where nobody knows of one.
    """

    cursor: int = -1
    pick: float = 0.0
    best_open: int | None = None


def choose(mode: Mode, free: Sequence[Free], draw: Draw) -> Free | None:
    """Return the mailbox that serves, None when none of `free` may.

    Equal ones go by mailbox id.
    """
    return _CHOICES[mode](free, draw) if free else None


def loaded(load: int, weight: int) -> int:
    """Return the load of a mailbox of `weight` (1..1000) after one more turn."""
    return load + _TURN // weight


def rejoined(load: int, floor: int) -> int:
    """Return the load of a mailbox that becomes free.

    `floor` is the load at which the pool's last turn was taken: whoever was
    away starts there and owes or gains nothing for it.
    """
    return max(load, floor)


def _next_in_line(free: Sequence[Free], _draw: Draw) -> Free | None:
    return min(free, key=lambda one: (one.turn, one.mailbox_id))


def _round_robin(free: Sequence[Free], draw: Draw) -> Free | None:
    return min(free, key=lambda one: (one.key <= draw.cursor, one.key, one.mailbox_id))


def _random(free: Sequence[Free], draw: Draw) -> Free | None:
    return sorted(free, key=lambda one: one.mailbox_id)[int(draw.pick * len(free))]


def _weighted(free: Sequence[Free], _draw: Draw) -> Free | None:
    return min(free, key=lambda one: (one.load, one.mailbox_id))


def _priority(free: Sequence[Free], draw: Draw) -> Free | None:
    best = min(free, key=lambda one: (one.key, one.turn, one.mailbox_id))
    return best if draw.best_open is None or best.key <= draw.best_open else None


_CHOICES: Final[Mapping[Mode, Callable[[Sequence[Free], Draw], Free | None]]] = {
    "next_in_line": _next_in_line,
    "round_robin": _round_robin,
    "random": _random,
    "weighted": _weighted,
    "priority": _priority,
}
