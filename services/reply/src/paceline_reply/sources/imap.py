"""One IMAP connection (RFC 3501, RFC 2177), as an asyncio program wants it.

The protocol is imapclient's, in threads: every command takes a thread of a
bounded pool for as long as it lasts, and waiting in IDLE takes none, because
the event loop watches the socket. The README says why it is not aioimaplib.
"""

import asyncio
import contextlib
import email
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, TypeVar

from imapclient.imapclient import SENT

from paceline_reply.sources.base import (
    FETCH_BYTES,
    Fetched,
    Known,
    Place,
    PlaceLost,
    SourceError,
    Step,
)
from paceline_reply.sources.imap_client import (
    Client,
    Contexts,
    Endpoint,
    Resolve,
    connect,
    translated,
)

T = TypeVar("T")

FETCH_BATCH: Final = 20
_HEADERS_BATCH: Final = 200
# What clients and hosts call the folder where the server does not say which one it is.
_SENT_NAMES: Final = frozenset({
    "sent", "sent items", "sent messages", "sent mail", "sent-mail", "gesendet",
    "gesendete objekte", "gesendete elemente", "envoyés", "éléments envoyés", "messages envoyés",
    "enviados", "elementos enviados", "itens enviados", "inviati", "posta inviata", "verzonden",
    "verzonden items", "skickat", "skickade", "sendt", "sendte elementer", "lähetetyt", "wysłane",
    "odeslaná pošta", "отправленные", "送信済み", "已发送", "寄件備份",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as it was opened; messages before `uid_next` were there already."""

    uid_validity: int
    uid_next: int


@dataclass(frozen=True, slots=True)
class Head:
    """Some of a message's header fields (lower-case names), and when it was filed."""

    uid: int
    filed_at: datetime
    fields: dict[str, str]


class ImapSession:
    """A signed-in connection; `open_session` makes it, `close` ends it.

    Not for two tasks at once. Every method may raise `SourceError`, after which
    only `close` makes sense.
    """

    def __init__(self, client: Client, threads: Executor) -> None:
        self._client = client
        self._threads = threads

    async def open_folder(self, name: str = "INBOX", *, readonly: bool = True) -> Folder:
        """Open a folder; `readonly` (EXAMINE) leaves every flag of every message alone."""
        found = await self._run(self._client.select_folder, name, readonly)
        try:
            return Folder(int(found[b"UIDVALIDITY"]), int(found[b"UIDNEXT"]))
        except (KeyError, TypeError, ValueError):
            raise SourceError("protocol_error", f"no UIDVALIDITY or UIDNEXT for {name}") from None

    async def sent_folders(self) -> list[str]:
        """Return where the account keeps what it sent; empty without such a folder.

        By their special use (RFC 6154), else all with a name that clients give it.
        """
        folders = await self._run(self._client.special_folders)
        special = [name for flags, _, name in folders if SENT in flags]
        return special or [
            name
            for _, delimiter, name in folders
            if name.rpartition(delimiter.decode() if delimiter else "/")[2].casefold()
            in _SENT_NAMES
        ]

    async def uids_after(self, last_uid: int) -> list[int]:
        """Return the UIDs above `last_uid`, ascending."""
        # What is told from here on may have come after the server searched.
        self._client.forget_news()
        # `n:*` names the last message even when its UID is below n (RFC 3501 §6.4.8).
        found = await self._run(self._client.search, f"UID {last_uid + 1}:*")
        return sorted(uid for uid in found if uid > last_uid)

    async def received_since(self, day: date) -> list[tuple[int, datetime]]:
        """Return UID and time of receipt of what was received on `day` or later, by UID.

        The server judges the day in a time zone of its own.
        """
        uids = await self._run(self._client.search, ["SINCE", day])
        found: list[tuple[int, datetime]] = []
        for start in range(0, len(uids), 1000):
            answers = await self._run(
                self._client.fetch, uids[start : start + 1000], ["INTERNALDATE"]
            )
            found += [(uid, _instant(answer)) for uid, answer in answers.items()]
        return sorted(found)

    async def fetch(self, uids: Sequence[int]) -> list[tuple[int, Fetched]]:
        """Return the messages that still exist of `uids` (at most `FETCH_BATCH`), by UID."""
        answers = await self._run(
            self._client.fetch,
            list(uids),
            ["INTERNALDATE", "RFC822.SIZE", f"BODY.PEEK[]<0.{FETCH_BYTES}>"],
        )
        # Servers add flag changes of other messages to an answer.
        wanted = {uid: answers[uid] for uid in uids if b"BODY[]<0>" in answers.get(uid, {})}
        return [
            (uid, Fetched(_instant(answer), answer[b"BODY[]<0>"] or b"", answer[b"RFC822.SIZE"]))
            for uid, answer in sorted(wanted.items())
        ]

    async def search(self, *criteria: object) -> list[int]:
        """Return the UIDs of the open folder's messages that match (RFC 3501 §6.4.4), ascending."""
        await self._run(self._client.noop)
        return sorted(await self._run(self._client.search, list(criteria)))

    async def heads(self, uids: Sequence[int], names: Sequence[str]) -> list[Head]:
        """Return the named header fields of those of `uids` that still exist, by UID."""
        wanted = f"BODY[HEADER.FIELDS ({' '.join(name.upper() for name in names)})]"
        found: list[Head] = []
        for start in range(0, len(uids), _HEADERS_BATCH):
            answers = await self._run(
                self._client.fetch,
                list(uids[start : start + _HEADERS_BATCH]),
                ["INTERNALDATE", wanted.replace("BODY", "BODY.PEEK", 1)],
            )
            for uid, answer in answers.items():
                if (raw := answer.get(wanted.encode())) is not None:
                    message = email.message_from_bytes(raw)
                    fields = {name.lower(): str(value).strip() for name, value in message.items()}
                    found.append(Head(uid, _instant(answer), fields))
        return sorted(found, key=lambda head: head.uid)

    async def wait(self, seconds: float) -> None:
        """Return when something may have arrived since `uids_after`, at the latest after `seconds`.

        Uses IDLE where the server has it. After `seconds` of silence the server
        is asked outright (NOOP, RFC 3501 §6.1.2), so that the next search sees
        what an IDLE without pushes kept back.
        """
        # A server tells of a message once, in the answer of whatever command it is at
        # (RFC 3501 §5.2); IDLE is then silent about it.
        if self._client.has_news():
            return
        if not await self._run(self._client.has_capability, "IDLE"):
            await asyncio.sleep(seconds)
            await self._run(self._client.noop)
            return
        told = await self._run(self._client.begin_idle)
        told = told or await _readable(self._client.socket(), seconds)
        await self._run(self._client.idle_done)
        if not told:
            await self._run(self._client.noop)

    async def delete(self, uid: int) -> None:
        """Delete one message; without UIDPLUS it is only marked, since a plain EXPUNGE
        would also remove what the user has marked."""
        await self._run(self._client.delete_messages, [uid])
        if await self._run(self._client.has_capability, "UIDPLUS"):
            await self._run(self._client.uid_expunge, [uid])

    async def close(self) -> None:
        """Drop the connection. A command under way in a thread fails; nothing is raised."""
        with contextlib.suppress(OSError):  # already gone
            self._client.socket().shutdown(socket.SHUT_RDWR)
        self._client.socket().close()

    async def _run(self, call: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, translated, call, arguments)


async def open_session(
    endpoint: Endpoint,
    secret: str,
    *,
    resolve: Resolve,
    tls: Contexts,
    threads: Executor,
) -> ImapSession:
    """Connect and sign in; raise `SourceError`, or what `resolve` raises.

    `secret` is the password, or the access token where `endpoint.auth` wants one. `resolve`
    gives the addresses to dial, in order; TLS is checked against the host's name.
    """
    addresses = await resolve(endpoint.host, endpoint.port)
    loop = asyncio.get_running_loop()
    context = tls(endpoint.tls_min, endpoint.tls_verify)
    opening = loop.run_in_executor(threads, connect, endpoint, secret, addresses, context)
    try:
        client = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_abandon)
        raise
    return ImapSession(client, threads)


def _abandon(opening: "asyncio.Future[Client]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().socket().close()


def _instant(answer: dict[bytes, Any]) -> datetime:
    received = answer.get(b"INTERNALDATE")
    if not isinstance(received, datetime) or received.tzinfo is None:
        raise SourceError("protocol_error", "a message without INTERNALDATE")
    return received.astimezone(UTC)


async def _readable(sock: socket.socket, seconds: float) -> bool:
    """Return whether `sock` has something to read, or has ended, within `seconds`."""
    loop = asyncio.get_running_loop()
    descriptor = sock.fileno()
    told: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    loop.add_reader(descriptor, tell)
    try:
        done, _ = await asyncio.wait([told], timeout=seconds)
        return bool(done)
    finally:
        loop.remove_reader(descriptor)
        told.cancel()


class ImapSource:
    """INBOX as a `base.Source`. A place: `uid_validity`, and the `last_uid` read.

    Under a new UIDVALIDITY the old UIDs mean nothing.
    """

    def __init__(self, connect: Callable[[], Awaitable[ImapSession]], poll_s: float) -> None:
        self._connect = connect
        self._poll_s = poll_s
        self._session: ImapSession | None = None
        self._inbox = Folder(0, 0)

    async def open(self) -> None:
        """Connect, sign in, open INBOX."""
        self._session = await self._connect()
        self._inbox = await self._session.open_folder()

    async def begin(self, since: datetime) -> Place:
        """Return the place before the first message received since, else the inbox's end."""
        # The server judges the day in a zone of its own.
        received = await self._opened.received_since((since - timedelta(days=1)).date())
        end = self._inbox.uid_next - 1
        return self._place(min((uid - 1 for uid, at in received if at >= since), default=end))

    async def read(self, place: Place, known: Known) -> AsyncIterator[Step]:
        """Give the messages above the place, by UID."""
        if place["uid_validity"] != self._inbox.uid_validity:
            raise PlaceLost("the inbox has a new UIDVALIDITY")
        uids = await self._opened.uids_after(place["last_uid"])
        for start in range(0, len(uids), FETCH_BATCH):
            for uid, fetched in await self._opened.fetch(uids[start : start + FETCH_BATCH]):
                yield Step(self._place(uid), fetched)
        if uids:
            yield Step(self._place(uids[-1]))

    async def wait(self) -> None:
        """Wait for the server to tell of news, at most one poll."""
        await self._opened.wait(self._poll_s)

    async def close(self) -> None:
        """Drop the connection."""
        if self._session is not None:
            await self._session.close()

    @property
    def _opened(self) -> ImapSession:
        assert self._session is not None, "open() comes first"
        return self._session

    def _place(self, last_uid: int) -> Place:
        return {"uid_validity": self._inbox.uid_validity, "last_uid": last_uid}
