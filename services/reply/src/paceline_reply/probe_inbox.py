"""Where a test message is looked for and taken away: one class for each way of reading."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec

from paceline_providers import dialect
from paceline_providers.api import Call, Reply
from paceline_providers.gmail import KIND as GMAIL
from paceline_providers.gmail import GmailProvider
from paceline_providers.graph import KIND as GRAPH
from paceline_providers.graph import GraphProvider
from paceline_reply.access import Access, Doors
from paceline_reply.domain.inbound import read
from paceline_reply.receive import PROBE_HEADER
from paceline_reply.sources.api import Pace, called, decoded, refused
from paceline_reply.sources.base import Source
from paceline_reply.sources.gmail import GmailMessage
from paceline_reply.sources.graph import FOLDERS
from paceline_reply.sources.imap import ImapSession

# The test message is sent right before, or while, one looks; clocks differ.
_BACK: Final = timedelta(minutes=10)
_HEADER: Final = "X-Paceline-Probe"
_PROPERTY: Final = f"String {{00020386-0000-0000-C000-000000000046}} Name {_HEADER}"
_TRASHING: Final = frozenset(
    {"https://mail.google.com/", "https://www.googleapis.com/auth/gmail.modify"}
)


@dataclass(frozen=True, slots=True)
class Taken:
    """A test message that was read back: whether among spam, and whether it is away now."""

    from_spam: bool
    removed: bool


class ProbeInbox(Protocol):
    """A mailbox in which to find one's own test message; each method raises `SourceError`."""

    async def open(self) -> None:
        """Sign in."""
        ...

    async def take(self, token: str) -> Taken | None:
        """Find the message whose X-Paceline-Probe is `token` and take it away."""
        ...

    async def close(self) -> None:
        """Drop the connection; never raises."""
        ...


def probe_inbox(access: Access, doors: Doors, pace: Pace, threads: Executor) -> ProbeInbox:
    """Return the way into a mailbox's inbox."""
    source = doors.source(access, pace, threads)
    match access.provider:
        case GmailProvider() as provider:
            return _Gmail(provider, pace, source)
        case GraphProvider() as provider:
            return _Graph(provider, pace, source)
        case None:
            return _Imap(access, doors, threads)


class _Imap:
    def __init__(self, access: Access, doors: Doors, threads: Executor) -> None:
        self._access, self._doors, self._threads = access, doors, threads
        self._session: ImapSession | None = None

    async def open(self) -> None:
        self._session = await self._doors.session(self._access, self._threads)
        await self._session.open_folder(readonly=False)

    async def take(self, token: str) -> Taken | None:
        assert self._session is not None, "open() comes first"
        for uid, fetched in await self._session.fetch(await self._session.search("SUBJECT", token)):
            if read(fetched.raw).header(PROBE_HEADER) == token:
                await self._session.delete(uid)
                return Taken(from_spam=False, removed=True)
        return None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Listed(msgspec.Struct, frozen=True):
    messages: tuple[GmailMessage, ...] = ()


@dataclass
class _Gmail:
    """A search by words waits for an index: the newest messages are looked at instead."""

    provider: GmailProvider
    pace: Pace
    source: Source
    since: datetime = field(init=False)
    seen: set[str] = field(default_factory=set)

    async def open(self) -> None:
        await self.source.open()
        self.since = self.provider.api.now() - _BACK

    async def take(self, token: str) -> Taken | None:
        asked = {
            "q": f"after:{int(self.since.timestamp())}",
            "includeSpamTrash": "true",
            "maxResults": "100",
        }
        listed = decoded(await self._asked("GET", ("messages",), asked), _Listed)
        found: list[GmailMessage] = []
        for one in listed.messages:
            if one.id in self.seen:
                continue
            answer = await self._asked(
                "GET",
                ("messages", one.id),
                {"format": "metadata", "metadataHeaders": _HEADER},
                may_be_gone=True,
            )
            message = decoded(answer, GmailMessage) if answer.ok else None
            if message is None or message.header(_HEADER) != token:
                self.seen.add(one.id)
            else:
                found.append(message)
        # The copy among sent mail does not show that anything arrived.
        arrived = next((one for one in found if one.is_inbound), None)
        if arrived is None:
            return None
        removed = not _TRASHING.isdisjoint(self.provider.settings.scopes)
        if removed:
            for message in found:
                await self._trash(message.id)
        return Taken("SPAM" in arrived.label_ids, removed)

    async def close(self) -> None:
        await self.source.close()

    async def _trash(self, message_id: str) -> None:
        change = {"addLabelIds": ["TRASH"], "removeLabelIds": ["INBOX"]}
        await self._asked("POST", ("messages", message_id, "modify"), body=change, may_be_gone=True)

    async def _asked(
        self,
        method: str,
        path: tuple[str, ...],
        params: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        may_be_gone: bool = False,
    ) -> Reply:
        url = self.provider.url(*path)
        call = Call(method, url, params or {}) if body is None else Call.json(method, url, body)
        answer = await called(self.provider.api, call, self.pace)
        if answer.ok or (may_be_gone and answer.status == 404):
            return answer
        raise refused(dialect.of_look(GMAIL, self.provider.refusal(answer)), answer)


class _Named(msgspec.Struct, frozen=True):
    name: str = ""
    value: str = ""
    id: str = ""


class _Item(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    internet_message_headers: tuple[_Named, ...] | None = None
    single_value_extended_properties: tuple[_Named, ...] | None = None

    def carries(self, token: str) -> bool:
        headers = self.internet_message_headers or ()
        properties = self.single_value_extended_properties or ()
        return any(
            one.name.lower() == PROBE_HEADER and one.value.strip() == token for one in headers
        ) or any(one.id.lower() == _PROPERTY.lower() and one.value == token for one in properties)


class _Items(msgspec.Struct, frozen=True):
    value: tuple[_Item, ...]


@dataclass
class _Graph:
    provider: GraphProvider
    pace: Pace
    source: Source
    since: datetime = field(init=False)

    async def open(self) -> None:
        await self.source.open()
        self.since = self.provider.api.now() - _BACK

    async def take(self, token: str) -> Taken | None:
        for folder in FOLDERS:
            for item in await self._newest(folder):
                if item.carries(token):
                    return Taken(folder != FOLDERS[0], await self._removed(item))
        return None

    async def close(self) -> None:
        await self.source.close()

    async def _newest(self, folder: str) -> tuple[_Item, ...]:
        from_on = self.since.strftime("%Y-%m-%dT%H:%M:%SZ")
        call = self.provider.call(
            "GET",
            f"mailFolders/{folder}/messages",
            params={
                "$filter": f"receivedDateTime ge {from_on}",
                "$orderby": "receivedDateTime desc",
                "$top": "50",
                "$select": "id,internetMessageHeaders",
                "$expand": f"singleValueExtendedProperties($filter=id eq '{_PROPERTY}')",
            },
        )
        return decoded(await self._asked(call), _Items).value

    async def _removed(self, item: _Item) -> bool:
        if "mail.readwrite" not in self.provider.granted:
            return False
        await self._asked(self.provider.call("DELETE", f"messages/{quote(item.id, safe='')}"))
        return True

    async def _asked(self, call: Call) -> Reply:
        async with self.provider.turns:
            answer = await called(self.provider.api, call, self.pace)
        if answer.ok or (call.method == "DELETE" and answer.status == 404):
            return answer
        raise refused(dialect.of_look(GRAPH, self.provider.refusal(answer)), answer)
