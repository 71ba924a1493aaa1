"""One IMAP connection (RFC 3501, RFC 2177), as an asyncio program wants it.

The protocol is imapclient's, in threads: every command takes a thread of a
bounded pool for as long as it lasts, and waiting in IDLE takes none, because
the event loop watches the socket. The README says why it is not aioimaplib.
"""

import asyncio
import contextlib
import hmac
import imaplib
import io
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final, Literal, TypeVar, cast

from imapclient import IMAPClient, SocketTimeout
from imapclient.exceptions import IMAPClientError, LoginError

from paceline_providers.tls import TlsVersion

T = TypeVar("T")

# Enough for the headers and text of any answer and for a whole report on our own
# messages; the rest of a large message is attachments.
FETCH_BYTES: Final = 1_048_576
FETCH_BATCH: Final = 20
_CONNECT_S: Final = 10.0
_READ_S: Final = 30.0
# Response codes (RFC 5530) and words of a refusal that says "not now" of a good password.
_NOT_NOW: Final = (
    "[unavailable]", "[inuse]", "[limit]", "[serverbug]", "too many", "try again", "temporar",
    "unavailable", "rate limit", "throttl",
)  # fmt: skip

Tls = Literal["implicit", "starttls", "starttls_optional", "none"]
Auth = Literal["auto", "plain", "login", "cram-md5", "xoauth2", "oauthbearer"]
# The context for a node's oldest version of TLS and whether its certificate is looked at.
Contexts = Callable[[TlsVersion, bool], ssl.SSLContext]
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a mailbox is read, and as whom.

    `auth` with `xoauth2` or `oauthbearer` signs in with an access token. `starttls_optional`
    goes on in the clear when the server offers no TLS.
    """

    host: str
    port: int
    tls: Tls
    username: str
    auth: Auth = "auto"
    tls_min: TlsVersion = "1.2"
    tls_verify: bool = True

    @classmethod
    def of(cls, imap: Mapping[str, Any]) -> "Endpoint":
        """Return what stored settings (`v_mailbox_read.imap`) say."""
        return cls(**{name: imap[name] for name in cls.__slots__ if name in imap})


@dataclass(frozen=True, slots=True)
class Place:
    """The state of INBOX when it was opened; messages before `uid_next` were there already."""

    uid_validity: int
    uid_next: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """A message: its first `FETCH_BYTES` bytes, when the server received it, its full size."""

    uid: int
    received_at: datetime
    raw: bytes
    size: int


class ImapError(Exception):
    """The mailbox cannot be read now.

    `code` is one of `connect_refused`, `connect_timeout`, `tls_failed`,
    `auth_failed`, `protocol_error`, `connection_lost`, or a host rule's;
    `message` holds the server's or the system's exact words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code)
        self.code = code
        self.message = message


class ImapSession:
    """A signed-in connection; `open_session` makes it, `close` ends it.

    Not for two tasks at once. Every method may raise `ImapError`, after which
    only `close` makes sense.
    """

    def __init__(self, client: "_Client", threads: Executor) -> None:
        self._client = client
        self._threads = threads

    async def open_inbox(self, *, readonly: bool = True) -> Place:
        """Open INBOX; `readonly` (EXAMINE) leaves every flag of every message alone."""
        found = await self._run(self._client.select_folder, "INBOX", readonly)
        try:
            return Place(int(found[b"UIDVALIDITY"]), int(found[b"UIDNEXT"]))
        except (KeyError, TypeError, ValueError):
            raise ImapError("protocol_error", "no UIDVALIDITY or UIDNEXT for INBOX") from None

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

    async def fetch(self, uids: Sequence[int]) -> list[Fetched]:
        """Return the messages that still exist of `uids` (at most `FETCH_BATCH`), by UID."""
        answers = await self._run(
            self._client.fetch,
            list(uids),
            ["INTERNALDATE", "RFC822.SIZE", f"BODY.PEEK[]<0.{FETCH_BYTES}>"],
        )
        # Servers add flag changes of other messages to an answer.
        wanted = {uid: answers[uid] for uid in uids if b"BODY[]<0>" in answers.get(uid, {})}
        return [
            Fetched(uid, _instant(answer), answer[b"BODY[]<0>"] or b"", answer[b"RFC822.SIZE"])
            for uid, answer in sorted(wanted.items())
        ]

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

    async def find_by_subject(self, text: str) -> list[int]:
        """Return the UIDs of messages whose subject holds `text` (ASCII)."""
        await self._run(self._client.noop)
        return sorted(await self._run(self._client.search, ["SUBJECT", text]))

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
        return await loop.run_in_executor(self._threads, _translated, call, arguments)


async def open_session(
    endpoint: Endpoint,
    secret: str,
    *,
    resolve: Resolve,
    tls: Contexts,
    threads: Executor,
) -> ImapSession:
    """Connect and sign in; raise `ImapError`, or what `resolve` raises.

    `secret` is the password, or the access token where `endpoint.auth` wants one. `resolve`
    gives the addresses to dial, in order; TLS is checked against the host's name.
    """
    addresses = await resolve(endpoint.host, endpoint.port)
    loop = asyncio.get_running_loop()
    context = tls(endpoint.tls_min, endpoint.tls_verify)
    opening = loop.run_in_executor(threads, _open, endpoint, secret, addresses, context)
    try:
        client = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_abandon)
        raise
    return ImapSession(client, threads)


def _abandon(opening: "asyncio.Future[_Client]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().socket().close()


def _open(
    endpoint: Endpoint, secret: str, addresses: Sequence[str], tls: ssl.SSLContext
) -> "_Client":
    client = _translated(_Client, (endpoint, addresses, tls))
    try:
        if endpoint.tls == "starttls" or (
            endpoint.tls == "starttls_optional"
            and _translated(client.has_capability, ("STARTTLS",))
        ):
            _translated(client.starttls, (tls,))
        _sign_in(client, endpoint, secret)
    except ImapError:
        client.socket().close()
        raise
    return client


def _sign_in(client: "_Client", endpoint: Endpoint, secret: str) -> None:
    try:
        _authenticate(client, endpoint, secret)
    except LoginError as error:
        # imapclient calls everything that goes wrong here a LoginError.
        if isinstance(error.__context__, imaplib.IMAP4.abort):
            raise ImapError("connection_lost", _words(error)) from None
        words = _words(error)
        refused = "BAD" not in words and not any(sign in words.lower() for sign in _NOT_NOW)
        raise ImapError("auth_failed" if refused else "protocol_error", words) from None
    except (IMAPClientError, OSError, ValueError) as error:
        raise _failure(error) from None


def _authenticate(client: "_Client", endpoint: Endpoint, secret: str) -> None:
    username = endpoint.username
    wanted: tuple[Auth, ...] = (endpoint.auth,)
    if endpoint.auth == "auto":
        # In the clear CRAM-MD5 comes first, for it keeps the password to itself.
        encrypted = isinstance(client.socket(), ssl.SSLSocket)
        plain: tuple[Auth, ...] = ("plain", "login")
        wanted = (*plain, "cram-md5") if encrypted else ("cram-md5", *plain)
    offered = [one for one in wanted if client.has_capability(f"AUTH={one.upper()}")]
    if not offered and "login" in wanted:
        # A command of its own, which needs no capability (RFC 3501 §6.2.3).
        offered = ["login"]
    match offered:
        case ["plain", *_]:
            client.plain_login(username, secret)
        case ["login", *_]:
            # imaplib quotes the password only.
            escaped = username.replace("\\", "\\\\").replace('"', '\\"')
            client.login(f'"{escaped}"', secret)
        case ["cram-md5", *_]:
            client.cram_md5_login(username, secret)
        case ["xoauth2", *_]:
            client.oauth2_login(username, secret)
        case ["oauthbearer", *_]:
            client.oauthbearer_login(username, secret)
        case _:
            words = " ".join(f"AUTH={one.upper()}" for one in wanted)
            raise ImapError("auth_failed", f"the server offers none of {words}")


def _translated(call: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    try:
        return call(*arguments)
    except (IMAPClientError, OSError, ValueError) as error:
        raise _failure(error) from None


def _failure(error: Exception) -> ImapError:
    words = _words(error)
    match error:
        case ssl.SSLCertVerificationError():
            return ImapError("tls_failed", error.verify_message)
        case ssl.SSLError():
            return ImapError("tls_failed", words)
        case ConnectionRefusedError():
            return ImapError("connect_refused", words)
        case TimeoutError():
            return ImapError("connect_timeout", words)
        case imaplib.IMAP4.abort() | OSError():
            return ImapError("connection_lost", words)
        case _:
            return ImapError("protocol_error", words)


def _words(error: Exception) -> str:
    """Return a server's words as text: imaplib passes them on as the repr of bytes."""
    text = str(error) or type(error).__name__
    if len(text) > 2 and text[:2] in ("b'", 'b"') and text[-1] == text[1]:
        return text[2:-1]
    return text


def _instant(answer: dict[bytes, Any]) -> datetime:
    received = answer.get(b"INTERNALDATE")
    if not isinstance(received, datetime) or received.tzinfo is None:
        raise ImapError("protocol_error", "a message without INTERNALDATE")
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


class _Client(IMAPClient):  # type: ignore[misc]
    """imapclient, dialling addresses that were resolved before, under the name they belong to.

    It also keeps what imapclient drops: news of messages in answers to other commands.
    """

    _imap: "_Dialled"

    def __init__(self, endpoint: Endpoint, addresses: Sequence[str], tls: ssl.SSLContext) -> None:
        self._addresses = addresses
        self._tls_context = tls if endpoint.tls == "implicit" else None
        super().__init__(
            endpoint.host,
            endpoint.port,
            ssl=endpoint.tls == "implicit",
            ssl_context=self._tls_context,
            timeout=SocketTimeout(_CONNECT_S, _READ_S),
        )
        self.normalise_times = False  # aware instants instead of naive local ones
        self._imap.debug = 0

    def _create_IMAP4(self) -> imaplib.IMAP4:  # noqa: N802 - imapclient's name
        return _Dialled(self.host, self._addresses, self.port, self._tls_context)

    def cram_md5_login(self, username: str, password: str) -> None:
        """Sign in without telling the password (RFC 2195)."""

        def answer(challenge: bytes) -> str:
            return f"{username} {hmac.new(password.encode(), challenge, 'md5').hexdigest()}"

        try:
            self._command_and_check("authenticate", "CRAM-MD5", answer)
        except IMAPClientError as error:
            raise LoginError(str(error)) from error

    def has_news(self) -> bool:
        """Return whether INBOX has grown, by the server's word, since `forget_news`."""
        return self._imap.grown

    def forget_news(self) -> None:
        self._imap.grown = False

    def begin_idle(self) -> bool:
        """Start IDLE; return whether the server has said something besides the go-ahead.

        If not, the socket becomes readable when it does: nothing waits in a buffer.
        """
        imap = self._imap
        tag = self._idle_tag = imap._command("IDLE")
        # Pending news may come before the go-ahead, which imapclient's `idle` takes for an error.
        while imap._get_response() is not None:
            if (end := imap.tagged_commands[tag]) is not None:
                self._checkok("IDLE", *end)
                raise IMAPClientError("IDLE ended before it began")
        if imap.grown:
            return True
        # News in one segment (or TLS record) with the go-ahead has left the socket. Peeking
        # takes no line apart, as reading without waiting would.
        sock = self.socket()
        sock.setblocking(False)
        try:
            return bool(cast("io.BufferedReader", imap.file).peek(1))
        except ssl.SSLWantReadError:
            return False
        finally:
            self._set_read_timeout()


class _Dialled(imaplib.IMAP4):
    def __init__(
        self,
        host: str,
        addresses: Sequence[str],
        port: int,
        tls_context: ssl.SSLContext | None,
    ) -> None:
        self._addresses = addresses
        self._tls_context = tls_context
        self._size = 0
        self.grown = False
        super().__init__(host, port, timeout=_CONNECT_S)

    def _append_untagged(self, typ: str, dat: Any) -> None:
        # Every untagged response passes here. A server may repeat its count: only growth is news.
        if typ == "EXISTS":
            size = int(dat)
            self.grown = self.grown or size > self._size
            self._size = size
        elif typ == "EXPUNGE":
            self._size -= 1
        super()._append_untagged(typ, dat)  # type: ignore[misc]

    def _create_socket(self, timeout: float | None) -> socket.socket:
        plain = self._dialled(timeout)
        if self._tls_context is None:
            return plain
        try:
            return self._tls_context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def _dialled(self, timeout: float | None) -> socket.socket:
        failure = OSError("the host has no address")
        for address in self._addresses:
            try:
                return socket.create_connection((address, self.port), timeout)
            except OSError as error:
                failure = error
        raise failure
