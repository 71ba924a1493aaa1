"""A mailbox of the Graph twin, connected: provider, tokens through the token endpoint, truth."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx
from tests.conformance.providers.graph_stage import TwinTokens
from tests.twins.graph.mailbox import Mailbox, Submission
from tests.twins.graph.oauth import EVERYTHING
from tests.twins.graph.server import GraphTwin, running

from paceline_providers.api import Api, ApiTimeouts
from paceline_providers.base import Fence, Outcome, Session, ThreadHint, Unsent
from paceline_providers.graph import GraphProvider, GraphSettings

SENDER, RECIPIENT = "ann@north.test", "bob@example.test"
JOB = "job_1.ws_1.1-mac"
SEND_ONLY = frozenset({"Mail.Send", "User.Read", "offline_access"})
SEND_AND_READ = SEND_ONLY | {"Mail.Read"}
HASTY = ApiTimeouts(connect=2, write=2, read=0.3, total=0.6)


def mime(
    job: str = JOB,
    subject: str = "Hello",
    to: str = RECIPIENT,
    extra: str = "",
    body: str = "Good day,\r\nand good luck.\r\n",
    message_id: str = "<first@north.test>",
) -> bytes:
    """Return a message as the sender builds it."""
    return (
        f"From: Ann North <{SENDER}>\r\nTo: Bob <{to}>\r\nSubject: {subject}\r\n"
        f"Message-ID: {message_id}\r\nDate: Fri, 20 Nov 2026 09:00:00 +0000\r\n"
        f"X-Paceline-Job: {job}\r\n{extra}"
        "List-Unsubscribe: <https://paceline.test/u/t>, <mailto:ann@north.test>\r\n"
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        f"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{body}"
    ).encode()


@dataclass
class Connected:
    """One mailbox, seen from both sides."""

    twin: GraphTwin
    url: str
    http: httpx.AsyncClient
    mailbox: Mailbox
    tokens: TwinTokens
    provider: GraphProvider
    pauses: list[float] = field(default_factory=list)

    @property
    def truth(self) -> list[Submission]:
        """What Microsoft took."""
        return self.twin.submissions

    @property
    def since(self) -> datetime:
        """A moment before anything was sent."""
        return datetime.now(UTC) - timedelta(minutes=1)

    async def session(self) -> Session:
        """Open the provider."""
        session = await self.provider.open()
        assert not isinstance(session, Unsent), session
        return session

    async def prepared(self, message: bytes, thread: ThreadHint | None = None) -> Fence:
        """Make a draft."""
        fence = await (await self.session()).prepare(message, thread=thread)
        assert isinstance(fence, Fence), fence
        return fence

    async def submitted(
        self,
        message: bytes,
        fence: Fence | None = None,
        before: Callable[[], bool] = lambda: True,
        recipient: str = RECIPIENT,
    ) -> Outcome:
        """Send it."""
        return await (await self.session()).submit(
            SENDER, recipient, message, before_mail_from=before, fence=fence
        )


@asynccontextmanager
async def connected(
    scopes: frozenset[str] = EVERYTHING, timeouts: ApiTimeouts | None = None
) -> AsyncIterator[Connected]:
    """Run a twin and connect one mailbox to it."""
    async with (
        running() as (twin, url),
        httpx.AsyncClient(limits=httpx.Limits(max_connections=20)) as http,
    ):
        mailbox = twin.add_mailbox(SENDER, "Ann North")
        granted = twin.identity.grant(SENDER, scopes)
        tokens = TwinTokens(http, url, granted)
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)

        provider = GraphProvider(
            GraphSettings(tuple(granted["scope"].split())),
            Api(http, tokens, twin.now, timeouts or ApiTimeouts(), pause),
            url,
        )
        yield Connected(twin, url, http, mailbox, tokens, provider, pauses)
