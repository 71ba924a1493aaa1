"""Reading through a provider's HTTP API: calls in turn, refusals as `SourceError`, polls."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from paceline_providers.api import Api, Call, Lost, Reply
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Unavailable
from paceline_reply.sources.base import SourceError

_Shape = TypeVar("_Shape", bound=msgspec.Struct)
# Of each wait, so that mailboxes connected together do not ask together for ever.
_JITTER: Final = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """How often API mailboxes are asked, and how many at once.

    `turns` is shared by all of a process: a call takes one for as long as it lasts.
    """

    poll_s: float
    turns: asyncio.Semaphore = field(repr=False)

    async def wait(self) -> None:
        """Wait one poll, give or take a fifth."""
        spread = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load
        await asyncio.sleep(self.poll_s * spread)


async def called(api: Api, call: Call, pace: Pace) -> Reply:
    """Return the answer of a call that changes nothing; raise `SourceError` without one."""
    async with pace.turns:
        answer = await api.call(call)
    if isinstance(answer, Lost):
        raise lost(answer)
    return answer


def decoded(answer: Reply, shape: type[_Shape]) -> _Shape:
    """Return the body of a success; raise `SourceError` when it is cut off or something else."""
    found = answer.decoded(shape)
    if found is None:
        raise SourceError("connection_lost", f"not a whole answer: {answer.text[:200]}")
    return found


def lost(answer: Lost) -> SourceError:
    """Return what a call without an answer means."""
    if answer.reason == "auth_failed":
        return SourceError("grant_revoked", answer.text)
    return SourceError(answer.reason, answer.text)


def refused(refusal: Unavailable, answer: Reply) -> SourceError:
    """Return what a refusal, by the provider's rules, means."""
    if answer.status == 401:
        # Not even a new token was taken, or none could be had.
        return SourceError("grant_revoked", refusal.text)
    match refusal.outcome_class:
        case None | OutcomeClass.AUTH:
            code = "auth_failed"
        case OutcomeClass.LIMIT:
            code = "throttled"
        case OutcomeClass.CONFIG:
            code = "protocol_error"
        case _:
            code = "connection_lost" if refusal.retry_after is None else "throttled"
    return SourceError(code, refusal.text, refusal.retry_after)
