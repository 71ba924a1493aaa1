"""From which mailbox a follow-up goes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sender:
    """A mailbox, and the pool of the campaign it served the enrollment for."""

    mailbox_id: int
    pool_id: int


def for_step(position: int, first: Sender | None) -> Sender | None:
    """Return the mailbox that alone may send a step; None: any of the tier's pools.

    Follow-ups go from the mailbox that sent the first message. What happens
    when it is gone (`wait`, `reassign`, `stop`) is decided here, later; until
    then they wait.
    """
    return first if position > 1 else None


def serving_pools(tiers: list[list[int]]) -> tuple[int, ...]:
    """Return the pools that may serve a new lead: those of the first tier.

    Falling through to a later tier, by deadline and permission, comes here.
    """
    return tuple(dict.fromkeys(tiers[0])) if tiers else ()
