"""Microsoft Graph mail (learn.microsoft.com/graph), drafts as the fence where the grant allows.

With Mail.ReadWrite a message becomes a draft from its own MIME, so that In-Reply-To,
References and List-Unsubscribe survive, and sending it is a request of its own. With
Mail.Send alone it leaves through sendMail, whose answer names nothing. A 202 is no proof of
delivery, but from then on the message is Microsoft's: `Accepted` carries no fence.

All ids are immutable ones: a draft's id is its copy's in Sent Items.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.parser import BytesHeaderParser
from email.policy import SMTP
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from paceline_providers import dialect
from paceline_providers.api import Api, Call, Lost, Reply
from paceline_providers.base import (
    Accepted,
    Capabilities,
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
from paceline_providers.graph_shapes import JOB_PROPERTY, Failure, Folder, Message, Page
from paceline_providers.proof import Destroyed, Found, Gone, NotSeen, Now, Tokens, Unavailable

KIND: Final = "graph"
BASE_URL: Final = "https://graph.microsoft.com"

# Microsoft serves four requests per mailbox at once (PROVIDERS §2.4); sender and reply are two.
CONCURRENCY: Final = 2
# A request's limit on Graph is 4 MB, and base64 adds a third.
MESSAGE_MAX_BYTES: Final = 3_000_000

_READ_BACK_S: Final = 3.0
# The copy in Sent Items is made only when the message has been sent (outlook-immutable-id).
_READ_BACK_PAUSES_S: Final = (0.0, 0.5)
_PAGE: Final = 50
_PAGES: Final = 40
# Graph's clock and ours.
_SKEW: Final = timedelta(minutes=5)

_PREFER: Final = {"Prefer": 'IdType="ImmutableId"'}
_RECIPIENTS: Final = ("toRecipients", "ccRecipients", "bccRecipients")
_SHOWN: Final = (
    "id", "internetMessageId", "conversationId", "sentDateTime", "isDraft",
    "internetMessageHeaders",
)  # fmt: skip

_Shape = TypeVar("_Shape", bound=msgspec.Struct)


class GraphSettings(msgspec.Struct, frozen=True):
    """`scopes` are those that were granted, with or without the resource before them."""

    scopes: tuple[str, ...]


@dataclass(frozen=True)
class GraphProvider:
    """One Microsoft 365 mailbox under one grant; make one per mailbox and process.

    `turns` keep its requests to `CONCURRENCY` at once; looks and sends share them.
    """

    settings: GraphSettings
    api: Api
    base_url: str = BASE_URL
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENCY))

    @classmethod
    def of(
        cls,
        settings: Mapping[str, Any],
        http: httpx.AsyncClient,
        tokens: Tokens,
        now: Now,
        base_url: str | None = None,
    ) -> "GraphProvider":
        """Build from stored JSON; raises `msgspec.ValidationError` for another shape."""
        return cls(
            msgspec.convert(settings, GraphSettings), Api(http, tokens, now), base_url or BASE_URL
        )

    @property
    def granted(self) -> frozenset[str]:
        """The scopes in lower case, without the resource: national clouds have their own."""
        return frozenset(scope.rpartition("/")[2].lower() for scope in self.settings.scopes)

    @property
    def capabilities(self) -> Capabilities:
        """What the granted scopes allow (PROVIDERS §2.1)."""
        drafts = "mail.readwrite" in self.granted
        return Capabilities(
            fence=drafts,
            threads=drafts,
            reads_back=drafts,
            finds_sent=drafts or "mail.read" in self.granted,
        )

    async def open(self) -> Session | Unsent:
        """Make sure of a token; the connection is the HTTP client's."""
        if "mail.send" not in self.granted:
            text = "the grant does not include sending (Mail.Send)"
            return Unsent("auth_failed", OutcomeClass.AUTH, text=text)
        return await self.api.sign_in() or GraphSession(self)

    async def find_sent(
        self, recipient: str, job_token: str, since: datetime
    ) -> Found | NotSeen | Unavailable:
        """See `proof.Prover.find_sent`.

        A listing cannot be filtered by recipient; they are compared here.
        """
        if not self.capabilities.finds_sent:
            return Unavailable(None, "the grant does not include reading (Mail.Read)")
        async for seen in self._listed("sentitems", "sentDateTime", since):
            if isinstance(seen, Unavailable):
                return seen
            if (
                seen.carries(job_token)
                and recipient.lower() in seen.addresses
                and seen.is_draft is False
            ):
                return Found(
                    seen.id,
                    seen.internet_message_id,
                    seen.conversation_id,
                    seen.sent_date_time or since,
                )
        return NotSeen()

    async def find_drafts(
        self, job_tokens: Collection[str], since: datetime
    ) -> Mapping[str, tuple[Fence, ...]] | Unavailable:
        """See `proof.Prover.find_drafts`; disarmed ones are found as well."""
        if not self.capabilities.fence:
            return Unavailable(None, "the grant does not include drafts (Mail.ReadWrite)")
        found: dict[str, tuple[Fence, ...]] = {}
        async for seen in self._listed("drafts", "createdDateTime", since):
            if isinstance(seen, Unavailable):
                return seen
            for token in job_tokens:
                if seen.is_draft is True and seen.carries(token):
                    found[token] = (*found.get(token, ()), Fence(KIND, seen.id, seen.id))
        return found

    async def _listed(
        self, folder: str, by: str, since: datetime
    ) -> AsyncIterator[Message | Unavailable]:
        """Give a folder's messages whose time `by` is not before `since`, newest first.

        After an `Unavailable` there is nothing more.
        """
        from_on = (since - _SKEW).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        call = self.call(
            "GET",
            f"mailFolders/{folder}/messages",
            params={
                # What $orderby names must come first in $filter.
                "$filter": f"{by} ge {from_on}",
                "$orderby": f"{by} desc",
                "$top": str(_PAGE),
                "$select": ",".join((*_SHOWN, *_RECIPIENTS)),
                "$expand": f"singleValueExtendedProperties($filter=id eq '{JOB_PROPERTY}')",
            },
        )
        for _ in range(_PAGES):
            page = await self._looked(call, Page)
            if isinstance(page, Gone):
                yield Unavailable(OutcomeClass.SOFT, f"the mailbox shows no folder {folder}")
                return
            if isinstance(page, Unavailable):
                yield page
                return
            for message in page.value:
                yield message
            if page.next_link is None:
                return
            if not page.next_link.startswith(f"{self.base_url}/"):
                yield Unavailable(OutcomeClass.CONFIG, "the next page is on another host")
                return
            link = httpx.URL(page.next_link)
            call = replace(call, url=str(link.copy_with(query=None)), params=dict(link.params))

    async def disarm(self, fence: Fence) -> Destroyed | Gone | Unavailable:
        """See `proof.Prover.disarm`.

        One PATCH takes away the draft's recipients and names `replyTo`, which is "updatable
        only if isDraft = true" (message-update), and its answer shows the item as that same
        operation left it. It counts only as a draft without recipients, in Drafts (or Deleted
        Items, for a second call). A send request that comes later is refused, for Graph sends
        nothing without recipients (ErrorInvalidRecipients); one that came earlier has made the
        item a sent one, and the PATCH fails or says so.

        This rests on a send request without an answer being over, one way or the other, by
        the time of asking (the lease and the provider's timeout). After a 202 Microsoft may
        take as long as it likes: nobody may ask then.
        """
        disarmed = await self._disarmed(fence)
        return Destroyed() if isinstance(disarmed, bool) else disarmed

    async def destroy(self, fence: Fence) -> Destroyed | Gone | Unavailable:
        """See `proof.Prover.destroy`.

        A 204 alone proves nothing here: under its immutable id the copy in Sent Items is
        deleted as readily as the draft. So the draft is disarmed first; deleting then tidies
        up.
        """
        disarmed = await self._disarmed(fence)
        if not isinstance(disarmed, bool):
            return disarmed
        return Destroyed() if disarmed else await self._deleted(_path(fence))

    async def _disarmed(self, fence: Fence) -> bool | Gone | Unavailable:
        """Disarm the draft; return whether it lies in Deleted Items already."""
        if not self.capabilities.fence:
            return Unavailable(None, "the grant does not include drafts (Mail.ReadWrite)")
        homes = await self._homes()
        if isinstance(homes, Gone | Unavailable):
            return homes
        path = _path(fence)
        shown = ",".join(("id", "isDraft", "parentFolderId", *_RECIPIENTS))
        # Look before touching: in Sent Items nothing is to be changed.
        seen = await self._looked(self.call("GET", path, params={"$select": shown}), Message)
        if not isinstance(seen, Message):
            return seen
        if seen.is_draft is not True:
            return Gone()
        if seen.parent_folder_id not in homes:
            return Unavailable(OutcomeClass.SOFT, "the draft is in another folder")
        nobody: dict[str, Any] = dict.fromkeys((*_RECIPIENTS, "replyTo"), ())
        disarmed = await self._looked(self.call("PATCH", path, nobody), Message)
        if not isinstance(disarmed, Message):
            return disarmed
        if disarmed.is_draft is not True:
            return Gone()
        if not disarmed.has_no_recipients or disarmed.parent_folder_id not in homes:
            return Unavailable(OutcomeClass.SOFT, "the draft could not be disarmed")
        return disarmed.parent_folder_id == homes[1]

    async def _deleted(self, path: str) -> Destroyed | Gone | Unavailable:
        # Made again after it took effect, it would delete once more.
        answer = await self._called(self.call("DELETE", path), repeatable=False)
        if isinstance(answer, Lost):
            return answer.unavailable()
        if answer.status == 204:
            return Destroyed()
        return Gone() if answer.status == 404 else dialect.of_look(KIND, self.refusal(answer))

    async def _homes(self) -> tuple[str, str] | Gone | Unavailable:
        """Return the ids of Drafts and Deleted Items."""
        found = []
        for name in ("drafts", "deleteditems"):
            call = self.call("GET", f"mailFolders/{name}", params={"$select": "id"})
            folder = await self._looked(call, Folder)
            if not isinstance(folder, Folder):
                return folder
            found.append(folder.id)
        return found[0], found[1]

    async def _looked(self, call: Call, shape: type[_Shape]) -> _Shape | Gone | Unavailable:
        answer = await self._called(call)
        if isinstance(answer, Lost):
            return answer.unavailable()
        if answer.ok:
            text = f"not an answer of Graph: {answer.text[:200]}"
            return answer.decoded(shape) or Unavailable(OutcomeClass.SOFT, text)
        refusal = self.refusal(answer)
        if answer.status == 404 or "ErrorInvalidPropertySet" in refusal.reasons:
            return Gone()
        return dialect.of_look(KIND, refusal)

    async def _called(self, call: Call, *, repeatable: bool = True) -> Reply | Lost:
        async with self.turns:
            return await self.api.call(call, repeatable=repeatable)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        params: Mapping[str, str] | None = None,
    ) -> Call:
        """Return a call below `/me`, ids immutable; `body` is MIME (bytes), JSON, or nothing."""
        url = f"{self.base_url}/v1.0/me/{path}"
        if isinstance(body, bytes):
            content = base64.b64encode(body)
            return Call(method, url, {}, content, "text/plain", _PREFER)
        if body is not None:
            return Call.json(method, url, body, headers=_PREFER)
        return Call(method, url, params or {}, headers=_PREFER)

    def refusal(self, answer: Reply) -> Refusal:
        """Return Graph's code, whose limit was passed, and its words (graph/errors, throttling)."""
        error = (answer.decoded(Failure) or Failure()).error
        text = error.message or answer.text[:1000]
        wish = answer.retry_after(self.api.now())
        # "<Scope>/<Limit>/<ApplicationId>/<TenantId>"
        scope = answer.headers.get("x-ms-throttle-scope", "").partition("/")[0]
        return Refusal(answer.status, tuple(filter(None, (error.code, scope))), text, wish)


class GraphSession:
    """A mailbox that may send; calls are independent of one another."""

    def __init__(self, provider: GraphProvider) -> None:
        self._provider = provider

    @property
    def is_reusable(self) -> bool:
        """Always: there is no connection to spoil."""
        return True

    async def prepare(
        self, message: bytes, *, thread: ThreadHint | None = None
    ) -> Fence | Unsent | Rejected | None:
        """Create the draft, where the grant allows; see `base.Session.prepare`.

        A follow-up is a reply to the message before it, which puts it into that
        conversation. Where that message is no more, References must do.
        """
        provider = self._provider
        if not provider.capabilities.fence:
            return None
        if (refused := _unfit(message)) is not None:
            return refused
        paths = ["messages"]
        if thread is not None and thread.previous_id is not None:
            paths.insert(0, f"messages/{quote(thread.previous_id, safe='')}/createReply")
        answer = await provider._called(provider.call("POST", paths[0], message), repeatable=False)
        if len(paths) > 1 and isinstance(answer, Reply) and _names_nothing(provider, answer):
            call = provider.call("POST", "messages", message)
            answer = await provider._called(call, repeatable=False)
        if isinstance(answer, Lost):
            return answer.unsent()
        if not answer.ok:
            return dialect.of_preparation(KIND, provider.refusal(answer))
        draft = answer.decoded(Message)
        if draft is None or not draft.id:
            text = "the answer to the draft's creation names no draft"
            return Unsent("protocol_error", OutcomeClass.SOFT, answer.status, text=text)
        return await self._addressed(draft, message) or Fence(KIND, draft.id, draft.id)

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

        Microsoft sets the envelope's sender itself.
        """
        provider = self._provider
        if (refused := _unfit(message)) is not None:
            return refused
        if (addressed := set(_recipients(message))) != {recipient.lower()}:
            text = f"the message is addressed to {len(addressed)} addresses, not to its recipient"
            return Rejected(OutcomeClass.CONFIG, "data", None, None, text)
        if fence is not None:
            call = provider.call("POST", f"messages/{quote(fence.draft_id, safe='')}/send")
        else:
            call = provider.call("POST", "sendMail", message)
        async with provider.turns:
            answer = await provider.api.send(call, before_mail_from, on_milestone)
        outcome: Outcome
        if not isinstance(answer, Reply):
            outcome = answer
        elif answer.ok:
            return await self._accepted(answer, fence)
        else:
            outcome = dialect.of_submission(KIND, provider.refusal(answer))
        return replace(outcome, fence=fence) if isinstance(outcome, InDoubt) else outcome

    async def close(self) -> None:
        """Nothing to do: the connection is the HTTP client's."""

    async def _addressed(self, draft: Message, message: bytes) -> Unsent | Rejected | None:
        """Make sure that the draft goes to whom the message names: a reply has its own mind."""
        wanted = _recipients(message)
        if draft.addresses == set(wanted):
            return None
        provider = self._provider
        recipients: dict[str, Any] = dict.fromkeys(_RECIPIENTS, ())
        recipients["toRecipients"] = [{"emailAddress": {"address": one}} for one in wanted]
        call = provider.call("PATCH", f"messages/{quote(draft.id, safe='')}", recipients)
        answer = await provider._called(call)
        if isinstance(answer, Lost):
            return answer.unsent()
        if not answer.ok:
            return dialect.of_preparation(KIND, provider.refusal(answer))
        changed = answer.decoded(Message)
        if changed is None or changed.addresses != set(wanted):
            text = "the draft does not go to the message's recipient"
            return Unsent("protocol_error", OutcomeClass.SOFT, answer.status, text=text)
        return None

    async def _accepted(self, answer: Reply, fence: Fence | None) -> Accepted:
        text = answer.text or f"{answer.status} accepted"
        if fence is None:
            return Accepted(None, answer.status, text)
        # Briefly: the outcome waits for it.
        provider = self._provider
        call = provider.call(
            "GET",
            f"messages/{quote(fence.draft_id, safe='')}",
            params={"$select": "id,internetMessageId,conversationId,isDraft"},
        )
        message_id = thread_id = None
        for pause_s in _READ_BACK_PAUSES_S:
            if pause_s:
                await provider.api.pause(pause_s)
            async with provider.turns:
                back = await provider.api.once(call, _READ_BACK_S)
            read = back.decoded(Message) if isinstance(back, Reply) and back.ok else None
            if read is not None:
                thread_id = read.conversation_id
                if read.is_draft is False:
                    # What it was called as a draft may have been rewritten.
                    message_id = read.internet_message_id
                    break
        return Accepted(fence.draft_id, answer.status, text, message_id, thread_id)


def _path(fence: Fence) -> str:
    return f"messages/{quote(fence.draft_id, safe='')}"


def _names_nothing(provider: GraphProvider, answer: Reply) -> bool:
    """Tell whether the message to reply to is not there."""
    reasons = provider.refusal(answer).reasons
    return answer.status == 404 or (not answer.ok and "ErrorInvalidIdMalformed" in reasons)


def _unfit(message: bytes) -> Rejected | None:
    if len(message) <= MESSAGE_MAX_BYTES:
        return None
    text = f"the message has {len(message)} bytes, Graph takes {MESSAGE_MAX_BYTES} as MIME"
    return Rejected(OutcomeClass.CONFIG, "data", None, None, text)


def _recipients(message: bytes) -> list[str]:
    """Return all that the message names in To, Cc and Bcc, in lower case."""
    parsed = BytesHeaderParser(policy=SMTP).parsebytes(message)
    return [
        address.addr_spec.lower()
        for name in ("to", "cc", "bcc")
        for header in parsed.get_all(name, ())
        for address in header.addresses
    ]
