"""`python -m bench.smtp_sink [CERTIFICATE KEY]`: an SMTP server that takes every message and
notes when it came; with a certificate it speaks implicit TLS (RFC 8314).

Prints its port on the first line, then one line per message: the job's public
id from `X-Paceline-Job`, the envelope's sender, CLOCK_REALTIME in ns at which
MAIL FROM arrived, and the message's octets. Ends with its standard input.
"""

import asyncio
import os
import ssl
import sys
import time
from typing import Final, cast

import uvloop

_HEADER: Final = b"\r\nX-Paceline-Job:"
_END: Final = b"\r\n.\r\n"


class Sink(asyncio.Protocol):
    """One connection (RFC 5321, AUTH PLAIN of RFC 4954; any password will do)."""

    def __init__(self) -> None:
        self._unread = b""
        self._in_data = False
        self._sender = ""
        self._mail_at = 0
        self._connection: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection = cast("asyncio.Transport", transport)
        self._say(b"220 sink.test ESMTP")

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        self._unread += data
        while True:
            end = self._unread.find(_END if self._in_data else b"\r\n")
            if end < 0:
                return
            if self._in_data:
                message, self._unread = self._unread[:end], self._unread[end + len(_END) :]
                self._in_data = False
                self._note(message)
                self._say(b"250 2.0.0 Ok")
            else:
                line, self._unread = self._unread[:end], self._unread[end + 2 :]
                self._obey(line, now)

    def _obey(self, line: bytes, now: int) -> None:
        match line[:4].upper():
            case b"EHLO":
                self._say(b"250-sink.test\r\n250-AUTH PLAIN\r\n250 8BITMIME")
            case b"AUTH":
                self._say(b"235 2.7.0 Ok")
            case b"MAIL":
                self._mail_at = now
                self._sender = line[line.index(b"<") + 1 : line.index(b">")].decode()
                self._say(b"250 2.1.0 Ok")
            case b"DATA":
                self._in_data = True
                self._say(b"354 Go on")
            case b"QUIT":
                self._say(b"221 2.0.0 Bye")
                self._connection.close()
            case _:
                self._say(b"250 2.0.0 Ok")

    def _say(self, reply: bytes) -> None:
        self._connection.write(reply + b"\r\n")

    def _note(self, message: bytes) -> None:
        start = message.index(_HEADER) + len(_HEADER)
        job = message[start : message.index(b".", start)].strip().decode()
        octets = len(message) + 2  # the last line's end
        os.write(1, f"{job} {self._sender} {self._mail_at} {octets}\n".encode())


async def _serve(*certificate: str) -> None:
    loop = asyncio.get_running_loop()
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    server = await loop.create_server(Sink, "127.0.0.1", 0, backlog=1024, ssl=context)
    os.write(1, b"%d\n" % server.sockets[0].getsockname()[1])
    await loop.run_in_executor(None, sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(_serve(*sys.argv[1:]))
