"""How hard one lead may be pressed: by one campaign at a time, with days between two."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True, slots=True)
class Pressure:
    """What holds for one campaign: `parallel` where others may have its leads as well,
    `gap` the least time from another campaign's last message to its own first."""

    parallel: bool
    gap: timedelta


@dataclass(frozen=True, slots=True)
class Sibling:
    """An enrollment of the same lead; `alone`: its campaign claims its leads for itself.

    `waits` says that it is held back itself.
    """

    enrollment_id: int
    campaign_id: int
    active: bool
    alone: bool
    waits: bool


def must_wait(
    campaign_id: int,
    pressure: Pressure,
    siblings: Iterable[Sibling],
    enrollment_id: int | None = None,
) -> bool:
    """Return whether an enrollment waits for another campaign to be done with its lead.

    Those that wait go in the order of their enrollment; `enrollment_id` None is
    a new one, behind all others.
    """
    if pressure.parallel:
        return False
    return any(
        one.active
        and one.alone
        and one.campaign_id != campaign_id
        and (not one.waits or enrollment_id is None or one.enrollment_id < enrollment_id)
        for one in siblings
    )


def not_before(
    campaign_id: int,
    pressure: Pressure,
    contacted_at: datetime | None,
    contacted_campaign_id: int | None,
) -> datetime | None:
    """Return the earliest instant of a campaign's first message; None: no such limit.

    A campaign's own messages do not count.
    """
    if contacted_at is None or contacted_campaign_id == campaign_id or not pressure.gap:
        return None
    return contacted_at + pressure.gap
