"""One received message, read once: the headers and text that the rules look at.

Reading never fails: whatever bytes a stranger sends become an `Inbound`, with
unreadable parts left out.
"""

import email.message
import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from email.utils import getaddresses
from typing import Final

from paceline_common import mime

_MESSAGE_ID: Final = re.compile(r"<[^<>\s]{1,990}>")
# What no text column and no reader of a log wants.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_SPACE: Final = re.compile(r"\s+")
_HIDDEN_HTML: Final = re.compile(r"(?is)<(style|script|head|blockquote)\b.*?(</\1\s*>|\Z)")
_TAG: Final = re.compile(r"(?s)<[^>]*(>|\Z)")
_BREAK: Final = re.compile(r"(?i)<(br|/p|/div|/li|/tr)\b[^>]*>")
# Where the quoted original starts, in the clients and languages met so far.
_QUOTE: Final = re.compile(
    r"(?im)^("
    r">.*"
    r"|-{2,}\s*(original message|ursprüngliche nachricht|message d'origine|mensaje original"
    r"|messaggio originale|oorspronkelijk bericht|forwarded message)\s*-{2,}.*"
    r"|_{20,}\s*"
    r"|(on|am|le|el|il|op|em|den)\b.{4,200}(wrote|schrieb|a écrit|escribió|ha scritto|schreef"
    r"|escreveu|skrev)\s*:.*"
    r"|(from|von|de|da|van|от)\s*:\s.*@.*"
    r")$"
)
_TEXT_LIMIT: Final = 65_536


@dataclass(frozen=True, slots=True)
class Inbound:
    """What the rules need of a message.

    `headers` maps lower-case names to all decoded values, in order.
    `message_id` has its angle brackets, or is empty. `references` are the ids of
    In-Reply-To, then those of References from the newest to the oldest.
    `from_addresses` are lower-case. `part_types` are the content types of the
    message and of its direct parts. `text` is plain, without its quoted original.
    """

    headers: Mapping[str, tuple[str, ...]]
    message_id: str
    references: tuple[str, ...]
    from_addresses: tuple[str, ...]
    subject: str
    content_type: str
    report_type: str
    part_types: tuple[str, ...]
    text: str

    def header(self, name: str) -> str:
        """Return the first value of a header (lower-case name), stripped; empty if absent."""
        values = self.headers.get(name, ())
        return values[0].strip() if values else ""

    def snippet(self, limit: int = 280) -> str:
        """Return the opening words on one line, at most `limit` characters."""
        line = _SPACE.sub(" ", self.text).strip()
        return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def read(raw: bytes) -> Inbound:
    """Read a message (RFC 5322) or anything else; never raises."""
    message = mime.parse(raw)
    collected: dict[str, list[str]] = {}
    for name, value in message.items():
        collected.setdefault(name.lower(), []).append(_decoded(str(value)))
    headers = {name: tuple(values) for name, values in collected.items()}
    replied_to = _MESSAGE_ID.findall(" ".join(headers.get("in-reply-to", ())))
    chain = _MESSAGE_ID.findall(" ".join(headers.get("references", ())))
    own = _MESSAGE_ID.search(" ".join(headers.get("message-id", ())))
    return Inbound(
        headers=headers,
        message_id=own.group() if own else "",
        references=tuple(dict.fromkeys([*replied_to, *reversed(chain)])),
        from_addresses=_addresses(headers.get("from", ())),
        subject=_SPACE.sub(" ", " ".join(headers.get("subject", ())[:1])).strip(),
        content_type=message.get_content_type(),
        report_type=_parameter(message, "report-type"),
        part_types=tuple(part.get_content_type() for part in _parts(message)),
        text=_text(message),
    )


def _decoded(value: str) -> str:
    try:
        parts = [
            part if isinstance(part, str) else part.decode(charset or "ascii", "replace")
            for part, charset in decode_header(value)
        ]
    except (HeaderParseError, LookupError, ValueError):
        return _clean(value)
    return _clean("".join(parts))


def _clean(value: str) -> str:
    return _CONTROL.sub("", _LINE_END.sub(" ", value))


def _addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    found = (address.strip().lower() for _, address in getaddresses(list(values)))
    return tuple(dict.fromkeys(address for address in found if "@" in address))


def _parameter(message: email.message.Message, name: str) -> str:
    try:
        value = message.get_param(name)
    except (LookupError, ValueError):
        return ""
    # RFC 2231 gives (charset, language, value).
    return str(value[2] if isinstance(value, tuple) else value or "").strip().lower()


def _parts(message: email.message.Message) -> Iterator[email.message.Message]:
    yield message
    payload = message.get_payload()
    if isinstance(payload, list):
        yield from (part for part in payload if isinstance(part, email.message.Message))


def _text(message: email.message.Message) -> str:
    markup = ""
    for part in message.walk():
        kind = part.get_content_type()
        if part.get_content_disposition() == "attachment" or part.is_multipart():
            continue
        if kind == "text/plain" and (plain := _body(part).strip()):
            return _unquoted(plain)
        if kind == "text/html" and not markup:
            markup = _body(part)
    plain = _TAG.sub(" ", _BREAK.sub("\n", _HIDDEN_HTML.sub(" ", markup)))
    return _unquoted(html.unescape(plain).strip())


def _body(part: email.message.Message) -> str:
    payload = part.get_payload(decode=True)
    if not isinstance(payload, bytes):
        return ""
    payload = payload[:_TEXT_LIMIT]
    try:
        text = payload.decode(part.get_content_charset() or "utf-8", "replace")
    except (LookupError, ValueError):
        text = payload.decode("utf-8", "replace")
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def _unquoted(text: str) -> str:
    start = _QUOTE.search(text)
    above = text[: start.start()].strip() if start else text
    # An answer written below or between the quotes.
    return (
        above
        or "\n".join(line for line in text.split("\n") if not line.lstrip().startswith(">")).strip()
    )
