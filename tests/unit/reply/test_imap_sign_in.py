"""Signing in to IMAP, and encrypting the line, as each node wants it."""

import asyncio
import base64
import hmac
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from paceline_local import certificate
from paceline_providers.tls import context
from paceline_reply.sources.base import SourceError
from paceline_reply.sources.imap import open_session
from paceline_reply.sources.imap_client import Endpoint

CHALLENGE = b"<1896.697170952@imap.test>"


@dataclass
class Server:
    """An IMAP server that takes any sign-in, and keeps what it was told."""

    offers: Sequence[str] = ()
    starttls: ssl.SSLContext | None = None
    port: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)
    encrypted: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        words = " ".join(("IMAP4rev1", *self.offers, *(("STARTTLS",) if self.starttls else ())))
        writer.write(f"* OK [CAPABILITY {words}] hello\r\n".encode())
        while line := await reader.readline():
            tag, _, command = line.decode().strip().partition(" ")
            verb, _, argument = command.partition(" ")
            if verb == "CAPABILITY":
                writer.write(f"* CAPABILITY {words}\r\n".encode())
            elif verb == "AUTHENTICATE":
                mechanism = argument.split()[0]
                asked = CHALLENGE if mechanism == "CRAM-MD5" else b""
                writer.write(b"+ " + base64.b64encode(asked) + b"\r\n")
                answer = base64.b64decode(await reader.readline()).decode()
                self.told.append((mechanism, answer))
            elif verb == "LOGIN":
                self.told.append(("LOGIN", argument))
            writer.write(f"{tag} OK done\r\n".encode())
            await writer.drain()
            if verb == "STARTTLS" and self.starttls:
                await writer.start_tls(self.starttls)
                self.encrypted = True
        writer.close()


@asynccontextmanager
async def running(server: Server, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificate.ensure(folder)
    return folder


def tls_of(certificates: Path, newest: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if newest is not None:
        made.maximum_version = newest
    return made


async def signed_in(
    server: Server, threads: ThreadPoolExecutor, ca_file: Path | None = None, **settings: Any
) -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return ["127.0.0.1"]

    stored = {
        "host": "localhost", "port": server.port, "tls": "none", "username": "sam", **settings,
    }  # fmt: skip
    session = await open_session(
        Endpoint.of(stored), "s3cret", resolve=resolve, tls=partial(context, ca_file),
        threads=threads,
    )  # fmt: skip
    await session.close()


DIGEST = "sam " + hmac.new(b"s3cret", CHALLENGE, "md5").hexdigest()


@pytest.mark.parametrize(
    ("auth", "offers", "told"),
    [
        ("plain", ["AUTH=PLAIN"], ("PLAIN", "\0sam\0s3cret")),
        ("login", ["AUTH=PLAIN"], ("LOGIN", '"sam" "s3cret"')),
        ("cram-md5", ["AUTH=PLAIN", "AUTH=CRAM-MD5"], ("CRAM-MD5", DIGEST)),
        ("xoauth2", ["AUTH=XOAUTH2"], ("XOAUTH2", "user=sam\1auth=Bearer s3cret\1\1")),
        ("oauthbearer", ["AUTH=OAUTHBEARER"], ("OAUTHBEARER", "n,a=sam,\1auth=Bearer s3cret\1\1")),
        # In the clear the password stays at home where it can.
        ("auto", ["AUTH=PLAIN", "AUTH=CRAM-MD5"], ("CRAM-MD5", DIGEST)),
        ("auto", ["AUTH=PLAIN"], ("PLAIN", "\0sam\0s3cret")),
        ("auto", [], ("LOGIN", '"sam" "s3cret"')),
    ],
)
async def test_it_signs_in_as_the_node_wants_it(
    threads: ThreadPoolExecutor, auth: str, offers: list[str], told: tuple[str, str]
) -> None:
    async with running(Server(offers)) as server:
        await signed_in(server, threads, auth=auth)
        assert server.told == [told]


@pytest.mark.parametrize("auth", ["plain", "cram-md5", "xoauth2", "oauthbearer"])
async def test_nothing_else_is_tried_than_what_was_asked_for(
    threads: ThreadPoolExecutor, auth: str
) -> None:
    async with running(Server(["AUTH=GSSAPI"])) as server:
        with pytest.raises(SourceError) as refused:
            await signed_in(server, threads, auth=auth)
        assert refused.value.code == "auth_failed"
        assert f"AUTH={auth.upper()}" in refused.value.message
        assert server.told == []


async def test_over_tls_plain_comes_first(threads: ThreadPoolExecutor, certificates: Path) -> None:
    tls = tls_of(certificates)
    async with running(Server(["AUTH=CRAM-MD5", "AUTH=PLAIN"]), tls) as server:
        await signed_in(server, threads, certificates / "ca.pem", tls="implicit")
        assert [mechanism for mechanism, _ in server.told] == ["PLAIN"]


async def test_optional_starttls_encrypts_where_it_is_offered(
    threads: ThreadPoolExecutor, certificates: Path
) -> None:
    async with running(Server(["AUTH=PLAIN"], tls_of(certificates))) as server:
        await signed_in(server, threads, certificates / "ca.pem", tls="starttls_optional")
        assert server.encrypted
    async with running(Server(["AUTH=PLAIN"])) as server:
        await signed_in(server, threads, tls="starttls_optional")
        assert not server.encrypted
        assert server.told


async def test_a_broken_optional_starttls_is_no_reason_to_go_on_in_the_clear(
    threads: ThreadPoolExecutor, certificates: Path
) -> None:
    async with running(Server(["AUTH=PLAIN"], tls_of(certificates))) as server:
        with pytest.raises(SourceError) as refused:
            await signed_in(server, threads, tls="starttls_optional")
        assert refused.value.code == "tls_failed"
        assert server.told == []


async def test_a_certificate_is_looked_at_unless_the_node_says_not_to(
    threads: ThreadPoolExecutor, certificates: Path
) -> None:
    async with running(Server(["AUTH=PLAIN"]), tls_of(certificates)) as server:
        with pytest.raises(SourceError) as refused:
            await signed_in(server, threads, tls="implicit")
        assert refused.value.code == "tls_failed"
        assert server.told == []
        await signed_in(server, threads, tls="implicit", tls_verify=False)
        assert server.told


async def test_an_older_version_than_the_nodes_oldest_is_refused(
    threads: ThreadPoolExecutor, certificates: Path
) -> None:
    ca_file = certificates / "ca.pem"
    older = tls_of(certificates, ssl.TLSVersion.TLSv1_2)
    async with running(Server(["AUTH=PLAIN"]), older) as server:
        await signed_in(server, threads, ca_file, tls="implicit")
        with pytest.raises(SourceError) as refused:
            await signed_in(server, threads, ca_file, tls="implicit", tls_min="1.3")
        assert refused.value.code == "tls_failed"
