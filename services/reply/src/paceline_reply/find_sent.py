"""Proof that a submission left: is the message among what the account has sent?"""

import asyncio
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Final

from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Found, NotSeen, Unavailable
from paceline_reply.access import Access, Doors
from paceline_reply.sources.base import REFUSALS, SourceError
from paceline_reply.sources.imap import Head, ImapSession

_TOTAL_S: Final = 50.0
# The newest ones of a folder whose server cannot search; more are sent in no doubt's time.
_SCANNED: Final = 2000
# INTERNALDATE is the server's clock, and SINCE its day.
_SLACK: Final = timedelta(days=1)
_JOB: Final = "x-paceline-job"
_FIELDS: Final = (_JOB, "message-id")


class SentFinder:
    """Looks through sent mail with the reading grant. Every look may be repeated."""

    def __init__(self, doors: Doors, threads: Executor) -> None:
        self._doors = doors
        self._threads = threads

    async def find(
        self,
        workspace_id: int,
        mailbox_id: int,
        recipient: str,
        job_token: str,
        since: datetime,
    ) -> Found | NotSeen | Unavailable:
        """Look for the message to `recipient`, from `since` on (aware), of one job.

        `job_token` is the whole value of its X-Paceline-Job. A mailbox that is switched off
        is looked through as well. Raises what Postgres raises and `KeyServiceUnavailable`.
        """
        try:
            async with asyncio.timeout(_TOTAL_S):
                loaded = await self._doors.load(workspace_id, mailbox_id)
                if loaded is None:
                    return Unavailable(None, "the mailbox is not connected")
                access = loaded[0]
                if access.provider is not None:
                    return await access.provider.find_sent(recipient, job_token, since)
                return await self._in_imap(access, recipient, job_token, since)
        except SourceError as error:
            about = OutcomeClass.AUTH if error.code in REFUSALS else OutcomeClass.SOFT
            return Unavailable(about, error.message, error.retry_after)
        except TimeoutError:
            return Unavailable(OutcomeClass.SOFT, f"no answer within {_TOTAL_S:g} s")

    async def _in_imap(
        self, access: Access, recipient: str, job_token: str, since: datetime
    ) -> Found | NotSeen | Unavailable:
        session = await self._doors.session(access, self._threads)
        try:
            folders = await session.sent_folders()
            for folder in folders:
                opened = await session.open_folder(folder)
                head = await _found(session, recipient, job_token, since)
                if head is not None:
                    # The folder's name and RFC 3501's two numbers name a message for good.
                    name = f"{folder}/{opened.uid_validity}/{head.uid}"
                    return Found(name, head.fields.get("message-id"), None, head.filed_at)
        finally:
            await session.close()
        if not folders:
            return Unavailable(None, "the account has no folder for sent mail")
        return NotSeen()


async def _found(
    session: ImapSession, recipient: str, job_token: str, since: datetime
) -> Head | None:
    """Search by the header; then, since many servers index few headers, look for oneself."""
    day = (since - _SLACK).date()
    searches: list[tuple[object, ...]] = [("HEADER", "X-Paceline-Job", job_token)]
    if recipient.isascii():
        searches.append(("TO", recipient, "SINCE", day))
    last = ("SINCE", day)
    for criteria in (*searches, last):
        try:
            uids = await session.search(*criteria)
        except SourceError as error:
            if error.code != "protocol_error" or criteria is last:
                raise
            continue  # it does not know this search; the connection stands
        for head in reversed(await session.heads(uids[-_SCANNED:], _FIELDS)):
            if head.fields.get(_JOB) == job_token:
                return head
        if criteria[0] == "TO":
            break
    return None
