"""Instants of the Postgres clock on this process's monotonic clock, with both bounds.

Postgres decides whether a slot is open, this process decides when MAIL FROM
leaves. A reading of the Postgres clock taken between two monotonic readings
bounds the difference of the two clocks from both sides; the promises use the
bound that is on their side, never an estimate.
"""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

# The claim function accepts from 50 ms before T; 5 ms are left for errors of the estimate.
CLAIM_AHEAD: Final = timedelta(milliseconds=45)
_MICROSECOND: Final = 1e-6


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The Postgres clock showed `db_now` at some instant between the monotonic
    seconds `asked` and `answered`."""

    db_now: datetime
    asked: float
    answered: float

    @property
    def uncertainty(self) -> float:
        """Seconds between the question and the answer."""
        return self.answered - self.asked

    def reached(self, instant: datetime) -> float:
        """Return a monotonic time at which the Postgres clock surely shows `instant` or later.

        At `answered` it showed `db_now` or later, and both clocks run at one rate.
        """
        # One microsecond up: datetimes are cut to microseconds, floats round.
        return self.answered + (instant - self.db_now).total_seconds() + _MICROSECOND

    def latest(self, monotonic: float) -> datetime:
        """Return the latest instant that the Postgres clock can show at `monotonic`."""
        return self.db_now + timedelta(seconds=monotonic - self.asked + _MICROSECOND)

    def estimate(self, instant: datetime) -> float:
        """Return the likeliest monotonic time of `instant`; nothing may be promised on it."""
        middle = (self.asked + self.answered) / 2
        return middle + (instant - self.db_now).total_seconds()


@dataclass(slots=True)
class PostgresClock:
    """The best of the last readings: the one with the shortest round trip.

    Old readings fall out by count, so that a clock step on the server is
    believed after `keep` further readings.
    """

    keep: int = 16
    _readings: deque[ClockReading] = field(default_factory=deque)

    def learn(self, reading: ClockReading) -> None:
        """Take one more reading."""
        self._readings.append(reading)
        if len(self._readings) > self.keep:
            self._readings.popleft()

    def forget(self) -> None:
        """Drop all readings: the server's clock is known to be elsewhere."""
        self._readings.clear()

    @property
    def best(self) -> ClockReading | None:
        """The reading with the least uncertainty; None before the first."""
        return min(self._readings, key=lambda reading: reading.uncertainty, default=None)
