"""The send job's state machine; the database's trigger holds the same table."""

from collections.abc import Mapping
from typing import Final, Literal

Kind = Literal["campaign", "test", "warmup", "reply"]
State = Literal[
    "queued", "reserved", "sending", "in_doubt", "sent", "bounced", "failed", "cancelled"
]

KINDS: Final[tuple[Kind, ...]] = ("campaign", "test", "warmup", "reply")
STATES: Final[tuple[State, ...]] = (
    "queued", "reserved", "sending", "in_doubt", "sent", "bounced", "failed", "cancelled",
)  # fmt: skip
OPEN: Final[tuple[State, ...]] = ("queued", "reserved", "sending", "in_doubt")

TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    "queued": frozenset({"reserved", "cancelled"}),
    # Failed before its claim: the message cannot be built.
    "reserved": frozenset({"sending", "queued", "failed", "cancelled"}),
    "sending": frozenset({"sent", "bounced", "failed", "in_doubt", "queued", "cancelled"}),
    # Queued again only with proof that nothing was accepted, or by a person's word. A refusal is
    # what a submission answered that was thought to have nobody left to answer.
    "in_doubt": frozenset({"sent", "bounced", "failed", "queued", "cancelled"}),
    "sent": frozenset(),
    "bounced": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}


def may_follow(old: State, new: State) -> bool:
    """Return whether a job may go from `old` to `new` (staying is no transition)."""
    return new in TRANSITIONS[old]
