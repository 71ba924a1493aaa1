"""`paceline-admin`: what the operator of an installation does from a shell.

The command groups are plug-ins: a package registers a typer app under the
entry point group `paceline.admin`, and the entry point's name is the group's.
Every command takes `--json`. Exit codes: 0 done, 1 refused (the text says why),
2 wrong usage, 3 a part of Paceline is away.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from importlib.metadata import entry_points
from typing import Annotated, Any, Final, NoReturn

import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from paceline_common.keys import KeyServiceError
from paceline_common.settings import Settings

GROUP: Final = "paceline.admin"
REFUSED: Final = 1
AWAY: Final = 3

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class AdminSettings(Settings):
    """How the tool reaches the installation: as the principal `admin`, with its own passwords."""

    postgres_host: str
    postgres_port: int = 5432
    postgres_db: str = "paceline"
    postgres_user: str = "admin"
    postgres_password: SecretStr

    kafka_bootstrap: str
    kafka_user: str = "admin"
    kafka_password: SecretStr

    keys_url: str
    keys_role_id: str
    keys_secret_id: SecretStr

    # As the gateway has it: what is replayed by hand is checked as what arrives.
    accept_test_domains: bool = False

    @cached_property
    def engine(self) -> Engine:
        """A synchronous engine as `admin`, without a pool; errors never quote parameters."""
        return create_engine(
            URL.create(
                "postgresql+psycopg",
                username=self.postgres_user,
                password=self.postgres_password.get_secret_value(),
                host=self.postgres_host,
                port=self.postgres_port,
                database=self.postgres_db,
            ),
            poolclass=NullPool,
            hide_parameters=True,
            connect_args={"application_name": "paceline-admin", "connect_timeout": 5},
        )


def refuse(reason: str) -> NoReturn:
    """End the command with exit code 1 and a sentence on standard error."""
    typer.echo(reason, err=True)
    raise typer.Exit(REFUSED)


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Print rows: as a JSON array with all members, or as a table of `columns`."""
    if as_json:
        typer.echo(json.dumps(list(rows), default=_plain))
        return
    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console().print(table)


def show(row: Mapping[str, Any], as_json: bool) -> None:
    """Print one thing: as a JSON object, or as lines of name and value."""
    if as_json:
        typer.echo(json.dumps(dict(row), default=_plain))
        return
    width = max(map(len, row), default=0)
    for name, value in row.items():
        typer.echo(f"{name:<{width}}  {_cell(value)}")


def build() -> typer.Typer:
    """Return the tool with every registered group."""
    app = typer.Typer(
        name="paceline-admin",
        help="Operate a Paceline installation.",
        no_args_is_help=True,
        # A traceback shows local variables, and with them passwords.
        pretty_exceptions_enable=False,
    )

    # A callback keeps groups as groups even when there is a single one.
    @app.callback()
    def paceline_admin() -> None:
        pass

    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        app.add_typer(point.load(), name=point.name)
    return app


def main() -> None:
    """Run `paceline-admin`."""
    try:
        build()()
    except OperationalError as error:
        _away("Postgres", error)
    except KeyServiceError as error:
        _away("the key service", error)
    except DBAPIError as error:
        typer.echo(f"Postgres refused: {error.orig}", err=True)
        sys.exit(REFUSED)


def _away(part: str, error: Exception) -> NoReturn:
    typer.echo(f"{part} cannot be used now: {type(error).__name__}", err=True)
    sys.exit(AWAY)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return str(value)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


if __name__ == "__main__":
    main()
