"""The way in for mail of a twin's own domain: an SMTP server that asks no one to sign in."""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from tests.twins.smtp.server import GOOD_REPLIES
from tests.twins.smtp.wire import GOOD, Act, Place, Seen, address_of, unstuffed


@dataclass
class Inbound:
    """Takes mail for whom the twin `knows`; `arrive` gets recipient and message. See `wire.Host`.

    An unknown recipient is refused at RCPT, as real hosts do it.
    """

    name: str
    knows: Callable[[str], bool]
    arrive: Callable[[str, bytes], object]
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False

    def begin(self, seen: Seen) -> None:
        """See `wire.Host`."""

    def offers(self, seen: Seen) -> Sequence[str]:
        """See `wire.Host`."""
        return ("SIZE 157286400", "8BITMIME", "ENHANCEDSTATUSCODES", "PIPELINING", "SMTPUTF8")

    def act(self, place: Place, seen: Seen) -> Act:
        """See `wire.Host`."""
        return GOOD

    def reply(self, place: Place, seen: Seen, argument: str) -> str:
        """See `wire.Host`."""
        match place:
            case "connect":
                return f"220 {self.name} ESMTP"
            case "EHLO":
                seen.sender, seen.recipients = None, []
                return f"250 {self.name}"
            case "AUTH":
                return "502 5.5.1 not here"
            case "MAIL":
                seen.sender, seen.recipients = address_of(argument), []
            case "RCPT":
                address = address_of(argument)
                if not self.knows(address):
                    return f"550 5.1.1 <{address}> no such user here"
                seen.recipients.append(address)
            case "DATA":
                if not seen.recipients:
                    return "554 5.5.1 no valid recipients"
            case "dot":
                self._arrive(seen)
            case "RSET":
                seen.sender, seen.recipients = None, []
        return GOOD_REPLIES[place]

    def _arrive(self, seen: Seen) -> None:
        received = (
            f"Return-Path: <{seen.sender or ''}>\r\n"
            f"Received: by {self.name} with ESMTP; {format_datetime(datetime.now(UTC))}\r\n"
        )
        message = received.encode() + unstuffed(seen.messages.pop())
        for recipient in seen.recipients:
            self.arrive(recipient, message)
        seen.sender, seen.recipients = None, []
