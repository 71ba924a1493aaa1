"""What an answer of the provider means for the job, the mailbox and the people watching.

`decide` is the one place where a class (PROVIDERS.md) becomes an action. Only
`hard` and `block` refuse the message for good; `limit`, `auth` and a refused
sender hold the mailbox and give the job back; nothing that may have been
accepted is ever tried again.
"""

import random
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Literal

from paceline_sender.domain import retry

Kind = Literal["accepted", "deferred", "rejected", "in_doubt", "unsent"]
OutcomeClass = Literal["hard", "soft", "block", "limit", "auth", "config", "ambig"]
Outcome = Literal["accepted", "deferred", "rejected", "failed", "in_doubt", "unsent"]
HoldReason = Literal[
    "auth_failed",
    "grant_revoked",
    "connect_failed",
    "limited",
    "sender_refused",
    "credential_unreadable",
    "app_refused",
    "app_limited",
]

MAX_TEXT: Final = 1000
# A shorter wish to wait is kept within the process: a gate of seconds would only be noise.
THROTTLE_HOLD_FROM: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class App:
    """The OAuth app through which mailboxes were connected; with `tenant`, those of one
    organization only."""

    provider: str
    client_id: str
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What happened, in the provider's terms.

    `kind` unsent: MAIL FROM or the send request never left. `at_sender`: the
    refusal came at MAIL FROM and so speaks of the mailbox, not of the message.
    `by_grant`: the mailbox signs in by an OAuth grant, whose `credential_version` was
    used. `app`: the refusal speaks of the OAuth app, and so of every mailbox that was connected
    through it. `retry_at` is the provider's own wish. `text` is the server's own words.

    `message_id` is what recipients see where it was read back; `thread_id` the provider's
    conversation.
    """

    kind: Kind
    outcome_class: OutcomeClass | None = None
    reason: str = ""
    code: int | None = None
    status: str | None = None
    text: str | None = None
    provider_message_id: str | None = None
    retry_at: datetime | None = None
    at_sender: bool = False
    message_id: str | None = None
    thread_id: str | None = None
    by_grant: bool = False
    credential_version: int | None = None
    app: App | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """The mailbox sends nothing until `until`; None: until somebody resumes it.

    With `app` a person has to look at the OAuth app, not at the mailbox.
    """

    reason: HoldReason
    until: datetime | None
    app: App | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the job (`outcome`, `reason`, `retry_at`) and of its mailbox (`hold`).

    The reason of a deferral begins with its class: the scheduler keeps a soft
    one with its mailbox.
    """

    outcome: Outcome
    outcome_class: OutcomeClass | None
    reason: str
    retry_at: datetime | None = None
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What was before: soft refusals of this job, failed connections of its mailbox in a row."""

    deferrals: int = 0
    first_deferred_at: datetime | None = None
    connect_failures: int = 0


def decide(
    answer: Answer, history: History, now: datetime, rng: random.Random, *, claimed: bool = True
) -> Decision:
    """Return what follows from `answer`; `history` does not count it yet.

    Without a claim the answer was to something ahead of the submission: what would be tried
    again costs no capacity, and what never can be sent fails.
    """
    if answer.app is not None and answer.kind in ("unsent", "deferred"):
        return _of_app(answer, answer.app, now, claimed=claimed)
    match answer.kind:
        case "accepted":
            return Decision("accepted", None, "accepted")
        case "in_doubt":
            return Decision("in_doubt", "ambig", answer.reason or "no_answer")
        case "unsent":
            return _unsent(answer, history, now, rng)
        case "deferred" | "rejected":
            decision = _refused(answer, history, now, rng)
            if claimed:
                return decision
            if decision.outcome == "deferred":
                return replace(decision, outcome="unsent")
            return replace(decision, outcome="failed", reason="message_refused")


def _of_app(answer: Answer, app: App, now: datetime, *, claimed: bool) -> Decision:
    """Every mailbox of the app would get the same answer: none of it counts against this one."""
    outcome: Outcome = "deferred" if answer.kind == "deferred" and claimed else "unsent"
    if answer.outcome_class == "config":
        until = now + retry.CONNECT_HOLD
        return Decision(outcome, "config", "app_refused", until, Hold("app_refused", until, app))
    until = answer.retry_at or now + retry.APP_HOLD
    if until - now < THROTTLE_HOLD_FROM:
        return Decision(outcome, "soft", "throttled", until)
    return Decision(outcome, "limit", "limit:app", until, Hold("app_limited", until, app))


def _unsent(answer: Answer, history: History, now: datetime, rng: random.Random) -> Decision:
    match answer.outcome_class:
        case "auth":
            why = _signed_out(answer)
            return Decision("unsent", "auth", answer.reason or why, None, Hold(why, None))
        case "limit":
            until = answer.retry_at or now + retry.CONNECT_HOLD
            return Decision(
                "unsent", "limit", answer.reason or "limited", until, Hold("limited", until)
            )
        case None:
            # Our own doing (too late, stopping): nothing is known against the mailbox.
            return Decision("unsent", None, answer.reason or "unsent", answer.retry_at)
        case "soft" if answer.retry_at is not None:
            # It was reached, and says itself when it will take more.
            reason = answer.reason or "throttled"
            return Decision(
                "unsent", "soft", reason, answer.retry_at, _throttled(answer.retry_at, now)
            )
        case failed_class:
            failures = history.connect_failures + 1
            until = now + retry.CONNECT_HOLD
            later = now + retry.backoff(failures, rng)
            if answer.reason == "auth_failed":
                # Too many sign-ins are not mended by more of them (PROVIDERS §1.5, 454).
                later = max(later, until)
            return Decision(
                "unsent",
                failed_class,
                answer.reason or "connect_failed",
                later,
                Hold("connect_failed", until)
                if failures >= retry.CONNECT_FAILURES_BEFORE_HOLD
                else None,
            )


def _refused(answer: Answer, history: History, now: datetime, rng: random.Random) -> Decision:
    soft = retry.retry_at(now, history.first_deferred_at, history.deferrals + 1, rng)
    # The mailbox's fault does not use up the message's 72 hours.
    later = soft or now + retry.BACKOFF[-1]
    match answer.outcome_class:
        case "limit":
            until = answer.retry_at or now + retry.LIMIT_HOLD
            return Decision("deferred", "limit", "limit", until, Hold("limited", until))
        case "auth":
            return Decision("deferred", "auth", "auth", later, Hold(_signed_out(answer), None))
        case "config" if answer.at_sender:
            return Decision(
                "deferred",
                "config",
                "config:sender_refused",
                later,
                Hold("sender_refused", None),
            )
        case "config" if answer.kind == "rejected":
            return Decision("failed", "config", "message_refused")
        case "hard":
            return Decision("rejected", "hard", "hard_bounce")
        case "block" if answer.kind == "rejected":
            return Decision("rejected", "block", "blocked")
        case "soft" if answer.kind == "rejected":
            # The whole message had left, and the no came with no reason.
            return Decision("rejected", "soft", "refused")
    if soft is None:
        return Decision("rejected", "soft", "given_up")
    wanted = max(soft, answer.retry_at) if answer.retry_at else soft
    found = answer.outcome_class or "soft"
    named = answer.retry_at if found == "soft" else None
    hold = _throttled(named, now) if named is not None else None
    return Decision("deferred", found, found, wanted, hold)


def _signed_out(answer: Answer) -> HoldReason:
    if answer.at_sender:
        # It was signed in: doing that again proves nothing, so nobody tries by himself.
        return "sender_refused"
    return "grant_revoked" if answer.by_grant else "auth_failed"


def _throttled(until: datetime, now: datetime) -> Hold | None:
    return Hold("limited", until) if until - now >= THROTTLE_HOLD_FROM else None


def trim(text: str | None) -> str | None:
    """Return a server's words fit for a row: printable, at most `MAX_TEXT` characters."""
    if text is None:
        return None
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_TEXT].strip()


REMEDIES: Final[dict[HoldReason, str]] = {
    "auth_failed": "The server refused the user name or password: connect the mailbox again.",
    "grant_revoked": "The provider no longer honours the grant: connect the mailbox again.",
    "connect_failed": "The server cannot be reached: check host, port and TLS mode.",
    "limited": "The provider's sending limit is reached: the mailbox waits until it is lifted.",
    "sender_refused": (
        "The server lets this mailbox sign in but not send, or not from its address: its provider"
        " has to lift that."
    ),
    "credential_unreadable": "The stored credential cannot be opened: connect the mailbox again.",
    "app_refused": (
        "The provider refuses the OAuth app: its operator has to check the client id and set the"
        " client secret again. No mailbox has to be reconnected."
    ),
    "app_limited": (
        "The provider limits the OAuth app as a whole: all its mailboxes wait until the time it"
        " named. Ask the provider for a higher quota, or connect mailboxes through another app."
    ),
}
