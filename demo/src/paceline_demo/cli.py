"""`paceline-demo run`: one campaign through the whole house, checked on the mail host."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer
from rich.console import Console
from rich.markup import escape

from paceline_common import topics
from paceline_demo.admin import AdminFailed
from paceline_demo.api import ApiRefused
from paceline_demo.browser import NoSuchButton
from paceline_demo.progress import Board
from paceline_demo.publisher import PublishingFailed
from paceline_demo.run import Options, drive
from paceline_local.layout import REPOSITORY
from paceline_local.parts.base import PartFailed
from paceline_local.parts.keys import Kind
from paceline_local.stack import Stack, StackFailed

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

BROKEN: Final = 1
STACK_FAILED: Final = 3
NOT_DRIVEN: Final = 4
INTERRUPTED: Final = 130


@app.callback()
def main() -> None:
    """Paceline's demo."""


@app.command()
def run(
    *,
    keys: Annotated[
        Kind | None,
        typer.Option(help="Key service; default: what the stack used last, at first the twin."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up.")] = False,
    kill: Annotated[
        str | None,
        typer.Option(help="SIGKILL this service in mid-campaign, then start it again."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print only the report, as JSON.")
    ] = False,
    report: Annotated[
        Path, typer.Option(help="Where the report goes.", show_default=".run/demo/report.json")
    ] = REPOSITORY / ".run" / "demo" / "report.json",
) -> None:
    """Start the stack, run the two-step campaign, check every promise.

    Exit codes: 0 every promise held, 1 one is broken, 2 wrong usage, 3 the stack
    did not start, 4 the campaign could not be driven, 130 interrupted.
    """
    if kill is not None and kill not in topics.SERVICES:
        raise typer.BadParameter(f"one of {', '.join(topics.SERVICES)}", param_hint="--kill")
    # SIGTERM ends it as Ctrl-C does: in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=as_json)
    stack = Stack()
    before = {name for name in stack.processes.recorded() if stack.processes.find(name)}
    code = 0
    try:
        code = _driven(stack, Options(keys, kill), Board(console, quiet=as_json), as_json, report)
    except KeyboardInterrupt:
        console.print("interrupted")
        code = INTERRUPTED
    finally:
        if keep:
            _tell_kept(console, stack)
        else:
            _end(stack, before)
    raise typer.Exit(code)


def _driven(stack: Stack, options: Options, board: Board, as_json: bool, path: Path) -> int:
    """Start the stack, drive the campaign, write and show the report; return the exit code."""
    console = board.console
    try:
        with board:
            board.phase("starting the stack")
            stack.up(keys=options.keys, twins=True, report=board.part)
            report = asyncio.run(drive(stack, options, board))
    except StackFailed as failed:
        for failure in failed.failures:
            _explain(console, failure)
        return STACK_FAILED
    except PartFailed as failure:
        _explain(console, failure)
        return STACK_FAILED
    except (
        ApiRefused, AdminFailed, NoSuchButton, PublishingFailed, httpx.HTTPError,
    ) as error:  # fmt: skip
        console.print(f"[red]the campaign could not be driven[/]: {escape(str(error))}")
        console.print(f"logs: {stack.layout.log}", soft_wrap=True)
        return NOT_DRIVEN
    report.write(path)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        report.show(console)
        console.print(f"report: {path}", soft_wrap=True)
    return 0 if report.ok else BROKEN


def _explain(console: Console, failure: PartFailed) -> None:
    console.print(f"[red]{failure.part}[/]: {escape(failure.reason)}", soft_wrap=True)
    for line in failure.tail:
        console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"  what to do: {escape(failure.remedy)}", soft_wrap=True)


def _end(stack: Stack, before: set[str]) -> None:
    """End what this run started; what ran before goes on."""
    if not before:
        stack.down()
        return
    twins = [twin.name for twin in stack.twins.values()]
    for part in (*stack.services, *twins):
        if part not in before:
            stack.stop(part)


def _tell_kept(console: Console, stack: Stack) -> None:
    run = os.environ.get("PACELINE_RUN_DIR")
    command = f"PACELINE_RUN_DIR={run} make down" if run else "make down"
    console.print(f"the stack stays up ({stack.services['gateway'].url()}/docs); end it: {command}")


if __name__ == "__main__":
    app()
