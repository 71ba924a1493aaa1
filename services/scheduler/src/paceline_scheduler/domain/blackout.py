"""Local dates on which a mailbox sends nothing."""

from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

Cause = Literal["blackout", "holiday"]


@dataclass(frozen=True, slots=True)
class Blackouts:
    """Closed local dates: the user's own `dates`, and the `holidays` of the mailbox's country.

    A closed date is closed from its local midnight to the next.
    """

    dates: frozenset[date] = frozenset()
    holidays: frozenset[date] = frozenset()

    def cause(self, day: date) -> Cause | None:
        """Return why `day` is closed, None when it is not."""
        if day in self.dates:
            return "blackout"
        return "holiday" if day in self.holidays else None

    def __len__(self) -> int:
        """How many dates are closed, those that are closed twice counted twice."""
        return len(self.dates) + len(self.holidays)


NONE: Final = Blackouts()
