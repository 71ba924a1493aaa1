"""What the demo shows while it runs: a live board, or plain lines where there is no terminal."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

_EVENTS_SHOWN: Final = 10
# Without a terminal a line of totals now and then is enough.
_TOTALS_EVERY_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class MailboxRow:
    """One mailbox: messages the mail host took from it, its next slot, what it waits for."""

    email: str
    sent: int
    next_slot: datetime | None
    waits_for: str


@dataclass(slots=True)
class Board:
    """The live view. `quiet` shows nothing (for `--json`)."""

    console: Console
    quiet: bool = False
    _began: float = field(default_factory=time.monotonic)
    _phase: str = "starting"
    _mailboxes: list[MailboxRow] = field(default_factory=list)
    _totals: dict[str, int] = field(default_factory=dict)
    _submitted: int = 0
    _events: deque[str] = field(default_factory=lambda: deque(maxlen=_EVENTS_SHOWN))
    _live: Live | None = None
    _told_totals: float = 0.0

    def __enter__(self) -> Self:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(
                self._draw(), console=self.console, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    @property
    def elapsed_s(self) -> float:
        """Return seconds since the board was made."""
        return time.monotonic() - self._began

    def phase(self, name: str) -> None:
        """Say what the demo does now."""
        self._phase = name
        self._show(f"[bold]{escape(name)}[/]")

    def say(self, line: str) -> None:
        """Add a line that people should see now and find again above the board."""
        self._show(f"  {escape(line)}")

    def part(self, name: str, state: str, detail: str) -> None:
        """Show that a part of the stack is in `state` (see `paceline_local.stack.Report`)."""
        if state in {"ready", "failed"}:
            self._show(f"  {escape(name)} {state} {escape(detail)}")
        else:
            self.event(f"{name} {detail}")

    def event(self, line: str) -> None:
        """Add one event to the short list of the last ones."""
        self._events.append(f"{self.elapsed_s:6.1f} s  {line}")
        self._refresh()

    def update(
        self, mailboxes: list[MailboxRow], totals: Mapping[str, int], submitted: int
    ) -> None:
        """Show new numbers; `totals` are enrollments per state."""
        self._mailboxes, self._totals, self._submitted = mailboxes, dict(totals), submitted
        if self._live is None and time.monotonic() - self._told_totals >= _TOTALS_EVERY_S:
            self._told_totals = time.monotonic()
            self._show(f"  {self._sum()}")
        self._refresh()

    def _show(self, markup: str) -> None:
        if self.quiet:
            return
        self.console.print(f"[dim]{self.elapsed_s:6.1f} s[/]  {markup}", highlight=False)
        self._refresh()

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._draw())

    def _sum(self) -> str:
        states = ", ".join(f"{state} {n}" for state, n in sorted(self._totals.items()) if n)
        return f"{self._submitted} submissions · {states or 'no enrollments yet'}"

    def _draw(self) -> RenderableType:
        table = Table("mailbox", "sent", "next slot", "waits for", box=None, expand=True)
        for row in self._mailboxes:
            slot = f"{row.next_slot:%H:%M:%S}" if row.next_slot else "–"
            table.add_row(row.email, str(row.sent), slot, row.waits_for)
        events = Text("\n".join(self._events), overflow="ellipsis", no_wrap=True)
        title = f"{self._phase} · {self.elapsed_s:.0f} s"
        return Panel(Group(table, Text(self._sum()), Text(), events), title=title)
