"""How a submission whose fate is unknown is found out, not guessed.

*Sent* is proven by finding the message among the account's sent mail. *Unsent* is proven
only by destroying the fence. Everything else proves nothing.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from paceline_providers.base import Capabilities, Fence, Provider, Unsent
from paceline_providers.classes import OutcomeClass


@dataclass(frozen=True, slots=True)
class Found:
    """Proof: the account sent it. The ids are as in `base.Accepted`; `sent_at` is aware, UTC."""

    provider_message_id: str
    message_id: str | None
    thread_id: str | None
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class NotSeen:
    """Not among what the provider shows now: its index lags, and people delete. No proof."""


@dataclass(frozen=True, slots=True)
class Destroyed:
    """Proof: the draft was there, unsent, and can never be sent any more."""


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such draft: sent, or deleted before by anyone. No proof."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The provider, or the grant, does not let us look or destroy. No proof.

    `outcome_class`: what to do about it; None when it can never be done under this grant.
    """

    outcome_class: OutcomeClass | None
    text: str
    retry_after: timedelta | None = None


class Prover(Protocol):
    """Looks for proof in one mailbox; every call may be repeated, none raises for a server."""

    async def find_sent(
        self, recipient: str, job_token: str, since: datetime
    ) -> Found | NotSeen | Unavailable:
        """Look through mail sent to `recipient` from `since` on (aware) for `X-Paceline-Job`.

        `job_token` is that header's whole value. Message-ID is not looked at: providers
        rewrite it.
        """
        ...

    async def find_drafts(
        self, job_tokens: Collection[str], since: datetime
    ) -> Mapping[str, tuple[Fence, ...]] | Unavailable:
        """Look through drafts made from `since` on (aware) for these `X-Paceline-Job` values.

        Several processes may have made drafts of one job. A draft that is not found may be
        too new for the provider's index, or disarmed.
        """
        ...

    async def disarm(self, fence: Fence) -> Destroyed | Gone | Unavailable:
        """Make the draft unsendable, and leave it where it can be recognised.

        The proof that outlives a lost answer, and a caller that dies before it has noted the
        answer: made again, the call says `Destroyed` again. Call it when `destroy` may be
        called; that takes away what is left, once the proof is noted.
        """
        ...

    async def destroy(self, fence: Fence) -> Destroyed | Gone | Unavailable:
        """Delete the draft for good.

        Call it only after the lease and the provider's timeout: a send request still on its
        way would find its draft gone. An answer that is lost is `Unavailable`, and the next
        call then says `Gone` whoever deleted it.
        """
        ...


class ApiProvider(Provider, Prover, Protocol):
    """A mailbox behind an HTTP API with OAuth: sends, and finds out what it sent."""

    @property
    def capabilities(self) -> Capabilities:
        """What the grant allows."""
        ...


# How many access tokens are tried before their refusal says something of the grant: what
# stands in for the first may be another process's, which was refused as well meanwhile (a provider
# may end all tokens before their time); for the second it is a new one.
TOKENS_TRIED: Final = 3


class Tokens(Protocol):
    """Gives access tokens of one grant; keeps and refreshes them as it sees fit."""

    def __call__(self, refused: str | None = None) -> Awaitable[str]:
        """Return a token to use now; `refused` is one that the provider no longer takes.

        Raises `TokenRefused` when the grant is gone, `TokenUnavailable` when the token
        endpoint does not answer. Whoever asks for the same `refused` token at the same time
        may get the same new one.
        """
        ...


class TokenRefused(Exception):
    """The grant was revoked, expired or never sufficed; `str()` is the provider's own words."""


class TokenUnavailable(Exception):
    """No token can be had just now; `str()` says why.

    `outcome_class` is `CONFIG` where the operator of the OAuth app has to mend something:
    every mailbox of that app waits for them. `retry_after` is the server's own wish.
    """

    def __init__(
        self,
        text: str,
        outcome_class: OutcomeClass = OutcomeClass.SOFT,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(text)
        self.outcome_class: Final = outcome_class
        self.retry_after: Final = retry_after

    def unsent(self) -> Unsent:
        """Return what it means for a submission that has not begun."""
        config = self.outcome_class is OutcomeClass.CONFIG
        return Unsent(
            "app_refused" if config else "connect_timeout",
            self.outcome_class,
            text=str(self),
            retry_after=self.retry_after,
            reach="app" if config else "mailbox",
        )


Now = Callable[[], datetime]
"""Returns the current instant, aware, UTC."""
