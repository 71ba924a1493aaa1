import pytest

from paceline_common.templates import fault, required


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Hi {{ name", "line 1"),
        ("Hi\n{% if %}x{% endif %}", "line 2"),
        ("{{ name | shout }}", "no filter called shout"),
        ("{% unknown %}", "unknown"),
    ],
)
def test_invalid_templates_say_where(source: str, words: str) -> None:
    found = fault(source)
    assert found is not None
    assert words in str(found)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("plain", []),
        ("{{ first_name }} {{ plan }} {{ first_name }}", ["first_name", "plan"]),
        ('{{ first_name | default: "there" }}', []),
        ("{% if company %}at {{ company }}{% endif %}", []),
        ("{{ sender.name }} {{ email }} {{ unsubscribe_url }}", []),
        ("{% assign x = 1 %}{{ x }}", []),
        ("{{ deal.size }}", ["deal"]),
    ],
)
def test_required_are_the_variables_printed_without_a_substitute(
    source: str, names: list[str]
) -> None:
    assert fault(source) is None
    assert required(source) == names
