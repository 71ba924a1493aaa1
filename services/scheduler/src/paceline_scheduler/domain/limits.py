"""What a provider's own limit on a mailbox makes of the days after it.

The mailbox is held until its provider takes more: that is the sender's and bounce's. Here its
caps are halved, for who goes on at the same pace runs into the same limit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from paceline_scheduler.domain.window import day_span


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRules:
    """The numbers: how many days after a limit have half their cap.

    On `repeated` days with a limit, no more than `again_days` between one and the next, it is
    a repetition: `repeated_days`, and a person is told.
    """

    halved_days: int = 1
    again_days: int = 7
    repeated: int = 2
    repeated_days: int = 7


@dataclass(frozen=True, slots=True)
class Limited:
    """The last local `day` on which the provider limited the mailbox; on `times` days in a row,
    as far as `LimitRules.again_days` makes one."""

    day: date
    times: int


def limited(last: Limited | None, days: Iterable[date], rules: LimitRules) -> Limited | None:
    """Return `last` with the limits of more `days` counted.

    A day counts once, whatever was refused on it, and one before the last says nothing new.
    """
    for day in sorted(days):
        if last is None or day - last.day > timedelta(days=rules.again_days):
            last = Limited(day, 1)
        elif day > last.day:
            last = Limited(day, last.times + 1)
    return last


def is_repeated(found: Limited, rules: LimitRules) -> bool:
    """Tell whether the provider limits the mailbox again and again."""
    return found.times >= rules.repeated


def throttled_until(found: Limited, tz: ZoneInfo, rules: LimitRules) -> datetime:
    """Return the midnight that ends the throttle: the day itself and those after it are halved."""
    days = rules.repeated_days if is_repeated(found, rules) else rules.halved_days
    return day_span(found.day + timedelta(days=days), tz).end
