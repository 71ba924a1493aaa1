"""`python -m tests.twins.smtp`: run the SMTP twin, for development and tests only."""

import asyncio
import random

from tests.twins.process import parser, secure, until_told
from tests.twins.smtp.twin import SmtpTwin, running


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    known = parser("smtp", __doc__)
    known.add_argument("--control-port", type=int, default=0)
    known.add_argument("--implicit-tls", action="store_true", help="instead of STARTTLS")
    known.add_argument("--account", action="append", default=[], metavar="EMAIL:PASSWORD")
    arguments = known.parse_args()

    async def serve() -> None:
        twin = SmtpTwin(secure=secure(arguments), implicit_tls=arguments.implicit_tls)
        twin.faults.rng = random.Random(arguments.seed)
        for account in arguments.account:
            email, _, password = account.partition(":")
            twin.add_account(email, password)
        async with running(
            twin, arguments.host, arguments.port,
            control_port=arguments.control_port, relay_to=arguments.relay,
        ) as (_, port, url):  # fmt: skip
            await until_told("SMTP", {"url": url, "smtp_port": port})

    asyncio.run(serve())


if __name__ == "__main__":
    main()
