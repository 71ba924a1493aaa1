"""The distance between two sends of one mailbox: a floor that is never undercut."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

_LEAD_MIN: Final = timedelta(milliseconds=250)
_LEAD_MAX: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Cadence:
    """`every` plus a jitter drawn per send between two bounds; `grace` is how late a send may be.

    The jitter is never below grace: a send at the end of its grace and the next
    one at its very instant are still `every` apart.
    """

    every: timedelta
    jitter_min: timedelta
    jitter_max: timedelta
    grace: timedelta

    def __post_init__(self) -> None:
        if not timedelta() <= self.grace <= self.jitter_min <= self.jitter_max:
            raise ValueError("a cadence needs 0 <= grace <= jitter_min <= jitter_max")

    def next_at(self, slot_at: datetime, draw: float) -> datetime:
        """Return the earliest instant of the send after one at `slot_at`; `draw` in [0, 1)."""
        return slot_at + self.every + self.jitter_min + (self.jitter_max - self.jitter_min) * draw

    def first_after(self, opening: datetime, draw: float) -> datetime:
        """Return the first instant after an opening: uniform over one cadence, never a burst."""
        return opening + self.every * draw

    @property
    def lead(self) -> timedelta:
        """How far ahead a slot is reserved, so that the sender can prepare."""
        return max(_LEAD_MIN, min(_LEAD_MAX, self.every / 2))
