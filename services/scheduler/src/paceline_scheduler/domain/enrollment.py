"""The states of an enrollment: exactly one at every moment."""

from typing import Final, Literal

State = Literal[
    "active", "finished", "replied", "bounced", "unsubscribed", "suppressed", "stopped", "failed"
]

STATES: Final[tuple[State, ...]] = (
    "active", "finished", "replied", "bounced", "unsubscribed", "suppressed", "stopped", "failed",
)  # fmt: skip

# What may still be learned once the last step is sent.
LATE: Final[frozenset[State]] = frozenset({"bounced", "replied", "unsubscribed"})


def may_follow(old: State, new: State) -> bool:
    """Return whether an enrollment in `old` may end in `new`."""
    return new != "active" and (old == "active" or (old == "finished" and new in LATE))
