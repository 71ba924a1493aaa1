"""`paceline-local`: start, show and end the local stack."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from paceline_common import topics
from paceline_local import vaultbuild
from paceline_local.parts.base import PartFailed
from paceline_local.parts.keys import Kind
from paceline_local.stack import Stack, StackFailed

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
_out: Final = Console()
_MARKS: Final = {"waiting": "·", "working": "…", "ready": "[green]✓[/]", "failed": "[red]✗[/]"}


class Progress:
    """A live table of the parts while they start; plain lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._rows: dict[str, tuple[str, str, float]] = {}
        self._live = Live(console=console, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, part: str, state: str, detail: str) -> None:
        """Show that `part` is in `state` now."""
        took = time.monotonic() - self._began
        self._rows[part] = (state, detail, took)
        if self._live:
            self._live.update(self._table())
        elif state in {"ready", "failed"} or detail:
            self._console.print(f"{took:6.1f} s  {_MARKS[state]} {part:<10} {detail}")

    def _table(self) -> Table:
        table = Table(box=None, show_header=False)
        for part, (state, detail, took) in self._rows.items():
            table.add_row(_MARKS[state], part, detail, f"{took:.1f} s")
        return table


@app.command()
def up(
    *,
    keys: Annotated[
        Kind | None, typer.Option(help="Key service; default: as last time, at first the twin.")
    ] = None,
    services: Annotated[bool, typer.Option(help="Start the six services too.")] = True,
    twins: Annotated[
        bool, typer.Option("--twins", help="Start the twins of Gmail and Graph too.")
    ] = False,
) -> None:
    """Start what does not run yet, and wait until everything is ready."""
    _up(Stack(), keys=keys, services=services, twins=twins)


def _up(stack: Stack, *, keys: Kind | None, services: bool, twins: bool = False) -> None:
    try:
        with Progress(_out) as progress:
            stack.up(keys=keys, services=services, twins=twins, report=progress)
    except StackFailed as failed:
        _give_up(stack, failed)


def _give_up(stack: Stack, failed: PartFailed | StackFailed) -> NoReturn:
    for failure in failed.failures if isinstance(failed, StackFailed) else [failed]:
        _explain(stack, failure)
    raise typer.Exit(1) from failed


def _explain(stack: Stack, failure: PartFailed) -> None:
    _out.print(f"\n[red]{failure.part}[/]: {escape(failure.reason)}", soft_wrap=True)
    for line in failure.tail:
        _out.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    log = stack.processes.log_path(failure.process)
    if log.exists():
        _out.print(f"  log: {log}", soft_wrap=True)
    _out.print(f"  what to do: {escape(failure.remedy)}", soft_wrap=True)


@app.command()
def down() -> None:
    """End every process of the stack; data stays."""
    with Progress(_out) as progress:
        Stack().down(progress)


@app.command()
def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show part, pid, port, version and readiness; exit 1 unless all is ready."""
    rows = Stack().status()
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        table = Table("part", "pid", "port", "version", "ready")
        for row in rows:
            table.add_row(
                row.process,
                str(row.pid or "–"),
                str(row.port or "–"),
                row.version,
                "[green]yes[/]" if row.ready else "[red]no[/]",
            )
        _out.print(table)
    raise typer.Exit(0 if all(row.ready for row in rows) else 1)


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help="postgres, kafka, postfix, sender, …")] = "",
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as it grows.")] = False,
) -> None:
    """Print the log of one part."""
    stack = Stack()
    known = sorted(p.stem for p in stack.layout.log.glob("*.log"))
    if part not in known:
        processes = [name for one in stack.parts().values() for name in one.processes]
        if not part:
            why = "whose log? (make logs SVC=sender)"
        elif part in processes:
            why = f"{part} has not run yet, so it has no log (make up)"
        else:
            why = f"no part is called {part!r}"
        _out.print(f"{why}; logs: {', '.join(known) or 'none'}", markup=False, soft_wrap=True)
        raise typer.Exit(1 if part in processes else 2)
    path = stack.processes.log_path(part)
    flags = ["-n", "200", "-F"] if follow else ["-n", "+1"]
    os.execvp("tail", ["tail", *flags, str(path)])  # noqa: S606 - this process becomes tail


@app.command(context_settings={"ignore_unknown_options": True})
def run(
    command: Annotated[list[str], typer.Argument(help="What to run, after `--`.")],
    *,
    keys: Annotated[Kind | None, typer.Option(help="Key service.")] = None,
    services: Annotated[bool, typer.Option(help="Start the six services too.")] = False,
    twins: Annotated[
        bool, typer.Option("--twins", help="Start the twins of Gmail and Graph too.")
    ] = False,
) -> None:
    """Run a command with the stack up; afterwards end the stack unless it ran before."""
    stack = Stack()
    before = any(stack.processes.find(name) for name in stack.processes.recorded())
    try:
        _up(stack, keys=keys, services=services, twins=twins)
        code = subprocess.run(command, check=False).returncode
    finally:
        if not before:
            stack.down()
    raise typer.Exit(code)


@app.command()
def restart(
    part: Annotated[str, typer.Argument(help="A service or a part of the stack.")],
) -> None:
    """End one part and start it again (after a change of its code, say)."""
    stack = Stack()
    if part not in stack.parts():
        known = ", ".join(stack.parts())
        _out.print(f"no part is called {part!r}; parts: {known}", markup=False, soft_wrap=True)
        raise typer.Exit(2)
    stack.stop(part)
    try:
        stack.start(part)
    except PartFailed as failed:
        _give_up(stack, failed)


@app.command()
def reset(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """End the stack and delete its data, secrets and logs; downloads stay cached."""
    stack = Stack()
    yes or typer.confirm(f"Delete {stack.layout.run} and {stack.layout.state}?", abort=True)
    stack.down()
    stack.erase()


@app.command()
def recreate(
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop the stack's database with all events, make it anew (a revision was rewritten, say)."""
    stack = Stack()
    yes or typer.confirm("Drop the database of this stack, and all its events?", abort=True)
    try:
        with Progress(_out) as progress:
            stack.recreate(progress)
    except (PartFailed, StackFailed) as failed:
        _give_up(stack, failed)


@app.command()
def vault() -> None:
    """Build the real Vault into the per-user cache, unless there is one."""
    # `make test` ends a build that nobody waits for: the exception ends the compiler too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    stack = Stack()
    try:
        with Progress(_out) as progress:
            binary = vaultbuild.ensure(
                stack.processes.log_path("vault-build"),
                lambda line: progress("vault", "working", line),
            )
            progress("vault", "ready", str(binary))
    except PartFailed as failed:
        _give_up(stack, failed)


@app.command()
def publisher(
    name: Annotated[str, typer.Argument(help="As given to `paceline-admin publisher add`.")],
) -> None:
    """Make Kafka's side of an external publisher: topic, principal, password, ACLs."""
    stack = Stack()
    if not stack.processes.find(stack.kafka.name):
        _out.print("kafka does not run (make up)")
        raise typer.Exit(1)
    settings = stack.kafka.add_publisher(name)
    principal = settings["sasl.username"]
    password = stack.passwords.folder(principal) / "paceline_kafka_password"
    for label, value in (
        ("topic", topics.publisher_topic(name)),
        ("bootstrap.servers", settings["bootstrap.servers"]),
        ("security.protocol", settings["security.protocol"]),
        ("sasl.mechanism", settings["sasl.mechanism"]),
        ("sasl.username", principal),
        ("sasl.password", f"in {password}"),
    ):
        _out.print(f"{label:<18} {value}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def env() -> None:
    """Print the ports as shell assignments."""
    path = Stack().layout.ports_file
    typer.echo(path.read_text() if path.exists() else "", nl=False)


if __name__ == "__main__":
    app()
