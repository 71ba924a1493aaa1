"""Where a mailbox's signature stands: below the body, before whatever ends the page."""

import html as markup
import re
from typing import Final

# What clients cut off when they quote (RFC 3676 §4.3).
_SEPARATOR: Final = "-- \n"
_BODY_END: Final = re.compile(r"</body\s*>", re.IGNORECASE)


def placed(
    text: str | None, html: str | None, signature_text: str | None, signature_html: str | None
) -> tuple[str | None, str | None]:
    """Return text and HTML with the mailbox's signature.

    A signature in text alone stands in the HTML too, line by line; one in HTML
    alone is not put into the text.
    """
    if signature_text is not None:
        if text is not None:
            text = f"{text.rstrip()}\n\n{_SEPARATOR}{signature_text.strip()}\n"
        if signature_html is None:
            signature_html = "<br>".join(
                markup.escape(line, quote=False) for line in signature_text.strip().splitlines()
            )
    if html is not None and signature_html is not None:
        html = before_end(html, f"<br><br><div>{signature_html.strip()}</div>")
    return text, html


def before_end(html: str, piece: str) -> str:
    """Return the HTML with `piece` as the last thing of its body."""
    ends = list(_BODY_END.finditer(html))
    at = ends[-1].start() if ends else len(html)
    return f"{html[:at]}{piece}{html[at:]}"
