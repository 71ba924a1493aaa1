"""The pages that a person meets on the way of an OAuth consent: plain HTML forms."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Final

from tests.twins.wire import Response

_PAGE: Final = (
    "<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
    "<h1>{title}</h1>{body}</html>"
)


def page(title: str, body: str, status: int = 200) -> Response:
    """Return a page."""
    content = _PAGE.format(title=escape(title), body=body).encode()
    return Response(status, content, {"Content-Type": "text/html; charset=utf-8"})


def accounts(action: str, asked: Mapping[str, str], emails: Iterable[str]) -> Response:
    """Return the account chooser: one form per account, which asks again with a hint."""
    kept = {name: value for name, value in asked.items() if name not in ("login_hint", "prompt")}
    forms = "".join(
        f'<form method="get" action="{escape(action)}">{_hidden(kept)}'
        f'<button name="login_hint" value="{escape(email)}">{escape(email)}</button></form>'
        for email in emails
    )
    return page("Choose an account", forms)


def consent(
    action: str,
    asked: Mapping[str, str],
    app: str,
    email: str,
    scopes: Mapping[str, bool],
    *,
    may_untick: bool,
) -> Response:
    """Return the consent page.

    `scopes` tells of each whether it is ticked at first; where they `may_untick`, each is
    a box of its own, else one yes or no for all.
    """
    if may_untick:
        shown = "".join(
            f'<label><input type="checkbox" name="granted" value="{escape(scope)}"'
            f"{' checked' if ticked else ''}> {escape(scope)}</label><br>"
            for scope, ticked in scopes.items()
        )
    else:
        shown = "<ul>" + "".join(f"<li>{escape(scope)}</li>" for scope in scopes) + "</ul>"
        shown += _hidden({"granted": " ".join(scopes)})
    body = (
        f"<p>{escape(app)} asks {escape(email)} for:</p>"
        f'<form method="post" action="{escape(action)}">{_hidden(asked)}{shown}'
        '<button name="decision" value="allow">Allow</button>'
        '<button name="decision" value="deny">Cancel</button></form>'
    )
    return page("Do you allow this?", body)


def _hidden(values: Mapping[str, str]) -> str:
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
        for name, value in values.items()
    )
