"""The language of templates: what the gateway accepts is what the sender renders."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline_common import templates
from paceline_common.templates import (
    MissingVariable,
    Occasion,
    TemplateError,
    fault,
    fill,
    required,
)

# A Friday.
AT = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)


def way(*taken: int) -> Occasion:
    return Occasion(AT, lambda group, _ways: (taken[group],))


@pytest.mark.parametrize(
    ("source", "taken", "text"),
    [
        ("{Hi|Hello} {{ first_name }}", (1,), "Hello Bob"),
        ("{Hi {{ first_name }}|Hello}", (0,), "Hi Bob"),
        ("{{{first_name}}|there}", (0,), "Bob"),
        ("{{{first_name}}|there}", (1,), "there"),
        ("{Hey {{first_name}}}", (), "{Hey Bob}"),
        ("{{% if first_name %}yes{% endif %}|no}", (0,), "yes"),
        ("{% if first_name %}{a|b}{% endif %}", (1,), "b"),
        ("{a|{% for n in (1..2) %}{b|c}{% endfor %}}", (1, 1), "cc"),
        ("{ |x}", (0,), " "),
        ("{% raw %}{a|b} {{ x }}{% endraw %}", (), "{a|b} {{ x }}"),
        ("{% comment %}{a|b{% endcomment %}c", (), "c"),
        ('{{ "{a|b}" }}', (), "{a|b}"),
    ],
)
def test_spintax_and_liquid_go_together(source: str, taken: tuple[int, ...], text: str) -> None:
    assert fault(source) is None
    assert fill(source, {"first_name": "Bob"}, way(*taken)) == text


@settings(deadline=None)
@given(st.text(alphabet="{}|%\\ab \"'", max_size=40))
def test_a_value_is_never_read_as_spintax_or_liquid(value: str) -> None:
    assert fill("{x {{ note }}|y}", {"note": value}, way(0)) == f"x {value}"


@pytest.mark.parametrize(
    ("source", "line", "column"),
    [
        ("Hi {{ first_name", 1, 4),
        ("a\nb {Hi|Hello", 2, 3),
        ("a\n{{ x | nofilter }}", 2, 8),
        ("{a|{{ x | nofilter }}}", 1, 11),
        ("{{ x }}{% if x %}{a|b{% endif %}}", 1, 25),
        ("{% if x %}{a|b{% endif %}c}", None, None),
        ("{% include 'x' %}", 1, 4),
    ],
)
def test_a_fault_is_told_with_its_place(source: str, line: int | None, column: int | None) -> None:
    found = fault(source)
    assert found is not None
    if line is not None:
        assert (found.line, found.column) == (line, column)
    with pytest.raises((TemplateError, MissingVariable)):
        fill(source, {}, Occasion(AT, lambda _group, ways: range(ways)))


def test_every_way_is_looked_at_for_what_it_needs() -> None:
    source = "{Hi {{ a }}|Hello {{ b }}|{x|{{ c }}}} {{ d | default: 'there' }} {{ email }}"
    assert required(source) == ["a", "b", "c"]


@pytest.mark.parametrize("name", sorted({*templates._TEXT.filters} - {"default"}))
def test_no_filter_prints_a_blank_for_what_is_missing(name: str) -> None:
    for arguments in ("", ": 1", ": 1, 1"):
        with pytest.raises((MissingVariable, TemplateError)):
            fill(f"{{{{ missing | {name}{arguments} }}}}", {})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('{{ "now" | date: "%A %H:%M" }}', "Friday 09:30"),
        ('{{ "now" | add_days: 2 | date: "%a" }}', "Sun"),
        ('{{ "now" | add_days: -1 | date: "%a" }}', "Thu"),
        ('{{ "now" | add_workdays: 1 | date: "%a" }}', "Mon"),
        ('{{ "2026-11-22" | add_workdays: 0 | date: "%a" }}', "Mon"),
        ('{{ "now" | add_workdays: -5 | date: "%d" }}', "13"),
        ('{{ "2026-01-31" | add_days: 1 | date: "%d.%m." }}', "01.02."),
        ('{{ "ANNA-LENA" | titlecase }}', "Anna-Lena"),
        ('{{ "o\u2019neil\'s mcdonald" | titlecase }}', "O\u2019Neil's Mcdonald"),
        ('{{ "Anna Lena Berg" | first_word }}', "Anna"),
        ('{{ "Anna Lena Berg" | last_word }}', "Berg"),
        ('{{ "bob@mail.acme.com" | domain }}', "mail.acme.com"),
        ('{{ "https://www.Acme.com:8080/a?b" | domain }}', "acme.com"),
        ('{{ "ACME Holding GmbH & Co. KG" | short_company }}', "ACME Holding"),
        ('{{ "Tesla, Inc." | short_company }}', "Tesla"),
        ('{{ "Costco" | short_company }}', "Costco"),
        ('{{ "Müller S.à r.l." | short_company }}', "Müller S.à r.l."),
        ('{{ "Fiat S.p.A." | short_company }}', "Fiat"),
        ('{{ "GmbH" | short_company }}', "GmbH"),
        ("{{ 1234.5 | decimal }}", "1,234.5"),
    ],
)
def test_filters_of_the_field(source: str, text: str) -> None:
    assert fill(source, {}, way()) == text


@pytest.mark.parametrize(
    "source",
    [
        '{{ "soon" | add_days: 1 }}',
        '{{ "now" | add_days: 99999999999 }}',
        '{{ "now" | add_workdays: 5000 }}',
        "{% for i in (1..99999) %}x{% endfor %}",
        "{{ 1 | divided_by: 0 }}",
    ],
)
def test_what_a_filter_cannot_do_is_the_templates_fault(source: str) -> None:
    with pytest.raises(TemplateError):
        fill(source, {}, way())


def test_what_the_message_brings_along_cannot_be_printed() -> None:
    assert fill('{{ ["{occasion}"] }}', {}, way()) == ""
