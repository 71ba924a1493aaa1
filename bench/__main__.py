"""`make bench [ROWS=9,10]`: measure, print a table, write `bench/results/latest.json`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.rows import ROWS

RESULTS = Path(__file__).parent / "results" / "latest.json"


def main(
    rows: Annotated[str, typer.Option(help="comma list of rows; empty: all")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="interleaved repeats per figure")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure rows; exit 1 when a goal is missed, 2 for a row that does not exist."""
    chosen = sorted(ROWS) if not rows else [int(row) for row in rows.split(",")]
    unknown = [row for row in chosen if row not in ROWS]
    if unknown:
        typer.echo(f"no row {unknown}; there are {sorted(ROWS)}", err=True)
        raise typer.Exit(2)
    console = Console(stderr=as_json)
    results = []
    for row in chosen:
        with console.status(f"row {row}"):
            results += ROWS[row](repeats)
    RESULTS.parent.mkdir(exist_ok=True)
    text = json.dumps([result.as_json() for result in results], indent=2)
    RESULTS.write_text(text + "\n")
    if as_json:
        typer.echo(text)
    table = Table("row", "what", "ours", "theirs", "unit", "ratio", "goal", "met")
    for result in results:
        sign = "≥" if result.better == "higher" else "≤"
        table.add_row(
            str(result.row), result.name, f"{result.ours:.4g}", f"{result.theirs:.4g}",
            result.unit, f"{result.ratio:.2f}", f"{sign} {result.goal:g}",
            "[green]yes[/]" if result.met else "[red]no[/]",
        )  # fmt: skip
    console.print(table)
    raise typer.Exit(0 if all(result.met for result in results) else 1)


if __name__ == "__main__":
    typer.run(main)
