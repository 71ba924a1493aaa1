"""HTTP/1.1 over bare streams: a twin must be able to reset, stall and trickle at any byte.

The parsing is h11's; what a request means is the application's business.
"""

import asyncio
import json
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

FaultKind = Literal[
    "reset_before",  # once the head is read; nothing is done
    "reset_in_body",  # once the first bytes of the body are read; nothing is done
    "reset_after",  # all is done, no answer
    "reset_in_answer",  # all is done, half an answer
    "status",  # nothing is done; the answer is `status`
    "done_then_status",  # all is done; the answer is `status` all the same
    "hang",  # nothing is done, no answer
    "done_then_hang",  # all is done, no answer
    "done_later",  # no answer; it is done after `delay_s`, whoever has gone by then
    "slow_loris",  # all is done; the answer comes byte by byte, `delay_s` apart
    "slow",  # all is done after `delay_s`, then the answer
]


@dataclass
class Fault:
    """What the twin does wrong with the next `times` requests of one `operation` ("any": all).

    `mailbox` narrows it to one, `share` to so many of them, drawn at random (0 to 1);
    `status`, `code`, `message`, `retry_after_s` and more `headers` make the answer.
    """

    operation: str
    kind: FaultKind
    times: int = 1
    mailbox: str | None = None
    share: float = 1.0
    status: int = 503
    code: str = "serviceNotAvailable"
    message: str = "The service is unavailable."
    retry_after_s: int | None = None
    delay_s: float = 0.05
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Faults:
    """What is still to go wrong, in the order it was set; `done` counts what did, by kind."""

    waiting: list[Fault] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def add(self, fault: Fault) -> Fault:
        """Let something go wrong from now on."""
        self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        self.waiting.clear()

    def take(self, operation: str, mailbox: str | None) -> Fault | None:
        """Return, and use up, what goes wrong with a request of this operation and mailbox."""
        for fault in self.waiting:
            if fault.operation not in (operation, "any"):
                continue
            if fault.mailbox not in (None, mailbox):
                continue
            if fault.share < 1 and self.rng.random() >= fault.share:
                continue
            fault.times -= 1
            self.waiting = [one for one in self.waiting if one.times > 0]
            self.done[fault.kind] = self.done.get(fault.kind, 0) + 1
            return fault
        return None


@dataclass(frozen=True)
class Request:
    """One request; header names in lower case, path segments decoded.

    `at`: the machine's time when its head had been read.
    """

    method: str
    path: tuple[str, ...]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    target: str = ""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Response:
    """One answer; the length is added."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, status: int, content: Any, headers: Mapping[str, str] | None = None) -> "Response":
        """Return `content` as JSON."""
        return cls(
            status,
            json.dumps(content).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )


class Application(Protocol):
    """What answers requests. `late_answers`: the statuses of what was done behind a hang."""

    late_answers: list[int]

    def admit(self, request: Request) -> Response | None:
        """Take a request in by its head, counting it; the answer when it must not go on."""
        ...

    def leave(self, request: Request) -> None:
        """Note that an admitted request is over."""
        ...

    def fault_for(self, request: Request) -> Fault | None:
        """Return, and use up, what is to go wrong with it."""
        ...

    def faulty_answer(self, fault: Fault) -> Response:
        """Return the answer of a `status` fault."""
        ...

    async def answer(self, request: Request) -> Response:
        """Do what is asked."""
        ...


class _Gone(Exception):
    """The connection is over."""


@asynccontextmanager
async def served(
    application: Application,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """Serve until the block ends; gives the port."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _Connection(application, reader, writer, tasks).run()
        except (_Gone, OSError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


@dataclass
class _Connection:
    application: Application
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tasks: set[asyncio.Task[None]]
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.SERVER))

    async def run(self) -> None:
        while True:
            event = await self._next()
            if isinstance(event, h11.ConnectionClosed):
                return
            assert isinstance(event, h11.Request)
            head = _head(event)
            refused = self.application.admit(head)
            if refused is None:
                try:
                    await self._handle(head)
                finally:
                    self.application.leave(head)
            else:
                await self._body()
                await self._send(refused)
            if self.http.our_state is h11.MUST_CLOSE:
                return
            self.http.start_next_cycle()

    async def _handle(self, head: Request) -> None:
        fault = self.application.fault_for(head)
        kind = fault.kind if fault else None
        if kind == "reset_before":
            self._reset()
        if kind == "reset_in_body":
            await self._next()
            self._reset()
        request = replace(head, body=await self._body())
        if fault is None:
            await self._send(await self.application.answer(request))
            return
        match kind:
            case "status":
                await self._send(self.application.faulty_answer(fault))
                return
            case "hang":
                await self._hang()
            case "done_later":
                self._later(request, fault.delay_s)
                await self._hang()
            case "slow":
                await asyncio.sleep(fault.delay_s)
        answer = await self.application.answer(request)
        match kind:
            case "reset_after":
                self._reset()
            case "reset_in_answer":
                raw = self._raw(answer)
                self.writer.write(raw[: len(raw) // 2])
                await self.writer.drain()
                self._reset()
            case "done_then_hang":
                await self._hang()
            case "done_then_status":
                answer = self.application.faulty_answer(fault)
            case "slow_loris":
                for byte in self._raw(answer):
                    self.writer.write(bytes((byte,)))
                    await self.writer.drain()
                    await asyncio.sleep(fault.delay_s)
                return
        await self._send(answer)

    def _later(self, request: Request, delay_s: float) -> None:
        async def later() -> None:
            await asyncio.sleep(delay_s)
            answer = await self.application.answer(request)
            self.application.late_answers.append(answer.status)

        task = asyncio.create_task(later())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _hang(self) -> None:
        # Until the client has had enough.
        while await self.reader.read(4096):
            pass
        raise _Gone

    def _reset(self) -> None:
        # A close with zero linger time is a reset.
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise _Gone

    async def _body(self) -> bytes:
        blocks: list[bytes] = []
        while True:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                return b"".join(blocks)
            assert isinstance(event, h11.Data)
            blocks.append(event.data)

    async def _next(self) -> h11.Event:
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                if self.http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    self.writer.write(self.http.send(go_on) or b"")
                self.http.receive_data(await self.reader.read(65536))
                continue
            assert isinstance(event, h11.Event)
            return event

    def _raw(self, answer: Response) -> bytes:
        headers = [*answer.headers.items()]
        if answer.status != 204:
            headers.append(("Content-Length", str(len(answer.body))))
        head = h11.Response(status_code=answer.status, headers=headers)
        raw = self.http.send(head) or b""
        if answer.body:
            raw += self.http.send(h11.Data(data=answer.body)) or b""
        return raw + (self.http.send(h11.EndOfMessage()) or b"")

    async def _send(self, answer: Response) -> None:
        self.writer.write(self._raw(answer))
        await self.writer.drain()


def _head(event: h11.Request) -> Request:
    target = event.target.decode("ascii")
    parts = urlsplit(target)
    return Request(
        event.method.decode("ascii"),
        tuple(unquote(segment) for segment in parts.path.split("/") if segment),
        dict(parse_qsl(parts.query, keep_blank_values=True)),
        {name.decode("ascii").lower(): value.decode("latin-1") for name, value in event.headers},
        target=target,
    )
