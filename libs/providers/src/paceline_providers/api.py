"""Calls to a provider's HTTP API for one mailbox: repeated where that is harmless, else made once.

A send request that got no answer is judged by how far it got. Nothing of it left: it is
unsent. Its last block was never given to the connection: the request stayed incomplete, and
a server must not act on it (RFC 9112 §6.3), so it was surely not accepted. The last block
was given: nobody knows, even when writing it failed, because the system may have sent it all
before it learnt of the failure.
"""

import asyncio
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, TypeVar

import httpx
import msgspec

from paceline_providers.base import Deferred, InDoubt, Milestone, Reach, Unsent, UnsentReason
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import (
    TOKENS_TRIED,
    Now,
    TokenRefused,
    Tokens,
    TokenUnavailable,
    Unavailable,
)

_BLOCK_BYTES: Final = 64 * 1024
_TRIES: Final = 3
# A longer wish to wait is the caller's business.
_LONGEST_PAUSE_S: Final = 10.0

_Shape = TypeVar("_Shape")


@dataclass(frozen=True, slots=True)
class ApiTimeouts:
    """Seconds: to connect, for each write, for each read, and for a call as a whole."""

    connect: float = 10.0
    write: float = 30.0
    read: float = 60.0
    total: float = 120.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `url` is absolute, `body` whole."""

    method: str
    url: str
    params: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, method: str, url: str, body: Any, **more: Any) -> "Call":
        """Return a call with a JSON body."""
        content = json.dumps(body, separators=(",", ":")).encode()
        return cls(method, url, body=content, content_type="application/json", **more)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; its `body` is empty too where the connection ended in the middle of it."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def ok(self) -> bool:
        """Whether the request was done."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def decoded(self, shape: type[_Shape]) -> _Shape | None:
        """Return the body as a `msgspec` type, None when it has another shape."""
        try:
            return msgspec.json.decode(self.body, type=shape)
        except msgspec.DecodeError:
            return None

    def retry_after(self, now: datetime) -> timedelta | None:
        """Return what Retry-After asks for (RFC 9110 §10.2.3), never less than nothing."""
        wish = self.headers.get("retry-after", "").strip()
        if wish.isdecimal():
            return timedelta(seconds=min(int(wish), 10**8))
        try:
            until = parsedate_to_datetime(wish)
        except ValueError:
            return None
        return max(timedelta(0), until.replace(tzinfo=until.tzinfo or UTC) - now)


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer. `reached`: how much of the request was given to the connection."""

    reached: Literal["nothing", "part", "all"]
    reason: UnsentReason
    outcome_class: OutcomeClass | None
    text: str
    retry_after: timedelta | None = None
    reach: Reach = "mailbox"

    def unsent(self) -> Unsent:
        """Return what it means for a request that sends nothing."""
        return Unsent(
            self.reason, self.outcome_class, text=self.text, retry_after=self.retry_after,
            reach=self.reach,
        )  # fmt: skip

    def unavailable(self) -> Unavailable:
        """Return what it means for a look."""
        return Unavailable(self.outcome_class or OutcomeClass.SOFT, self.text, self.retry_after)


class _HeldBack(Exception):
    """`before_mail_from` said no."""


@dataclass(frozen=True)
class Api:
    """One mailbox's access to an HTTP API.

    `http` must have a real transport: its trace extension tells how far a request got.
    """

    http: httpx.AsyncClient
    tokens: Tokens
    now: Now
    timeouts: ApiTimeouts = field(default_factory=ApiTimeouts)
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep

    async def sign_in(self) -> Unsent | None:
        """Make sure that there is a token; return why there is none."""
        try:
            await self.tokens()
        except (TokenRefused, TokenUnavailable) as failure:
            return _no_token(failure).unsent()
        return None

    async def call(self, call: Call, *, repeatable: bool = True) -> Reply | Lost:
        """Make a call that submits nothing.

        An expired token is renewed once. A call that the server asked to make later, failed
        to do, or left without an answer, is made up to three times; one that is not
        `repeatable` only when the server surely did not act on it.
        """
        answer = await self._signed(call)
        for attempt in range(_TRIES - 1):
            pause_s = 2**attempt + random.uniform(0, 0.5)  # noqa: S311 - spreads load
            match answer:
                case Reply(status=status) if status == 429 or (repeatable and status >= 500):
                    wish = answer.retry_after(self.now())
                    if wish is not None:
                        pause_s = max(pause_s, wish.total_seconds())
                case Lost(reached="nothing", outcome_class=OutcomeClass.SOFT):
                    pass
                case Lost(outcome_class=OutcomeClass.SOFT) if repeatable:
                    pass
                case _:
                    return answer
            if pause_s > _LONGEST_PAUSE_S:
                return answer
            await self.pause(pause_s)
            answer = await self._signed(call)
        return answer

    async def once(self, call: Call, timeout_s: float) -> Reply | Lost:
        """Make a harmless call that is not worth waiting for."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._signed(call)
        except TimeoutError:
            return Lost("all", "connection_lost", OutcomeClass.SOFT, f"nothing in {timeout_s:g} s")

    async def send(
        self,
        call: Call,
        before_mail_from: Callable[[], bool],
        on_milestone: Callable[[Milestone], None],
    ) -> Reply | Unsent | Deferred | InDoubt:
        """Make the call that submits a message: it leaves once, whatever happens to it.

        Only an answer 401, which proves that the server did nothing, makes it leave again
        with another token (`proof.TOKENS_TRIED` at most), `before_mail_from` being asked again. An
        answer 5xx is a `Reply`.
        """
        answer = await self._signed(call, before_mail_from, on_milestone)
        if isinstance(answer, Reply):
            return answer
        match answer.reached:
            case "nothing":
                return answer.unsent()
            case "part":
                return Deferred(OutcomeClass.SOFT, "body", None, None, answer.text)
            case "all":
                return InDoubt(answer.text)

    async def _signed(
        self,
        call: Call,
        ask: Callable[[], bool] = lambda: True,
        on_milestone: Callable[[Milestone], None] = lambda _: None,
    ) -> Reply | Lost:
        try:
            token = await self.tokens()
        except (TokenRefused, TokenUnavailable) as failure:
            return _no_token(failure)
        answer = await _Request(self, call, token, ask, on_milestone).run()
        for _ in range(TOKENS_TRIED - 1):
            if isinstance(answer, Lost) or answer.status != 401:
                break
            try:
                token = await self.tokens(token)
            except TokenRefused:
                break
            except TokenUnavailable as failure:
                again: Reply | Lost = _no_token(failure)
            else:
                again = await _Request(self, call, token, ask, on_milestone).run()
            if isinstance(again, Lost) and again.reached == "nothing":
                # Nothing of this request left, but the one before had.
                refused = again.reason == "app_refused"
                means = again.outcome_class if refused else OutcomeClass.SOFT
                return replace(again, reached="part", outcome_class=means)
            answer = again
        return answer


class _Request:
    """One request on its way; it knows at every moment what has left."""

    def __init__(
        self,
        api: Api,
        call: Call,
        token: str,
        ask: Callable[[], bool],
        on_milestone: Callable[[Milestone], None],
    ) -> None:
        self._api, self._call, self._token = api, call, token
        self._ask, self._on_milestone = ask, on_milestone
        self._reached: Literal["nothing", "part", "all"] = "nothing"

    async def run(self) -> Reply | Lost:
        request = self._built()
        try:
            return await self._made(request)
        finally:
            # A response and its stream hold each other, and through the request what submits.
            request.extensions.clear()

    async def _made(self, request: httpx.Request) -> Reply | Lost:
        try:
            async with asyncio.timeout(self._api.timeouts.total):
                response = await self._api.http.send(
                    request, stream=True, follow_redirects=False, auth=None
                )
        except _HeldBack:
            return Lost("nothing", "held_back", None, "held back right before the send request")
        except (httpx.RequestError, TimeoutError) as error:
            return self._lost(error)
        try:
            return Reply(response.status_code, response.headers, await self._body(response))
        finally:
            await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        try:
            async with asyncio.timeout(self._api.timeouts.read):
                return await response.aread()
        except (httpx.RequestError, TimeoutError):
            # The status has told what became of the request; the rest is lost.
            return b""

    def _built(self) -> httpx.Request:
        timeouts, call = self._api.timeouts, self._call
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if call.method != "GET":
            headers["Content-Length"] = str(len(call.body))
        if call.content_type is not None:
            headers["Content-Type"] = call.content_type
        return self._api.http.build_request(
            call.method,
            call.url,
            params=dict(call.params),
            content=self._blocks() if call.body else None,
            headers=headers | dict(call.headers),
            timeout=httpx.Timeout(
                timeouts.read, connect=timeouts.connect, write=timeouts.write,
                pool=timeouts.connect,
            ),
            extensions={"trace": self._trace},
        )  # fmt: skip

    async def _blocks(self) -> AsyncIterator[bytes]:
        body = self._call.body
        for start in range(0, len(body), _BLOCK_BYTES):
            if start + _BLOCK_BYTES >= len(body):
                self._reached = "all"
            yield body[start : start + _BLOCK_BYTES]

    async def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        # httpcore names events `http11.send_request_headers.started`.
        match event.split(".")[1:]:
            case ["send_request_headers", "started"]:
                # A proxy's CONNECT is not yet the request.
                if info["request"].method != b"CONNECT":
                    if not self._ask():
                        raise _HeldBack
                    self._reached = "part" if self._call.body else "all"
            case ["send_request_headers", "complete"] if self._reached != "nothing":
                self._on_milestone("mail_from")
            case ["send_request_body", "complete"] if self._reached == "all":
                self._on_milestone("final_dot")

    def _lost(self, error: Exception) -> Lost:
        if self._reached != "nothing":
            words = f"after the request was written: {_words(error)}"
            if self._reached == "part":
                words = f"the request was cut off: {_words(error)}"
            return Lost(self._reached, "connection_lost", OutcomeClass.SOFT, words)
        causes = list(_chain(error))
        if secured := next((one for one in causes if isinstance(one, ssl.SSLError)), None):
            text = getattr(secured, "verify_message", None) or str(secured)
            return Lost("nothing", "tls_failed", OutcomeClass.CONFIG, text)
        reason: UnsentReason = "connect_refused"
        if any(isinstance(one, socket.gaierror) for one in causes):
            reason = "dns_failed"
        elif isinstance(error, httpx.TimeoutException | TimeoutError):
            reason = "connect_timeout"
        return Lost("nothing", reason, OutcomeClass.SOFT, _words(error))


def _no_token(failure: TokenRefused | TokenUnavailable) -> Lost:
    if isinstance(failure, TokenRefused):
        return Lost("nothing", "auth_failed", OutcomeClass.AUTH, str(failure))
    found = failure.unsent()
    return Lost(
        "nothing", found.reason, found.outcome_class, found.text, found.retry_after, found.reach
    )


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
