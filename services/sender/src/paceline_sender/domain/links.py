"""The links of an HTML body: found, and given other targets, every other octet as it was."""

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urlsplit

from paceline_common import tracking
from paceline_sender.domain.signature import before_end

# An attribute as HTML writes it: name, then perhaps a value, quoted or bare.
_ATTRIBUTE: Final = re.compile(
    r"""(?<=[\s"'/])([^\s"'<>/=]+)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s"'>][^\s>]*))?"""
)
_OPTING_OUT: Final = re.compile(r"unsubscribe|opt-?out", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Target:
    """The value of one link's href, quotes included: where it stands, and what it says."""

    start: int
    end: int
    url: str


class _Finder(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[_Target] = []
        self._starts = [0]
        for line in source.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text = self.get_starttag_text()
        if tag not in ("a", "area") or text is None:
            return
        line, column = self.getpos()
        start = self._starts[line - 1] + column
        for attribute in _ATTRIBUTE.finditer(text):
            if attribute[1].lower() == "href" and attribute[2] is not None:
                value = attribute[2]
                plain = value[1:-1] if value[0] in "\"'" else value
                self.found.append(
                    _Target(
                        start + attribute.start(2),
                        start + attribute.end(2),
                        html.unescape(plain).strip(),
                    )
                )
                return


def trackable(source: str, unsubscribe_url: str) -> tuple[str, ...]:
    """Return the targets of links that may be tracked, each once, in order.

    Web addresses only, and never one by which the recipient opts out: ours, or
    one that says so in its path or query.
    """
    urls = dict.fromkeys(
        target.url for target in _Finder(source).found if _may(target.url, unsubscribe_url)
    )
    return tuple(urls)[: tracking.MAX_LINKS]


def redirected(source: str, targets: Mapping[str, str], pixel: str | None) -> str:
    """Return the HTML with the links in `targets` leading there, and `pixel` at its end."""
    made: list[str] = []
    done = 0
    for target in _Finder(source).found:
        if (new := targets.get(target.url)) is not None:
            made += [source[done : target.start], f'"{html.escape(new)}"']
            done = target.end
    whole = "".join([*made, source[done:]])
    if pixel is None:
        return whole
    return before_end(whole, f'<img src="{html.escape(pixel)}" width="1" height="1" alt="">')


def _may(url: str, unsubscribe_url: str) -> bool:
    if not tracking.is_target(url) or url.startswith(unsubscribe_url):
        return False
    try:
        parts = urlsplit(url)
        if not parts.hostname:
            return False
    except ValueError:
        return False
    return _OPTING_OUT.search(f"{parts.path}?{parts.query}") is None
