"""What every way of sending has in common: the protocol, and the values it answers with.

Expected refusals are values. An exception out of a provider is a bug.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, Protocol

from paceline_providers.classes import OutcomeClass, Phase

ProbeCode = Literal[
    "ok", "dns_failed", "host_not_allowed", "connect_refused", "connect_timeout", "tls_failed",
    "auth_failed", "app_refused", "sender_refused", "message_refused", "not_read_back",
    "protocol_error",
]  # fmt: skip

UnsentReason = Literal[
    "dns_failed", "host_not_allowed", "connect_refused", "connect_timeout", "tls_failed",
    "auth_failed", "protocol_error",
    "app_refused",  # the OAuth app's id or secret: every mailbox of that app is concerned
    "connection_lost",  # the server had gone before MAIL FROM
    "held_back",  # `before_mail_from` said no
    "throttled",  # an API asks us to wait, ahead of the submission
]  # fmt: skip

Reach = Literal["mailbox", "app", "tenant"]
"""Whom a refusal concerns: this mailbox, or every one that was connected through the same OAuth
app, anywhere or in the mailbox's organization."""

Milestone = Literal["mail_from", "final_dot"]
"""What has just been written to the connection: MAIL FROM or the head of the send request;
the final dot or the last byte of the send request."""


@dataclass(frozen=True, slots=True)
class ThreadHint:
    """Which of this mailbox's conversations a follow-up belongs to, in its provider's own ids.

    `thread_id` and `previous_id` are an earlier submission's `Accepted.thread_id` and
    `Accepted.provider_message_id`. Only the mailbox that made that submission may be
    given them. The message must carry References, In-Reply-To and the subject of the
    conversation all the same; SMTP has nothing but those.
    """

    thread_id: str | None = None
    previous_id: str | None = None


@dataclass(frozen=True, slots=True)
class Fence:
    """A draft that one submission sends: whoever destroys it proves that it was never sent.

    Text throughout, so that it can be stored with the claim. `provider_message_id` is the
    id of the message within the draft, where the provider tells it.
    """

    kind: str
    draft_id: str
    provider_message_id: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The provider took responsibility. `text` is its whole answer.

    `message_id`, with its angle brackets, is what recipients see as Message-ID, read back
    from the provider; None when it was not, or could not be, read. `thread_id` is the
    provider's name of the conversation.
    """

    provider_message_id: str | None
    code: int | None
    text: str
    message_id: str | None = None
    thread_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unsent:
    """MAIL FROM, or the send request, never left: no capacity was used, and it may be repeated.

    `outcome_class` says what a failed connection tells about the mailbox; None
    when it tells nothing. `text` is the server's, or the system's, own words.
    `retry_after` is the provider's own wish.
    """

    reason: UnsentReason
    outcome_class: OutcomeClass | None = None
    code: int | None = None
    status: str | None = None
    text: str = ""
    retry_after: timedelta | None = None
    reach: Reach = "mailbox"


@dataclass(frozen=True, slots=True)
class Deferred:
    """The submission began and was surely not accepted; another try may succeed.

    `phase` is the command that was refused, or where the connection ended.
    `retry_after` is the provider's own wish.
    """

    outcome_class: OutcomeClass
    phase: Phase
    code: int | None
    status: str | None
    text: str
    retry_after: timedelta | None = None
    reach: Reach = "mailbox"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The submission was refused and the same one would be again.

    Without a `code` the refusal is our own: the server's offer (size, 8 bit,
    SMTPUTF8) shows that it could not take the message, and nothing left.
    """

    outcome_class: OutcomeClass
    phase: Phase
    code: int | None
    status: str | None
    text: str


@dataclass(frozen=True, slots=True)
class InDoubt:
    """The whole message left and no answer came: nobody knows. `evidence` says how it ended.

    With a `fence` a proof that it was not sent can still be had (`proof.Prover.destroy`).
    """

    evidence: str
    fence: Fence | None = None


Outcome = Accepted | Unsent | Deferred | Rejected | InDoubt


class Session(Protocol):
    """A connection that is signed in; `submit` calls do not overlap."""

    @property
    def is_reusable(self) -> bool:
        """Whether another message may be submitted here."""
        ...

    async def prepare(
        self, message: bytes, *, thread: ThreadHint | None = None
    ) -> Fence | Unsent | Rejected | None:
        """Leave the message with the provider as a draft, ahead of the slot; sends nothing.

        None where the provider, or the grant, has no drafts: `submit` does without. Store
        the fence before `submit` gets it. A cancelled call, and an `Unsent` after a lost
        connection, may leave a draft behind that nobody will ever send.
        """
        ...

    async def submit(
        self,
        envelope_from: str,
        recipient: str,
        message: bytes,
        *,
        before_mail_from: Callable[[], bool],
        on_milestone: Callable[[Milestone], None] = lambda _: None,
        thread: ThreadHint | None = None,
        fence: Fence | None = None,
    ) -> Outcome:
        """Submit one message to one recipient; never raises for what a server does.

        `before_mail_from` is the last thing called before the first byte of the
        submission; if it returns False nothing leaves and the outcome is
        `Unsent("held_back")`. It is asked again should the provider refuse an expired
        token and the submission start anew. `on_milestone` is called right after each
        write. With a `fence` of `prepare` (same message, same thread) that draft is sent;
        after `Unsent`, `Deferred` and `Rejected` it still stands: send it another time,
        or destroy it. A cancelled call leaves its outcome unknown.
        """
        ...

    async def close(self) -> None:
        """Take leave within a few seconds; never raises."""
        ...


class Provider(Protocol):
    """One mailbox's way out."""

    async def open(self) -> Session | Unsent:
        """Do everything that can be done before the slot opens: resolve, connect, TLS, sign in."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a mailbox's way out can do under the grant it was given.

    `fence`: `prepare` makes drafts, and destroying one proves it unsent. `threads`: it heeds
    `ThreadHint`. `reads_back`: `Accepted.message_id` is known. `finds_sent`: sent mail can
    be looked through for proof.
    """

    fence: bool
    threads: bool
    reads_back: bool
    finds_sent: bool


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a connection test found: `message` is the server's exact words, `remedy` what to do."""

    code: ProbeCode
    message: str
    remedy: str

    @property
    def ok(self) -> bool:
        """Whether the test succeeded."""
        return self.code == "ok"


REMEDIES: Final[dict[ProbeCode, str]] = {
    "ok": "",
    "dns_failed": "Check the host name: it does not resolve.",
    "host_not_allowed": (
        "The host is in a private network. Ask the operator of this installation to put it "
        "on the list of allowed hosts."
    ),
    "connect_refused": "Check the port: the server does not take connections there.",
    "connect_timeout": "Check host and port, and that no firewall is in between.",
    "tls_failed": (
        "Check the TLS mode (implicit TLS is usual on port 465, STARTTLS on 587) and that the "
        "server's certificate is valid for this host name."
    ),
    "auth_failed": (
        "Check user name and password. Accounts with two-step verification usually need an "
        "app password, and some providers have to allow SMTP and IMAP first."
    ),
    "app_refused": (
        "The provider refuses the OAuth app, not the mailbox: its operator has to check the app's "
        "client id and secret, and set the secret again."
    ),
    "sender_refused": "Use an address that this account may send from.",
    "message_refused": (
        "The server signs you in but does not take the test message: ask its operator."
    ),
    "not_read_back": "The test message was sent but did not arrive: check the IMAP account.",
    "protocol_error": (
        "The host does not speak the expected protocol: check host, port and TLS mode."
    ),
}


def probe_result(code: ProbeCode, message: str) -> ProbeResult:
    """Return a result with the remedy of its code."""
    return ProbeResult(code, message, REMEDIES[code])


async def probe(
    provider: Provider,
    address: str,
    message: bytes,
    discard: Callable[[Fence], Awaitable[object]] | None = None,
) -> ProbeResult:
    """Send a test `message` from `address` to itself, through everything a real one passes.

    `discard` destroys the draft of a test that was not sent.
    """
    session = await provider.open()
    if isinstance(session, Unsent):
        return _probed(session)
    try:
        fence = await session.prepare(message)
        if isinstance(fence, Unsent | Rejected):
            return _probed(fence)
        outcome = await session.submit(
            address, address, message, before_mail_from=lambda: True, fence=fence
        )
        if fence and discard and not isinstance(outcome, Accepted | InDoubt):
            await discard(fence)
        return _probed(outcome)
    finally:
        await session.close()


async def handshake(provider: Provider) -> ProbeResult:
    """Connect and sign in as for a submission, and take leave: nothing is sent."""
    session = await provider.open()
    if isinstance(session, Unsent):
        return _probed(session)
    await session.close()
    return probe_result("ok", "signed in")


def _probed(outcome: Outcome) -> ProbeResult:
    match outcome:
        case Accepted():
            return probe_result("ok", outcome.text)
        case Unsent():
            match outcome.reason:
                case "connection_lost" | "held_back":
                    return probe_result("protocol_error", outcome.text)
                case "throttled":
                    return probe_result("message_refused", outcome.text)
                case code:
                    return probe_result(code, outcome.text)
        case Deferred(outcome_class=OutcomeClass.AUTH) | Rejected(outcome_class=OutcomeClass.AUTH):
            return probe_result("auth_failed", outcome.text)
        case Deferred(phase="mail") | Rejected(phase="mail"):
            return probe_result("sender_refused", outcome.text)
        case Deferred() | Rejected():
            return probe_result("message_refused", outcome.text)
        case InDoubt():
            return probe_result("message_refused", outcome.evidence)
