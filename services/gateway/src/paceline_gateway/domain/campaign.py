"""The life of a campaign: which action leads from which state to which."""

from dataclasses import dataclass, field
from typing import Final, Literal

Status = Literal[
    "draft", "scheduled", "running", "paused", "auto_paused", "stopped", "finished", "archived"
]
Action = Literal["schedule", "unschedule", "start", "pause", "resume", "stop", "archive"]

STATUSES: Final[tuple[Status, ...]] = (
    "draft", "scheduled", "running", "paused", "auto_paused", "stopped", "finished", "archived",
)  # fmt: skip

TRANSITIONS: Final[dict[Action, dict[Status, Status]]] = {
    "schedule": {"draft": "scheduled", "scheduled": "scheduled"},
    "unschedule": {"scheduled": "draft"},
    "start": {"draft": "running", "scheduled": "running"},
    "pause": {"running": "paused", "auto_paused": "paused"},
    "resume": {"paused": "running", "auto_paused": "running"},
    "stop": {
        "running": "stopped", "paused": "stopped", "auto_paused": "stopped",
        "scheduled": "stopped",
    },
    "archive": {"draft": "archived", "stopped": "archived", "finished": "archived"},
}  # fmt: skip

# An action that finds its own result already there succeeds without effect, so
# that a retried request is no error.
SETTLED: Final[dict[Action, frozenset[Status]]] = {
    "schedule": frozenset(),
    "unschedule": frozenset({"draft"}),
    "start": frozenset({"running"}),
    "pause": frozenset({"paused"}),
    "resume": frozenset({"running"}),
    "stop": frozenset({"stopped", "archived"}),
    "archive": frozenset({"archived"}),
}

# States in which steps and tiers may lose members: nothing was sent yet.
UNSTARTED: Final = frozenset[Status]({"draft", "scheduled"})
# States from which nothing is ever sent again.
ENDED: Final = frozenset[Status]({"stopped", "finished", "archived"})


@dataclass(frozen=True, slots=True)
class Move:
    """The action applies: the campaign goes to `status`."""

    status: Status


@dataclass(frozen=True, slots=True)
class Stay:
    """The action was done before; nothing changes."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The action does not apply in this state; `allowed` are the states in which it does."""

    allowed: tuple[Status, ...]


def apply(action: Action, status: Status) -> Move | Stay | Refused:
    """Return what `action` does to a campaign in `status`."""
    if status in TRANSITIONS[action]:
        return Move(TRANSITIONS[action][status])
    if status in SETTLED[action]:
        return Stay()
    return Refused(tuple(TRANSITIONS[action]))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check of a campaign found.

    An `error` forbids the start; a `warning` does not. `where` names the place in
    the campaign (`steps[2].subject`, `tiers`). `count` says how many it concerns,
    `examples` names a few of them.
    """

    severity: Literal["error", "warning"]
    code: str
    where: str
    message: str
    count: int | None = None
    examples: list[str] = field(default_factory=list)
