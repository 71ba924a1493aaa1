"""What the twins have in common as processes: arguments, TLS, and how they say where they are."""

import argparse
import asyncio
import json
import random
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.twins.tls import ServerTls


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the arguments that every twin takes."""
    made = argparse.ArgumentParser(prog=f"tests.twins.{name}", description=description)
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=0, help="0: a free one, see the output")
    made.add_argument("--tls", action="store_true", help="with an authority of its own")
    made.add_argument("--tls-cert", type=Path, help="serve TLS with this chain (PEM)")
    made.add_argument("--tls-key", type=Path)
    made.add_argument(
        "--relay", type=endpoint, metavar="HOST:PORT", help="SMTP host that gets what is sent"
    )
    made.add_argument("--seed", type=int, default=1, help="of faults that strike at random")
    return made


def endpoint(text: str) -> tuple[str, int]:
    """Read HOST:PORT."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def secure(arguments: argparse.Namespace) -> ServerTls | None:
    """Return the TLS that was asked for."""
    if arguments.tls_cert is not None:
        return ServerTls(chain=(arguments.tls_cert.read_bytes(), arguments.tls_key.read_bytes()))
    return ServerTls() if arguments.tls else None


async def until_told(name: str, where: Mapping[str, Any]) -> None:
    """Say where the twin is, JSON in a line of standard output; return at SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    sys.stderr.write(f"{name} twin on {where['url']}; it is not {name}, keep secrets away\n")
    sys.stderr.flush()
    sys.stdout.write(json.dumps(dict(where)) + "\n")
    sys.stdout.flush()
    await stopped.wait()


def serve_api(name: str, twin_of: Callable[..., Any], running: Callable[..., Any]) -> None:
    """Serve the twin of an HTTP API, as the command line says, until SIGTERM or SIGINT."""
    known = parser(name.lower(), f"The {name} twin, for development and tests only.")
    known.add_argument("--smtp-port", type=int, help="takes in mail for its accounts (0: any)")
    known.add_argument("--interactive", action="store_true", help="consent by pages")
    arguments = known.parse_args()

    async def serve() -> None:
        twin = twin_of(secure=secure(arguments))
        twin.identity.interactive = arguments.interactive
        twin.faults.rng = random.Random(arguments.seed)
        async with running(
            twin, arguments.host, arguments.port,
            smtp_port=arguments.smtp_port, relay_to=arguments.relay,
        ) as (_, url):  # fmt: skip
            await until_told(name, {"url": url, "smtp_port": twin.smtp_port})

    asyncio.run(serve())
