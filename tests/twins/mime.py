"""Messages as the twins look at them: a header without its body, a header with lines replaced."""

import re
from collections.abc import Collection, Iterable
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Final

_HEADS: Final = BytesParser(EmailMessage, policy=policy.default)
_NEXT_FIELD: Final = re.compile(rb"\n(?![ \t])")


def headed(raw: bytes) -> EmailMessage:
    """Return a message's header, parsed; its body is left alone."""
    # The parser splits all that it is given into lines: a body may have 30 MB.
    end = min((at for at in (raw.find(b"\r\n\r\n"), raw.find(b"\n\n")) if at >= 0), default=-1)
    head = raw if end < 0 else raw[:end] + b"\r\n\r\n"
    return _HEADS.parsebytes(head, headersonly=True)


def rewritten(raw: bytes, without: Collection[bytes], added: Iterable[str] = ()) -> bytes:
    """Return a message less the fields of these names (lower case), more lines `added`.

    Every line ends in CRLF afterwards.
    """
    head, _, body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
    lines = [
        line
        for line in _NEXT_FIELD.split(head)
        if line.partition(b":")[0].strip().lower() not in without
    ]
    lines += [line.encode() for line in added]
    return (b"\n".join(lines) + b"\n\n" + body).replace(b"\n", b"\r\n")
