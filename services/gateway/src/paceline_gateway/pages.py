"""The pages that people without an API key see: an unsubscribe link, the way to a consent and back.

They work without scripts, load nothing, and tell no other site that they were open.
"""

from collections.abc import Mapping
from string import Template
from typing import Final

from fastapi.responses import HTMLResponse

SAFE: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
    # The address holds a secret.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_PAGE: Final = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>$title</title>
<style>
body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 12vh auto; padding: 0 1rem;
  color: #222; background: #fff }
button { font: inherit; padding: .6rem 1.2rem; border: 0; border-radius: .3rem; color: #fff;
  background: #1a5fb4; cursor: pointer }
code, blockquote { overflow-wrap: anywhere }
blockquote { margin: 1rem 0; padding: .3rem 1rem; border-left: .2rem solid #999; color: #444 }
</style>
<h1>$title</h1>
$body
</html>
"""
)


def page(
    status: int, title: str, body: str, headers: Mapping[str, str] | None = None
) -> HTMLResponse:
    """Return a page; `title` and `body` are HTML, escaped by the caller."""
    return HTMLResponse(
        _PAGE.substitute(title=title, body=body), status, {**SAFE, **(headers or {})}
    )
