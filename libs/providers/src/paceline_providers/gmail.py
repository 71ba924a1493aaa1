"""Gmail's REST API (developers.google.com/gmail/api), drafts as the fence where the grant allows.

There is no idempotency key: a send request leaves once (`Api.send`). The envelope comes
from the message's own To, Cc and Bcc, so that a message to anyone but the recipient is
refused before anything leaves.
"""

import base64
import json
import re
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.parser import BytesHeaderParser
from email.policy import SMTP
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from paceline_providers import dialect
from paceline_providers.api import Api, Call, Lost, Reply
from paceline_providers.base import (
    Accepted,
    Capabilities,
    Deferred,
    Fence,
    InDoubt,
    Milestone,
    Outcome,
    Rejected,
    Session,
    ThreadHint,
    Unsent,
)
from paceline_providers.classes import OutcomeClass
from paceline_providers.dialect import Refusal
from paceline_providers.proof import (
    Destroyed,
    Found,
    Gone,
    NotSeen,
    Now,
    Tokens,
    Unavailable,
)

KIND: Final = "gmail"
BASE_URL: Final = "https://gmail.googleapis.com"

# Above it base64 in JSON no longer fits what the plain path takes (PROVIDERS §1.2).
JSON_MAX_BYTES: Final = 3_500_000
# `maxSize` of the discovery document.
MESSAGE_MAX_BYTES: Final = 36_700_160

# What is left of a draft that must not be sent; its owner may see it for a moment.
_DISARMED: Final = b"Subject: Not sent\r\n\r\n"
_READ_BACK_S: Final = 10.0
_PAGES: Final = 5

_SCOPE: Final = "https://www.googleapis.com/auth/gmail."
_ALL: Final = "https://mail.google.com/"
# As the discovery document lists them for each method.
_DRAFTS: Final = frozenset({_ALL, _SCOPE + "compose", _SCOPE + "modify"})
SENDS: Final = _DRAFTS | {_SCOPE + "send"}
_SEARCHES: Final = frozenset({_ALL, _SCOPE + "modify", _SCOPE + "readonly"})
_READS: Final = _SEARCHES | {_SCOPE + "metadata"}

_TIME: Final = re.compile(
    r"retry after (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d))", re.IGNORECASE
)
# What would end the operand of a search operator.
_NOT_IN_SEARCH: Final = re.compile(r"[\s\"(){}]")


class _Header(msgspec.Struct, frozen=True):
    name: str
    value: str


class _Payload(msgspec.Struct, frozen=True):
    headers: tuple[_Header, ...] = ()


class _Message(msgspec.Struct, frozen=True, rename="camel"):
    id: str
    thread_id: str | None = None
    label_ids: tuple[str, ...] = ()
    # 64-bit integers travel as text.
    internal_date_text: str = msgspec.field(name="internalDate", default="0")
    payload: _Payload = _Payload()

    @property
    def internal_date(self) -> int:
        """Milliseconds since 1970."""
        return int(self.internal_date_text) if self.internal_date_text.isdecimal() else 0

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case."""
        name = name.lower()
        return next((one.value for one in self.payload.headers if one.name.lower() == name), None)


class _Draft(msgspec.Struct, frozen=True):
    id: str
    message: _Message


class _Page(msgspec.Struct, frozen=True, rename="camel"):
    messages: tuple[_Message, ...] = ()
    next_page_token: str | None = None


class _Drafts(msgspec.Struct, frozen=True, rename="camel"):
    drafts: tuple[_Draft, ...] = ()
    next_page_token: str | None = None


class _Reason(msgspec.Struct, frozen=True):
    reason: str | None = None


class _Error(msgspec.Struct, frozen=True):
    message: str = ""
    status: str | None = None
    errors: tuple[_Reason, ...] = ()


class _Failure(msgspec.Struct, frozen=True):
    error: _Error = _Error()


class GmailSettings(msgspec.Struct, frozen=True):
    """`scopes` are those that were granted, not those asked for: people untick some."""

    scopes: tuple[str, ...]


@dataclass(frozen=True)
class GmailProvider:
    """One Gmail mailbox under one grant."""

    settings: GmailSettings
    api: Api
    base_url: str = BASE_URL

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        http: httpx.AsyncClient,
        tokens: Tokens,
        now: Now,
        base_url: str | None = None,
    ) -> "GmailProvider":
        """Build from stored JSON; raises `msgspec.ValidationError` for another shape."""
        return cls(
            msgspec.convert(settings, GmailSettings), Api(http, tokens, now), base_url or BASE_URL
        )

    @property
    def capabilities(self) -> Capabilities:
        """What the granted scopes allow."""
        granted = frozenset(self.settings.scopes)
        return Capabilities(
            fence=bool(granted & _DRAFTS),
            threads=True,
            reads_back=bool(granted & _READS),
            finds_sent=bool(granted & _SEARCHES),
        )

    async def open(self) -> Session | Unsent:
        """Make sure of a token; the connection is the HTTP client's."""
        if not SENDS & frozenset(self.settings.scopes):
            text = "the grant does not include sending (gmail.send, gmail.compose or gmail.modify)"
            return Unsent("auth_failed", OutcomeClass.AUTH, text=text)
        return await self.api.sign_in() or GmailSession(self)

    async def find_sent(
        self, recipient: str, job_token: str, since: datetime
    ) -> Found | NotSeen | Unavailable:
        """See `proof.Prover.find_sent`."""
        if not self.capabilities.finds_sent:
            return Unavailable(None, "the grant does not include searching the mailbox")
        asked: dict[str, str | tuple[str, ...]] = {
            "q": f"in:sent to:{_NOT_IN_SEARCH.sub('', recipient)} after:{int(since.timestamp())}",
            # What someone threw away was sent all the same.
            "includeSpamTrash": "true",
            "maxResults": "100",
        }
        for _ in range(_PAGES):
            listed = await self.api.call(Call("GET", self.url("messages"), asked))
            if isinstance(listed, Lost):
                return listed.unavailable()
            if not listed.ok:
                return dialect.of_look(KIND, self.refusal(listed))
            page = listed.decoded(_Page)
            if page is None:
                return _unintelligible(listed)
            for message in page.messages:
                found = await self._compare(message.id, job_token)
                if found is not None:
                    return found
            if page.next_page_token is None:
                break
            asked["pageToken"] = page.next_page_token
        return NotSeen()

    async def find_drafts(
        self, job_tokens: Collection[str], since: datetime
    ) -> Mapping[str, tuple[Fence, ...]] | Unavailable:
        """See `proof.Prover.find_drafts`."""
        if not self.capabilities.fence:
            return Unavailable(None, "the grant does not include drafts")
        found: dict[str, tuple[Fence, ...]] = {}
        asked: dict[str, str | tuple[str, ...]] = {
            "q": f"after:{int(since.timestamp())}", "maxResults": "100",
        }  # fmt: skip
        for _ in range(_PAGES):
            listed = await self.api.call(Call("GET", self.url("drafts"), asked))
            if isinstance(listed, Lost):
                return listed.unavailable()
            if not listed.ok:
                return dialect.of_look(KIND, self.refusal(listed))
            page = listed.decoded(_Drafts)
            if page is None:
                return _unintelligible(listed)
            for one in page.drafts:
                call = Call("GET", self.url("drafts", one.id), {"format": "metadata"})
                answer = await self.api.call(call)
                if isinstance(answer, Lost):
                    return answer.unavailable()
                if answer.status == 404:
                    continue
                if not answer.ok:
                    return dialect.of_look(KIND, self.refusal(answer))
                draft = answer.decoded(_Draft)
                if draft is None:
                    return _unintelligible(answer)
                token = draft.message.header("X-Paceline-Job")
                if token is not None and token in job_tokens:
                    fence = Fence(KIND, draft.id, draft.message.id)
                    found[token] = (*found.get(token, ()), fence)
            if page.next_page_token is None:
                break
            asked["pageToken"] = page.next_page_token
        return found

    async def disarm(self, fence: Fence) -> Destroyed | Gone | Unavailable:
        """See `proof.Prover.disarm`; users.drafts.update "replaces a draft's content".

        The draft keeps its id and has no recipient any more: a send request that comes later
        is refused, for Gmail sends nothing without one. After one that came earlier there is
        no such draft.
        """
        call = replace(
            self._posting(("drafts", fence.draft_id), _DISARMED, _Wrap(None, in_draft=True)),
            method="PUT",
        )
        return self._destroyed(await self.api.call(call))

    async def destroy(self, fence: Fence) -> Destroyed | Gone | Unavailable:
        """See `proof.Prover.destroy`; users.drafts.delete "immediately and permanently deletes"."""
        call = Call("DELETE", self.url("drafts", fence.draft_id))
        # Made again after it took effect, it would find nothing and the proof were lost.
        return self._destroyed(await self.api.call(call, repeatable=False))

    def _destroyed(self, answer: Reply | Lost) -> Destroyed | Gone | Unavailable:
        if isinstance(answer, Lost):
            return answer.unavailable()
        if answer.ok:
            return Destroyed()
        if answer.status == 404:
            return Gone()
        return dialect.of_look(KIND, self.refusal(answer))

    async def _compare(self, message_id: str, job_token: str) -> Found | Unavailable | None:
        answer = await self.api.call(self._metadata(message_id))
        if isinstance(answer, Lost):
            return answer.unavailable()
        if answer.status == 404:
            return None
        if not answer.ok:
            return dialect.of_look(KIND, self.refusal(answer))
        message = answer.decoded(_Message)
        if message is None:
            return _unintelligible(answer)
        if message.header("X-Paceline-Job") != job_token or "SENT" not in message.label_ids:
            return None
        return Found(
            message.id,
            message.header("Message-ID"),
            message.thread_id,
            datetime.fromtimestamp(message.internal_date / 1000, UTC),
        )

    def _metadata(self, message_id: str) -> Call:
        wanted = ("Message-ID", "X-Paceline-Job")
        return Call(
            "GET",
            self.url("messages", message_id),
            {"format": "metadata", "metadataHeaders": wanted},
        )

    def url(self, *path: str) -> str:
        """Return the address of a resource of this mailbox."""
        return "/".join(
            (self.base_url, "gmail/v1/users/me", *(quote(one, safe="") for one in path))
        )

    def _posting(self, path: tuple[str, ...], message: bytes, wrap: "_Wrap") -> Call:
        """Return the call that hands over a message, by upload when it is large."""
        if len(message) <= JSON_MAX_BYTES:
            raw = base64.urlsafe_b64encode(message).decode("ascii")
            return Call.json("POST", self.url(*path), wrap({"raw": raw}))
        boundary = secrets.token_hex(16)
        body = b"".join(
            (
                f"--{boundary}\r\nContent-Type: application/json\r\n\r\n".encode(),
                json.dumps(wrap({})).encode(),
                f"\r\n--{boundary}\r\nContent-Type: message/rfc822\r\n\r\n".encode(),
                message,
                f"\r\n--{boundary}--\r\n".encode(),
            )
        )
        return Call(
            "POST",
            self.url(*path).replace(self.base_url, f"{self.base_url}/upload", 1),
            {"uploadType": "multipart"},
            body,
            f"multipart/related; boundary={boundary}",
        )

    def refusal(self, answer: Reply) -> Refusal:
        """Return Google's reasons, words and wish (cloud.google.com/apis/design/errors)."""
        error = (answer.decoded(_Failure) or _Failure()).error
        text = error.message or answer.text[:1000]
        words = (*(one.reason for one in error.errors), error.status)
        now = self.api.now()
        wish = answer.retry_after(now)
        if wish is None and (named := _TIME.search(text)):
            wish = max(timedelta(0), datetime.fromisoformat(named[1]) - now)
        return Refusal(answer.status, tuple(filter(None, words)), text, wish)


class GmailSession:
    """A mailbox that may send; calls are independent of one another."""

    def __init__(self, provider: GmailProvider) -> None:
        self._provider = provider

    @property
    def is_reusable(self) -> bool:
        """Always: there is no connection to spoil."""
        return True

    async def prepare(
        self, message: bytes, *, thread: ThreadHint | None = None
    ) -> Fence | Unsent | Rejected | None:
        """Create the draft, where the grant allows; see `base.Session.prepare`."""
        provider = self._provider
        if not provider.capabilities.fence:
            return None
        if len(message) > MESSAGE_MAX_BYTES:
            return _too_large(message)
        for hint in (thread, None):
            call = provider._posting(("drafts",), message, _Wrap(hint, in_draft=True))
            answer = await provider.api.call(call, repeatable=False)
            if not _lacks_thread(answer, hint):
                break
        if isinstance(answer, Lost):
            return answer.unsent()
        if not answer.ok:
            return dialect.of_preparation(KIND, provider.refusal(answer))
        draft = answer.decoded(_Draft)
        if draft is None:
            text = "the answer to drafts.create names no draft"
            return Unsent("protocol_error", OutcomeClass.SOFT, answer.status, text=text)
        return Fence(KIND, draft.id, draft.message.id)

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
        """Send the fence's draft, else the message itself; see `base.Session.submit`.

        Gmail sets the envelope's sender itself.
        """
        provider = self._provider
        if len(message) > MESSAGE_MAX_BYTES:
            return _too_large(message)
        addressed = _addressed(message)
        if addressed != {recipient.lower()}:
            text = f"the message is addressed to {len(addressed)} addresses, not to its recipient"
            return Rejected(OutcomeClass.CONFIG, "data", None, None, text)
        if fence is not None:
            call = Call.json("POST", provider.url("drafts", "send"), {"id": fence.draft_id})
        else:
            call = provider._posting(("messages", "send"), message, _Wrap(thread))
        answer: Reply | Outcome = await provider.api.send(call, before_mail_from, on_milestone)
        if fence is None and isinstance(answer, Reply) and _lacks_thread(answer, thread):
            # The answer proves that nothing was sent; without the thread's name it can be.
            call = provider._posting(("messages", "send"), message, _Wrap(None))
            answer = await provider.api.send(call, before_mail_from, on_milestone)
            if isinstance(answer, Unsent):
                return Deferred(OutcomeClass.SOFT, "body", answer.code, answer.status, answer.text)
        if isinstance(answer, Reply):
            if answer.ok:
                return await self._accepted(answer)
            answer = dialect.of_submission(KIND, provider.refusal(answer))
        return InDoubt(answer.evidence, fence) if isinstance(answer, InDoubt) else answer

    async def close(self) -> None:
        """Nothing to do: the connection is the HTTP client's."""

    async def _accepted(self, answer: Reply) -> Accepted:
        sent = answer.decoded(_Message)
        if sent is None:
            return Accepted(None, answer.status, answer.text)
        message_id = None
        if self._provider.capabilities.reads_back:
            # Once and briefly: the outcome waits for it.
            back = await self._provider.api.once(self._provider._metadata(sent.id), _READ_BACK_S)
            if isinstance(back, Reply) and (read := back.decoded(_Message)) is not None:
                message_id = read.header("Message-ID")
        return Accepted(sent.id, answer.status, answer.text, message_id, sent.thread_id)


@dataclass(frozen=True, slots=True)
class _Wrap:
    """Makes a Message resource into the body of its request."""

    thread: ThreadHint | None
    in_draft: bool = False

    def __call__(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.thread is not None and self.thread.thread_id is not None:
            message["threadId"] = self.thread.thread_id
        return {"message": message} if self.in_draft else message


def _lacks_thread(answer: Reply | Lost, thread: ThreadHint | None) -> bool:
    return (
        isinstance(answer, Reply)
        and answer.status == 404
        and thread is not None
        and thread.thread_id is not None
    )


def _unintelligible(answer: Reply) -> Unavailable:
    return Unavailable(OutcomeClass.SOFT, f"not an answer of the Gmail API: {answer.text[:200]}")


def _too_large(message: bytes) -> Rejected:
    text = f"the message has {len(message)} bytes, Gmail takes {MESSAGE_MAX_BYTES}"
    return Rejected(OutcomeClass.CONFIG, "data", None, None, text)


def _addressed(message: bytes) -> set[str]:
    """Return all that Gmail would send the message to, in lower case."""
    head = message.partition(b"\r\n\r\n")[0]
    parsed = BytesHeaderParser(policy=SMTP).parsebytes(head)
    return {
        address.addr_spec.lower()
        for name in ("to", "cc", "bcc")
        for header in parsed.get_all(name, ())
        for address in header.addresses
    }
