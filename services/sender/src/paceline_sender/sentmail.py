"""What reply says of an account's sent mail: the sender itself never reads a mailbox."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx
import msgspec

from paceline_common import ids, telemetry
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Found, NotSeen, Unavailable

log = telemetry.logger("sender.sentmail")


@dataclass(frozen=True, slots=True)
class Away:
    """Reply gave no answer; nothing is known, not even about the mailbox."""

    text: str


class _Answer(msgspec.Struct, frozen=True):
    found: bool | None = None
    provider_message_id: str | None = None
    message_id: str | None = None
    thread_id: str | None = None
    sent_at: datetime | None = None
    unavailable: OutcomeClass | msgspec.UnsetType | None = msgspec.UNSET
    message: str = ""
    retry_after_s: float | None = None


class SentMail:
    """Asks reply's `/internal/find-sent`. `client`: as `paceline_common.http.internal_client`."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def find(
        self, workspace_id: int, mailbox_id: int, recipient: str, job_token: str, since: datetime
    ) -> Found | NotSeen | Unavailable | Away:
        """See `proof.Prover.find_sent`."""
        question: dict[str, Any] = {
            "workspace_id": ids.encode("ws", workspace_id),
            "mailbox_id": ids.encode("mbx", mailbox_id),
            "recipient": recipient,
            "job_token": job_token,
            "since": since.isoformat(),
        }
        try:
            response = await self._client.post("/internal/find-sent", json=question)
            response.raise_for_status()
            answer = msgspec.json.decode(response.content, type=_Answer)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            log.warning("reply cannot look", **telemetry.describe_error(error))
            return Away(type(error).__name__)
        if answer.unavailable is not msgspec.UNSET:
            wish = answer.retry_after_s
            return Unavailable(
                answer.unavailable,
                answer.message,
                None if wish is None else timedelta(seconds=wish),
            )
        if answer.found is False:
            return NotSeen()
        # A message without an id or a time is not one that somebody found.
        if answer.found and answer.provider_message_id is not None and answer.sent_at is not None:
            return Found(
                answer.provider_message_id, answer.message_id, answer.thread_id, answer.sent_at
            )
        return Away("not an answer of find-sent")
