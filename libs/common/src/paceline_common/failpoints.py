"""Named places where a test can make the process die, stop or fail.

Each names a persisted transition: the moment just before or just after something is committed,
published or handed over. `COMMON` are those that every service passes; a service declares its
own in `paceline_<service>.failpoints`; `python -m paceline_common.failpoints` lists them all.

Off unless told otherwise, in one of two ways:

`PACELINE_FAILPOINTS` lists `name=action[@nth]` by commas: `kill` sends SIGKILL to the process,
`raise` raises `FailpointHit`; with `@nth` only the nth passage (1-based) acts.

`PACELINE_FAILPOINTS_DIR` names a directory of orders, for tests that aim while the process runs:
a file called like a failpoint, holding `kill` or `stop` (SIGSTOP), makes the next passage act.
Of several processes with the same directory one takes the order, by renaming it to
`<name>.<pid>`, and only then acts.
"""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from paceline_common import topics

# What a passage may be qualified by: the topic, for the places marked so.
BY_TOPIC: Final = frozenset({"subscribe.after_effect_commit"})

COMMON: Final[Mapping[str, str]] = {
    "subscribe.before_effect_commit": "a batch's effect is written, not committed",
    "subscribe.after_effect_commit": "a batch's effect is committed, its offsets are not",
    "subscribe.after_offset_commit": "a batch's offsets are committed",
    "subscribe.before_quarantine_commit": "a bad record's quarantine is written, not committed",
    "subscribe.after_quarantine_commit": "a bad record is in quarantine, its offset not committed",
    "outbox.before_publish": "events are read from the outbox, not published",
    "outbox.after_publish": "events are published, still in the outbox",
    "outbox.after_delete": "events are published and deleted from the outbox",
}
NAMES: Final = frozenset(COMMON)

_SIGNALS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class FailpointHit(Exception):
    """A failpoint told to raise was passed."""


@dataclass(slots=True)
class _Armed:
    kill: bool
    nth: int | None
    passed: int = 0


_armed: dict[str, _Armed] = {}
_orders: Path | None = None


def configure(
    spec: str, *, extra_names: frozenset[str] = frozenset(), orders: Path | None = None
) -> None:
    """Arm the failpoints of `spec`, and take orders from the directory `orders`.

    Empty and None disarm all. Raises `ValueError` for an unknown name or action, so that a
    chaos test cannot pass by a typing mistake. `extra_names` are a service's own.
    """
    global _orders
    _armed.clear()
    _orders = orders
    for entry in filter(None, (part.strip() for part in spec.split(","))):
        name, _, rest = entry.partition("=")
        action, _, nth = rest.partition("@")
        if name not in NAMES | extra_names:
            raise ValueError(f"unknown failpoint {name!r}")
        if action not in ("kill", "raise"):
            raise ValueError(f"unknown action {action!r} of failpoint {name!r}")
        _armed[name] = _Armed(action == "kill", int(nth) if nth else None)


def hit(name: str, of: str | None = None) -> None:
    """Act if `name` is armed; otherwise nothing. With `of`, an order for `name:of` acts too."""
    if _orders is not None:
        _obey(_orders, name, of)
    if not _armed or (point := _armed.get(name)) is None:
        return
    point.passed += 1
    if point.nth is not None and point.passed != point.nth:
        return
    if point.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    raise FailpointHit(name)


def _obey(orders: Path, name: str, of: str | None) -> None:
    for order in (name,) if of is None else (name, f"{name}:{of}"):
        taken = orders / f"{order}.{os.getpid()}"
        try:
            os.rename(orders / order, taken)
        except FileNotFoundError:
            continue
        os.kill(os.getpid(), _SIGNALS[taken.read_text().strip()])


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """A declared failpoint. `service` is the one that passes it, empty when all do."""

    service: str
    name: str
    meaning: str

    @property
    def key(self) -> str:
        """A name that no other has: `scheduler/subscribe.after_effect_commit:sent`."""
        return f"{self.service}/{self.name}" if ":" in self.name else self.name


def declared() -> list[Point]:
    """Return every failpoint of the house; imports the services' declarations by name."""
    points = [Point("", name, text) for name, text in COMMON.items() if name not in BY_TOPIC]
    for topic in topics.ALL:
        points += [
            Point(service, f"{name}:{topic.name}", COMMON[name])
            for service in topic.consumers
            for name in sorted(BY_TOPIC)
        ]
    for service in topics.SERVICES:
        module = f"paceline_{service}.failpoints"
        if find_spec(module) is not None:
            own: Mapping[str, str] = import_module(module).FAILPOINTS
            points += [Point(service, name, text) for name, text in own.items()]
    return points


def main() -> None:
    """List every declared failpoint: who passes it, its name, what it stands behind."""
    for point in declared():
        sys.stdout.write(f"{point.service or 'all':<10} {point.name:<50} {point.meaning}\n")


if __name__ == "__main__":
    main()
