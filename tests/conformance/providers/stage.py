"""What the suite asks of a provider put on stage in front of its twin.

A new provider joins by a module with a `Stage` and a line in `stages.STAGES`; nothing of
the suite knows a provider by name.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from paceline_providers.base import Capabilities, Provider
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Prover

SENDER, RECIPIENT = "ann@north.test", "bob@example.test"

Final = Literal["sent", "unsent", "in_doubt"]
"""What is known in the end, with every proof that can be had: `in_doubt` stays for a person."""


@dataclass(frozen=True)
class Case:
    """What one fault has to come to.

    `outcome` is the name of the outcome's type and `outcome_class` its class, where it has
    one; `taken`: how often the provider took the message, ever; `final`: what is known once
    everything was looked at, after `later_s` where sent mail shows late. `lies`: the provider
    took it and said that it did not, in words that leave no doubt.
    """

    outcome: str
    outcome_class: OutcomeClass | None
    taken: int
    final: Final
    big: bool = False
    retry_after_s: int | None = None
    later_s: float = 0.0
    lies: bool = False


@dataclass(frozen=True)
class Taken:
    """One submission as the provider's side remembers it."""

    job: str
    recipient: str
    message_id: str | None


class Stage(Protocol):
    """One provider, patient for about a second at most, and the other side's truth."""

    provider: Provider
    prover: Prover | None
    capabilities: Capabilities

    def strike(self, fault: str) -> None:
        """Let the next submission go wrong: `fault` is a key of the stage's cases."""
        ...

    def taken(self) -> list[Taken]:
        """Return every submission that the provider took responsibility for."""
        ...

    def began(self) -> int:
        """Return how many submissions (MAIL FROM, send requests) arrived, taken or not."""
        ...

    def did_late(self) -> bool:
        """Tell whether what `done_later` puts off was done by now, or has failed."""
        ...

    def expire_sign_in(self) -> bool:
        """Let the access token be too old; False where there is none."""
        ...

    def revoke_sign_in(self) -> None:
        """Let the credential be refused from now on."""
        ...

    def hide_sent(self, seconds: float) -> None:
        """Let sent mail appear `seconds` late, the stage's clock."""
        ...

    def pass_time(self, seconds: float) -> None:
        """Move the stage's clock."""
        ...

    def rewrite_message_ids(self) -> None:
        """Let the provider put its own Message-ID into what it sends."""
        ...

    def stranger_thread(self) -> str:
        """Return a thread's id that the provider does not know."""
        ...

    def nobody_listens(self) -> Provider:
        """Return the same provider pointed at a port where nobody listens."""
        ...

    def named(self, *, right: bool) -> AbstractAsyncContextManager[Provider]:
        """Run the other side over TLS, by its right name or by another; give a provider to it.

        The certificate's authority is trusted either way.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """How to put a provider on stage, what it can do there, and what its faults come to.

    `names_accepted`: whether an acceptance names the message; Graph's sendMail does not.
    """

    start: "Starter"
    capabilities: Capabilities
    cases: Mapping[str, Case]
    names_accepted: bool = True


class Starter(Protocol):
    """Starts twin and provider."""

    def __call__(self) -> AbstractAsyncContextManager[Any]: ...


def message(job: str, *, subject: str = "Hello", extra: str = "", size: int = 0) -> bytes:
    """Return a message to RECIPIENT that carries `X-Paceline-Job: job`."""
    head = (
        f"From: Ann <{SENDER}>\r\nTo: {RECIPIENT}\r\nSubject: {subject}\r\n"
        f"Message-ID: <{job}@north.test>\r\nX-Paceline-Job: {job}\r\n{extra}\r\n"
    )
    line = b"filler line of no interest, but of some length\r\n"
    return head.encode() + b"Hi Bob\r\n" + line * (size // len(line))
