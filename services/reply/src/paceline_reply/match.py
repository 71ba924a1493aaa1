"""What a received message belongs to: tokens first, ids, the conversation, address and subject."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.address import AddressHasher, InvalidAddress
from paceline_common.db import Queries
from paceline_common.keys import KeyService
from paceline_reply.domain.inbound import Inbound
from paceline_reply.domain.thread import same_conversation
from paceline_reply.domain.unsubscribe import unsubscribe_token

MatchedBy = Literal["token", "references", "thread", "address"]

JOB_HEADER: Final = "x-paceline-job"
_QUERIES: Final = Queries("paceline_reply")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The job numbers of tokens whose MACs are ours; None without a valid one."""

    job: int | None
    unsubscribe: int | None


@dataclass(frozen=True, slots=True)
class Match:
    """The job of ours that a message answers."""

    job_id: int
    enrollment_id: int | None
    campaign_id: int | None
    step: int | None
    mailbox_id: int
    by: MatchedBy


async def verified_tokens(keys: KeyService, workspace_id: int, inbound: Inbound) -> Tokens:
    """Check the MACs of `X-Paceline-Job` and of an unsubscribe subject, in one call.

    A token of another workspace counts as none. Raises the key service's errors.
    """
    claims: list[tuple[str, int, bytes, str]] = []
    # X-Paceline-Job: <job>.<workspace>.<mac>; an unsubscribe token: <workspace>.<job>.<mac>.
    job, _, rest = inbound.header(JOB_HEADER).partition(".")
    workspace, _, mac = rest.partition(".")
    if (number := _job(workspace_id, workspace, job)) is not None:
        claims.append(("job", number, f"job/{workspace}/{job}".encode(), mac))
    workspace, _, rest = (unsubscribe_token(inbound) or "").partition(".")
    job, _, mac = rest.partition(".")
    if (number := _job(workspace_id, workspace, job)) is not None:
        claims.append(("unsubscribe", number, f"unsubscribe/{workspace}/{job}".encode(), mac))
    valid = await keys.verify_mac([one[2] for one in claims], [one[3] for one in claims])
    proven = {one[0]: one[1] for one, ok in zip(claims, valid, strict=True) if ok}
    return Tokens(proven.get("job"), proven.get("unsubscribe"))


async def find(
    tx: AsyncConnection,
    hasher: AddressHasher,
    *,
    workspace_id: int,
    mailbox_id: int,
    inbound: Inbound,
    thread_id: str | None,
    tokens: Tokens,
    now: datetime,
    thread_life: timedelta,
) -> Match | None:
    """Return what `inbound`, received in `mailbox_id`, belongs to; None if to nothing of ours.

    `thread_id` is that mailbox's provider's name of the conversation.
    """
    scope: dict[str, object] = {"workspace": workspace_id}
    if tokens.job is not None:
        arguments = {**scope, "job": tokens.job}
        if row := (await tx.execute(_QUERIES["find_sent_by_job"], arguments)).one_or_none():
            return _match(row, "token")
    if inbound.references:
        arguments = {**scope, "ids": list(inbound.references)}
        if row := (await tx.execute(_QUERIES["find_sent_by_ids"], arguments)).one_or_none():
            return _match(row, "references")
    if thread_id is not None:
        arguments = {**scope, "mailbox": mailbox_id, "thread": thread_id}
        if row := (await tx.execute(_QUERIES["find_sent_by_thread"], arguments)).one_or_none():
            return _match(row, "thread")
    if hashes := _hashes(hasher, inbound.from_addresses):
        sent = await tx.execute(
            _QUERIES["find_sent_to_address"],
            {**scope, "mailbox": mailbox_id, "hashes": hashes, "since": now - thread_life},
        )
        for row in sent:
            if same_conversation(row.subject, inbound.subject):
                return _match(row, "address")
    return None


def _job(workspace_id: int, workspace: str, job: str) -> int | None:
    try:
        return ids.decode("job", job) if ids.decode("ws", workspace) == workspace_id else None
    except ids.InvalidIdError:
        return None


def _hashes(hasher: AddressHasher, addresses: Sequence[str]) -> list[bytes]:
    hashes = []
    for address in addresses:
        try:
            hashes.append(hasher.address(address))
        except InvalidAddress:
            continue  # no lead has it
    return hashes


def _match(row: Row[tuple[object, ...]], by: MatchedBy) -> Match:
    return Match(row.job_id, row.enrollment_id, row.campaign_id, row.step, row.mailbox_id, by)
