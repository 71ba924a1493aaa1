"""Gmail as a source: its history from the id that was read up to.

developers.google.com/gmail/api/guides/sync

One history.list (2 quota units) tells that nothing is new. An id that Gmail has forgotten is
answered 404; everything since a moment is then listed instead. Mail is read wherever filters
put it, spam included; what the account sent itself, and drafts, are not inbound.
"""

import base64
import binascii
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from paceline_providers import dialect
from paceline_providers.api import Call, Reply
from paceline_providers.gmail import KIND, GmailProvider
from paceline_reply.sources.api import Pace, called, decoded, refused
from paceline_reply.sources.base import (
    FETCH_BYTES,
    Fetched,
    Known,
    Place,
    PlaceLost,
    SourceError,
    Step,
)

_PAGE: Final = 500
_OUTGOING: Final = frozenset({"SENT", "DRAFT", "CHAT"})


class _Header(msgspec.Struct, frozen=True):
    name: str
    value: str


class _Payload(msgspec.Struct, frozen=True):
    headers: tuple[_Header, ...] = ()


class GmailMessage(msgspec.Struct, frozen=True, rename="camel"):
    """A Message resource, as much of it as its format shows."""

    id: str
    thread_id: str | None = None
    label_ids: tuple[str, ...] = ()
    # 64-bit integers travel as text.
    internal_date: str = "0"
    size_estimate: int = 0
    raw: str = ""
    payload: _Payload = _Payload()

    @property
    def is_inbound(self) -> bool:
        """Whether it arrived; what one sends to oneself has both labels."""
        return "INBOX" in self.label_ids or _OUTGOING.isdisjoint(self.label_ids)

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case."""
        name = name.lower()
        return next((one.value for one in self.payload.headers if one.name.lower() == name), None)


class _Added(msgspec.Struct, frozen=True):
    message: GmailMessage


class _Record(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    messages_added: tuple[_Added, ...] = ()


class _History(msgspec.Struct, frozen=True, rename="camel"):
    history_id: str
    history: tuple[_Record, ...] = ()
    next_page_token: str | None = None


class _Listed(msgspec.Struct, frozen=True, rename="camel"):
    messages: tuple[GmailMessage, ...] = ()
    next_page_token: str | None = None


class _Profile(msgspec.Struct, frozen=True, rename="camel"):
    history_id: str


@dataclass(frozen=True, slots=True)
class GmailSource:
    """See `base.Source`. A place: `history_id`, and `since` while a listing comes first."""

    provider: GmailProvider
    pace: Pace

    async def open(self) -> None:
        """Make sure of a token for a grant that may read."""
        if not self.provider.capabilities.finds_sent:
            raise SourceError(
                "auth_failed", "the grant does not include reading (gmail.readonly or gmail.modify)"
            )
        if (failure := await self.provider.api.sign_in()) is not None:
            code = "grant_revoked" if failure.reason == "auth_failed" else failure.reason
            raise SourceError(code, failure.text, failure.retry_after)
        # A token alone does not show that the mailbox may be read.
        await self._asked(("profile",))

    async def begin(self, since: datetime) -> Place:
        """Return a place that lists everything since, then goes on from the history of now."""
        answer = await self._asked(("profile",))
        return {"history_id": decoded(answer, _Profile).history_id, "since": since.isoformat()}

    async def read(self, place: Place, known: Known) -> AsyncIterator[Step]:
        """List what a new place begins with, then follow the history."""
        if "since" in place:
            async for message in self._listed(datetime.fromisoformat(place["since"]), known):
                yield Step(place, message)
            place = {"history_id": place["history_id"]}
            yield Step(place)
        asked = {
            "startHistoryId": place["history_id"],
            "historyTypes": "messageAdded",
            "maxResults": str(_PAGE),
        }
        end: Place | None = None
        while True:
            answer = await self._asked(("history",), asked, may_be_gone=True)
            if answer.status == 404:
                raise PlaceLost("Gmail no longer knows this history id")
            page = decoded(answer, _History)
            # The first page's: what came while the others were read is left for the next time.
            end = end or {"history_id": page.history_id}
            wanted = [
                (record, added.message.id)
                for record in page.history
                for added in record.messages_added
                if added.message.is_inbound
            ]
            seen = await self._known([message_id for _, message_id in wanted], known)
            for at, (record, message_id) in enumerate(wanted):
                fetched = None if message_id in seen else await self._fetched(message_id)
                if at + 1 == len(wanted) or wanted[at + 1][0].id != record.id:
                    # Behind a record only with all that it added.
                    place = {"history_id": record.id}
                yield Step(place, fetched)
            if page.next_page_token is None:
                break
            asked["pageToken"] = page.next_page_token
        yield Step(end)

    async def wait(self) -> None:
        """Wait for the next poll."""
        await self.pace.wait()

    async def close(self) -> None:
        """Nothing to do: the connection is the HTTP client's."""

    async def _listed(self, since: datetime, known: Known) -> AsyncIterator[Fetched]:
        asked = {
            "q": f"after:{int(since.timestamp())} -in:sent -in:drafts",
            "includeSpamTrash": "true",
            "maxResults": str(_PAGE),
        }
        while True:
            page = decoded(await self._asked(("messages",), asked), _Listed)
            listed = [message.id for message in page.messages]
            seen = await self._known(listed, known)
            for message_id in listed:
                if message_id not in seen and (fetched := await self._fetched(message_id)):
                    yield fetched
            if page.next_page_token is None:
                return
            asked["pageToken"] = page.next_page_token

    async def _known(self, message_ids: Sequence[str], known: Known) -> frozenset[str]:
        return frozenset(await known(message_ids)) if message_ids else frozenset()

    async def _fetched(self, message_id: str) -> Fetched | None:
        """Return a message as it came, None when it is gone or none of ours to read."""
        answer = await self._asked(("messages", message_id), {"format": "raw"}, may_be_gone=True)
        if answer.status == 404:
            return None
        message = decoded(answer, GmailMessage)
        try:
            raw = base64.urlsafe_b64decode(message.raw + "=" * (-len(message.raw) % 4))
        except binascii.Error:
            raise SourceError("connection_lost", "a message that is not base64url") from None
        if not message.is_inbound:
            return None
        return Fetched(
            datetime.fromtimestamp(int(message.internal_date) / 1000, UTC),
            raw[:FETCH_BYTES],
            max(len(raw), message.size_estimate),
            message.id,
            message.thread_id,
        )

    async def _asked(
        self,
        path: tuple[str, ...],
        params: dict[str, str] | None = None,
        *,
        may_be_gone: bool = False,
    ) -> Reply:
        call = Call("GET", self.provider.url(*path), dict(params or {}))
        answer = await called(self.provider.api, call, self.pace)
        if answer.ok or (may_be_gone and answer.status == 404):
            return answer
        raise refused(dialect.of_look(KIND, self.provider.refusal(answer)), answer)
