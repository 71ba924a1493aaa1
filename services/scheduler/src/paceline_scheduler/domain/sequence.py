"""The order of a campaign's messages."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class NextStep:
    """The message that follows: its position and when it is due."""

    position: int
    due_at: datetime


def first_due(now: datetime, start_at: datetime | None) -> datetime:
    """Return when step 1 is due: not before the campaign's start."""
    return now if start_at is None else max(now, start_at)


def after(position: int, sent_at: datetime, delays: Mapping[int, timedelta]) -> NextStep | None:
    """Return the step after `position`, sent at `sent_at`; None when the sequence is over.

    `delays` maps each position to the delay after its predecessor. A position
    that no longer exists is passed over.
    """
    following = min((one for one in delays if one > position), default=None)
    return None if following is None else NextStep(following, sent_at + delays[following])
