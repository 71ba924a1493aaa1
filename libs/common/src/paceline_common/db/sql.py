"""SQL files of a package as SQLAlchemy text clauses, and arrays as their parameters."""

from collections.abc import Iterable, Mapping
from importlib import resources

from sqlalchemy import TextClause, text


class Queries:
    """The files `store/sql/<name>.sql` of one package, read once.

    Bind variables are written `:name`; a cast is `CAST(:name AS bigint[])`,
    since `::` after a name would read as part of it.
    """

    def __init__(self, package: str) -> None:
        self._directory = resources.files(package) / "store" / "sql"
        self._texts: dict[str, TextClause] = {}

    def __getitem__(self, name: str) -> TextClause:
        """Return the statement of `store/sql/<name>.sql`; raise `KeyError` if there is none."""
        found = self._texts.get(name)
        if found is None:
            file = self._directory / f"{name}.sql"
            if not file.is_file():
                raise KeyError(f"no store/sql/{name}.sql in this package")
            found = self._texts[name] = text(file.read_text(encoding="utf-8"))
        return found


# psycopg looks at each value of a list to find its type, 0.3 to 0.8 µs a value. Where the statement
# names the type, the text below is the same array at a sixth of that.


def number_array(values: Iterable[float | None]) -> str:
    """Return numbers or booleans as the text of a Postgres array."""
    return "{" + ",".join(map(str, values)).replace("None", "NULL") + "}"


def text_array(values: Iterable[str | None]) -> str:
    """Return texts, or what Postgres reads from a text, as the text of a Postgres array."""
    return (
        "{"
        + ",".join(
            "NULL" if value is None else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
            for value in values
        )
        + "}"
    )


def bytes_array(values: Iterable[bytes]) -> str:
    """Return byte strings as the text of a Postgres `bytea[]`."""
    return "{" + ",".join([f'"\\\\x{value.hex()}"' for value in values]) + "}"


def literal_settings(values: Mapping[str, object]) -> str:
    """Return `-c name=value …` for the `options` of a Postgres connection."""
    return " ".join(f"-c {name}={value}" for name, value in values.items())
