"""Named places where a test can make the process die or fail.

`PACELINE_FAILPOINTS` lists `name=action[@nth]` by commas: `kill` sends SIGKILL
to the process, `raise` raises `FailpointHit`; with `@nth` only the nth passage
(1-based) acts. Off unless the variable names something.
"""

import os
import signal
from dataclasses import dataclass
from typing import Final

NAMES: Final = frozenset(
    {
        "subscribe.before_effect_commit",
        "subscribe.after_effect_commit",
        "outbox.before_publish",
        "outbox.after_publish",
        "outbox.after_delete",
    }
)


class FailpointHit(Exception):
    """A failpoint told to raise was passed."""


@dataclass(slots=True)
class _Armed:
    kill: bool
    nth: int | None
    passed: int = 0


_armed: dict[str, _Armed] = {}


def configure(spec: str, *, extra_names: frozenset[str] = frozenset()) -> None:
    """Arm the failpoints of `spec`; an empty text disarms all.

    Raises `ValueError` for an unknown name or action, so that a chaos test
    cannot pass by a typing mistake. `extra_names` are a service's own.
    """
    _armed.clear()
    for entry in filter(None, (part.strip() for part in spec.split(","))):
        name, _, rest = entry.partition("=")
        action, _, nth = rest.partition("@")
        if name not in NAMES | extra_names:
            raise ValueError(f"unknown failpoint {name!r}")
        if action not in ("kill", "raise"):
            raise ValueError(f"unknown action {action!r} of failpoint {name!r}")
        _armed[name] = _Armed(action == "kill", int(nth) if nth else None)


def hit(name: str) -> None:
    """Act if `name` is armed; otherwise nothing."""
    if not _armed or (point := _armed.get(name)) is None:
        return
    point.passed += 1
    if point.nth is not None and point.passed != point.nth:
        return
    if point.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    raise FailpointHit(name)
