"""A scripted SMTP server: every reply, silence, reset and lie is chosen by the test.

It speaks just enough SMTP to be talked to by a correct client, and keeps what
it was sent: commands in order, and message data byte for byte.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

# Where a script may strike. `body`: once DATA was answered with 354, before the final dot;
# `dot`: once the final dot was read.
Place = Literal[
    "connect", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "body", "dot", "RSET", "QUIT"
]
Fault = Literal["reset", "close", "hang"]

_GOOD: Mapping[str, str] = {
    "connect": "220 twin.test ESMTP",
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
class Seen:
    """What one connection brought; `lost_data`: what came while the server took no notice."""

    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    lost_data: bytes = b""
    was_encrypted: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.StreamWriter | None = field(default=None, repr=False)

    def dismiss(self) -> None:
        """Close the connection from the server's side, saying that it was idle too long."""
        assert self.writer is not None
        self.writer.write(b"421 4.4.2 idle too long\r\n")
        self.writer.close()

    @property
    def verbs(self) -> list[str]:
        """The commands without their arguments."""
        return [command.partition(" ")[0].upper() for command in self.commands]


@dataclass
class ScriptedSmtp:
    """A running server and what it saw, one entry per connection."""

    port: int
    connections: list[Seen] = field(default_factory=list)

    @property
    def only(self) -> Seen:
        """The one connection there was."""
        [seen] = self.connections
        return seen


class _Gone(Exception):
    """The connection is over."""


@asynccontextmanager
async def scripted(script: Script, host: str = "127.0.0.1") -> AsyncIterator[ScriptedSmtp]:
    """Run a scripted server on a free port until the block ends."""
    running = ScriptedSmtp(0)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen = Seen(writer=writer)
        running.connections.append(seen)
        try:
            await _Conversation(script, seen, reader, writer).run()
        except (_Gone, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            seen.ended.set()
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(
        serve, host, 0, ssl=script.tls if script.implicit_tls else None
    )
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@dataclass
class _Conversation:
    script: Script
    seen: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def run(self) -> None:
        self.seen.was_encrypted = self.script.implicit_tls
        await self._say("connect")
        while True:
            line = await self.reader.readline()
            if not line:
                raise _Gone
            command = line.decode("utf-8", "replace").rstrip("\r\n")
            self.seen.commands.append(command)
            verb = command.partition(" ")[0].upper()
            match verb:
                case "EHLO" | "HELO":
                    await self._greet()
                case "STARTTLS":
                    await self._secure()
                case "AUTH":
                    await self._sign_in(command)
                case "DATA":
                    if (await self._say("DATA")).startswith("354"):
                        await self._take_message()
                case "QUIT":
                    await self._say("QUIT")
                    raise _Gone
                case "MAIL":
                    await self._say("MAIL")
                case "RCPT":
                    await self._say("RCPT")
                case "RSET":
                    await self._say("RSET")
                case _:
                    self._send("500 5.5.1 what?")

    async def _greet(self) -> None:
        if "EHLO" in self.script.replies or "EHLO" in self.script.faults:
            await self._say("EHLO")
            return
        offers = list(self.script.offers)
        if self.script.tls is not None and not self.seen.was_encrypted:
            offers.append("STARTTLS")
        lines = ["twin.test", *offers]
        self._send("\n".join(f"250-{line}" for line in lines[:-1]) + f"\n250 {lines[-1]}")
        await self.writer.drain()

    async def _secure(self) -> None:
        assert self.script.tls is not None
        answer = await self._say("STARTTLS", self.script.injected)
        if answer.startswith("220"):
            await self.writer.start_tls(self.script.tls)
            self.seen.was_encrypted = True

    async def _sign_in(self, command: str) -> None:
        words = command.split()
        if words[1].upper() == "LOGIN":
            self._send("334 UGFzc3dvcmQ6")
            await self.writer.drain()
            self.seen.commands.append((await self.reader.readline()).decode().strip())
        await self._say("AUTH")

    async def _take_message(self) -> None:
        if "body" in self.script.faults or self.script.early is not None:
            while len(self.seen.lost_data) < self.script.read_bytes:
                block = await self.reader.read(4096)
                if not block:
                    raise _Gone
                self.seen.lost_data += block
            if self.script.early is not None:
                self._send(self.script.early)
                await self.writer.drain()
                await self._stop_reading()
            await self._strike("body")
        data = b""
        while not data.endswith(b"\r\n.\r\n") and data != b".\r\n":
            line = await self.reader.readline()
            if not line:
                self.seen.lost_data = data
                raise _Gone
            data += line
        self.seen.messages.append(data)
        await self._say("dot")

    async def _say(self, place: Place, behind: str = "") -> str:
        await asyncio.sleep(self.script.delays_s.get(place, 0))
        await self._strike(place)
        reply = self.script.replies.get(place) or _GOOD[place]
        self._send(reply, behind)
        await self.writer.drain()
        return reply

    def _send(self, reply: str, behind: str = "") -> None:
        text = "".join(f"{line}\r\n" for line in reply.split("\n")) + behind
        self.writer.write(text.encode("utf-8", "surrogateescape"))

    async def _strike(self, place: Place) -> None:
        match self.script.faults.get(place):
            case "reset":
                # A close with zero linger time is a reset.
                raw: socket.socket = self.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.writer.transport.abort()
                raise _Gone
            case "close":
                raise _Gone
            case "hang" if place == "body":
                await self._stop_reading()
            case "hang":
                self.seen.lost_data += await self.reader.read()
                raise _Gone

    async def _stop_reading(self) -> None:
        # With nobody reading, nothing tells that the client has gone.
        self.seen.ended.set()
        await asyncio.Event().wait()
