"""A person's word about a submission in doubt: told to the sender, which holds the evidence."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import httpx
from pydantic import SecretStr

from paceline_common import ids, telemetry
from paceline_common.http import Problem, internal_client
from paceline_gateway import problems

SettleAs = Literal["sent", "unsent", "failed"]

# Two short transactions; a busy Postgres may keep them waiting.
_TIMEOUT_S: Final = 20.0

_log = telemetry.logger("settling")


@dataclass(frozen=True, slots=True)
class Word:
    """What a person says, and who: `by` is their public id, or how they signed in to a shell."""

    settle_as: SettleAs
    why: str
    by: str
    source_ip: str | None = None


class Settling:
    """Asks the sender's `/internal/settle`; it records the audit entry with the effect."""

    def __init__(self, sender_url: str, sender_token: SecretStr) -> None:
        self._client = internal_client(sender_url, sender_token, timeout_s=_TIMEOUT_S)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def settle(self, workspace_id: int, job_id: int, word: Word) -> datetime:
        """Settle the job's doubt; return when.

        Raises the problems `not_in_doubt`, `doubt_settled` and `settling_unavailable`.
        """
        asked = {
            "workspace_id": ids.encode("ws", workspace_id),
            "job_id": ids.encode("job", job_id),
            "as": word.settle_as,
            "why": word.why,
            "by": word.by,
            "source_ip": word.source_ip,
        }
        try:
            answer = await self._client.post("/internal/settle", json=asked)
        except httpx.HTTPError as error:
            # It may have been done all the same: asking again then says so.
            raise Problem(problems.SETTLING_UNAVAILABLE) from error
        match answer.status_code, _member(answer, "code"):
            case 200, _ if (settled_at := _member(answer, "settled_at")) is not None:
                return datetime.fromisoformat(settled_at)
            case 404, "unknown_doubt":
                raise Problem(problems.NOT_IN_DOUBT)
            case 409, "doubt_settled":
                raise Problem(
                    problems.DOUBT_SETTLED,
                    settled_as=_member(answer, "settled_as"),
                    settled_by=_member(answer, "settled_by"),
                )
            case status, _:
                _log.warning("sender refused to settle", http_status=status)
                raise Problem(problems.SETTLING_UNAVAILABLE)


def _member(answer: httpx.Response, name: str) -> str | None:
    """Return a text of the answer, None where there is none."""
    try:
        value: Any = answer.json()[name]
    except (ValueError, KeyError, TypeError):
        return None
    return value if isinstance(value, str) else None
