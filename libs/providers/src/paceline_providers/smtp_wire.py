"""How a message and an address look on an SMTP connection."""

import re
import socket
from typing import Final

_BARE_LINE_END: Final = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_LEADING_DOT: Final = re.compile(rb"(?m)^\.")


def wire_form(message: bytes) -> bytes:
    """Return a message as it goes over the wire, less the final dot.

    Every line ends in CRLF, the last one too; a leading dot is doubled (RFC 5321 §4.5.2).
    """
    if _BARE_LINE_END.search(message):
        message = _LINE_END.sub(b"\r\n", message)
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    return _LEADING_DOT.sub(b"..", message)


def address_literal(connected: socket.socket) -> str:
    """Return our address literal: who has no public name greets so (RFC 5321 §4.1.4)."""
    host = connected.getsockname()[0]
    return f"[IPv6:{host.partition('%')[0]}]" if ":" in host else f"[{host}]"
