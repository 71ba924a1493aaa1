"""The reading leg of a connection test, and of a disconnect, for mailboxes behind an API."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest
from tests.conformance.sources.accounts import FULL, READ_ONLY, SEND_ONLY
from tests.integration.reply.boxes import Box, connected
from tests.integration.reply.world import World
from tests.waiting import until

from paceline_common.keys import KeyService
from paceline_providers.base import ProbeResult
from paceline_reply.probe import Prober
from paceline_reply.reader import Parts
from paceline_reply.revoke import Revoker

Probe = Callable[..., Any]


@pytest.fixture(params=["gmail", "graph"])
async def box(
    request: pytest.FixtureRequest,
    world: World,
    parts: Parts,
    keys: KeyService,
    http: httpx.AsyncClient,
) -> AsyncIterator[Box]:
    async with connected(request.param, world, parts, keys, http) as one:
        yield one


@pytest.fixture
def probe(box: Box) -> Probe:
    async def run(
        token: str,
        *,
        wait_s: float = 20.0,
        scopes: tuple[str, ...] | None = None,
        spoil: dict[str, str] | None = None,
        version: int | None = None,
    ) -> ProbeResult:
        credential, oauth = box.account.credential(*(scopes or FULL[box.kind]))
        credential["oauth"] |= spoil or {}
        sealed = await box.world.gateway_keys.seal(
            "read", box.world.workspace_id, msgspec.json.encode(credential), table="mailbox",
            row=box.mailbox_id,
        )  # fmt: skip
        prober = Prober(doors=box.doors, pace=box.parts.pace, threads=box.parts.threads)
        return await prober.probe(
            workspace_id=box.world.workspace_id,
            mailbox_id=box.mailbox_id,
            email=box.account.email,
            kind=box.kind,
            imap=None,
            oauth=oauth,
            credential=sealed,
            credential_version=version,
            token=token,
            wait_s=wait_s,
        )

    return run


def message(box: Box, token: str, header: str | None = None) -> bytes:
    return (
        f"From: {box.account.email}\r\nTo: {box.account.email}\r\n"
        f"Subject: Paceline connection test {token}\r\nMessage-ID: <{token}@north.test>\r\n"
        f"X-Paceline-Probe: {header or token}\r\n\r\ntest\r\n"
    ).encode()


async def test_the_test_message_is_awaited_read_back_and_taken_away(box: Box, probe: Probe) -> None:
    token = secrets.token_hex(8)
    before = len(box.account.twin.calls)
    running = asyncio.create_task(probe(token))
    await until(lambda: len(box.account.twin.calls) > before + 1)
    other = box.account.deliver(message(box, "another-token-1"))
    mine = box.account.deliver(message(box, token))

    found = await running

    assert (found.ok, found.code, found.remedy) == (True, "ok", "")
    assert "stays" not in found.message
    assert box.account.kept(other)
    assert not box.account.kept(mine)


async def test_among_spam_it_is_found_too_and_that_is_said(box: Box, probe: Probe) -> None:
    token = secrets.token_hex(8)
    box.account.deliver(message(box, token), spam=True)

    found = await probe(token)

    assert found.ok
    assert "spam" in found.message


async def test_a_grant_without_deleting_leaves_it_and_says_so(box: Box, probe: Probe) -> None:
    token = secrets.token_hex(8)
    mine = box.account.deliver(message(box, token))

    found = await probe(token, scopes=READ_ONLY[box.kind])

    assert found.ok
    assert "stays in the mailbox" in found.message
    assert box.account.kept(mine)


async def test_a_message_that_only_has_the_subject_is_no_proof(box: Box, probe: Probe) -> None:
    token = secrets.token_hex(8)
    kept = box.account.deliver(message(box, token, header="something-else"))

    found = await probe(token, wait_s=1)

    assert (found.ok, found.code) == (False, "not_read_back")
    assert "same account" in found.remedy
    assert box.account.kept(kept)


async def test_the_copy_among_sent_mail_does_not_show_that_anything_arrived(
    box: Box, probe: Probe
) -> None:
    token = secrets.token_hex(8)
    box.account.send(message(box, token).replace(
        f"To: {box.account.email}".encode(), b"To: bob@else.test"
    ))  # fmt: skip

    assert (await probe(token, wait_s=1)).code == "not_read_back"


async def test_a_grant_that_may_not_read_brings_a_remedy(box: Box, probe: Probe) -> None:
    found = await probe("12345678", wait_s=0, scopes=SEND_ONLY[box.kind])

    assert (found.ok, found.code) == (False, "auth_failed")
    assert "permission" in found.remedy


async def test_a_refused_grant_brings_the_providers_own_words(box: Box, probe: Probe) -> None:
    found = await probe(
        "12345678", wait_s=0, spoil={"access_token": "", "refresh_token": "not one of ours"}
    )

    assert (found.ok, found.code) == (False, "auth_failed")
    assert "expired" in found.message or "AADSTS" in found.message
    assert "Connect the account again" in found.remedy


async def test_tokens_of_a_test_are_kept_only_when_the_mailbox_is_saved(
    box: Box, probe: Probe
) -> None:
    await probe("12345678", wait_s=0)
    assert box.world.tokens(box.mailbox_id) == []

    await probe("12345678", wait_s=0, version=1)
    assert len(box.world.tokens(box.mailbox_id)) == 1


# ---- giving a grant back


def revoker(box: Box, http: httpx.AsyncClient) -> Revoker:
    return Revoker(doors=box.doors, db=box.parts.db, http=http, settings=box.settings)


async def test_a_grant_is_given_back_where_the_provider_lets_one_and_its_tokens_go(
    box: Box, http: httpx.AsyncClient
) -> None:
    task = asyncio.create_task(box.reader().run())
    box.world.connect(box.mailbox_id)
    await until(lambda: box.world.tokens(box.mailbox_id))
    task.cancel()
    await asyncio.wait([task])

    given = await revoker(box, http).revoke(box.world.workspace_id, box.mailbox_id)

    assert given.result == ("revoked" if box.kind == "gmail" else "not_supported")
    assert given.message
    assert given.dropped
    assert box.world.tokens(box.mailbox_id) == []


async def test_a_grant_that_is_gone_already_and_a_provider_that_is_away_are_told(
    box: Box, http: httpx.AsyncClient
) -> None:
    if box.kind == "gmail":
        box.account.revoke()
        gone = await revoker(box, http).revoke(box.world.workspace_id, box.mailbox_id)
        assert gone.result == "already_gone"
        away = box.settings.model_copy(update={"google_revoke_url": "http://127.0.0.1:1/revoke"})
    else:
        away = box.settings
    given = await Revoker(doors=box.doors, db=box.parts.db, http=http, settings=away).revoke(
        box.world.workspace_id, box.mailbox_id
    )

    assert given.result == ("failed" if box.kind == "gmail" else "not_supported")
    assert not given.dropped


async def test_a_mailbox_with_a_password_has_nothing_to_give_back(
    parts: Parts, world: World, http: httpx.AsyncClient
) -> None:
    one = Revoker(doors=parts.doors, db=parts.db, http=http, settings=parts.settings)

    assert (await one.revoke(world.workspace_id, world.mailbox_id)).result == "none"
    assert (await one.revoke(world.workspace_id, world.mailbox_id + 999)).result == "none"
