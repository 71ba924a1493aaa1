"""The distance between two sends of one mailbox: a floor that is never undercut."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

_LEAD_MIN: Final = timedelta(milliseconds=250)
_LEAD_MAX: Final = timedelta(seconds=2)
_ZERO: Final = timedelta()
_MS: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Cadence:
    """`every` plus a jitter drawn per send between two bounds; `grace` is how late a send may be.

    The jitter is never below grace: a send at the end of its grace and the next
    one at its very instant are still `every` apart. A node's rate has no jitter
    at all (`jitter_max` 0): its slots keep the distance, its sends may come
    closer by the grace.
    """

    every: timedelta
    jitter_min: timedelta
    jitter_max: timedelta
    grace: timedelta

    def __post_init__(self) -> None:
        if self.every < _ZERO or self.grace < _ZERO or self.jitter_min < _ZERO:
            raise ValueError("a cadence has no negative spans")
        floor = _ZERO if self.jitter_max == _ZERO else self.grace
        if not floor <= self.jitter_min <= self.jitter_max:
            raise ValueError("a cadence needs grace <= jitter_min <= jitter_max")

    @classmethod
    def of_rate(cls, rate_per_s: float | None, grace: timedelta) -> Self:
        """Return a node's cadence: `rate_per_s` slots a second, None for no distance at all.

        The distance is rounded up to a millisecond, so that the rate is never passed.
        """
        every = _ZERO if rate_per_s is None else -(-timedelta(seconds=1 / rate_per_s) // _MS) * _MS
        return cls(every, _ZERO, _ZERO, grace)

    def next_at(self, slot_at: datetime, draw: float) -> datetime:
        """Return the earliest instant of the send after one at `slot_at`; `draw` in [0, 1)."""
        return slot_at + self.every + self.jitter_min + (self.jitter_max - self.jitter_min) * draw

    def first_after(self, opening: datetime, draw: float) -> datetime:
        """Return the first instant after an opening: uniform over one cadence, never a burst."""
        return opening + self.every * draw

    @property
    def mean(self) -> timedelta:
        """The distance between two slots in the long run."""
        return self.every + (self.jitter_min + self.jitter_max) / 2

    @property
    def lead(self) -> timedelta:
        """How far ahead a slot is reserved, so that the sender can prepare."""
        return max(_LEAD_MIN, min(_LEAD_MAX, self.every / 2))
