r"""Spintax: `{Hi|Hello|{Good morning|Good day}}`, one way of each group is taken.

A group is a pair of braces with at least one bar of its own between them; it
may be nested, and a way may be empty. Braces without a bar (CSS, `{name}`) and
bars outside of braces stay as they are. A backslash before `{`, `|` or `}`
makes it plain, and two stand for one there; elsewhere a backslash is itself.

Here text is only taken apart. `paceline_common.templates` reads spintax in the
parts of a template that are not Liquid, before anything is printed: what a lead
brings along is never read as spintax.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

_SIGN: Final = re.compile(r"(\\*)([{}|])")

Role = Literal["text", "open", "or", "close"]


class Unclosed(Exception):
    """A group with a bar has no closing brace; `at` is where it opens."""

    def __init__(self, at: int) -> None:
        super().__init__("this { has a | but no }: close it, or write \\{ for a plain brace")
        self.at = at


@dataclass(frozen=True, slots=True)
class Mark:
    """A piece of a text: literal `text`, or where `group` opens, turns to its next way, closes.

    Groups count from 0, in the order in which they open; `at` is the place in the source.
    """

    role: Role
    at: int
    text: str = ""
    group: int = -1


@dataclass(slots=True)
class _Sign:
    at: int  # with its backslashes
    brace: int
    literal: str
    char: str
    role: Role = "text"
    group: int = -1


def read(pieces: Sequence[tuple[int, str]]) -> list[list[Mark]]:
    """Take apart pieces of one source (each with its place there); groups may span pieces.

    Returns the marks of each piece, in order; raises `Unclosed`.
    """
    signs = [
        [_sign(start, found) for found in _SIGN.finditer(text)] if _has_sign(text) else []
        for start, text in pieces
    ]
    _pair([sign for piece in signs for sign in piece])
    return [_marks(start, text, found) for (start, text), found in zip(pieces, signs, strict=True)]


def _has_sign(text: str) -> bool:
    return "{" in text or "|" in text or "}" in text


def _sign(start: int, found: re.Match[str]) -> _Sign:
    slashes, char = found.groups()
    plain = slashes[: len(slashes) // 2]
    if len(slashes) % 2:
        return _Sign(start + found.start(), start + found.start(2), plain + char, "")
    return _Sign(start + found.start(), start + found.start(2), plain, char)


def _pair(signs: Sequence[_Sign]) -> None:
    """Give the signs that make a group their role; the others become literal."""
    stack: list[list[_Sign]] = []
    groups: list[list[_Sign]] = []
    for sign in signs:
        match sign.char:
            case "{":
                stack.append([sign])
            case "|" if stack:
                stack[-1].append(sign)
            case "}" if stack:
                group = stack.pop()
                if len(group) > 1:
                    groups.append([*group, sign])
    for left in stack:
        if len(left) > 1:
            raise Unclosed(left[0].brace)
    for number, group in enumerate(sorted(groups, key=lambda group: group[0].at)):
        for sign in group:
            sign.role, sign.group = "or", number
        group[0].role, group[-1].role = "open", "close"


def _marks(start: int, text: str, signs: Sequence[_Sign]) -> list[Mark]:
    marks: list[Mark] = []
    literal, literal_at, done = "", start, 0
    for sign in signs:
        place = sign.at - start
        literal += text[done:place] + sign.literal
        done = _SIGN.match(text, place).end()  # type: ignore[union-attr]
        if sign.role == "text":
            literal += sign.char
            continue
        if literal:
            marks.append(Mark("text", literal_at, literal))
        marks.append(Mark(sign.role, sign.at, group=sign.group))
        literal, literal_at = "", start + done
    literal += text[done:]
    if literal:
        marks.append(Mark("text", literal_at, literal))
    return marks
