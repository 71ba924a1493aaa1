"""Gmail's search words, as far as a mail reader for machines uses them.

support.google.com/mail/answer/7190; `after:` and `before:` take epoch seconds too
(developers.google.com/gmail/api/guides/filtering).
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import getaddresses
from typing import Final

from tests.twins.gmail.mailbox import Refused, Stored

_WORD: Final = re.compile(r'(-?)(?:(\w+):)?(?:"([^"]*)"|\(([^)]*)\)|(\S+))')
_PLACES: Final = {"sent": "SENT", "inbox": "INBOX", "drafts": "DRAFT", "draft": "DRAFT",
                  "spam": "SPAM", "trash": "TRASH"}  # fmt: skip


def matcher(query: str) -> Callable[[Stored], bool]:
    """Return what tells whether a message matches; an unknown operator is refused."""
    tests = []
    for minus, operator, quoted, grouped, bare in _WORD.findall(query):
        test = _test(operator.lower(), quoted or grouped or bare)
        tests.append((test, bool(minus)))
    return lambda one: all(test(one) != negated for test, negated in tests)


def since(query: str) -> datetime | None:
    """Return the instant before which nothing matches a query, None for no such limit."""
    limits = [
        _instant(quoted or bare)
        for minus, operator, quoted, _, bare in _WORD.findall(query)
        if operator.lower() == "after" and not minus
    ]
    return max(limits, default=None)


def _test(operator: str, value: str) -> Callable[[Stored], bool]:
    match operator:
        case "in" if value.lower() == "anywhere":
            return lambda _: True
        case "in" if value.lower() in _PLACES:
            return lambda one: _PLACES[value.lower()] in one.labels
        case "is" if value.lower() in ("unread", "starred", "important"):
            return lambda one: value.upper() in one.labels
        case "to" | "from" | "cc" | "bcc":
            return lambda one: (
                value.lower() in (one.header(operator) or "").lower()
                and any(
                    value.lower() in (address.lower(), address.lower().partition("@")[2])
                    for _, address in getaddresses([one.header(operator) or ""])
                )
            )
        case "subject":
            return lambda one: value.lower() in (one.header("Subject") or "").lower()
        case "rfc822msgid":
            wanted = value.strip("<>")
            return lambda one: (one.header("Message-ID") or "").strip().strip("<>") == wanted
        case "after":
            return lambda one: one.at >= _instant(value)
        case "before":
            return lambda one: one.at < _instant(value)
        case "":
            return lambda one: value.lower().encode() in one.raw.lower()
        case _:
            raise Refused(400, "invalidArgument", f"the twin does not know {operator}:{value}")


def _instant(value: str) -> datetime:
    if value.isdecimal():
        return datetime.fromtimestamp(int(value), UTC)
    try:
        return datetime.strptime(value.replace("-", "/"), "%Y/%m/%d").replace(tzinfo=UTC)
    except ValueError:
        raise Refused(400, "invalidArgument", f"not a date: {value}") from None
