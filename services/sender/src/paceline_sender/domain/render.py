"""A step's content, filled in for one lead (`paceline_common.templates` is the language)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from paceline_common.templates import (
    STANDARD_FIELDS,
    MissingVariable,
    Occasion,
    TemplateError,
    fill,
    variables,
)
from paceline_sender.domain import signature

__all__ = [
    "STANDARD_FIELDS", "MissingVariable", "Rendered", "Sources", "TemplateError", "fill",
    "render", "variables",
]  # fmt: skip

_SIGNED: Final = {"signature": signature.MARK}


@dataclass(frozen=True, slots=True)
class Sources:
    """The templates of one message; all but one body may be absent.

    Signatures are templates too; an HTML one alone is left out of the text part. A body may
    print `{{ signature }}`, which stands for one until `signature.placed` puts it there.
    """

    subject: str | None
    text: str | None
    html: str | None
    signature_text: str | None = None
    signature_html: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """A step filled in for one lead; the subject may be empty (a follow-up).

    `missing` names the variables that are shown as `[name]`, in a preview.
    """

    subject: str
    text: str | None
    html: str | None
    signature_text: str | None = None
    signature_html: str | None = None
    missing: tuple[str, ...] = ()


def render(
    sources: Sources,
    values: Mapping[str, object],
    subject: Occasion,
    body: Occasion,
    *,
    show_gaps: bool = False,
) -> Rendered:
    """Render all parts of a message; `subject` and `body` say what spintax picks there.

    Raises `TemplateError`, and `MissingVariable` unless `show_gaps`: then each
    missing variable stands as `[name]` and is listed.
    """
    if not _has(sources.text) and not _has(sources.html):
        raise TemplateError("the step has neither a text nor an HTML template")
    shown = dict(values)
    missing: list[str] = []
    while True:
        try:
            return Rendered(
                subject=fill(sources.subject or "", shown, subject),
                text=_fill(sources.text, {**shown, **_SIGNED}, body, html=False),
                html=_fill(sources.html, {**shown, **_SIGNED}, body, html=True),
                signature_text=_fill(sources.signature_text, shown, body, html=False),
                signature_html=_fill(sources.signature_html, shown, body, html=True),
                missing=tuple(missing),
            )
        except MissingVariable as gap:
            if not show_gaps:
                raise
            if gap.name in missing:
                raise TemplateError(f"{gap.name} cannot be shown") from gap
            missing.append(gap.name)
            _put_gap(shown, gap.name)


def _has(source: str | None) -> bool:
    return bool(source and source.strip())


def _fill(
    source: str | None, values: Mapping[str, object], occasion: Occasion, *, html: bool
) -> str | None:
    return fill(source, values, occasion, html=html) if source and source.strip() else None


def _put_gap(shown: dict[str, object], name: str) -> None:
    root = name.split(".", 1)[0].split("[", 1)[0]
    inner = name.removeprefix(f"{root}.")
    held = shown.get(root)
    if inner != name and isinstance(held, dict):
        shown[root] = {**held, inner: f"[{name}]"}
    else:
        shown[root] = f"[{name}]"
