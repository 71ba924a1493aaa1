"""Reading a delivery report: who it is about, what happened, which message it returns.

Conforming reports are RFC 3464 in RFC 6522's container (RFC 6533 for UTF-8
addresses). For the others `read` still finds the returned message, and
`reported` takes the addresses that a scanner of such reports found. Reading
never fails, whatever the bytes.
"""

import email.message
import email.parser
import email.policy
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from paceline_common import mime

Action = Literal["failed", "delayed", "delivered", "relayed", "expanded"]

ACTIONS: Final[tuple[Action, ...]] = ("failed", "delayed", "delivered", "relayed", "expanded")
_STATUS_PARTS: Final = ("message/delivery-status", "message/global-delivery-status")
_STATUS: Final = re.compile(r"(?<![\w.])([245]\.\d{1,3}\.\d{1,3})(?!\.?\d)")
_CODE: Final = re.compile(r"(?<![\w.+-])([245]\d\d)(?=[\s:;,)-]|$)")
_TOKEN: Final = re.compile(r"(?i)\bX-Paceline-Job:\s*([\w.-]{10,200})")
_MESSAGE_ID: Final = re.compile(r"(?i)\bMessage-ID:\s*(<[^<>\s]{1,990}>)")
_ANY_ID: Final = re.compile(r"<[^<>\s]{1,990}>")
_XTEXT: Final = re.compile(r"\+([0-9A-Fa-f]{2})")
_ADDRESS: Final = re.compile(r"[^\s<>;,\"]+@[^\s<>;,\"]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")
# Where non-conforming reports begin to quote the message.
_COPY: Final = re.compile(
    r"(?im)^-{2,}.{0,20}(below this line is a copy|this is a copy of the message"
    r"|original message|unsent message|returned message).*$"
)
_WAITING: Final = re.compile(
    r"(?i)has not yet been delivered|will (be )?retr(y|ied)|still being retried|"
    r"delayed \d+ hours|no action is required on your part"
)
_LIMIT: Final = 1000


@dataclass(frozen=True, slots=True)
class Recipient:
    """What happened to the message on its way to one address.

    `addresses` are the spellings under which the report names the address
    (original and final, xtext decoded); `status` is an enhanced code (RFC 3463)
    or None, `code` an SMTP reply code or None, `diagnostic` one line.
    """

    addresses: tuple[str, ...]
    action: Action
    status: str | None
    code: int | None
    diagnostic: str


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report.

    `tokens` are the values of X-Paceline-Job and `message_ids` the ids in what
    it returns, most telling first; `text` is its own explanation.
    """

    recipients: tuple[Recipient, ...]
    tokens: tuple[str, ...]
    message_ids: tuple[str, ...]
    text: str


def read(raw: bytes) -> Report:
    """Read a report; one without machine-readable part has no `recipients`."""
    message = mime.parse(raw)
    texts = list(_texts(message))
    # What returns the message may be a part, a copy in the text, or encoded: look at all of it.
    quoted = "\n".join([raw.partition(b"\n\n")[2].decode("latin-1"), *texts])
    if b"\r\n\r\n" in raw:
        quoted = "\n".join([raw.partition(b"\r\n\r\n")[2].decode("latin-1"), *texts])
    answered = " ".join(
        str(value) for name in ("In-Reply-To", "References") for value in message.get_all(name, [])
    )
    own = _COPY.split(texts[0], maxsplit=1)[0] if texts else ""
    return Report(
        recipients=tuple(filter(None, (_recipient(block) for block in _blocks(message, texts)))),
        tokens=tuple(dict.fromkeys(_TOKEN.findall(quoted))),
        message_ids=tuple(
            dict.fromkeys([*_MESSAGE_ID.findall(quoted), *reversed(_ANY_ID.findall(answered))])
        ),
        text=_line(own),
    )


def reported(
    report: Report, failed: Collection[str], delayed: Collection[str]
) -> tuple[Recipient, ...]:
    """Return what a report without machine-readable part says about the addresses found in it.

    `failed` and `delayed`: the addresses by what a scanner takes for their fate.
    """
    waiting = _WAITING.search(report.text) is not None
    return tuple(
        Recipient(
            (address.lower(),),
            "delayed" if waiting or address in delayed else "failed",
            _first(_STATUS, report.text),
            _number(_first(_CODE, report.text)),
            report.text[:_LIMIT],
        )
        for address in sorted({*failed, *delayed})
    )


def _texts(message: email.message.Message) -> Iterator[str]:
    for part in message.walk():
        payload = None if part.is_multipart() else part.get_payload(decode=True)
        if not isinstance(payload, bytes) or part.get_content_maintype() != "text":
            continue
        try:
            yield payload.decode(part.get_content_charset() or "utf-8", "replace")
        except (LookupError, ValueError):
            yield payload.decode("latin-1")


def _blocks(message: email.message.Message, texts: list[str]) -> Iterator[email.message.Message]:
    """Yield the groups of fields that may describe one recipient each."""
    found = False
    for part in message.walk():
        if part.get_content_type() not in _STATUS_PARTS:
            continue
        found = True
        payload = part.get_payload()
        if isinstance(payload, list):
            for block in payload:
                if not isinstance(block, email.message.Message):
                    continue
                yield block
                # The standard library knows only the ASCII kind of status part.
                yield from _fields(_body(block))
        else:
            yield from _fields(_body(part))
    if not found:
        # Some put the fields into their text ("Technical report:").
        for text in texts[:1]:
            yield from _fields(_COPY.split(text, maxsplit=1)[0])


def _body(part: email.message.Message) -> str:
    payload = None if part.is_multipart() else part.get_payload(decode=True)
    return payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""


def _fields(text: str) -> Iterator[email.message.Message]:
    parser = email.parser.HeaderParser(policy=email.policy.compat32)
    for block in re.split(r"\r?\n[ \t]*\r?\n", text):
        if "final-recipient:" in block.lower():
            yield parser.parsestr(block.strip())


def _recipient(block: email.message.Message) -> Recipient | None:
    # The original address first: the final one may be where it was forwarded to.
    named = [
        spelling
        for field in ("Original-Recipient", "Final-Recipient")
        for value in _values(block, field)
        for spelling in _addresses(value)
    ]
    action = _value(block, "Action").strip().lower().split(" ")[0]
    if not named or action not in ACTIONS:
        return None
    kind, _, words = _value(block, "Diagnostic-Code").partition(";")
    diagnostic = _line(words if words else kind)
    status = _first(_STATUS, _value(block, "Status"))
    if status is None or status.endswith(".0.0"):
        status = _first(_STATUS, diagnostic) or status
    return Recipient(
        tuple(dict.fromkeys(named)),
        ACTIONS[ACTIONS.index(action)],
        status,
        _number(_first(_CODE, diagnostic) or _first(_CODE, _value(block, "Status"))),
        diagnostic,
    )


def _values(block: email.message.Message, field: str) -> list[str]:
    # The parser keeps octets beyond ASCII as surrogates; RFC 6533 makes them UTF-8.
    return [
        str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for name, value in block.raw_items()
        if name.lower() == field.lower()
    ]


def _value(block: email.message.Message, field: str) -> str:
    return next(iter(_values(block, field)), "")


def _addresses(value: str) -> Iterator[str]:
    kind, separator, rest = value.partition(";")
    if separator and kind.strip().lower() not in ("rfc822", "utf-8"):
        return
    if (found := _ADDRESS.search(rest if separator else kind)) is not None:
        address = found.group().lower()
        yield address
        # RFC 3461 §4: ORCPT is xtext, and not every MTA decodes it.
        decoded = _XTEXT.sub(lambda match: chr(int(match.group(1), 16)), found.group()).lower()
        if decoded != address:
            yield decoded


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    # The digits of an address are no code.
    found = pattern.search(_ADDRESS.sub(" ", text))
    return found.group(1) if found else None


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())[:_LIMIT]
