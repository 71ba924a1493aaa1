"""Liquid templates with strict variables: a missing one is an error, never a blank.

A template may ask for a variable (`{% if company %}`) or name a substitute
(`{{ first_name | default: "there" }}`); to print one that is absent fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

from liquid import BoundTemplate, Environment, FalsyStrictUndefined
from liquid.exceptions import LiquidError, UndefinedError

STANDARD_FIELDS: Final = ("email", "first_name", "last_name", "company")
_RESERVED: Final = frozenset({*STANDARD_FIELDS, "sender", "unsubscribe_url"})
_MAX_OUTPUT: Final = 1_000_000


class _Missing(FalsyStrictUndefined):
    """Absent: false in a condition, replaced by `default`, an error in print."""

    force_liquid_default = True


class _Limits(Environment):
    # Templates come from users: a loop of loops must not hold the process.
    loop_iteration_limit: ClassVar[int | None] = 10_000
    output_stream_limit: ClassVar[int | None] = _MAX_OUTPUT
    local_namespace_limit: ClassVar[int | None] = _MAX_OUTPUT


_TEXT: Final = _Limits(undefined=_Missing)
_HTML: Final = _Limits(undefined=_Missing, autoescape=True)


class MissingVariable(Exception):
    """The template prints a variable that the lead does not have; `name` as written."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class TemplateError(Exception):
    """The template itself is wrong (syntax, filter, limit); the text says where."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The Liquid source of one step; `html` and `subject` may be absent."""

    subject: str | None
    text: str | None
    html: str | None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A step filled in for one lead; the subject may be empty (a follow-up)."""

    subject: str
    text: str | None
    html: str | None


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


@lru_cache(maxsize=4096)
def _compile(source: str, html: bool) -> BoundTemplate:
    return (_HTML if html else _TEXT).from_string(source)


def fill(source: str, values: Mapping[str, object], *, html: bool = False) -> str:
    """Render one template; values are HTML-escaped when `html`.

    Raises `MissingVariable` and `TemplateError`. Compiled templates are cached
    by their source: a changed step is another source.
    """
    try:
        return _compile(source, html).render(values)
    except UndefinedError as error:
        raise MissingVariable(_undefined_name(error)) from error
    except LiquidError as error:
        raise TemplateError(str(error.message)) from error
    except RecursionError as error:
        raise TemplateError("the template is nested too deeply") from error


def render(sources: Sources, values: Mapping[str, object]) -> Rendered:
    """Render all parts of a step; raises `MissingVariable` and `TemplateError`."""
    if not (sources.text and sources.text.strip()) and not (sources.html and sources.html.strip()):
        raise TemplateError("the step has neither a text nor an HTML template")
    return Rendered(
        subject=fill(sources.subject or "", values),
        text=fill(sources.text, values) if sources.text and sources.text.strip() else None,
        html=fill(sources.html, values, html=True)
        if sources.html and sources.html.strip()
        else None,
    )


def render_with_gaps(
    sources: Sources, values: Mapping[str, object]
) -> tuple[Rendered, tuple[str, ...]]:
    """Render for a preview: each missing variable shows as `[name]` and is listed.

    Raises `TemplateError`.
    """
    shown = dict(values)
    missing: list[str] = []
    while True:
        try:
            return render(sources, shown), tuple(missing)
        except MissingVariable as gap:
            root = gap.name.split(".", 1)[0].split("[", 1)[0]
            if gap.name in missing:
                raise TemplateError(f"{gap.name} cannot be shown") from gap
            missing.append(gap.name)
            _put_gap(shown, gap.name, root)


def _put_gap(shown: dict[str, object], name: str, root: str) -> None:
    inner = name.removeprefix(f"{root}.")
    held = shown.get(root)
    if inner != name and isinstance(held, dict):
        shown[root] = {**held, inner: f"[{name}]"}
    else:
        shown[root] = f"[{name}]"


def _undefined_name(error: UndefinedError) -> str:
    # The error carries its text only: "'a' is undefined" or "a.b is undefined".
    return str(error.message).removesuffix(" is undefined").strip("'")
