"""What services tell one another about submissions in doubt is understood as it was meant."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, cast, get_args

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from paceline_gateway import settling
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import Found, NotSeen, Unavailable
from paceline_reply import api as reply
from paceline_sender import settle
from paceline_sender.sentmail import Away, SentMail

WORKSPACE, MAILBOX = 7, 2**40 + 5


async def test_a_persons_word_is_asked_and_answered_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []
    at = datetime(2026, 11, 20, 9, tzinfo=UTC)

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        told = settle.SettleAnswer(job_id="job_x", settled_as="unsent", settled_at=at)
        return httpx.Response(200, content=told.model_dump_json())

    monkeypatch.setattr(settling, "internal_client", _client(answer))
    client = settling.Settling("http://sender", SecretStr("s"))
    word = settling.Word("unsent", "seen in Drafts", "key_1", "192.0.2.1")
    assert await client.settle(WORKSPACE, 2**41 + 3, word) == at
    await client.close()
    understood = settle.SettleRequest.model_validate(asked[0])
    assert (understood.workspace_id, understood.job_id) == (WORKSPACE, 2**41 + 3)
    assert (understood.settle_as, understood.why, understood.by, understood.source_ip) == (
        "unsent", "seen in Drafts", "key_1", "192.0.2.1",
    )  # fmt: skip
    assert get_args(settling.SettleAs) == get_args(settle.SettledAs)


@pytest.mark.parametrize(
    "told",
    [
        Found("id/1", "<m@x.test>", "t1", datetime(2026, 11, 20, 9, tzinfo=UTC)),
        Found("id/1", None, None, datetime(2026, 11, 20, 9, tzinfo=UTC)),
        NotSeen(),
        Unavailable(None, "the grant does not include searching the mailbox"),
        Unavailable(OutcomeClass.AUTH, "revoked"),
        Unavailable(OutcomeClass.LIMIT, "slow down", timedelta(seconds=90)),
    ],
    ids=repr,
)
async def test_what_reply_finds_among_sent_mail_is_what_the_sender_hears(
    told: Found | NotSeen | Unavailable,
) -> None:
    heard: list[tuple[Any, ...]] = []

    class Finder:
        async def find(self, *question: Any) -> Found | NotSeen | Unavailable:
            heard.append(question)
            return told

    app = FastAPI()
    app.include_router(
        reply.router(cast("Any", None), cast("Any", Finder()), cast("Any", None)),
        prefix="/internal",
    )
    since = datetime(2026, 11, 20, 8, tzinfo=UTC)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://r") as http:
        found = await SentMail(http).find(
            WORKSPACE, MAILBOX, "bob@example.test", "job_1.ws_1.1.a-_Z", since
        )
    assert found == told
    assert heard == [(WORKSPACE, MAILBOX, "bob@example.test", "job_1.ws_1.1.a-_Z", since)]


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b"{}"), (404, b"{}"), (200, b"<html>"), (200, b"{}"), (200, b'{"found":true}'),
     (200, b'{"found":"yes"}'), (200, b'{"unavailable":"tired"}')],
)  # fmt: skip
async def test_an_answer_that_is_none_finds_nothing_and_says_so(status: int, body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=body))
    async with httpx.AsyncClient(transport=transport, base_url="http://r") as http:
        found = await SentMail(http).find(
            WORKSPACE, MAILBOX, "bob@example.test", "t", datetime(2026, 1, 1, tzinfo=UTC)
        )
    assert isinstance(found, Away)


def _client(answer: Callable[[httpx.Request], httpx.Response]) -> Callable[..., httpx.AsyncClient]:
    def made(base_url: str, _token: SecretStr, *, timeout_s: float) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.MockTransport(answer), base_url=base_url, timeout=timeout_s
        )

    return made
