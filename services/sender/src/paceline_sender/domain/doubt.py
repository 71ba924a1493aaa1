"""When to look for proof about a submission in doubt."""

import random
from datetime import datetime, timedelta
from typing import Final

# In terms of the first look: 1, 5 and 15 min after the doubt began, then hourly, after a day daily.
_EARLY: Final = (1, 5, 15)
_HOURLY: Final = 60
_DAILY: Final = 24 * 60
_JITTER: Final = 0.2


def next_look(
    since: datetime,
    looks: int,
    now: datetime,
    first: timedelta,
    rng: random.Random,
    *,
    destroy_from: datetime | None = None,
    not_before: datetime | None = None,
) -> datetime:
    """Return when to look again after `looks` looks at a doubt open `since`.

    `first`: how long after its beginning a doubt is looked at first. `destroy_from`: from when
    on its draft may be destroyed, None if that is of no use; the look is not later than that.
    `not_before`: a provider's own wish.
    """
    if looks < len(_EARLY):
        wait = since + first * _EARLY[looks] - now
    elif now - since < first * _DAILY:
        wait = first * _HOURLY
    else:
        wait = first * _DAILY
    # After an outage the early looks are past: they are not made up for all at once.
    wait = max(wait, first) * (1 + rng.uniform(-_JITTER, _JITTER))
    at = now + wait
    if destroy_from is not None and now < destroy_from:
        at = min(at, destroy_from)
    return at if not_before is None else max(at, not_before)
