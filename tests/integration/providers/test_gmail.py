"""What is Gmail's own: requests byte for byte, ids, threads, limits in words, odd answers."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest
from tests.twins.gmail.mailbox import Mailbox
from tests.twins.gmail.oauth import ALL_MAIL, PREFIX
from tests.twins.gmail.server import GmailTwin, running

from paceline_providers.api import Api, ApiTimeouts
from paceline_providers.base import (
    Accepted,
    Deferred,
    Fence,
    InDoubt,
    Outcome,
    Rejected,
    Session,
    ThreadHint,
    Unsent,
)
from paceline_providers.classes import OutcomeClass
from paceline_providers.gmail import MESSAGE_MAX_BYTES, GmailProvider, GmailSettings, _Wrap
from paceline_providers.proof import (
    Destroyed,
    Found,
    Gone,
    NotSeen,
    TokenRefused,
    TokenUnavailable,
    Unavailable,
)
from paceline_providers.registry import API_PROVIDERS

SENDER, RECIPIENT = "ann@north.test", "bob@example.test"
MESSAGE = (
    b"From: ann@north.test\r\nTo: bob@example.test\r\nSubject: x\r\n"
    b"Message-ID: <1@north.test>\r\nX-Paceline-Job: job_1\r\n\r\nHello\r\n"
)
MODIFY, SEND = f"{PREFIX}gmail.modify", f"{PREFIX}gmail.send"
READONLY, METADATA = f"{PREFIX}gmail.readonly", f"{PREFIX}gmail.metadata"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Setting:
    """A provider in front of the twin, and the pauses that it took."""

    twin: GmailTwin
    mailbox: Mailbox
    provider: GmailProvider
    pauses: list[float]

    async def session(self) -> Session:
        opened = await self.provider.open()
        assert not isinstance(opened, Unsent), opened
        return opened

    async def submit(
        self,
        message: bytes = MESSAGE,
        recipient: str = RECIPIENT,
        thread: ThreadHint | None = None,
        fence: Fence | None = None,
    ) -> Outcome:
        return await (await self.session()).submit(
            SENDER, recipient, message, before_mail_from=lambda: True, thread=thread, fence=fence
        )

    async def prepare(self, message: bytes = MESSAGE) -> Fence:
        fence = await (await self.session()).prepare(message)
        assert isinstance(fence, Fence), fence
        return fence


@asynccontextmanager
async def setting(*scopes: str) -> AsyncIterator[Setting]:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async with running() as (twin, url), httpx.AsyncClient(trust_env=False) as http:
        mailbox = twin.add_mailbox(SENDER)
        token = twin.identity.grant(SENDER, scopes)["access_token"]

        async def tokens(refused: str | None = None) -> str:
            if refused is not None:
                raise TokenRefused("Token has been expired or revoked.")
            return str(token)

        timeouts = ApiTimeouts(connect=2, write=5, read=5, total=10)
        api = Api(http, tokens, twin.now, timeouts, pause)
        yield Setting(twin, mailbox, GmailProvider(GmailSettings(scopes), api, url), pauses)


# ---- what is sent


async def test_the_message_arrives_byte_for_byte() -> None:
    async with setting(SEND) as here:
        assert isinstance(await here.submit(), Accepted)
        assert here.twin.submissions[0].raw == MESSAGE
        assert here.twin.calls == ["users.messages.send"]


@pytest.mark.parametrize("scope", [SEND, MODIFY])
@pytest.mark.parametrize("size", [3_000_000, 3_500_001])
async def test_a_large_message_arrives_byte_for_byte_and_in_its_thread(
    scope: str, size: int
) -> None:
    async with setting(scope) as here:
        first = await here.submit()
        assert isinstance(first, Accepted)
        head = MESSAGE.replace(b"Subject: x", b"Subject: Re: x\r\nReferences: <1@north.test>")
        body = b"--not-a-boundary\r\n" + b"0123456789\r\n" * (size // 12)
        large = head.replace(b"<1@north.test>\r\nX", b"<2@north.test>\r\nX") + body
        hint = ThreadHint(first.thread_id)
        fence = await (await here.session()).prepare(large, thread=hint)
        assert fence is None or isinstance(fence, Fence)
        second = await here.submit(large, thread=hint, fence=fence)
        assert isinstance(second, Accepted), second
        assert here.twin.submissions[1].raw == large
        assert second.thread_id == first.thread_id


async def test_a_message_beyond_what_gmail_takes_never_leaves() -> None:
    async with setting(MODIFY) as here:
        huge = MESSAGE + b"x" * MESSAGE_MAX_BYTES
        for refused in (await here.submit(huge), await (await here.session()).prepare(huge)):
            assert isinstance(refused, Rejected)
            assert (refused.outcome_class, refused.code) == (OutcomeClass.CONFIG, None)
        assert here.twin.calls == []


@pytest.mark.parametrize(
    "head",
    [
        b"To: bob@example.test, eve@example.test\r\n",
        b"To: bob@example.test\r\nCc: eve@example.test\r\n",
        b"To: bob@example.test\r\nBcc: eve@example.test\r\n",
        b"To: bob@example.test\r\nTo: eve@example.test\r\n",
        b"To: eve@example.test\r\n",
        b"To: friends: eve@example.test, bob@example.test;\r\n",
        b"",
    ],
)
async def test_a_message_to_anyone_else_never_leaves(head: bytes) -> None:
    async with setting(SEND) as here:
        outcome = await here.submit(head + b"Subject: x\r\n\r\nHello\r\n")
        assert isinstance(outcome, Rejected)
        assert (outcome.outcome_class, outcome.code) == (OutcomeClass.CONFIG, None)
        assert here.twin.calls == []


@pytest.mark.parametrize("to", ["Bob <BOB@example.test>", '"Bob, the" <bob@Example.test>'])
async def test_the_recipient_is_known_by_any_writing(to: str) -> None:
    async with setting(SEND) as here:
        message = f"To: {to}\r\nSubject: x\r\n\r\nHello\r\n".encode()
        assert isinstance(await here.submit(message), Accepted)


# ---- grants


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ((SEND,), (False, True, False, False)),
        ((SEND, READONLY), (False, True, True, True)),
        ((SEND, METADATA), (False, True, True, False)),
        ((f"{PREFIX}gmail.compose",), (True, True, False, False)),
        ((MODIFY,), (True, True, True, True)),
        ((ALL_MAIL,), (True, True, True, True)),
    ],
)
async def test_a_grant_allows_what_google_says(
    scopes: tuple[str, ...], expected: tuple[bool, ...]
) -> None:
    async with setting(*scopes) as here:
        can = here.provider.capabilities
        assert (can.fence, can.threads, can.reads_back, can.finds_sent) == expected
        fence = await (await here.session()).prepare(MESSAGE)
        assert isinstance(fence, Fence) == can.fence
        outcome = await here.submit(fence=fence if isinstance(fence, Fence) else None)
        assert isinstance(outcome, Accepted), outcome
        assert (outcome.message_id == "<1@north.test>") == can.reads_back
        found = await here.provider.find_sent(RECIPIENT, "job_1", LONG_AGO)
        assert isinstance(found, Found) == can.finds_sent
        # Nothing was tried that the grant does not cover.
        assert not isinstance(found, Unavailable) or found.outcome_class is None


@pytest.mark.parametrize("scopes", [(READONLY,), (METADATA,), ()])
async def test_a_grant_that_does_not_cover_sending_does_not_open(scopes: tuple[str, ...]) -> None:
    async with setting(*scopes) as here:
        opened = await here.provider.open()
        assert isinstance(opened, Unsent)
        assert (opened.reason, opened.outcome_class) == ("auth_failed", OutcomeClass.AUTH)


def test_settings_of_another_shape_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        API_PROVIDERS["gmail"]({}, httpx.AsyncClient(), no_tokens, lambda: LONG_AGO)


async def no_tokens(refused: str | None = None) -> str:
    raise TokenUnavailable("the token endpoint does not answer")


async def test_a_token_endpoint_that_is_away_is_no_fault_of_the_mailbox() -> None:
    async with setting(SEND) as here:
        api = replace(here.provider.api, tokens=no_tokens)
        opened = await replace(here.provider, api=api).open()
        assert isinstance(opened, Unsent)
        assert opened.outcome_class is OutcomeClass.SOFT
        assert here.twin.calls == []


# ---- refusals


@pytest.mark.parametrize(
    ("status", "reason", "text", "kind", "outcome_class"),
    [
        (400, "failedPrecondition", "Mail service not enabled", Deferred, "auth"),
        (400, "badRequest", "Invalid To header", Rejected, "config"),
        (400, "invalidArgument", "'raw' RFC822 payload required", Rejected, "config"),
        (401, "authError", "Invalid Credentials", Deferred, "auth"),
        (403, "insufficientPermissions", "Insufficient Permission", Deferred, "auth"),
        (403, "domainPolicy", "The domain administrators have disabled it", Deferred, "auth"),
        (403, "dailyLimitExceeded", "Daily Limit Exceeded", Deferred, "limit"),
        (403, "rateLimitExceeded", "Rate Limit Exceeded", Deferred, "soft"),
        (403, "userRateLimitExceeded", "User Rate Limit Exceeded", Deferred, "soft"),
        (429, "rateLimitExceeded", "Too many concurrent requests for user", Deferred, "soft"),
        (429, "rateLimitExceeded", "User-rate limit exceeded. (Mail sending)", Deferred, "limit"),
        (413, "uploadTooLarge", "Request Entity Too Large", Rejected, "config"),
        (408, "timeout", "Your client has taken too long", InDoubt, None),
        (409, "aborted", "Conflict", Deferred, "soft"),
        (404, "notFound", "Requested entity was not found.", InDoubt, None),
        (500, "backendError", "Backend Error", InDoubt, None),
        (502, "", "Bad Gateway", InDoubt, None),
        (503, "backendError", "Backend Error", InDoubt, None),
        (302, "", "Found", InDoubt, None),
    ],
)
async def test_a_refusal_has_the_class_of_the_table(
    status: int, reason: str, text: str, kind: type, outcome_class: str | None
) -> None:
    async with setting(SEND) as here:
        here.twin.fail(
            "users.messages.send", "status", status=status, code=reason, message=text, times=2
        )
        outcome = await here.submit()
        assert type(outcome) is kind, outcome
        assert getattr(outcome, "outcome_class", None) == outcome_class
        if isinstance(outcome, Deferred | Rejected):
            assert (outcome.code, outcome.status, outcome.text) == (status, reason, text)
        # A send request leaves once.
        assert here.twin.calls == ["users.messages.send"]


@pytest.mark.parametrize(
    ("text", "header", "seconds"),
    [
        ("User-rate limit exceeded.  Retry after {} (Mail sending)", None, 7200),
        ("User-rate limit exceeded.  Retry after {}", None, 7200),
        ("Too many requests", 90, 90),
        ("Too many requests. Retry after {}", 90, 90),
    ],
)
async def test_gmails_wish_to_wait_is_kept(text: str, header: int | None, seconds: int) -> None:
    async with setting(SEND) as here:
        until = (here.twin.now() + timedelta(hours=2)).isoformat(timespec="milliseconds")
        words = text.format(until.replace("+00:00", "Z"))
        here.twin.fail(
            "users.messages.send", "status", status=429, code="rateLimitExceeded", message=words,
            retry_after_s=header,
        )  # fmt: skip
        outcome = await here.submit()
        assert isinstance(outcome, Deferred)
        assert outcome.outcome_class is OutcomeClass.LIMIT
        assert outcome.retry_after is not None
        assert abs(outcome.retry_after.total_seconds() - seconds) < 5


async def test_a_refused_draft_is_no_submission() -> None:
    async with setting(MODIFY) as here:
        session = await here.session()
        here.twin.fail("users.drafts.create", "status", status=400, code="invalidArgument")
        assert isinstance(await session.prepare(MESSAGE), Rejected)
        here.twin.fail(
            "users.drafts.create", "status", status=429, code="rateLimitExceeded",
            retry_after_s=3600,
        )  # fmt: skip
        throttled = await session.prepare(MESSAGE)
        assert isinstance(throttled, Unsent)
        assert (throttled.reason, throttled.outcome_class) == ("throttled", OutcomeClass.LIMIT)
        assert throttled.retry_after == timedelta(hours=1)
        here.twin.fail("users.drafts.create", "status", status=503)
        unwell = await session.prepare(MESSAGE)
        assert isinstance(unwell, Unsent)
        assert (unwell.reason, unwell.outcome_class) == ("protocol_error", OutcomeClass.SOFT)
        # What may have made a draft is not made again.
        assert here.twin.calls == ["users.drafts.create"] * 3
        assert here.mailbox.drafts == {}


async def test_a_draft_that_was_not_taken_for_haste_is_made_after_a_pause() -> None:
    async with setting(MODIFY) as here:
        here.twin.fail("users.drafts.create", "status", status=429, code="rateLimitExceeded")
        assert isinstance(await here.prepare(), Fence)
        assert len(here.pauses) == 1
        assert 1 <= here.pauses[0] <= 1.5


async def test_quota_units_run_out_for_a_minute() -> None:
    async with setting(SEND) as here:
        here.mailbox.conduct.units_per_minute = 150
        assert isinstance(await here.submit(), Accepted)
        hasty = await here.submit()
        assert isinstance(hasty, Deferred)
        assert (hasty.outcome_class, hasty.status) == (OutcomeClass.SOFT, "userRateLimitExceeded")
        here.twin.advance(61)
        assert isinstance(await here.submit(), Accepted)


async def test_an_account_without_mail_is_the_mailboxs_fault() -> None:
    async with setting(MODIFY) as here:
        here.mailbox.conduct.has_mail = False
        prepared = await (await here.session()).prepare(MESSAGE)
        assert isinstance(prepared, Unsent)
        assert (prepared.reason, prepared.outcome_class) == ("auth_failed", OutcomeClass.AUTH)
        assert prepared.text == "Mail service not enabled"


# ---- ahead of the request


@pytest.mark.parametrize(
    ("url", "reason", "outcome_class"),
    [
        ("https://127.0.0.1:{}", "tls_failed", "config"),
        ("http://no-such-host.invalid:{}", "dns_failed", "soft"),
        ("http://127.0.0.1:1", "connect_refused", "soft"),
    ],
)
async def test_what_fails_ahead_of_the_request_is_unsent(
    url: str, reason: str, outcome_class: str
) -> None:
    async with setting(MODIFY) as here:
        port = here.provider.base_url.rpartition(":")[2]
        provider = replace(here.provider, base_url=url.format(port))
        session = await provider.open()
        assert not isinstance(session, Unsent)

        def never() -> bool:
            raise AssertionError("asked before there was a connection")

        fence = Fence("gmail", "r1")
        outcome = await session.submit(
            SENDER, RECIPIENT, MESSAGE, before_mail_from=never, fence=fence
        )
        assert isinstance(outcome, Unsent), outcome
        assert (outcome.reason, outcome.outcome_class) == (reason, outcome_class)
        assert outcome.text


async def test_a_connection_that_never_comes_about_is_unsent() -> None:
    # A listener whose queue is full takes no connection.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        with socket.create_connection(address):
            async with setting(SEND) as here:
                api = replace(here.provider.api, timeouts=ApiTimeouts(0.3, 0.3, 0.3, 5))
                url = f"http://127.0.0.1:{address[1]}"
                session = await replace(here.provider, api=api, base_url=url).open()
                assert not isinstance(session, Unsent)
                outcome = await session.submit(
                    SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True
                )
                assert isinstance(outcome, Unsent), outcome
                assert outcome.reason == "connect_timeout"


# ---- threads


async def test_a_lost_thread_is_left_out_and_the_message_leaves_once() -> None:
    async with setting(SEND) as here:
        asked = []

        def ask() -> bool:
            asked.append(len(here.twin.calls))
            return True

        outcome = await (await here.session()).submit(
            SENDER, RECIPIENT, MESSAGE, before_mail_from=ask, thread=ThreadHint("18aaaaaaaaaaaaaa")
        )
        assert isinstance(outcome, Accepted)
        assert len(here.twin.submissions) == 1
        assert asked == [0, 1]


async def test_a_lost_thread_and_a_slot_that_closed_send_nothing() -> None:
    async with setting(SEND) as here:
        answers = iter((True, False))
        outcome = await (await here.session()).submit(
            SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: next(answers),
            thread=ThreadHint("18aaaaaaaaaaaaaa"),
        )  # fmt: skip
        assert isinstance(outcome, Deferred)
        assert outcome.outcome_class is OutcomeClass.SOFT
        assert here.twin.submissions == []


# ---- odd answers


@asynccontextmanager
async def answering(*raws: bytes) -> AsyncIterator[str]:
    """Serve fixed answers, one each connection, the last one ever after; gives the base URL."""
    left = list(raws)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answered(body: bytes) -> bytes:
    """Return a whole answer 200."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{", Accepted),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Accepted),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Accepted),
        (b"HTTP/1.1 403 No\r\nContent-Length: 500\r\n\r\n{", Deferred),
        (b"HTTP/1.1 200 OK\r\nContent-Le", InDoubt),
        (b"HTTP/1.1 20", InDoubt),
        (b"SSH-2.0-OpenSSH\r\n", InDoubt),
        (b"", InDoubt),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", Accepted),
    ],
)
async def test_the_status_decides_even_when_the_rest_is_lost(raw: bytes, kind: type) -> None:
    async with setting(SEND) as here, answering(raw) as url:
        session = await replace(here.provider, base_url=url).open()
        assert not isinstance(session, Unsent)
        outcome = await session.submit(SENDER, RECIPIENT, MESSAGE, before_mail_from=lambda: True)
        assert type(outcome) is kind, outcome


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"messages":[{}]}', b"<html>", b'{"messages":7}'])
async def test_looking_survives_any_answer(body: bytes) -> None:
    async with setting(MODIFY) as here, answering(answered(body)) as url:
        provider = replace(here.provider, base_url=url)
        found = await provider.find_sent(RECIPIENT, "job_1", LONG_AGO)
        assert not isinstance(found, Found)
        assert isinstance(found, Unavailable) == (body != b"{}")


async def test_a_read_back_that_fails_does_not_unmake_the_acceptance() -> None:
    async with setting(MODIFY) as here:
        here.twin.fail("users.messages.get", "reset_before")
        outcome = await here.submit()
        assert isinstance(outcome, Accepted)
        assert (outcome.message_id, outcome.provider_message_id) == (
            None, here.twin.submissions[0].id,
        )  # fmt: skip


# ---- proof


async def test_a_deletion_whose_answer_is_lost_proves_nothing() -> None:
    async with setting(MODIFY) as here:
        fence = await here.prepare()
        here.twin.fail("users.drafts.delete", "reset_after", times=3)
        lost = await here.provider.destroy(fence)
        assert isinstance(lost, Unavailable)
        assert here.twin.calls.count("users.drafts.delete") == 1


async def test_a_disarmed_draft_proves_itself_again_and_cannot_be_sent() -> None:
    async with setting(MODIFY) as here:
        fence = await here.prepare()
        here.twin.fail("users.drafts.update", "reset_after", times=3)
        assert isinstance(await here.provider.disarm(fence), Unavailable)
        assert await here.provider.disarm(fence) == Destroyed()
        assert await here.provider.disarm(fence) == Destroyed()
        assert isinstance(await here.submit(fence=fence), Rejected)
        assert here.twin.submissions == []
        assert await here.provider.destroy(fence) == Destroyed()
        assert await here.provider.disarm(fence) == Gone()


async def test_a_sent_draft_cannot_be_disarmed() -> None:
    async with setting(MODIFY) as here:
        fence = await here.prepare()
        assert isinstance(await here.submit(fence=fence), Accepted)
        assert await here.provider.disarm(fence) == Gone()


@pytest.mark.parametrize("status", [500, 503])
async def test_a_deletion_answered_5xx_is_not_made_again(status: int) -> None:
    async with setting(MODIFY) as here:
        fence = await here.prepare()
        here.twin.fail("users.drafts.delete", "done_then_status", status=status)
        assert isinstance(await here.provider.destroy(fence), Unavailable)


async def test_a_deletion_that_was_only_too_hasty_is() -> None:
    async with setting(MODIFY) as here:
        fence = await here.prepare()
        here.twin.fail("users.drafts.delete", "status", status=429)
        assert await here.provider.destroy(fence) == Destroyed()


async def test_a_look_is_repeated_and_gives_up() -> None:
    async with setting(MODIFY) as here:
        await here.submit()
        here.twin.fail("users.messages.list", "status", status=503, times=2)
        assert isinstance(await here.provider.find_sent(RECIPIENT, "job_1", LONG_AGO), Found)
        here.twin.fail("users.messages.list", "status", status=503, times=3)
        gone = await here.provider.find_sent(RECIPIENT, "job_1", LONG_AGO)
        assert isinstance(gone, Unavailable)
        assert gone.outcome_class is OutcomeClass.SOFT


async def test_only_mail_to_the_recipient_and_since_then_is_looked_at() -> None:
    async with setting(MODIFY) as here:
        await here.submit()
        here.twin.calls.clear()
        later = here.twin.now() + timedelta(hours=1)
        assert not isinstance(await here.provider.find_sent(RECIPIENT, "job_1", later), Found)
        # A search operand cannot be broken out of.
        odd = 'bob@example.test" OR in:sent ('
        assert not isinstance(await here.provider.find_sent(odd, "job_1", LONG_AGO), Found)
        assert "users.messages.get" not in here.twin.calls


async def test_sent_mail_is_found_on_a_later_page_and_in_the_bin() -> None:
    async with setting(MODIFY) as here:
        await here.submit()
        here.mailbox.relabel(here.twin.submissions[0].id, ["TRASH"], [])
        for number in range(2, 120):
            other = MESSAGE.replace(b"job_1", b"job_%d" % number)
            here.mailbox.send(other, None)
        assert isinstance(await here.provider.find_sent(RECIPIENT, "job_1", LONG_AGO), Found)


async def test_mail_received_with_our_header_is_not_taken_for_sent() -> None:
    async with setting(MODIFY) as here:
        here.mailbox.receive(MESSAGE)
        assert not isinstance(await here.provider.find_sent(RECIPIENT, "job_1", LONG_AGO), Found)


@pytest.mark.parametrize(("label", "kind"), [("DRAFT", NotSeen), ("SENT", Found)])
async def test_an_index_that_calls_a_draft_sent_is_not_believed(label: str, kind: type) -> None:
    shown = {
        "id": "m1", "threadId": "t1", "labelIds": [label], "internalDate": "1791000000000",
        "payload": {"headers": [{"name": "x-paceline-job", "value": "job_1"}]},
    }  # fmt: skip
    raws = (answered(b'{"messages":[{"id":"m1"}]}'), answered(json.dumps(shown).encode()))
    async with setting(MODIFY) as here, answering(*raws) as url:
        provider = replace(here.provider, base_url=url)
        assert type(await provider.find_sent(RECIPIENT, "job_1", LONG_AGO)) is kind


def test_json_and_base64_are_what_gmail_wants() -> None:
    """`raw` is base64url (discovery document, Message.raw)."""
    provider = GmailProvider(
        GmailSettings((SEND,)), Api(httpx.AsyncClient(), no_tokens, lambda: LONG_AGO)
    )
    data = b"To: x@y.test\r\n\r\n" + bytes(range(256))
    call = provider._posting(("messages", "send"), data, _Wrap(None))
    assert call.url == "https://gmail.googleapis.com/gmail/v1/users/me/messages/send"
    raw = json.loads(call.body)["raw"]
    assert not set(raw) & set("+/")
    assert base64.urlsafe_b64decode(raw) == data
