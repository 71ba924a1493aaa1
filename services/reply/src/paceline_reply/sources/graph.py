"""Microsoft Graph as a source: delta queries of Inbox and Junk Email
(learn.microsoft.com/graph/delta-query-messages).

A delta token that Exchange has forgotten is answered 410; both folders are then read anew
since a moment. Ids are immutable ones, so that a message that changes folder is known again.
Mail that a rule puts into another folder is not seen.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from paceline_providers import dialect
from paceline_providers.api import Call, Reply
from paceline_providers.graph import KIND, GraphProvider
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

FOLDERS: Final = ("inbox", "junkemail")
_PAGE: Final = 50
_PREFER: Final = {"Prefer": f'IdType="ImmutableId", odata.maxpagesize={_PAGE}'}
_SELECTED: Final = "id,receivedDateTime,conversationId,isDraft"
# What Exchange says of a token that it does not honour any more.
_RESYNC: Final = frozenset({"SyncStateNotFound", "SyncStateInvalid", "ResyncRequired"})


class _Message(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    received_date_time: datetime | None = None
    conversation_id: str | None = None
    is_draft: bool | None = None
    removed: dict[str, Any] | None = msgspec.field(name="@removed", default=None)


class _Page(msgspec.Struct, frozen=True):
    value: tuple[_Message, ...]
    next_link: str | None = msgspec.field(name="@odata.nextLink", default=None)
    delta_link: str | None = msgspec.field(name="@odata.deltaLink", default=None)


@dataclass(frozen=True, slots=True)
class GraphSource:
    """See `base.Source`. A place: each folder's link, and `since` until both have been read."""

    provider: GraphProvider
    pace: Pace

    async def open(self) -> None:
        """Make sure of a token for a grant that may read."""
        if not self.provider.capabilities.finds_sent:
            raise SourceError("auth_failed", "the grant does not include reading (Mail.Read)")
        if (failure := await self.provider.api.sign_in()) is not None:
            code = "grant_revoked" if failure.reason == "auth_failed" else failure.reason
            raise SourceError(code, failure.text, failure.retry_after)
        # A token alone does not show that the mailbox may be read.
        answer = await self._asked(
            self.provider.call("GET", f"mailFolders/{FOLDERS[0]}", params={"$select": "id"})
        )
        if not answer.ok:
            raise refused(dialect.of_look(KIND, self.provider.refusal(answer)), answer)

    async def begin(self, since: datetime) -> Place:
        """Return a place from which both folders are read since then."""
        return {"since": since.astimezone(UTC).isoformat()}

    async def read(self, place: Place, known: Known) -> AsyncIterator[Step]:
        """Read both folders, page by page."""
        for folder in FOLDERS:
            more = True
            while more:
                page = await self._page(folder, place)
                if page is None:
                    # Not read to its end yet, so that `since` still says where it begins.
                    place = {name: one for name, one in place.items() if name != folder}
                    continue
                wanted = [one for one in page.value if one.removed is None and not one.is_draft]
                seen = frozenset(await known([one.id for one in wanted])) if wanted else frozenset()
                for message in wanted:
                    if message.id not in seen:
                        yield Step(place, await self._fetched(message))
                place = {**place, folder: page.next_link or page.delta_link}
                more = page.next_link is not None
                yield Step(place)
        yield Step({folder: place[folder] for folder in FOLDERS})

    async def wait(self) -> None:
        """Wait for the next poll."""
        await self.pace.wait()

    async def close(self) -> None:
        """Nothing to do: the connection is the HTTP client's."""

    async def _page(self, folder: str, place: Place) -> _Page | None:
        """Return the next page of a folder; None when it has to be begun anew."""
        link = place.get(folder)
        answer = await self._asked(self._delta(folder, link, place.get("since")))
        if answer.ok:
            page = decoded(answer, _Page)
            if page.next_link is None and page.delta_link is None:
                raise SourceError("protocol_error", "a delta query's page without a link")
            return page
        refusal = self.provider.refusal(answer)
        if answer.status == 410 or not _RESYNC.isdisjoint(refusal.reasons):
            if link is None:
                raise SourceError("protocol_error", refusal.text)
            if "since" in place:
                return None
            raise PlaceLost("Exchange no longer knows this delta token")
        raise refused(dialect.of_look(KIND, refusal), answer)

    def _delta(self, folder: str, link: str | None, since: str | None) -> Call:
        if link is None:
            if since is None:
                raise PlaceLost(f"no place in {folder}")
            from_on = datetime.fromisoformat(since).strftime("%Y-%m-%dT%H:%M:%SZ")
            call = self.provider.call(
                "GET",
                f"mailFolders/{folder}/messages/delta",
                params={
                    "changeType": "created",
                    "$filter": f"receivedDateTime ge {from_on}",
                    "$select": _SELECTED,
                },
            )
            return replace(call, headers=_PREFER)
        # The token goes where the link leads.
        if not link.startswith(f"{self.provider.base_url}/"):
            raise SourceError("protocol_error", "the next page is on another host")
        url = httpx.URL(link)
        return Call("GET", str(url.copy_with(query=None)), params=dict(url.params), headers=_PREFER)

    async def _fetched(self, message: _Message) -> Fetched | None:
        """Return a message as MIME, None when it is gone."""
        call = self.provider.call("GET", f"messages/{quote(message.id, safe='')}/$value")
        call = replace(call, headers={**call.headers, "Accept": "*/*"})
        answer = await self._asked(call)
        if answer.status == 404:
            return None
        if not answer.ok:
            raise refused(dialect.of_look(KIND, self.provider.refusal(answer)), answer)
        if not answer.body:
            raise SourceError("connection_lost", "a message was cut off")
        return Fetched(
            message.received_date_time or self.provider.api.now(),
            answer.body[:FETCH_BYTES],
            len(answer.body),
            message.id,
            message.conversation_id,
        )

    async def _asked(self, call: Call) -> Reply:
        async with self.provider.turns:
            return await called(self.provider.api, call, self.pace)
