"""What every part of the stack has in common."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from paceline_local.layout import Layout
from paceline_local.passwords import Passwords
from paceline_local.ports import Ports
from paceline_local.process import Processes, wait_until

Say = Callable[[str], None]
"""Takes one short line about what the part is doing now."""


class PartFailed(Exception):
    """A part did not start: which one, why, the last lines of its log, and what to do.

    `process` names the log when the part has several.
    """

    def __init__(
        self,
        part: str,
        reason: str,
        remedy: str,
        tail: list[str] | None = None,
        process: str | None = None,
    ) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.process = process or part
        self.reason = reason
        self.remedy = remedy
        self.tail = tail or []


@dataclass(frozen=True)
class Site:
    """What a part is given: where it lives, its ports, its passwords, its processes."""

    layout: Layout
    ports: Ports
    passwords: Passwords
    processes: Processes
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)


@dataclass(frozen=True, slots=True)
class Need:
    """A program that a part needs, and the Debian packages that bring it."""

    present: Callable[[], bool]
    packages: tuple[str, ...]


class Part(Protocol):
    """One part: started, awaited and provisioned by `start`; every call is idempotent."""

    @property
    def name(self) -> str: ...
    @property
    def processes(self) -> tuple[str, ...]: ...
    @property
    def port_names(self) -> tuple[str, ...]: ...

    def needs(self) -> list[Need]:
        """Return the programs that must be on the machine before `start`."""

    def start(self, say: Say) -> None:
        """Return once the part is ready and provisioned; raise `PartFailed` otherwise."""

    def ready(self) -> bool:
        """Return whether the part answers right now."""

    def version(self) -> str:
        """Return the version that runs, or an empty text when it cannot be told."""

    def stop(self) -> None:
        """End the part's processes."""


def await_ready(
    site: Site, part: str, process: str, ready: Callable[[], bool], seconds: float, remedy: str
) -> None:
    """Wait until `ready`; raise `PartFailed` as soon as `process` ends or time is up."""
    ended = False

    def settled() -> bool:
        nonlocal ended
        ended = site.processes.find(process) is None
        return ended or ready()

    answered = wait_until(settled, seconds, every=0.1)
    if ended or not answered:
        reason = "ended while starting" if ended else f"did not answer within {seconds:.0f} s"
        tail = site.processes.tail(process)
        raise PartFailed(part, f"{process} {reason}", remedy, tail, process)
