"""From a row of a CSV file to a lead, or to the one reason why not."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from paceline_gateway.domain.zone import is_timezone

LEAD_COLUMNS: Final = ("email", "first_name", "last_name", "company", "timezone")
"""Columns that are a lead's own; every other column becomes one of its `fields`."""

MAX_COLUMNS: Final = 100
_MAX_CHARS: Final[Mapping[str, int]] = {
    "email": 320, "first_name": 200, "last_name": 200, "company": 200, "timezone": 64,
}  # fmt: skip
_MAX_FIELD_CHARS: Final = 10_000

_ALIASES: Final[Mapping[str, str]] = {
    "email": "email", "e_mail": "email", "mail": "email", "email_address": "email",
    "e_mail_address": "email", "work_email": "email",
    "first_name": "first_name", "firstname": "first_name", "given_name": "first_name",
    "last_name": "last_name", "lastname": "last_name", "surname": "last_name",
    "family_name": "last_name",
    "company": "company", "company_name": "company", "organization": "company",
    "organisation": "company",
    "timezone": "timezone", "time_zone": "timezone", "tz": "timezone",
}  # fmt: skip
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_DELIMITERS: Final = (",", ";", "\t", "|")


class FileFault(ValueError):
    """The file as a whole cannot be read; nothing of it was taken. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Lead:
    """What one row asks to enroll."""

    email: str
    first_name: str | None = None
    last_name: str | None = None
    company: str | None = None
    timezone: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RowFault:
    """Why a row was not taken. `column` is the header's own word, None for the row as a whole."""

    code: str
    column: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Columns:
    """A header understood: `headers` as they stand in the file, `targets` what each one feeds.

    A target is one of `LEAD_COLUMNS`, the name of a field, or None (ignored).
    """

    headers: tuple[str, ...]
    targets: tuple[str | None, ...]


def guess_delimiter(header_line: str) -> str:
    """Return which of comma, semicolon, tab and bar separates the header; comma if none does."""
    outside_quotes = re.sub(r'"[^"]*"', "", header_line)
    return max(_DELIMITERS, key=outside_quotes.count)


def read_header(headers: Sequence[str], mapping: Mapping[str, str | None]) -> Columns:
    """Return what each column feeds; raise `FileFault` if leads cannot be read from it.

    `mapping` (header → target, or None to ignore the column) goes before the
    names recognised by themselves; headers compare without case and outer spaces.
    """
    names = tuple(header.strip() for header in headers)
    if len(names) > MAX_COLUMNS:
        raise FileFault(
            "import_too_many_columns",
            f"the header has {len(names)} columns; at most {MAX_COLUMNS} can be read. Is "
            "the delimiter right?",
        )
    wanted = {header.strip().casefold(): target for header, target in mapping.items()}
    unknown = sorted(set(wanted) - {name.casefold() for name in names})
    if unknown:
        raise FileFault(
            "import_mapping_unknown",
            f"the mapping names columns that the file has not: {', '.join(unknown)}. "
            f"The header reads: {_shown(names)}",
        )
    targets = tuple(
        _target(name, wanted[name.casefold()]) if name.casefold() in wanted else _recognise(name)
        for name in names
    )
    taken = [target for target in targets if target is not None]
    if twice := sorted({target for target in taken if taken.count(target) > 1}):
        raise FileFault(
            "import_duplicate_column",
            f"more than one column feeds {', '.join(twice)}; map all but one of them to null",
        )
    if "email" not in taken:
        raise FileFault(
            "import_email_missing",
            "no column is called email and none is mapped to it. The header reads: "
            f"{_shown(names)}. The first line must hold the column names; another name can be"
            ' mapped: {"Your column": "email"}',
        )
    return Columns(names, targets)


def read_row(
    columns: Columns, cells: Sequence[str], check_email: Callable[[str], str | None]
) -> Lead | RowFault:
    """Return the lead of one row, or the first fault in it.

    `check_email` returns why a text is no email address, None if it is one.
    Missing cells at the end count as empty; empty cells are left out.
    """
    if len(cells) > len(columns.headers):
        return RowFault(
            "too_many_cells",
            None,
            f"the row has {len(cells)} cells, the header {len(columns.headers)}: a value that "
            "contains the delimiter must stand in double quotes",
        )
    own: dict[str, str] = {}
    fields: dict[str, str] = {}
    for header, target, cell in zip(columns.headers, columns.targets, cells, strict=False):
        value = cell.strip()
        if target is None or not value:
            continue
        limit = _MAX_CHARS.get(target, _MAX_FIELD_CHARS)
        if len(value) > limit:
            return RowFault(
                "too_long", header, f"{len(value)} characters; at most {limit} are taken"
            )
        (own if target in LEAD_COLUMNS else fields)[target] = value
    email_header = columns.headers[columns.targets.index("email")]
    if "email" not in own:
        return RowFault("email_missing", email_header, "there is no email address in this row")
    if reason := check_email(own["email"]):
        return RowFault("email_invalid", email_header, reason)
    if "timezone" in own and not is_timezone(own["timezone"]):
        header = columns.headers[columns.targets.index("timezone")]
        return RowFault(
            "timezone_invalid", header, "not an IANA time zone; write it like Europe/Berlin"
        )
    return Lead(fields=fields, **own)


def _target(header: str, target: str | None) -> str | None:
    if target is not None and not _FIELD.fullmatch(target):
        raise FileFault(
            "import_mapping_invalid",
            f"{header!r} is mapped to {target!r}; a field name has letters, digits and _, starts "
            "with a letter or _ and is at most 64 long",
        )
    return target


def _recognise(header: str) -> str | None:
    name = re.sub(r"\W+", "_", header.casefold(), flags=re.ASCII).strip("_")
    if name in _ALIASES:
        return _ALIASES[name]
    if not name:
        return None
    return (name if _FIELD.fullmatch(name) else f"_{name}")[:64]


def _shown(names: Sequence[str]) -> str:
    text = " | ".join(name[:40] for name in names[:12])
    return text if len(names) <= 12 else f"{text} | … ({len(names)} columns)"
