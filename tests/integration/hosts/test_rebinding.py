"""A name server that changes its answer leads nobody to where users' hosts must not be.

127.0.0.1 stands for the host that the operator allows, 127.0.0.2 for a private one behind
it: something listens at both, on the same port.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.twins.smtp.server import Script, ScriptedSmtp
from tests.twins.smtp.wire import listening
from tests.twins.tls import ServerTls

from paceline_providers import tls
from paceline_providers.base import Accepted, Unsent
from paceline_providers.hosts import HostPolicy
from paceline_providers.smtp import SmtpProvider, SmtpSettings
from paceline_reply.app import resolver
from paceline_reply.sources.base import SourceError
from paceline_reply.sources.imap import open_session
from paceline_reply.sources.imap_client import Endpoint

NAME = "mail.rebound.test"
ALLOWED, PRIVATE = "127.0.0.1", "127.0.0.2"
POLICY = HostPolicy(ALLOWED)
MESSAGE = b"From: a@north.test\r\nTo: b@example.test\r\nSubject: x\r\n\r\nHello\r\n"


@dataclass
class Names:
    """The DNS: `answers` come one after the other, the last one for ever."""

    answers: list[Sequence[str]]
    asked: int = 0

    def next(self) -> Sequence[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The system's resolver, for everything in this process that might ask again."""
    made = Names([[ALLOWED], [PRIVATE]])
    real = socket.getaddrinfo

    def changing(host: Any, port: Any, *more: Any, **named: Any) -> list[Any]:
        if host not in (NAME, NAME.encode()):
            return list(real(host, port, *more, **named))
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, int(port or 0)))
            for address in made.next()
        ]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    return made


@dataclass
class Doors:
    """What came to each address on one port."""

    port: int
    came: dict[str, int] = field(default_factory=lambda: {ALLOWED: 0, PRIVATE: 0})


@pytest.fixture
def secure(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """TLS for the name alone, and the CA to trust: the certificate names no address."""
    made = ServerTls()
    named = ServerTls(made.authority, made.authority.chain(NAME))
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(made.authority.pem())
    return named.context, ca_file


# ---- SMTP


@asynccontextmanager
async def smtp_doors(script: Script) -> AsyncIterator[tuple[Doors, ScriptedSmtp]]:
    public, private = ScriptedSmtp(0, script), ScriptedSmtp(0, script)
    async with listening(public, ALLOWED) as port, listening(private, PRIVATE, port):
        doors = Doors(port)
        yield doors, public
        doors.came = {ALLOWED: len(public.connections), PRIVATE: len(private.connections)}


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
async def test_smtp_dials_what_was_looked_at_and_keeps_the_name_for_tls(
    names: Names, secure: tuple[ssl.SSLContext, Path], mode: Any
) -> None:
    context, ca_file = secure
    async with smtp_doors(Script(tls=context, implicit_tls=mode == "implicit")) as (doors, _):
        settings = SmtpSettings(NAME, doors.port, mode, "ann")
        provider = SmtpProvider(settings, "x", POLICY, ca_file)
        session = await provider.open()
        assert not isinstance(session, Unsent), session
        outcome = await session.submit(
            "a@north.test", "b@example.test", MESSAGE, before_mail_from=lambda: True
        )
        assert isinstance(outcome, Accepted)
        await session.close()
        assert names.asked == 1
        # By now the name leads to the private host.
        refused = await provider.open()
        assert isinstance(refused, Unsent)
        assert refused.reason == "host_not_allowed"
        assert PRIVATE in refused.text
        assert names.asked == 2
    assert doors.came == {ALLOWED: 1, PRIVATE: 0}


@pytest.mark.parametrize("answer", [[ALLOWED, PRIVATE], [PRIVATE, ALLOWED]])
async def test_smtp_trusts_no_answer_that_holds_a_private_address(
    names: Names, answer: Sequence[str]
) -> None:
    names.answers = [answer]
    async with smtp_doors(Script()) as (doors, _):
        refused = await SmtpProvider(SmtpSettings(NAME, doors.port, "none"), None, POLICY).open()
        assert isinstance(refused, Unsent)
        assert refused.reason == "host_not_allowed"
    assert doors.came == {ALLOWED: 0, PRIVATE: 0}


async def test_smtp_takes_no_second_opinion_when_the_first_address_does_not_answer(
    names: Names,
) -> None:
    # Nothing listens at the allowed address; the private one would take the call.
    private = ScriptedSmtp(0, Script())
    async with listening(private, PRIVATE) as port:
        refused = await SmtpProvider(SmtpSettings(NAME, port, "none"), None, POLICY).open()
        assert isinstance(refused, Unsent)
        assert refused.reason == "connect_refused"
    assert (names.asked, private.connections) == (1, [])


# ---- IMAP


@asynccontextmanager
async def imap_doors(context: ssl.SSLContext, *, starttls: bool) -> AsyncIterator[Doors]:
    doors = Doors(0)

    async def serve(
        address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        doors.came[address] += 1
        capabilities = "IMAP4rev1 STARTTLS" if starttls else "IMAP4rev1"
        writer.write(f"* OK [CAPABILITY {capabilities}] hello\r\n".encode())
        while line := await reader.readline():
            tag, _, command = line.decode().strip().partition(" ")
            if command.upper().startswith("CAPABILITY"):
                writer.write(f"* CAPABILITY {capabilities}\r\n".encode())
            writer.write(f"{tag} OK done\r\n".encode())
            await writer.drain()
            if command.upper() == "STARTTLS":
                await writer.start_tls(context)
        writer.close()

    outer = None if starttls else context
    public = await asyncio.start_server(partial(serve, ALLOWED), ALLOWED, 0, ssl=outer)
    doors.port = public.sockets[0].getsockname()[1]
    private = await asyncio.start_server(partial(serve, PRIVATE), PRIVATE, doors.port, ssl=outer)
    try:
        yield doors
    finally:
        for server in (public, private):
            server.close()


@pytest.mark.parametrize("mode", ["implicit", "starttls"])
async def test_imap_dials_what_was_looked_at_and_keeps_the_name_for_tls(
    names: Names, secure: tuple[ssl.SSLContext, Path], mode: Any
) -> None:
    context, ca_file = secure
    with ThreadPoolExecutor(2) as threads:
        async with imap_doors(context, starttls=mode == "starttls") as doors:
            endpoint = Endpoint(NAME, doors.port, mode, "ann")
            asking = partial(
                open_session, endpoint, "x", resolve=resolver(POLICY),
                tls=partial(tls.context, ca_file), threads=threads,
            )  # fmt: skip
            session = await asking()
            await session.close()
            assert names.asked == 1
            with pytest.raises(SourceError) as refused:
                await asking()
            assert refused.value.code == "host_not_allowed"
            assert names.asked == 2
    assert doors.came == {ALLOWED: 1, PRIVATE: 0}


async def test_imap_trusts_no_answer_that_holds_a_private_address(
    names: Names, secure: tuple[ssl.SSLContext, Path]
) -> None:
    names.answers = [[ALLOWED, PRIVATE]]
    context, ca_file = secure
    with ThreadPoolExecutor(1) as threads:
        async with imap_doors(context, starttls=False) as doors:
            with pytest.raises(SourceError) as refused:
                await open_session(
                    Endpoint(NAME, doors.port, "implicit", "ann"), "x", resolve=resolver(POLICY),
                    tls=partial(tls.context, ca_file), threads=threads,
                )  # fmt: skip
            assert refused.value.code == "host_not_allowed"
    assert doors.came == {ALLOWED: 0, PRIVATE: 0}
