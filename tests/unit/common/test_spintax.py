"""Spintax, taken apart; what is not a group stays as it was written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_common import spintax
from paceline_common.spintax import Mark, Unclosed


def said(source: str, *ways: int) -> str:
    """What `source` says when the n-th group takes `ways[n]`: written anew, from the marks."""
    (marks,) = spintax.read([(0, source)])
    out: list[str] = []
    # Per open group: whether the text around it is taken, which way it takes, which it is at.
    stack: list[tuple[bool, int, int]] = []
    shown = True
    for mark in marks:
        match mark.role:
            case "text":
                out += [mark.text] if shown else []
            case "open":
                stack.append((shown, ways[mark.group], 0))
                shown = shown and ways[mark.group] == 0
            case "or":
                around, taken, at = stack.pop()
                stack.append((around, taken, at + 1))
                shown = around and taken == at + 1
            case "close":
                shown, _, _ = stack.pop()
    return "".join(out)


@pytest.mark.parametrize(
    ("source", "ways", "text"),
    [
        ("{Hi|Hello} Bob", (0,), "Hi Bob"),
        ("{Hi|Hello} Bob", (1,), "Hello Bob"),
        ("{a|b|{c|d}}", (2, 1), "d"),
        ("{a|b|{c|d}}", (0, 1), "a"),
        ("{{a|b}|c}", (0, 1), "b"),
        ("x{|y}z", (0,), "xz"),
        ("{a|b}{c|d}", (1, 0), "bc"),
        ("{a\nb|c}", (0,), "a\nb"),
    ],
)
def test_one_way_of_each_group_is_said(source: str, ways: tuple[int, ...], text: str) -> None:
    assert said(source, *ways) == text


@pytest.mark.parametrize(
    "source",
    ["plain", "a | b", "{name}", "p { color: red }", "@media x { p { color: red } }", "}{", "{",
     "}", "C:\\dir\\file \\\\host", "{a} | {b}"],
)  # fmt: skip
def test_what_is_no_group_stays_as_it_is(source: str) -> None:
    assert said(source) == source


@pytest.mark.parametrize(
    ("source", "ways", "text"),
    [
        (r"\{a|b\}", (), "{a|b}"),
        (r"{a\|b|c}", (0,), "a|b"),
        (r"{a\}|c}", (0,), "a}"),
        (r"\\{a|b}", (1,), "\\b"),
        (r"\\\{a|b}", (), "\\{a|b}"),
    ],
)
def test_a_backslash_makes_a_sign_plain(source: str, ways: tuple[int, ...], text: str) -> None:
    assert said(source, *ways) == text


@pytest.mark.parametrize(("source", "at"), [("{a|b", 0), ("x {a|{b|c}", 2), (r"\\{a|b", 2)])
def test_a_group_without_an_end_is_told_with_its_place(source: str, at: int) -> None:
    with pytest.raises(Unclosed) as caught:
        spintax.read([(0, source)])
    assert caught.value.at == at


def test_a_group_may_span_pieces_and_keeps_its_places() -> None:
    first, second = spintax.read([(0, "{Hi "), (20, "|Hello}!")])
    assert first == [Mark("open", 0, group=0), Mark("text", 1, "Hi ")]
    assert second == [
        Mark("or", 20, group=0), Mark("text", 21, "Hello"), Mark("close", 26, group=0),
        Mark("text", 27, "!"),
    ]  # fmt: skip


plain = st.text(st.characters(exclude_characters="{|}\\", exclude_categories=["Cs"]), max_size=5)
trees = st.recursive(
    plain,
    lambda inner: st.lists(
        st.one_of(plain, st.lists(inner, min_size=2, max_size=4).map(tuple)), max_size=4
    ),
    max_leaves=25,
)
Tree = str | list["Tree"] | tuple["Tree", ...]


def written(tree: Tree) -> str:
    match tree:
        case str():
            return tree
        case list():
            return "".join(map(written, tree))
        case _:
            return "{" + "|".join(map(written, tree)) + "}"


def groups(tree: Tree) -> list[tuple[Tree, ...]]:
    """The groups of a tree in the order in which they open."""
    match tree:
        case str():
            return []
        case list():
            return [group for inner in tree for group in groups(inner)]
        case _:
            return [tree, *(group for inner in tree for group in groups(inner))]


@given(trees, st.data())
def test_any_nesting_says_exactly_the_ways_taken(tree: Tree, data: st.DataObject) -> None:
    sizes = [len(group) for group in groups(tree)]
    ways = [data.draw(st.integers(0, size - 1)) for size in sizes]
    left = iter(ways)

    def expected(inner: Tree, *, taken: bool = True) -> str:
        match inner:
            case str():
                return inner if taken else ""
            case list():
                return "".join(expected(one, taken=taken) for one in inner)
            case _:
                way = next(left)
                return "".join(
                    expected(one, taken=taken and n == way) for n, one in enumerate(inner)
                )

    assert said(written(tree), *ways) == expected(tree)


@given(st.text(alphabet="{|}\\ab ", max_size=30))
def test_no_text_is_more_than_read_or_refused(source: str) -> None:
    try:
        (marks,) = spintax.read([(0, source)])
    except Unclosed:
        return
    roles = [mark.role for mark in marks]
    assert roles.count("open") == roles.count("close") <= roles.count("or")
