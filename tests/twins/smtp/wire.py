"""SMTP over bare streams, the server's side: it can reset, stall and trickle at any step.

What a step means is the host's business; the conversation keeps the order, and the bytes.
"""

import asyncio
import base64
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, Protocol

# Where a host may strike. `body`: once DATA was answered with 354, before the final dot;
# `dot`: once the final dot was read.
Place = Literal[
    "connect", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "body", "dot", "RSET", "QUIT"
]
Fault = Literal["reset", "close", "hang"]
Then = Literal["not", "done", "later"]

_CRAM: Final = "<1896.697170952@twin.test>"


@dataclass(frozen=True)
class Act:
    """What is said at one place, and what happens instead.

    `reply` is said instead of the good one; `fault` comes instead of any reply. `then` tells
    what becomes of the step when one of the two is there: not done, done all the same, or
    done `later_s` after the reply that never comes. `delay_s` passes before anything;
    `drip_s` between the bytes of the reply. `injected` is sent in the clear right behind
    it. At `body`: `early` is said in mid-body, after which nothing is read any more, and
    `read_bytes` is what is read before the fault.
    """

    reply: str | None = None
    fault: Fault | None = None
    then: Then = "not"
    delay_s: float = 0.0
    drip_s: float = 0.0
    later_s: float = 0.0
    injected: str = ""
    early: str | None = None
    read_bytes: int = 1


GOOD: Final = Act()


@dataclass
class Seen:
    """What one connection brought; `lost_data`: what came while the server took no notice.

    `account`, `sender` and `recipients` are the host's notes; `began` is when MAIL FROM came.
    """

    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    lost_data: bytes = b""
    was_encrypted: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.StreamWriter | None = field(default=None, repr=False)
    account: str | None = None
    sender: str | None = None
    recipients: list[str] = field(default_factory=list)
    began: datetime | None = None

    def dismiss(self) -> None:
        """Close the connection from the server's side, saying that it was idle too long."""
        assert self.writer is not None
        self.writer.write(b"421 4.4.2 idle too long\r\n")
        self.writer.close()

    @property
    def verbs(self) -> list[str]:
        """The commands without their arguments."""
        return [command.partition(" ")[0].upper() for command in self.commands]


class Host(Protocol):
    """What answers a conversation."""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """For STARTTLS, or for the connection as a whole."""
        ...

    @property
    def implicit_tls(self) -> bool:
        """Whether TLS comes before everything else."""
        ...

    def begin(self, seen: Seen) -> None:
        """Note a new connection."""
        ...

    def offers(self, seen: Seen) -> Sequence[str]:
        """Return EHLO's lines, STARTTLS left out."""
        ...

    def act(self, place: Place, seen: Seen) -> Act:
        """Return, and use up, what goes wrong at this step."""
        ...

    def reply(self, place: Place, seen: Seen, argument: str) -> str:
        """Do a step and return the reply. The message is the last of `seen.messages`.

        `argument`: what follows the command; of AUTH the mechanism and what was sent by
        it, decoded, each a line. A reply to AUTH may go on behind an empty line: that is
        said when the client has answered the first part, a 334 (RFC 7628 §3.2.3).
        """
        ...


class _Gone(Exception):
    """The connection is over."""


@asynccontextmanager
async def listening(host: Host, at: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve until the block ends; gives the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        seen = Seen(writer=writer, was_encrypted=host.implicit_tls)
        host.begin(seen)
        try:
            await _Conversation(host, seen, reader, writer, tasks).run()
        except (_Gone, OSError, ValueError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # ValueError: a line beyond the reader's limit.
            pass
        finally:
            seen.ended.set()
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(
        serve, at, port, ssl=host.tls if host.implicit_tls else None
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@dataclass
class _Conversation:
    host: Host
    seen: Seen
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tasks: "set[asyncio.Task[None]]"

    async def run(self) -> None:
        await self._say("connect")
        while True:
            line = await self.reader.readline()
            if not line:
                raise _Gone
            command = line.decode("utf-8", "replace").rstrip("\r\n")
            self.seen.commands.append(command)
            verb, _, argument = command.partition(" ")
            match verb.upper():
                case "EHLO" | "HELO":
                    await self._greet(argument)
                case "STARTTLS" if self.host.tls is not None:
                    await self._secure()
                case "AUTH":
                    await self._sign_in(argument)
                case "DATA":
                    if (await self._say("DATA")).startswith("354"):
                        await self._take_message()
                case "QUIT":
                    await self._say("QUIT")
                    raise _Gone
                case "MAIL":
                    self.seen.began = datetime.now(UTC)
                    await self._say("MAIL", argument)
                case "RCPT":
                    await self._say("RCPT", argument)
                case "RSET":
                    await self._say("RSET")
                case _:
                    self._send("500 5.5.1 what?")

    async def _greet(self, name: str) -> None:
        offers = list(self.host.offers(self.seen))
        if self.host.tls is not None and not self.seen.was_encrypted:
            offers.append("STARTTLS")
        await self._say("EHLO", name, offers)

    async def _secure(self) -> None:
        assert self.host.tls is not None
        answer = await self._say("STARTTLS")
        if answer.startswith("220"):
            await self.writer.start_tls(self.host.tls)
            self.seen.was_encrypted = True

    async def _sign_in(self, argument: str) -> None:
        mechanism, _, initial = argument.partition(" ")
        mechanism = mechanism.upper()
        match mechanism:
            case "LOGIN":
                user = initial or await self._asked("VXNlcm5hbWU6")
                words = [mechanism, _decoded(user), _decoded(await self._asked("UGFzc3dvcmQ6"))]
            case "CRAM-MD5":
                challenge = base64.b64encode(_CRAM.encode()).decode()
                words = [mechanism, _CRAM, _decoded(await self._asked(challenge))]
            case _:
                words = [mechanism, _decoded(initial or await self._asked(""))]
        reply = await self._say("AUTH", "\n".join(words))
        if reply.startswith("334"):
            self.seen.commands.append((await self.reader.readline()).decode().strip())
            self._send(reply.partition("\n\n")[2] or "535 5.7.8 not accepted")

    async def _asked(self, challenge: str) -> str:
        self._send(f"334 {challenge}")
        await self.writer.drain()
        line = (await self.reader.readline()).decode("utf-8", "replace").strip()
        self.seen.commands.append(line)
        return line

    async def _take_message(self) -> None:
        act = self.host.act("body", self.seen)
        if act.fault is not None or act.early is not None:
            while len(self.seen.lost_data) < act.read_bytes:
                block = await self.reader.read(4096)
                if not block:
                    raise _Gone
                self.seen.lost_data += block
            if act.early is not None:
                self._send(act.early)
                await self.writer.drain()
                await self._stop_reading()
            await self._strike(act.fault, "body")
        lines: list[bytes] = []
        while not lines or lines[-1] != b".\r\n":
            line = await self.reader.readline()
            if not line:
                self.seen.lost_data = b"".join(lines)
                raise _Gone
            lines.append(line)
        self.seen.messages.append(b"".join(lines))
        await self._say("dot")

    async def _say(
        self, place: Place, argument: str = "", offers: Sequence[str] | None = None
    ) -> str:
        act = self.host.act(place, self.seen)
        await asyncio.sleep(act.delay_s)
        wrong = act.fault is not None or act.reply is not None
        reply = ""
        if not wrong or act.then == "done":
            reply = self.host.reply(place, self.seen, argument)
            if offers is not None and reply.startswith("250"):
                lines = [reply.removeprefix("250 "), *offers]
                reply = "\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"])
        elif act.then == "later":
            self._later(place, argument, act.later_s)
        await self._strike(act.fault, place)
        reply = act.reply or reply
        await self._send_slowly(reply.partition("\n\n")[0], act)
        return reply

    def _later(self, place: Place, argument: str, later_s: float) -> None:
        async def later() -> None:
            await asyncio.sleep(later_s)
            self.host.reply(place, self.seen, argument)

        task = asyncio.create_task(later())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _send_slowly(self, reply: str, act: Act) -> None:
        if act.drip_s:
            for character in f"{reply}\r\n".replace("\n", "\r\n").replace("\r\r\n", "\r\n"):
                self.writer.write(character.encode("utf-8", "surrogateescape"))
                await self.writer.drain()
                await asyncio.sleep(act.drip_s)
            return
        self._send(reply, act.injected)
        await self.writer.drain()

    def _send(self, reply: str, behind: str = "") -> None:
        text = "".join(f"{line}\r\n" for line in reply.split("\n")) + behind
        self.writer.write(text.encode("utf-8", "surrogateescape"))

    async def _strike(self, fault: Fault | None, place: Place) -> None:
        match fault:
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


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except ValueError:
        return text


def unstuffed(data: bytes) -> bytes:
    """Return a message without the final dot, its leading dots single (RFC 5321 §4.5.2)."""
    body = data.removesuffix(b".\r\n")
    return (b"\r\n" + body).replace(b"\r\n..", b"\r\n.")[2:]


def address_of(argument: str) -> str:
    """Return the address in what follows MAIL or RCPT, in lower case."""
    return argument.partition("<")[2].partition(">")[0].lower()
