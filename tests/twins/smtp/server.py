"""A scripted SMTP server: every reply, silence, reset and lie is chosen by the test.

It speaks just enough SMTP to be talked to by a correct client, and keeps what
it was sent: commands in order, and message data byte for byte.
"""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from tests.twins.smtp.wire import Act, Fault, Place, Seen, listening

__all__ = ["Fault", "Place", "Script", "ScriptedSmtp", "Seen", "scripted"]

GOOD_REPLIES: Final[Mapping[str, str]] = {
    "connect": "220 twin.test ESMTP",
    "EHLO": "250 twin.test",
    "STARTTLS": "220 2.0.0 go ahead",
    "AUTH": "235 2.7.0 welcome",
    "MAIL": "250 2.1.0 sender ok",
    "RCPT": "250 2.1.5 recipient ok",
    "DATA": "354 go ahead",
    "dot": "250 2.0.0 Ok: queued as 4TwinQueueId",
    "QUIT": "221 2.0.0 bye",
    "RSET": "250 2.0.0 ok",
}


@dataclass
class Script:
    """What the server does differently from a good one.

    `replies` replace good ones; `faults` come instead of a reply; `delays_s`
    before it. `offers` are EHLO's lines. `injected` is sent in the clear right
    behind the answer to STARTTLS. `early` is said in mid-body, after which the
    server reads no more. `read_bytes` limits what is read before a `body` fault.
    """

    replies: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[Place, Fault] = field(default_factory=dict)
    delays_s: Mapping[Place, float] = field(default_factory=dict)
    offers: tuple[str, ...] = ("SIZE 1000000", "8BITMIME", "AUTH PLAIN LOGIN")
    tls: ssl.SSLContext | None = None
    implicit_tls: bool = False
    injected: str = ""
    early: str | None = None
    read_bytes: int = 1


@dataclass
class ScriptedSmtp:
    """A running server and what it saw, one entry per connection; see `wire.Host`."""

    port: int
    script: Script = field(default_factory=Script)
    connections: list[Seen] = field(default_factory=list)

    @property
    def only(self) -> Seen:
        """The one connection there was."""
        [seen] = self.connections
        return seen

    @property
    def tls(self) -> ssl.SSLContext | None:
        """See `wire.Host`."""
        return self.script.tls

    @property
    def implicit_tls(self) -> bool:
        """See `wire.Host`."""
        return self.script.implicit_tls

    def begin(self, seen: Seen) -> None:
        """See `wire.Host`."""
        self.connections.append(seen)

    def offers(self, seen: Seen) -> Sequence[str]:
        """See `wire.Host`."""
        return self.script.offers

    def act(self, place: Place, seen: Seen) -> Act:
        """See `wire.Host`."""
        script = self.script
        return Act(
            reply=script.replies.get(place),
            fault=script.faults.get(place),
            delay_s=script.delays_s.get(place, 0.0),
            injected=script.injected if place == "STARTTLS" else "",
            early=script.early if place == "body" else None,
            read_bytes=script.read_bytes,
        )

    def reply(self, place: Place, seen: Seen, argument: str) -> str:
        """See `wire.Host`."""
        return GOOD_REPLIES[place]


@asynccontextmanager
async def scripted(script: Script, host: str = "127.0.0.1") -> AsyncIterator[ScriptedSmtp]:
    """Run a scripted server on a free port until the block ends."""
    running = ScriptedSmtp(0, script)
    async with listening(running, host) as running.port:
        yield running
