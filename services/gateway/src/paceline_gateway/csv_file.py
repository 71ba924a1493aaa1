"""An uploaded CSV file: which encoding and delimiter it has, and its rows, one at a time.

Everything here blocks on a local file and is meant for a thread. The file is
read twice: once to see that all of it is text in one encoding, once for the
rows, so that a broken file is refused before anything of it is taken.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Final

import charset_normalizer

from paceline_gateway.domain.csv_row import (
    Columns,
    FileFault,
    RowFault,
    guess_delimiter,
    read_header,
)

SAMPLE_BYTES: Final = 64 * 1024
MAX_LINE_CHARS: Final = 200_000
_BLOCK: Final = 1024 * 1024
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What spreadsheets write when it is not Unicode; a free guess among a hundred
# code pages is too often wrong on a short file.
_LATIN: Final = ["cp1252", "cp1250", "cp1254", "cp1257", "mac_roman"]
_OTHER_SCRIPTS: Final = [
    "cp1251", "cp1253", "cp1255", "cp1256", "cp932", "gb18030", "big5", "cp949",
]  # fmt: skip
# Fewer letters than these do not tell one Latin code page from another.
_ENOUGH_LETTERS: Final = 50
# Excel's own hint, before the header.
_SEPARATOR_LINE: Final = re.compile(r"sep=(.)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Row:
    """One data row: `number` from 1 (header and blank rows not counted), `line` its last line."""

    number: int
    line: int
    content: list[str] | RowFault


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A file that can be read."""

    encoding: str
    delimiter: str
    columns: Columns
    skipped_lines: int


def inspect(file: IO[bytes], mapping: Mapping[str, str | None], encoding: str | None) -> CsvFile:
    """Return how to read `file`; raise `FileFault` when it is not a CSV file of leads.

    `encoding` overrides detection.
    """
    file.seek(0)
    sample = file.read(SAMPLE_BYTES)
    if not sample.strip():
        raise FileFault("import_empty", "the file is empty")
    if sample.startswith(b"PK\x03\x04"):
        raise FileFault(
            "import_not_csv", "this is a workbook or ZIP archive, not CSV: save it as CSV first"
        )
    chosen = _encoding(file, sample, encoding)
    text = _text(file, chosen)
    lines = _Lines(text)
    try:
        first = next(lines, "")
        delimiter, skipped = guess_delimiter(first), 0
        if hint := _SEPARATOR_LINE.fullmatch(first.strip("\r\n")):
            delimiter, skipped = hint[1], 1
            first = next(lines, "")
        header = next(csv.reader([first], delimiter=delimiter), [])
    except (_LineTooLong, csv.Error):
        raise FileFault(
            "import_line_too_long",
            f"the first line is longer than {MAX_LINE_CHARS:,} characters: it cannot be a header",
        ) from None
    finally:
        text.detach()
    return CsvFile(chosen, delimiter, read_header(header, mapping), skipped)


def rows(file: IO[bytes], shape: CsvFile) -> Iterator[Row]:
    """Yield the data rows of an inspected file; a row that cannot be parsed holds its fault.

    A fault costs its own row, except an opening quote that is never closed: all
    that follows is inside it, and the fault says so.
    """
    text = _text(file, shape.encoding)
    try:
        lines = _Lines(text)
        for _ in range(1 + shape.skipped_lines):
            next(lines)
        reader = csv.reader(lines, delimiter=shape.delimiter, strict=True)
        number = 0
        while True:
            started = lines.count + 1
            content: list[str] | RowFault
            try:
                content = next(reader)
            except StopIteration:
                return
            except _LineTooLong:
                content = RowFault(
                    "line_too_long", None, f"the line is longer than {MAX_LINE_CHARS:,} characters"
                )
            except csv.Error as error:
                content = RowFault("not_csv", None, _explain(str(error), started, lines.count))
            if isinstance(content, list) and not any(cell.strip() for cell in content):
                continue
            number += 1
            yield Row(number, lines.count, content)
    finally:
        text.detach()


def _explain(error: str, first: int, last: int) -> str:
    if "unexpected end of data" in error or "field limit" in error:
        return (
            f"a double quote opened on line {first} is not closed; lines {first} to {last} were "
            'read as one value and not taken. A quote inside a value is written ""'
        )
    return f"{error}; a value that contains quotes stands in double quotes, and they are doubled"


def _text(file: IO[bytes], encoding: str) -> io.TextIOWrapper:
    file.seek(0)
    return io.TextIOWrapper(file, encoding=encoding, newline="")


class _LineTooLong(Exception):
    pass


class _Lines:
    """Lines of bounded length; one that is too long is passed over and raises `_LineTooLong`.

    A class, not a generator: it goes on after it has raised.
    """

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.count = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(MAX_LINE_CHARS)
        if not line:
            raise StopIteration
        self.count += 1
        if len(line) < MAX_LINE_CHARS or line.endswith(("\n", "\r")):
            return line
        while (rest := self._text.readline(MAX_LINE_CHARS)) and not rest.endswith(("\n", "\r")):
            pass
        raise _LineTooLong


def _encoding(file: IO[bytes], sample: bytes, asked: str | None) -> str:
    if asked is not None:
        try:
            codecs.lookup(asked)
        except LookupError:
            raise FileFault(
                "import_encoding_unknown", f"there is no encoding called {asked!r}"
            ) from None
        _decode_all(file, asked)
        return asked
    for mark, name in _BOMS:
        if sample.startswith(mark):
            _decode_all(file, name)
            return name
    if b"\x00" in sample:
        name = _utf16_without_mark(sample)
        _decode_all(file, name)
        return name
    try:
        _decode_all(file, "utf-8")
    except FileFault as fault:
        if fault.code != "import_encoding_wrong":
            raise
        if (page := _code_page(sample)) is None:
            raise FileFault(
                "import_encoding_wrong",
                f"{fault} It is in no other encoding that could be recognised either: save the "
                "file as UTF-8, or name its encoding.",
            ) from None
        _decode_all(file, page)
        return page
    return "utf-8"


def _code_page(sample: bytes) -> str | None:
    """Return the likeliest code page of text that is not Unicode, None if none fits."""
    high = re.findall(rb"[\x80-\xff]+", sample)
    # Latin text has its accented letters one by one among ASCII ones.
    latin = max(map(len, high)) < 3
    if latin and sum(map(len, high)) < _ENOUGH_LETTERS:
        candidates = _LATIN[:1]
    else:
        candidates = _LATIN if latin else _OTHER_SCRIPTS
    match = charset_normalizer.from_bytes(
        sample, cp_isolation=candidates, enable_fallback=False
    ).best()
    return match.encoding if match else None


def _utf16_without_mark(sample: bytes) -> str:
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if odd > len(sample) // 4 and even == 0:
        return "utf-16-le"
    if even > len(sample) // 4 and odd == 0:
        return "utf-16-be"
    raise FileFault("import_not_csv", "the file holds binary data (NUL bytes), not text")


def _decode_all(file: IO[bytes], encoding: str) -> None:
    file.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    while True:
        block = file.read(_BLOCK)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = lines + error.object[: error.start].count(b"\n")
            raise FileFault(
                "import_encoding_wrong",
                f"line {line} is not {encoding}: {error.reason} (byte "
                f"0x{error.object[error.start]:02x}).",
            ) from None
        if "\x00" in text:
            raise FileFault("import_not_csv", "the file holds binary data (NUL bytes), not text")
        lines += text.count("\n")
        if not block:
            return
