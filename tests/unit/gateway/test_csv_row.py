from collections.abc import Sequence

import pytest

from paceline_gateway.domain.csv_row import (
    MAX_COLUMNS,
    FileFault,
    Lead,
    RowFault,
    guess_delimiter,
    read_header,
    read_row,
)


def check_email(email: str) -> str | None:
    return None if "@" in email else "there is no @"


def read(header: Sequence[str], cells: Sequence[str], **mapping: str | None) -> Lead | RowFault:
    return read_row(read_header(header, mapping), cells, check_email)


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        ("email,first name", ","),
        ("email;name;plan", ";"),
        ("email\tname", "\t"),
        ("email|name", "|"),
        ('"a,b,c";email;name', ";"),
        ("email", ","),
    ],
)
def test_the_header_tells_the_delimiter(line: str, delimiter: str) -> None:
    assert guess_delimiter(line) == delimiter


@pytest.mark.parametrize("name", ["email", "E-Mail", " Email Address ", "MAIL", "work_email"])
def test_usual_names_of_the_email_column_are_known(name: str) -> None:
    assert read([name], ["a@b.test"]) == Lead("a@b.test")


def test_unknown_columns_become_fields() -> None:
    lead = read(
        ["Email", "First Name", "Favourite dish", "2nd plan"], ["a@b.test", "Ann", "Pie", "x"]
    )
    assert lead == Lead(
        "a@b.test", first_name="Ann", fields={"favourite_dish": "Pie", "_2nd_plan": "x"}
    )


def test_a_mapping_goes_first_and_can_leave_columns_out() -> None:
    columns = read_header(["Kontakt", "Notiz"], {"kontakt": "email", "Notiz": None})
    assert read_row(columns, ["a@b.test", "secret"], check_email) == Lead("a@b.test")


def test_missing_cells_at_the_end_are_empty() -> None:
    assert read(["email", "company"], ["a@b.test"]) == Lead("a@b.test")


@pytest.mark.parametrize(
    ("header", "mapping", "code"),
    [
        (["name", "company"], {}, "import_email_missing"),
        (["ann@example.test", "Ann"], {}, "import_email_missing"),
        (["email", "mail"], {}, "import_duplicate_column"),
        (["email"], {"phone": "phone"}, "import_mapping_unknown"),
        (["email", "x"], {"x": "not a name"}, "import_mapping_invalid"),
        (["email", *map(str, range(MAX_COLUMNS))], {}, "import_too_many_columns"),
    ],
)
def test_a_header_that_cannot_be_used(
    header: list[str], mapping: dict[str, str | None], code: str
) -> None:
    with pytest.raises(FileFault) as refused:
        read_header(header, mapping)
    assert refused.value.code == code
    assert len(str(refused.value)) > 20


@pytest.mark.parametrize(
    ("cells", "code", "column"),
    [
        (["", "Ann", ""], "email_missing", "E-Mail"),
        (["ann", "Ann", ""], "email_invalid", "E-Mail"),
        (["a@b.test", "A" * 201, ""], "too_long", "First name"),
        (["a@b.test", "Ann", "Berlin"], "timezone_invalid", "Timezone"),
        (["a@b.test", "Ann", "UTC", "more"], "too_many_cells", None),
    ],
)
def test_a_bad_row_names_its_column_and_why(
    cells: list[str], code: str, column: str | None
) -> None:
    fault = read(["E-Mail", "First name", "Timezone"], cells)
    assert isinstance(fault, RowFault)
    assert (fault.code, fault.column) == (code, column)
