"""`python -m tests.twins.gmail`: run the Gmail twin, for development and tests only."""

import asyncio
import random

from tests.twins.gmail.server import GmailTwin, running
from tests.twins.process import parser, secure, until_told


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    known = parser("gmail", __doc__)
    known.add_argument("--smtp-port", type=int, help="takes in mail for its accounts (0: any)")
    known.add_argument("--interactive", action="store_true", help="consent by pages")
    arguments = known.parse_args()

    async def serve() -> None:
        twin = GmailTwin(secure=secure(arguments))
        twin.identity.interactive = arguments.interactive
        twin.faults.rng = random.Random(arguments.seed)
        async with running(
            twin, arguments.host, arguments.port,
            smtp_port=arguments.smtp_port, relay_to=arguments.relay,
        ) as (_, url):  # fmt: skip
            await until_told("Gmail", {"url": url, "smtp_port": twin.smtp_port})

    asyncio.run(serve())


if __name__ == "__main__":
    main()
