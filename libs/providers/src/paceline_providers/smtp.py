"""SMTP submission (RFC 5321, RFC 6409) on aiosmtplib, split where the slot opens.

`SmtpProvider.open` does all that may be done ahead of time; `SmtpSession.submit`
starts with MAIL FROM and reports exactly how far it got, because only a message
whose final dot never left may be tried again.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, cast

import aiosmtplib
import msgspec
from aiosmtplib import (
    SMTPAuthenticationError,
    SMTPException,
    SMTPResponse,
    SMTPResponseException,
)
from aiosmtplib.protocol import SMTPProtocol

from paceline_providers.base import (
    Accepted,
    Deferred,
    Fence,
    InDoubt,
    Milestone,
    Outcome,
    Rejected,
    Session,
    ThreadHint,
    Unsent,
    UnsentReason,
)
from paceline_providers.classes import (
    NO_REASON_FOR_GOOD,
    OutcomeClass,
    Phase,
    enhanced_status,
    rule_for,
)
from paceline_providers.hosts import HostPolicy, HostRefused
from paceline_providers.proof import TokenRefused, Tokens, TokenUnavailable
from paceline_providers.smtp_auth import Auth, NotOffered, sign_in
from paceline_providers.smtp_wire import address_literal, wire_form
from paceline_providers.tls import TlsVersion, context

TlsMode = Literal["implicit", "starttls", "starttls_optional", "none"]
_Reached = Literal["greeting", "commands", "tls", "auth"]

_BLOCK_BYTES: Final = 64 * 1024
# What a path in `<>` must not hold, or it would be more than one argument.
_NOT_IN_PATH: Final = re.compile(r"[\x00-\x20\x7f<>]")
# Postfix, Exim and many others name the message in their last answer.
_QUEUED_AS: Final = re.compile(r"\bqueued as <?([^\s<>;,]+)|\bid=([^\s<>;,]+)", re.IGNORECASE)


class SmtpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """Where and how to submit.

    `tls="none"` sends all in the clear and is never a fallback; "starttls_optional" does so
    when the server offers no TLS, which whoever sits in between can arrange. `auth`: see
    `smtp_auth.sign_in`. Without a `username` there is no sign-in. `tls_verify=False` takes
    any certificate.
    """

    host: str
    port: int
    tls: TlsMode
    username: str | None = None
    auth: Auth = "auto"
    tls_min: TlsVersion = "1.2"
    tls_verify: bool = True


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds to wait for each step; from MAIL FROM on as in RFC 5321 §4.5.3.2."""

    connect: float = 15.0
    greeting: float = 60.0
    sign_in: float = 60.0
    envelope: float = 300.0
    data: float = 120.0
    block: float = 180.0
    final_dot: float = 600.0
    quit: float = 2.0


@dataclass(frozen=True)
class SmtpProvider:
    """One mailbox's SMTP submission host. `ca_file` is trusted besides the system's CAs.

    `tokens` sign in instead of the password.
    """

    settings: SmtpSettings
    password: str | None = field(repr=False)
    hosts: HostPolicy
    ca_file: Path | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    tokens: Tokens | None = None

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        credential: Mapping[str, Any],
        hosts: HostPolicy,
        ca_file: Path | None = None,
        tokens: Tokens | None = None,
    ) -> "SmtpProvider":
        """Build from stored JSON (`v_mailbox_send.smtp` and the opened credential).

        Raises `msgspec.ValidationError` for settings of another shape.
        """
        read = msgspec.convert(settings, SmtpSettings)
        return cls(read, credential.get("password"), hosts, ca_file, tokens=tokens)

    async def open(self) -> Session | Unsent:
        """Resolve, connect, greet, TLS, sign in; the session, or why there is none."""
        try:
            target = await self.hosts.resolve(self.settings.host, self.settings.port)
        except HostRefused as refusal:
            temporary = refusal.code == "dns_failed"
            return Unsent(
                refusal.code,
                OutcomeClass.SOFT if temporary else OutcomeClass.CONFIG,
                text=str(refusal),
            )
        dialled = await self._dial(target.addresses)
        if isinstance(dialled, Unsent):
            return dialled
        client = aiosmtplib.SMTP(
            hostname=target.name,
            sock=dialled,
            use_tls=self.settings.tls == "implicit",
            start_tls=False,
            # aiosmtplib would look up our own name in the DNS.
            local_hostname=address_literal(dialled),
            tls_context=None
            if self.settings.tls == "none"
            else context(self.ca_file, self.settings.tls_min, self.settings.tls_verify),
            timeout=self.timeouts.sign_in,
        )
        reached: _Reached = "greeting"
        try:
            await client.connect(timeout=self.timeouts.greeting)
            reached = "commands"
            await client.ehlo()
            if self.settings.tls == "starttls" or (
                self.settings.tls == "starttls_optional" and client.supports_extension("starttls")
            ):
                reached = "tls"
                await client.starttls()
                # What was said in the clear counts no more (RFC 3207 §4.2).
                await client.ehlo()
            if self.settings.username is not None:
                reached = "auth"
                refusal_to_sign_in = await self._sign_in(client, self.settings.username)
                if refusal_to_sign_in is not None:
                    await _leave(client, self.timeouts.quit)
                    return refusal_to_sign_in
        except (SMTPException, OSError) as error:
            client.close()
            return _not_connected(error, reached)
        except BaseException:
            client.close()
            raise
        return SmtpSession(client, self.timeouts)

    async def _dial(self, addresses: tuple[str, ...]) -> socket.socket | Unsent:
        loop = asyncio.get_running_loop()
        failure = Unsent("connect_refused", OutcomeClass.SOFT, text="no address to connect to")
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            dialled = socket.socket(family, socket.SOCK_STREAM)
            dialled.setblocking(False)
            dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                async with asyncio.timeout(self.timeouts.connect):
                    await loop.sock_connect(dialled, (address, self.settings.port))
            except TimeoutError:
                dialled.close()
                text = f"no connection within {self.timeouts.connect:g} s"
                failure = Unsent("connect_timeout", OutcomeClass.SOFT, text=text)
            except OSError as error:
                dialled.close()
                text = os.strerror(error.errno) if error.errno else str(error)
                failure = Unsent("connect_refused", OutcomeClass.SOFT, text=text)
            except BaseException:
                dialled.close()
                raise
            else:
                return dialled
        return failure

    async def _sign_in(self, client: aiosmtplib.SMTP, username: str) -> Unsent | None:
        secret = self.tokens or self.password or ""
        encrypted = client.get_transport_info("sslcontext") is not None
        try:
            await sign_in(client, username, secret, self.settings.auth, encrypted=encrypted)
        except NotOffered as unfit:
            return Unsent("auth_failed", OutcomeClass.CONFIG, text=str(unfit))
        except TokenRefused as refusal:
            return Unsent("auth_failed", OutcomeClass.AUTH, text=str(refusal))
        except TokenUnavailable as failure:
            return failure.unsent()
        except SMTPAuthenticationError as refusal:
            reply = _Reply.of(refusal)
            return Unsent("auth_failed", reply.means("auth"), reply.code, reply.status, reply.text)
        return None


class SmtpSession:
    """A signed-in connection. Once something was refused it takes no further message."""

    def __init__(self, client: aiosmtplib.SMTP, timeouts: Timeouts) -> None:
        self._client = client
        self._timeouts = timeouts
        self._spoilt = False

    @property
    def is_reusable(self) -> bool:
        """Whether another message may be submitted here."""
        protocol = self._client.protocol
        # What a server says unasked is its leave: 421, and the connection ends.
        unasked = protocol is not None and bool(protocol._buffer)
        return self._client.is_connected and not self._spoilt and not unasked

    async def prepare(self, message: bytes, *, thread: ThreadHint | None = None) -> None:
        """See `base.Session.prepare`: SMTP has no drafts."""

    async def submit(
        self,
        envelope_from: str,
        recipient: str,
        message: bytes,
        *,
        before_mail_from: Callable[[], bool],
        on_milestone: Callable[[Milestone], None] = lambda _: None,
        thread: ThreadHint | None = None,
        fence: Fence | None = None,
    ) -> Outcome:
        """See `base.Session.submit`."""
        data = wire_form(message)
        options = self._mail_options(envelope_from, recipient, data)
        if isinstance(options, Rejected):
            return options
        protocol = self._client.protocol
        if self._spoilt or protocol is None:
            return Unsent("connection_lost", text="the connection was closed before MAIL FROM")
        self._spoilt = True
        submission = _Submission(protocol, self._timeouts, on_milestone)
        try:
            outcome = await submission.run(
                b" ".join((b"MAIL FROM:<" + envelope_from.encode() + b">", *options)) + b"\r\n",
                b"RCPT TO:<" + recipient.encode() + b">\r\n",
                data,
                before_mail_from,
            )
        finally:
            if not submission.in_step and protocol.transport is not None:
                # Nothing more may leave, not even what is still in the buffer.
                cast("asyncio.WriteTransport", protocol.transport).abort()
        self._spoilt = not isinstance(outcome, Accepted | Unsent) or not submission.in_step
        return outcome

    async def close(self) -> None:
        """Say QUIT and close; at most two seconds."""
        await _leave(self._client, self._timeouts.quit)

    def _mail_options(
        self, envelope_from: str, recipient: str, data: bytes
    ) -> tuple[bytes, ...] | Rejected:
        """Return MAIL FROM's parameters, each only when the server offers it."""
        for path in (envelope_from, recipient):
            if _NOT_IN_PATH.search(path):
                return _unfit("an envelope address has a forbidden character")
        options = []
        offers = self._client.esmtp_extensions
        if "size" in offers:
            limit = offers["size"].strip()
            if limit.isdecimal() and 0 < int(limit) < len(data):
                return _unfit(f"the message has {len(data)} bytes, the server takes {limit}")
            options.append(b"SIZE=%d" % len(data))
        if not data.isascii():
            if "8bitmime" not in offers:
                return _unfit("the message has 8-bit lines, the server takes none")
            options.append(b"BODY=8BITMIME")
        if not (envelope_from + recipient).isascii():
            if "smtputf8" not in offers:
                return _unfit("an address is not ASCII, the server takes only such")
            options.append(b"SMTPUTF8")
        return tuple(options)


@dataclass(frozen=True, slots=True)
class _Reply:
    """A server's reply: code, enhanced code, and its words as they came."""

    code: int
    status: str | None
    text: str

    @classmethod
    def of(cls, reply: SMTPResponse | SMTPResponseException) -> "_Reply":
        text = reply.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return cls(reply.code, enhanced_status(text), text)

    def means(self, phase: Phase) -> OutcomeClass:
        return rule_for(self.code, self.status, self.text, phase).outcome_class

    def refusal(self, phase: Phase, *, whole: bool = False) -> Deferred | Rejected:
        """Return what a reply that is not the awaited one makes of the submission.

        `whole`: the final dot had been given.
        """
        rule = rule_for(self.code, self.status, self.text, phase)
        meaning = rule.outcome_class
        for_good = self.code >= 500 and meaning in (
            OutcomeClass.HARD,
            OutcomeClass.BLOCK,
            OutcomeClass.CONFIG,
        )
        # A server that has the whole message and says no for no reason is not given it again
        # (RFC 5321 §4.2.1): some have taken it by then.
        for_good |= whole and rule.name == NO_REASON_FOR_GOOD
        kind = Rejected if for_good else Deferred
        return kind(meaning, rule.about or phase, self.code, self.status, self.text)


class _Submission:
    """One message on its way; it knows at every moment what has left."""

    def __init__(
        self,
        protocol: SMTPProtocol,
        timeouts: Timeouts,
        on_milestone: Callable[[Milestone], None],
    ) -> None:
        self._protocol = protocol
        self._timeouts = timeouts
        self._on_milestone = on_milestone
        self._phase: Phase = "mail"
        self.in_step = False  # each command has its reply: the connection makes sense

    async def run(
        self,
        mail: bytes,
        rcpt: bytes,
        data: bytes,
        before_mail_from: Callable[[], bool],
    ) -> Outcome:
        """Submit; raise nothing that a server can cause."""
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            return Unsent("connection_lost", text="the connection was closed before MAIL FROM")
        if not before_mail_from():
            self.in_step = True
            return Unsent("held_back", text="held back right before MAIL FROM")
        self._write(mail)
        self._on_milestone("mail_from")
        try:
            refusal = await self._refusal(2, self._timeouts.envelope)
            if refusal is None:
                self._phase = "rcpt"
                self._write(rcpt)
                refusal = await self._refusal(2, self._timeouts.envelope)
            if refusal is None:
                self._phase = "data"
                self._write(b"DATA\r\n")
                refusal = await self._refusal(3, self._timeouts.data)
            if refusal is not None:
                return refusal
            self._phase = "body"
            return await self._body(data)
        except SMTPResponseException as unintelligible:
            return Deferred(OutcomeClass.SOFT, self._phase, None, None, unintelligible.message)
        except (SMTPException, OSError) as error:
            # Without the final dot nothing is accepted (RFC 5321 §4.1.1.4, §4.5.3.2.6).
            return Deferred(OutcomeClass.SOFT, self._phase, None, None, str(error))

    def _write(self, command: bytes) -> None:
        self.in_step = False
        self._protocol.write(command)

    async def _refusal(self, wanted: int, timeout_s: float) -> Deferred | Rejected | None:
        """Read one reply; return what it makes of the submission, None to go on."""
        reply = _Reply.of(await self._protocol.read_response(timeout=timeout_s))
        # A reply too many would be taken for the answer to the next command.
        self.in_step = not self._protocol._buffer
        if reply.code // 100 == wanted and self.in_step:
            return None
        return reply.refusal(self._phase)

    async def _body(self, data: bytes) -> Outcome:
        self.in_step = False
        # Reading starts before writing ends: a server may refuse in mid-body.
        reading = asyncio.create_task(self._protocol.read_response())
        try:
            await asyncio.sleep(0)
            for start in range(0, len(data), _BLOCK_BYTES):
                self._protocol.write(data[start : start + _BLOCK_BYTES])
                await self._drained(reading)
                if reading.done():
                    return _Reply.of(reading.result()).refusal("body")
            self._protocol.write(b".\r\n")
            self._on_milestone("final_dot")
            return await self._last_answer(reading)
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # seen: nobody need be told again

    async def _drained(self, reading: "asyncio.Task[SMTPResponse]") -> None:
        """Wait until all that was written has left, or the server has answered."""
        transport = cast("asyncio.WriteTransport", self._protocol.transport)
        if transport is None or not transport.get_write_buffer_size():
            return
        transport.set_write_buffer_limits(high=0)
        # aiosmtplib's protocol keeps asyncio's contract for StreamWriter.drain().
        drained = asyncio.create_task(self._protocol._drain_helper())
        try:
            done, _ = await asyncio.wait(
                {drained, reading},
                timeout=self._timeouts.block,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            drained.cancel()
        if not done:
            raise TimeoutError(f"the server took no data for {self._timeouts.block:g} s")

    async def _last_answer(self, reading: "asyncio.Task[SMTPResponse]") -> Outcome:
        await asyncio.wait({reading}, timeout=self._timeouts.final_dot)
        if not reading.done():
            limit = f"{self._timeouts.final_dot:g} s"
            return InDoubt(f"no answer within {limit} after the final dot")
        try:
            reply = _Reply.of(reading.result())
        except (SMTPException, OSError) as error:
            return InDoubt(f"after the final dot: {error}")
        self.in_step = not self._protocol._buffer
        if reply.code // 100 == 2:
            named = _QUEUED_AS.search(reply.text)
            queued_as = (named[1] or named[2]) if named else None
            return Accepted(queued_as, reply.code, reply.text)
        if reply.code // 100 in (4, 5):
            return reply.refusal("body", whole=True)
        return InDoubt(f"after the final dot: {reply.code} {reply.text}")


def _unfit(text: str) -> Rejected:
    return Rejected(OutcomeClass.CONFIG, "data", None, None, text)


def _not_connected(error: Exception, reached: _Reached) -> Unsent:
    """Say what a failure ahead of the submission means."""
    secured = next((link for link in _chain(error) if isinstance(link, ssl.SSLError)), None)
    # The socket is connected before: what the system refuses then is the handshake.
    handshake = isinstance(error.__cause__, OSError) and not isinstance(
        error.__cause__, SMTPException | TimeoutError
    )
    if secured is not None or reached == "tls" or (reached == "greeting" and handshake):
        words = getattr(secured, "verify_message", None) or str(secured or error)
        return Unsent("tls_failed", OutcomeClass.CONFIG, text=words)
    if isinstance(error, TimeoutError):
        return Unsent("connect_timeout", OutcomeClass.SOFT, text=str(error))
    if isinstance(error, SMTPResponseException) and error.code > 0:
        reply = _Reply.of(error)
        reason: UnsentReason = "connect_refused" if reached == "greeting" else "protocol_error"
        return Unsent(reason, reply.means("connect"), reply.code, reply.status, reply.text)
    return Unsent("protocol_error", OutcomeClass.SOFT, text=str(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


async def _leave(client: aiosmtplib.SMTP, timeout_s: float) -> None:
    with suppress(SMTPException, OSError):
        if client.is_connected:
            await client.quit(timeout=timeout_s)
    client.close()
