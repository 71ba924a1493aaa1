"""A refusal as a value: why something may not be sent now, with its numbers."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """Not now: `reason` is a code of `reason.REASONS`.

    `until` is when to look again (aware, UTC), None for not by itself; `used`
    and `limit` are what was counted and what is allowed, where the reason counts.
    """

    reason: str
    until: datetime | None
    used: int | None = None
    limit: int | None = None
