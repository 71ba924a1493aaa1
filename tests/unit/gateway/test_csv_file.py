import io

import pytest

from paceline_gateway.csv_file import MAX_LINE_CHARS, Row, inspect, rows
from paceline_gateway.domain.csv_row import FileFault, RowFault


def read(content: bytes, encoding: str | None = None) -> list[Row]:
    file = io.BytesIO(content)
    return list(rows(file, inspect(file, {}, encoding)))


def cells(content: bytes) -> list[object]:
    return [row.content for row in read(content)]


PLAIN = "email,company\na@b.test,Café Nord\n"


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (PLAIN.encode(), "utf-8"),
        (PLAIN.encode("utf-8-sig"), "utf-8-sig"),
        (PLAIN.encode("utf-16"), "utf-16"),
        (b"\xfe\xff" + PLAIN.encode("utf-16-be"), "utf-16"),
        (PLAIN.encode("utf-16-le"), "utf-16-le"),
        (PLAIN.encode("utf-16-be"), "utf-16-be"),
        (PLAIN.encode("utf-32"), "utf-32"),
    ],
)
def test_unicode_files_are_recognised(content: bytes, encoding: str) -> None:
    assert inspect(io.BytesIO(content), {}, None).encoding == encoding
    assert cells(content) == [["a@b.test", "Café Nord"]]


def test_a_western_spreadsheet_file_is_recognised() -> None:
    text = "email;name;firma\r\n" + "".join(
        f"p{i}@b.test;Jürgen Müßig;Grünwerk Söhne & Töchter\r\n" for i in range(20)
    )
    found = cells(text.encode("cp1252"))
    assert found[0] == ["p0@b.test", "Jürgen Müßig", "Grünwerk Söhne & Töchter"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("email,name\na@b.test,Ève\n", "cp1252"),
        ("email;name\na@b.test;Zoë Müller\nc@d.test;Ann – “the boss”\n", "cp1252"),
        ("email;имя;город\na@b.test;Иван Петров;Москва\nc@d.test;Ольга Смирнова;Тверь\n", "cp1251"),
        (
            "email,名前,会社\na@b.test,山田太郎,東京商事株式会社\nc@d.test,佐藤花子,大阪物産\n",
            "cp932",
        ),
    ],
)
def test_short_files_in_code_pages_are_read_right(text: str, encoding: str) -> None:
    file = io.BytesIO(text.encode(encoding))
    shape = inspect(file, {}, None)
    assert [row.content for row in rows(file, shape)] == [
        line.split(shape.delimiter) for line in text.splitlines()[1:]
    ]


def test_a_named_encoding_wins() -> None:
    content = "email,name\na@b.test,Łódź\n".encode("cp1250")
    assert read(content, "cp1250")[0].content == ["a@b.test", "Łódź"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_all_line_ends_and_quoted_breaks(end: str) -> None:
    text = f'email,note{end}a@b.test,"two{end}lines, one ""cell"""{end}c@d.test,x'
    found = read(text.encode())
    assert [row.content for row in found] == [
        ["a@b.test", f'two{end}lines, one "cell"'],
        ["c@d.test", "x"],
    ]
    assert [(row.number, row.line) for row in found] == [(1, 3), (2, 4)]


def test_blank_rows_are_not_counted() -> None:
    assert [row.number for row in read(b"email,x\n\na@b.test,1\n,,\n , \nc@d.test,2\n\n")] == [1, 2]


def test_the_hint_of_excel_is_followed() -> None:
    assert cells(b"sep=;\r\nemail;name\r\na@b.test;Ann\r\n") == [["a@b.test", "Ann"]]


@pytest.mark.parametrize(
    ("content", "encoding", "code"),
    [
        (b"", None, "import_empty"),
        (b" \r\n\r\n", None, "import_empty"),
        (b"PK\x03\x04 an xlsx file", None, "import_not_csv"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", None, "import_not_csv"),
        (b"email\na@b.test\n" + b"x" * 100_000 + b"\0\n", None, "import_not_csv"),
        ("email,n\na@b.test,é\n".encode("cp1252"), "utf-8", "import_encoding_wrong"),
        (b"\xff\xfee\0m\0a\0i\0l\0\n", None, "import_encoding_wrong"),
        (b"email\n", "utf-9", "import_encoding_unknown"),
        (b"name\nAnn\n", None, "import_email_missing"),
        (b"e" * (MAX_LINE_CHARS + 1), None, "import_line_too_long"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_whole(
    content: bytes, encoding: str | None, code: str
) -> None:
    with pytest.raises(FileFault) as refused:
        read(content, encoding)
    assert refused.value.code == code


def test_a_wrong_encoding_names_line_and_byte() -> None:
    with pytest.raises(FileFault, match=r"line 3 is not utf-8.*0xe9"):
        read("email,n\na@b.test,x\nc@d.test,é\n".encode("cp1252"), "utf-8")


def test_a_line_of_a_megabyte_costs_its_own_row() -> None:
    found = read(b"email,x\na@b.test,1\nb@b.test," + b"x" * 1_000_000 + b"\nc@b.test,3\n")
    assert [type(row.content) for row in found] == [list, RowFault, list]
    fault = found[1].content
    assert isinstance(fault, RowFault)
    assert fault.code == "line_too_long"
    assert [row.number for row in found] == [1, 2, 3]


def test_a_quote_that_is_never_closed_says_what_was_not_taken() -> None:
    found = read(b'email,x\na@b.test,1\nb@b.test,"open\nc@b.test,3\nd@b.test,4\n')
    fault = found[1].content
    assert isinstance(fault, RowFault)
    assert fault.code == "not_csv"
    assert "opened on line 3" in fault.message
    assert "lines 3 to 5" in fault.message
    assert len(found) == 2


def test_a_badly_quoted_row_costs_its_own_row() -> None:
    found = read(b'email,x\na@b.test,"a"b\nc@b.test,3\n')
    assert [type(row.content) for row in found] == [RowFault, list]
