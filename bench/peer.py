"""What the peers of rows 1 and 2 send, and how: the message is made once, the connection each time.

That is the least a mailer can do, and less than ours, which renders and builds every message.
TLS contexts are made once, and nobody looks up its own name.
"""

import smtplib
import ssl
from functools import cache
from typing import Final, NamedTuple

import aiosmtplib

HOST: Final = "127.0.0.1"
FROM: Final = "m1@send1.test"
TO: Final = "1@lead1.test"
USER, PASSWORD = "bench", "any"
_LINE: Final = b"A line of an ordinary letter, about as long as a line is.\r\n"


class Job(NamedTuple):
    """One message: where to, how large, in octets, and, where TLS and AUTH are asked for, whose
    certificates to trust."""

    port: int
    octets: int
    ca_file: str | None = None


@cache
def letter(octets: int) -> bytes:
    """Return a message of exactly so many octets (at least 300), lines of ordinary length."""
    head = (
        f"From: {FROM}\r\nTo: {TO}\r\nSubject: A question\r\nX-Paceline-Job: bench.\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    ).encode()
    lines, rest = divmod(octets - len(head), len(_LINE))
    # A line end needs two octets: the last line takes what would leave room for less.
    return head + _LINE * (lines - 1) + b"x" * (len(_LINE) + rest - 2) + b"\r\n"


@cache
def tls(ca_file: str) -> ssl.SSLContext:
    """Return the client context that trusts this authority."""
    return ssl.create_default_context(cafile=ca_file)


def submit(port: int, octets: int, ca_file: str | None) -> None:
    """Send one message by smtplib."""
    if ca_file is None:
        with smtplib.SMTP(HOST, port, local_hostname="bench.test") as client:
            client.sendmail(FROM, TO, letter(octets))
        return
    with smtplib.SMTP_SSL(HOST, port, local_hostname="bench.test", context=tls(ca_file)) as secured:
        secured.login(USER, PASSWORD)
        secured.sendmail(FROM, TO, letter(octets))


async def submit_async(port: int, octets: int, ca_file: str | None) -> None:
    """Send one message by aiosmtplib."""
    async with client(port, ca_file) as opened:
        await opened.sendmail(FROM, TO, letter(octets))


def client(port: int, ca_file: str | None = None) -> aiosmtplib.SMTP:
    """Return aiosmtplib's client, not connected; it signs in where there is TLS."""
    if ca_file is None:
        return aiosmtplib.SMTP(
            hostname=HOST, port=port, local_hostname="bench.test", start_tls=False
        )
    return aiosmtplib.SMTP(
        hostname=HOST, port=port, local_hostname="bench.test", use_tls=True,
        tls_context=tls(ca_file), username=USER, password=PASSWORD,
    )  # fmt: skip
