"""imapclient as it is wanted here: dialling what was resolved, any way of signing in, IDLE.

Everything blocks: `imap` runs it in threads. What goes wrong is raised as `SourceError`.
"""

import hmac
import imaplib
import io
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar, cast

from imapclient import IMAPClient, SocketTimeout
from imapclient.exceptions import IMAPClientError, LoginError

from paceline_providers.tls import TlsVersion
from paceline_reply.sources.base import SourceError

T = TypeVar("T")

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


def connect(
    endpoint: Endpoint, secret: str, addresses: Sequence[str], tls: ssl.SSLContext
) -> "Client":
    """Connect and sign in; TLS is checked against the host's name."""
    client = translated(Client, (endpoint, addresses, tls))
    try:
        if endpoint.tls == "starttls" or (
            endpoint.tls == "starttls_optional" and translated(client.has_capability, ("STARTTLS",))
        ):
            translated(client.starttls, (tls,))
        _sign_in(client, endpoint, secret)
    except SourceError:
        client.socket().close()
        raise
    return client


def _sign_in(client: "Client", endpoint: Endpoint, secret: str) -> None:
    try:
        _authenticate(client, endpoint, secret)
    except LoginError as error:
        # imapclient calls everything that goes wrong here a LoginError.
        if isinstance(error.__context__, imaplib.IMAP4.abort):
            raise SourceError("connection_lost", _words(error)) from None
        words = _words(error)
        refused = "BAD" not in words and not any(sign in words.lower() for sign in _NOT_NOW)
        raise SourceError("auth_failed" if refused else "protocol_error", words) from None
    except (IMAPClientError, OSError, ValueError) as error:
        raise _failure(error) from None


def _authenticate(client: "Client", endpoint: Endpoint, secret: str) -> None:
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
            raise SourceError("auth_failed", f"the server offers none of {words}")


def translated(call: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """Make a call; raise `SourceError` for whatever imapclient or the system raises."""
    try:
        return call(*arguments)
    except (IMAPClientError, OSError, ValueError) as error:
        raise _failure(error) from None


def _failure(error: Exception) -> SourceError:
    words = _words(error)
    match error:
        case ssl.SSLCertVerificationError():
            return SourceError("tls_failed", error.verify_message)
        case ssl.SSLError():
            return SourceError("tls_failed", words)
        case ConnectionRefusedError():
            return SourceError("connect_refused", words)
        case TimeoutError():
            return SourceError("connect_timeout", words)
        case imaplib.IMAP4.abort() | OSError():
            return SourceError("connection_lost", words)
        case _:
            return SourceError("protocol_error", words)


def _words(error: Exception) -> str:
    """Return a server's words as text: imaplib passes them on as the repr of bytes."""
    text = str(error) or type(error).__name__
    if len(text) > 2 and text[:2] in ("b'", 'b"') and text[-1] == text[1]:
        return text[2:-1]
    return text


class Client(IMAPClient):  # type: ignore[misc]
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

    def special_folders(self) -> list[tuple[tuple[bytes, ...], bytes | None, str]]:
        """Return flags, delimiter and name of every folder, the special uses among the flags."""
        imap = self._imap
        options = []
        # Servers with extended LIST may tell only when asked (RFC 6154 §2).
        if self.has_capability("SPECIAL-USE") and self.has_capability("LIST-EXTENDED"):
            options = ["RETURN", "(SPECIAL-USE)"]
        status, data = imap._simple_command("LIST", '""', '"*"', *options)
        self._checkok("LIST", status, data)
        _, data = imap._untagged_response(status, data, "LIST")
        found: list[tuple[tuple[bytes, ...], bytes | None, str]] = self._proc_folder_list(data)
        return found

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
        except BaseException:  # whatever ends the handshake, the socket is nobody's
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
