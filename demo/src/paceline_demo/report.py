"""`report.json`, and the same for people."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paceline_demo.facts import Promise


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one run; its JSON has exactly these members.

    `took_s` is from the command's start to the last check; `leads` counts leads
    per state and source; `parts` maps each part of the stack to its version;
    `vault` is the key service, `twin` where it is not the real one.
    """

    ok: bool
    took_s: float
    leads: Mapping[str, int]
    promises: Sequence[Promise]
    parts: Mapping[str, str]
    urls: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def write(self, path: Path) -> None:
        """Write the JSON; a reader never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".part")
        half.write_text(self.to_json())
        half.replace(path)

    def show(self, console: Console) -> None:
        """Print the promises, broken ones with what was seen, then the numbers and the URLs."""
        table = Table(
            title="Promises, as the mail host and the providers show them", title_justify="left"
        )
        table.add_column("")
        table.add_column("promise")
        table.add_column("expected", justify="right")
        table.add_column("seen", justify="right")
        table.add_column("evidence", overflow="fold")
        for promise in self.promises:
            mark = "[green]✓[/]" if promise.held else "[bold red]✗[/]"
            table.add_row(
                mark,
                promise.name,
                str(promise.expected),
                str(promise.seen),
                escape(promise.evidence),
            )
        console.print(table)
        console.print("leads: " + ", ".join(f"{name} {n}" for name, n in self.leads.items()))
        console.print("parts: " + ", ".join(f"{name} {v}" for name, v in self.parts.items()))
        for name, url in self.urls.items():
            console.print(f"{name}: {url}", highlight=False)
        broken = sum(not promise.held for promise in self.promises)
        verdict = "[green]every promise held[/]" if self.ok else f"[bold red]{broken} broken[/]"
        console.print(f"{verdict} · {self.took_s:.1f} s")
