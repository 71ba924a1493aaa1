"""The language of templates: Liquid with strict variables, and spintax around it.

The gateway checks with it what the sender renders with it. Spintax is part of
the template's structure and is read when the template is compiled; values are
printed into what is left. So a lead's values are never read as spintax or Liquid.

A template may ask for a variable (`{% if company %}`) or name a substitute
(`{{ first_name | default: "there" }}`); to print one that is absent fails.
`"now"` is the time of the message, in its mailbox's zone.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache, partial
from typing import Any, ClassVar, Final, TextIO

from liquid import BoundTemplate, Environment, FalsyStrictUndefined, RenderContext, TokenStream
from liquid.ast import BlockNode, Node
from liquid.builtin.filters import misc
from liquid.exceptions import FilterArgumentError, LiquidError, LiquidSyntaxError, UndefinedError
from liquid.extra import Currency, Number
from liquid.filter import int_arg, liquid_filter, string_filter, with_context

# Its own lexer with one rule more; it offers no public way to add one.
from liquid.lex import _tokenize_template, compile_liquid_rules
from liquid.parser import get_parser
from liquid.tag import Tag
from liquid.token import TOKEN_CONTENT, TOKEN_EXPRESSION, TOKEN_TAG, Token
from liquid.undefined import is_undefined

from paceline_common import spintax

MAX_OUTPUT: Final = 1_000_000
_MAX_VARIABLES: Final = 100
_BRACE: Final = "BRACE"
# Template authors cannot write this name: identifiers are letters, digits, `_` and `-`.
_OCCASION: Final = "{occasion}"

# What every message has, whoever the lead is.
GIVEN: Final[Mapping[str, object]] = {
    "email": "lead@example.com",
    "unsubscribe_url": "https://example.com/u/token",
    "signature": "Sender",
    "sender": {"name": "Sender", "email": "sender@example.com"},
}


STANDARD_FIELDS: Final = ("email", "first_name", "last_name", "company")
_RESERVED: Final = frozenset({*STANDARD_FIELDS, "sender", "signature", "unsubscribe_url"})


class MissingVariable(Exception):
    """The template prints a variable that is absent; `name` as written."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class TemplateError(Exception):
    """The template itself is wrong (syntax, filter, limit); the text says where."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a template is not valid; line and column count from 1, where they are known."""

    why: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        if self.line is None:
            return self.why
        return f"{self.why} (line {self.line}, column {self.column})"


@dataclass(frozen=True, slots=True)
class Occasion:
    """What one message takes of what a template offers.

    `at` is what "now" means. `pick` says which ways of a group are printed,
    given the group's number (from 0) and how many ways it has.
    """

    at: datetime
    pick: Callable[[int, int], Iterable[int]]

    def __str__(self) -> str:
        return ""


FIRST_WAYS: Final = Occasion(datetime(2026, 1, 1, 9, tzinfo=UTC), lambda _group, _ways: (0,))
ALL_WAYS: Final = Occasion(FIRST_WAYS.at, lambda _group, ways: range(ways))


def variables(
    lead: Mapping[str, str | None],
    fields: Mapping[str, str | None],
    *,
    sender_name: str | None,
    sender_email: str,
    unsubscribe_url: str,
) -> dict[str, object]:
    """Return what a template may print.

    Absent and blank values are left out, so that they count as missing; the
    lead's own fields cannot shadow the standard ones.
    """
    known: dict[str, object] = {
        name: value
        for name, value in fields.items()
        if name not in _RESERVED and value is not None and value.strip()
    }
    known.update(
        (name, value) for name in STANDARD_FIELDS if (value := lead.get(name)) and value.strip()
    )
    known["sender"] = {
        name: value for name, value in (("name", sender_name), ("email", sender_email)) if value
    }
    known["unsubscribe_url"] = unsubscribe_url
    return known


def fill(
    source: str,
    values: Mapping[str, object],
    occasion: Occasion = FIRST_WAYS,
    *,
    html: bool = False,
) -> str:
    """Render one template; values are HTML-escaped when `html`.

    Raises `MissingVariable` and `TemplateError`. Compiled templates are cached
    by their source: a changed template is another source.
    """
    try:
        return _compile(source, html).render({**values, _OCCASION: occasion})
    except UndefinedError as error:
        raise MissingVariable(_undefined_name(error)) from error
    except LiquidError as error:
        raise TemplateError(str(_fault(error))) from error
    except RecursionError as error:
        raise TemplateError("the template is nested too deeply") from error
    except (ArithmeticError, ValueError) as error:
        # Some filters of the library let these through: a date or a number out of bounds.
        raise TemplateError(f"a filter cannot do this: {error}") from error


def fault(source: str) -> Fault | None:
    """Return why `source` is not a valid template, or None if it is one. All ways are looked at."""
    try:
        template = _compile(source, False)
        unknown = template.analyze().filters
    except LiquidError as error:
        return _fault(error)
    except RecursionError:
        return Fault("it is nested too deeply")
    for name in sorted(set(unknown) - set(_TEXT.filters)):
        line, column = unknown[name][0].line_col(source)
        return Fault(f"there is no filter called {name}", line, column + 1)
    return None


def required(source: str, given: Mapping[str, object] = GIVEN) -> list[str]:
    """Return the variables that a valid template prints and `given` lacks, in any of its ways.

    Those with a `default`, and those printed only under a condition on an
    absent variable, are not among them.
    """
    values: dict[str, object] = {**given, _OCCASION: ALL_WAYS}
    names: list[str] = []
    for _ in range(_MAX_VARIABLES):
        try:
            _compile(source, False).render(values)
        except UndefinedError as error:
            name = _undefined_name(error)
            root = name.split(".", 1)[0].split("[", 1)[0]
            if name in names or root in given:
                break
            names.append(name)
            values[root] = "x"
        except (LiquidError, RecursionError, ArithmeticError, ValueError):
            # Sample values do not suit a filter or a loop; real ones may.
            break
        else:
            break
    return names


# ---- the language


class _Missing(FalsyStrictUndefined):
    """Absent: false in a condition, replaced by `default`, an error in print."""

    force_liquid_default = True


class _Language(Environment):
    # Templates come from users: a loop of loops must not hold the process.
    loop_iteration_limit: ClassVar[int | None] = 10_000
    output_stream_limit: ClassVar[int | None] = MAX_OUTPUT
    local_namespace_limit: ClassVar[int | None] = MAX_OUTPUT

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        # There is nothing to load: a mistake is to show when it is made.
        del self.tags["include"], self.tags["render"]
        for tag in (_Group, _Way, _Close):
            self.add_tag(tag)
        self.filters |= _FILTERS
        self.filters = {
            name: use if name == "default" else _strictly(use) for name, use in self.filters.items()
        }

    def tokenizer(self) -> Callable[[str], Iterator[Token]]:
        return _tokens


# A brace right before Liquid: `{{{first_name}}|there}` opens a group, not an output of `{`.
_RULES: Final = re.compile(
    rf"(?P<{_BRACE}>\{{(?=\{{[{{%]))|{compile_liquid_rules().pattern}", re.DOTALL
)
_lex: Final = partial(_tokenize_template, rules=_RULES)


def _tokens(source: str) -> Iterator[Token]:
    """Read Liquid's tokens, and spintax in the literal text between them."""
    found = list(_lex(source))
    literal = [n for n, token in enumerate(found) if _is_literal(token, source)]
    try:
        marks = spintax.read([(found[n].start_index, found[n].value) for n in literal])
    except spintax.Unclosed as error:
        raise LiquidSyntaxError(
            str(error), token=Token(TOKEN_CONTENT, "{", error.at, source)
        ) from None
    spun = dict(zip(literal, marks, strict=True))
    for n, token in enumerate(found):
        if n not in spun:
            yield token
            continue
        for mark in spun[n]:
            match mark.role:
                case "text":
                    yield Token(TOKEN_CONTENT, mark.text, mark.at, source)
                case "open":
                    yield Token(TOKEN_TAG, _Group.name, mark.at, source)
                    yield Token(TOKEN_EXPRESSION, str(mark.group), mark.at, source)
                case "or":
                    yield Token(TOKEN_TAG, _Way.name, mark.at, source)
                case "close":
                    yield Token(TOKEN_TAG, _Close.name, mark.at, source)


def _is_literal(token: Token, source: str) -> bool:
    # The text of {% raw %} is content too, but begins at its tag.
    return token.kind == _BRACE or (
        token.kind == TOKEN_CONTENT and not source.startswith("{%", token.start_index)
    )


class _GroupNode(Node):
    __slots__ = ("group", "ways")

    def __init__(self, token: Token, group: int, ways: list[BlockNode]) -> None:
        super().__init__(token)
        self.group = group
        self.ways = ways
        self.blank = False
        for way in ways:
            way.blank = False  # a way may be a single blank

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        occasion: Occasion = context.resolve(_OCCASION)
        return sum(
            self.ways[n].render(context, buffer) for n in occasion.pick(self.group, len(self.ways))
        )

    def children(
        self, static_context: RenderContext, *, include_partials: bool = True
    ) -> Iterable[Node]:
        return self.ways


class _Group(Tag):
    """`{`: the library's own tags are words, so that no author can write this one."""

    name = "{"
    end = "}"

    def parse(self, stream: TokenStream) -> Node:
        token = stream.eat(TOKEN_TAG)
        group = int(stream.eat(TOKEN_EXPRESSION).value)
        ways = [self._way(stream)]
        while stream.current.is_tag(_Way.name):
            next(stream)
            ways.append(self._way(stream))
        if not stream.current.is_tag(_Close.name):
            raise LiquidSyntaxError(_ACROSS, token=token)
        return _GroupNode(token, group, ways)

    def _way(self, stream: TokenStream) -> BlockNode:
        return get_parser(self.env).parse_block(stream, _ENDS)


class _Way(Tag):
    """`|` where no group is open: the Liquid block around it began inside the group."""

    name = "|"
    block = False

    def parse(self, stream: TokenStream) -> Node:
        raise LiquidSyntaxError(_ACROSS, token=stream.current)


class _Close(_Way):
    """`}`, likewise."""

    name = "}"


_ENDS: Final = frozenset({_Way.name, _Close.name})
_ACROSS: Final = "a choice {…|…} and a Liquid block must lie one inside the other"


# ---- filters beside the library's own


def _strictly(use: Callable[..., Any]) -> Callable[..., Any]:
    """Return `use`, which fails for what is absent: some of the library's would print a blank."""

    def strict(*given: Any, **named: Any) -> Any:
        for value in (*given, *named.values()):
            if is_undefined(value):
                str(value)  # raises
        return use(*given, **named)

    for mark in ("with_context", "with_environment"):
        if getattr(use, mark, False):
            setattr(strict, mark, True)
    return strict


def _moment(value: object, context: RenderContext) -> datetime:
    if value in ("now", "today"):
        occasion: Occasion = context.resolve(_OCCASION)
        return occasion.at
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time.min, tzinfo=UTC)
    try:
        return datetime.fromisoformat(str(value).strip())
    except ValueError:
        raise FilterArgumentError(
            f"{str(value)[:40]!r} is no date; write it like 2026-01-31", token=None
        ) from None


@with_context
@liquid_filter
def _date(value: object, form: object, *, context: RenderContext) -> object:
    """The library's own, where "now" is the message's time."""
    if value in ("now", "today"):
        value = _moment(value, context)
    return misc.date(value, form, environment=context.env)


@with_context
@liquid_filter
def _add_days(value: object, days: object, *, context: RenderContext) -> datetime:
    """`"now" | add_days: 2 | date: "%A"`: that many days later, or earlier."""
    return _moment(value, context) + timedelta(days=int_arg(days))


@with_context
@liquid_filter
def _add_workdays(value: object, days: object, *, context: RenderContext) -> datetime:
    """That many Mondays to Fridays later, or earlier; 0 moves from a weekend to Monday."""
    at, left = _moment(value, context), int_arg(days)
    if abs(left) > _MAX_DAYS:
        raise FilterArgumentError(f"at most {_MAX_DAYS} workdays", token=None)
    step = timedelta(days=-1 if left < 0 else 1)
    while left or at.weekday() > _FRIDAY:
        at += step
        if at.weekday() <= _FRIDAY and left:
            left -= 1 if left > 0 else -1
    return at


@string_filter
def _titlecase(value: str) -> str:
    """`ANNA-LENA O'NEIL` → `Anna-Lena O'Neil`, `bob's` → `Bob's`: names as people write them."""
    return _WORD.sub(lambda found: found[0].capitalize(), value)


@string_filter
def _first_word(value: str) -> str:
    """The first word: `Anna Lena` → `Anna`."""
    return next(iter(value.split()), "")


@string_filter
def _last_word(value: str) -> str:
    """The last word: `Anna Lena Berg` → `Berg`."""
    return next(iter(reversed(value.split())), "")


@string_filter
def _domain(value: str) -> str:
    """The host of an address or a URL, without www: `bob@mail.acme.com` → `mail.acme.com`."""
    host = re.split(r"[/?#]", value.strip().rpartition("://")[2], maxsplit=1)[0]
    host = host.rpartition("@")[2].partition(":")[0].lower()
    return host.removeprefix("www.")


@string_filter
def _short_company(value: str) -> str:
    """A company as people say it: `ACME Holding GmbH & Co. KG` → `ACME Holding`."""
    short = value.strip()
    while (cut := _LEGAL_FORM.sub("", short)) != short and cut:
        short = cut
    return short


_FRIDAY: Final = 4
_MAX_DAYS: Final = 1000
# Not the "s" or "t" after an apostrophe, but the "Neil" of O'Neil.
_WORD: Final = re.compile(r"(?<![’'])[^\W\d_]+|(?<=[’'])[^\W\d_]{3,}")
_LEGAL_FORM: Final = re.compile(
    r"[\s,]+(?:(?:incorporated|inc|llc|llp|lp|ltd|limited|plc|corp|corporation|co|company|gmbh|mbh"
    r"|ag|se|kg|kgaa|ug|ohg|gbr|e\.?\s?k|e\.?\s?v|s\.?\s?a|s\.?\s?a\.?\s?s|s\.?\s?a\.?\s?r\.?\s?l"
    r"|s\.?\s?r\.?\s?l|s\.?\s?p\.?\s?a|s\.?\s?l|b\.?\s?v|n\.?\s?v|ab|a/s|aps|as|asa|oy|oyj|pty"
    r"|pte|sp\.?\s?z\.?\s?o\.?\s?o|k\.?\s?k)\.?|\(haftungsbeschränkt\)|&|\+)$",
    re.IGNORECASE,
)
_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "date": _date,
    "add_days": _add_days,
    "add_workdays": _add_workdays,
    "titlecase": _titlecase,
    "first_word": _first_word,
    "last_word": _last_word,
    "domain": _domain,
    "short_company": _short_company,
    # The library's own extras: locale by the variables `locale` and `currency_code`.
    "currency": Currency(),
    "decimal": Number(),
}

_TEXT: Final = _Language(undefined=_Missing)
_HTML: Final = _Language(undefined=_Missing, autoescape=True)


@lru_cache(maxsize=4096)
def _compile(source: str, html: bool) -> BoundTemplate:
    return (_HTML if html else _TEXT).from_string(source)


def _fault(error: LiquidError) -> Fault:
    context = error.context()
    if context is None:
        return Fault(str(error.message))
    return Fault(str(error.message), context[0], context[1] + 1)


def _undefined_name(error: UndefinedError) -> str:
    # The error carries its text only: "'a' is undefined" or "a.b is undefined".
    return str(error.message).removesuffix(" is undefined").strip("'")
