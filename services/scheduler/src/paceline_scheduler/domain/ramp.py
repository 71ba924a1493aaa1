"""How many messages a day a young mailbox may send: a curve over its days."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

START: Final = 50
# PROVIDERS §7: where the provider's own start is lower.
STARTS: Final[Mapping[str, int]] = {
    "google_workspace": 40,
    "microsoft365": 30,
    "gmail_consumer": 20,
}


@dataclass(frozen=True, slots=True)
class Ramp:
    """Points (day, cap), days ascending from 0: linear between points, the last one holds.

    Between points a cap is rounded down. Raises ValueError for anything else.
    """

    points: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        days = [day for day, _ in self.points]
        if not days or days[0] != 0 or days != sorted(set(days)):
            raise ValueError("a ramp's days ascend from 0")
        if any(cap < 0 for _, cap in self.points):
            raise ValueError("a ramp's caps are not negative")

    def cap_on(self, day: int) -> int:
        """Return the cap on the day of that index; before day 0 it is day 0's."""
        at = bisect_right(self.points, day, key=_day)
        if at == 0:
            return self.points[0][1]
        start, low = self.points[at - 1]
        if at == len(self.points):
            return low
        end, high = self.points[at]
        return low + (high - low) * (day - start) // (end - start)


def start_of(provider: str) -> int:
    """Return the day-0 cap of a mailbox at `provider`."""
    return STARTS.get(provider, START)


def default(provider: str) -> Ramp:
    """Return the default ramp: from the start to 500 a day on day 30, then hold."""
    return Ramp(((0, start_of(provider)), (30, 500)))


def conservative(provider: str) -> Ramp:
    """Return the slower ramp: from half the start, rounded up, to 300 a day on day 45."""
    return Ramp(((0, -(-start_of(provider) // 2)), (45, 300)))


def _day(point: tuple[int, int]) -> int:
    return point[0]
