"""Liquid templates before they are used: do they parse, and what must a lead have?

The sender renders; this mirrors its rules (strict variables, `default` and
conditions allowed) only far enough to warn before the start.
"""

from functools import lru_cache
from typing import ClassVar, Final

from liquid import BoundTemplate, Environment, FalsyStrictUndefined
from liquid.exceptions import LiquidError, UndefinedError

# What every message has, whoever the lead is.
_GIVEN: Final = {
    "email": "lead@example.com",
    "unsubscribe_url": "https://example.com/u/token",
    "sender": {"name": "Sender", "email": "sender@example.com"},
}
_MAX_VARIABLES: Final = 100


class _Missing(FalsyStrictUndefined):
    """Absent: false in a condition, replaced by `default`, an error in print."""

    force_liquid_default = True


class _Limits(Environment):
    loop_iteration_limit: ClassVar[int | None] = 10_000
    output_stream_limit: ClassVar[int | None] = 1_000_000
    local_namespace_limit: ClassVar[int | None] = 1_000_000


_ENVIRONMENT: Final = _Limits(undefined=_Missing)


@lru_cache(maxsize=1024)
def _compile(source: str) -> BoundTemplate:
    return _ENVIRONMENT.from_string(source)


def fault(source: str) -> str | None:
    """Return why `source` is not valid Liquid, with its line, or None if it is valid."""
    try:
        template = _compile(source)
        unknown = sorted(set(template.analyze().filters) - set(_ENVIRONMENT.filters))
    except LiquidError as error:
        return _words(error)
    except RecursionError:
        return "it is nested too deeply"
    if unknown:
        return f"there is no filter called {', '.join(unknown)}"
    return None


def required(source: str) -> list[str]:
    """Return the variables that a valid template prints and that a lead therefore must have.

    Those with a `default`, and those printed only under a condition on an
    absent variable, are not among them.
    """
    values: dict[str, object] = dict(_GIVEN)
    names: list[str] = []
    for _ in range(_MAX_VARIABLES):
        try:
            _compile(source).render(values)
        except UndefinedError as error:
            # The error carries its text only: "'a' is undefined" or "a.b is undefined".
            name = str(error.message).removesuffix(" is undefined").strip("'")
            root = name.split(".", 1)[0].split("[", 1)[0]
            if name in names or root in _GIVEN:
                break
            names.append(name)
            values[root] = "x"
        except (LiquidError, RecursionError):
            # Sample values do not suit a filter or a loop; real ones may.
            break
        else:
            break
    return names


def _words(error: LiquidError) -> str:
    context = error.context()
    if context is None:
        return str(error.message)
    line, column = context[0], context[1]
    return f"{error.message} (line {line}, column {column + 1})"
