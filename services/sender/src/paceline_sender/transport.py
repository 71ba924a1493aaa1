"""The sender's view of `paceline_providers`: the only place that knows both vocabularies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from paceline_common import failpoints
from paceline_common.clock import Clock
from paceline_providers import base
from paceline_providers.base import (
    Accepted,
    Deferred,
    InDoubt,
    Milestone,
    Outcome,
    Rejected,
    Unsent,
)
from paceline_providers.hosts import HostPolicy
from paceline_providers.smtp import SmtpProvider
from paceline_sender.domain.outcome import Answer
from paceline_sender.job import Session
from paceline_sender.settings import SenderSettings

_MILESTONES: Final[dict[Milestone, str]] = {
    "mail_from": "sender.after_mail_from",
    "final_dot": "sender.after_final_dot",
}


@dataclass(frozen=True, slots=True)
class Account:
    """Where and as whom a mailbox submits. The credential lives as long as one batch."""

    email: str
    smtp: Mapping[str, Any]
    credential: Mapping[str, Any] = field(repr=False)


class SmtpTransport:
    """Opens SMTP connections for mailboxes."""

    def __init__(self, settings: SenderSettings, clock: Clock) -> None:
        self._hosts = HostPolicy(settings.host_allowlist)
        self._ca_file = settings.tls_ca_file
        self._clock = clock

    def provider(self, account: Account) -> SmtpProvider:
        """Return the account's way out; raise `msgspec.ValidationError` for unusable settings."""
        return SmtpProvider.of(account.smtp, account.credential, self._hosts, self._ca_file)

    async def open(self, account: Account) -> Session | Answer:
        """Connect and sign in; an `unsent` answer says why that did not work."""
        try:
            provider = self.provider(account)
        except msgspec.ValidationError as error:
            return Answer("unsent", "config", "settings_invalid", text=str(error))
        session = await provider.open()
        if isinstance(session, Unsent):
            return answer(session, self._clock.now())
        return _SmtpSession(session, self._clock)


class _SmtpSession:
    def __init__(self, session: base.Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock

    async def submit(
        self,
        envelope_from: str,
        recipient: str,
        data: bytes,
        *,
        before_mail_from: Callable[[], bool],
    ) -> Answer:
        outcome = await self._session.submit(
            envelope_from,
            recipient,
            data,
            before_mail_from=before_mail_from,
            on_milestone=lambda milestone: failpoints.hit(_MILESTONES[milestone]),
        )
        return answer(outcome, self._clock.now())

    async def close(self) -> None:
        await self._session.close()


def answer(outcome: Outcome, now: datetime) -> Answer:
    """Return a provider's outcome in the sender's words."""
    match outcome:
        case Accepted():
            return Answer(
                "accepted",
                code=outcome.code,
                text=outcome.text,
                provider_message_id=outcome.provider_message_id,
            )
        case Unsent(reason="held_back"):
            return Answer("unsent", reason="too_late")
        case Unsent():
            return Answer(
                "unsent",
                None if outcome.outcome_class is None else outcome.outcome_class.value,
                outcome.reason,
                outcome.code,
                outcome.status,
                outcome.text,
            )
        case Deferred():
            return Answer(
                "deferred",
                outcome.outcome_class.value,
                code=outcome.code,
                status=outcome.status,
                text=outcome.text,
                retry_at=now + outcome.retry_after if outcome.retry_after else None,
                at_sender=outcome.phase == "mail" and outcome.code is not None,
            )
        case Rejected():
            return Answer(
                "rejected",
                outcome.outcome_class.value,
                code=outcome.code,
                status=outcome.status,
                text=outcome.text,
                # Without a code it is our own refusal, of the message.
                at_sender=outcome.phase == "mail" and outcome.code is not None,
            )
        case InDoubt():
            return Answer("in_doubt", "ambig", text=outcome.evidence)
