"""Where a mailbox's signature stands: where the template says, else below the body.

Below the body is above the line to unsubscribe by, where the message ends with one.
"""

import html as markup
import re
from typing import Final

# What `{{ signature }}` prints until the body is known: private use, nobody types it.
MARK: Final = "\ue000signature\ue001"
_NAMED: Final = re.compile(r"\{\{-?\s*signature(?![\w-])")
# What clients cut off when they quote (RFC 3676 §4.3).
_SEPARATOR: Final = "-- \n"
_BODY_END: Final = re.compile(r"</body\s*>", re.IGNORECASE)
_BLOCK: Final = re.compile(r"<(p|div|footer|center|table|small)\b", re.IGNORECASE)
_UNSEEN: Final = re.compile(r"<[^>]*>|&nbsp;|\s+")
# A block that says more than this is the letter itself.
_LINE_MAX: Final = 300


def is_named(template: str | None) -> bool:
    """Tell whether a template says where the signature goes: then it stands there only."""
    return template is not None and _NAMED.search(template) is not None


def placed(
    text: str | None,
    html: str | None,
    signature_text: str | None,
    signature_html: str | None,
    *,
    named: tuple[bool, bool] = (False, False),
    unsubscribe_url: str = "",
) -> tuple[str | None, str | None]:
    """Return text and HTML with the mailbox's signature.

    `named` says of which of the two the template names the signature's place: there the
    signature stands instead of `MARK`, and nothing does without one. A signature in text
    alone stands in the HTML too, line by line; one in HTML alone is not put into the text.
    """
    if signature_html is None and signature_text is not None:
        signature_html = "<br>".join(
            markup.escape(line, quote=False) for line in signature_text.strip().splitlines()
        )
    if text is not None:
        plain = (signature_text or "").strip()
        text = text.replace(MARK, plain)
        if plain and not named[0]:
            text = _below(text, f"{_SEPARATOR}{plain}", unsubscribe_url)
    if html is not None:
        rich = (signature_html or "").strip()
        html = html.replace(MARK, rich)
        if rich and not named[1]:
            at = _last_block(html, unsubscribe_url)
            if at is None:
                html = before_end(html, f"<br><br><div>{rich}</div>")
            else:
                html = f"{html[:at]}<div>{rich}</div><br>{html[at:]}"
    return text, html


def before_end(html: str, piece: str) -> str:
    """Return the HTML with `piece` as the last thing of its body."""
    ends = list(_BODY_END.finditer(html))
    at = ends[-1].start() if ends else len(html)
    return f"{html[:at]}{piece}{html[at:]}"


def _below(text: str, piece: str, unsubscribe_url: str) -> str:
    body = text.rstrip()
    letter, gap, last = body.rpartition("\n\n")
    if unsubscribe_url and unsubscribe_url in last and letter.strip():
        return f"{letter.rstrip()}\n\n{piece}{gap}{last}\n"
    return f"{body}\n\n{piece}\n"


def _last_block(html: str, unsubscribe_url: str) -> int | None:
    """Return where the block begins that holds the link, if it ends the page."""
    link = html.rfind(unsubscribe_url) if unsubscribe_url else -1
    blocks = list(_BLOCK.finditer(html, 0, max(link, 0)))
    if not blocks:
        return None
    block = blocks[-1]
    end = html.lower().find(f"</{block[1].lower()}", link)
    # `link` stands in a tag or in text; from the block's own begin all tags are whole.
    said = _UNSEEN.sub("", html[block.start() : end])
    if end < 0 or len(said) > _LINE_MAX or _UNSEEN.sub("", html[end:]):
        return None
    return block.start() if _UNSEEN.sub("", html[: block.start()]) else None
