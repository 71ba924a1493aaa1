"""`python -m tests.twins.gmail --port N`: run the Gmail twin, for development and tests only."""

import argparse
import asyncio
import signal
import sys

from tests.twins.gmail.server import running


async def serve(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running(host=host, port=port) as (_, url):
        sys.stderr.write(f"Gmail twin on {url}; it is not Gmail, keep secrets away\n")
        sys.stderr.flush()
        await stopped.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.twins.gmail", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
