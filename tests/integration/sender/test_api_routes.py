"""Testing, looking again at, and giving back the grant of a mailbox behind an API."""

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from tests.twins.gmail import oauth as google
from tests.twins.graph import oauth as microsoft

from paceline_common import ids
from paceline_common.keys import KeyService
from paceline_common.tokens import SealedTokens
from paceline_sender.app import build
from paceline_sender.settings import SenderSettings

from .api_mailbox import FULL, SEND_ONLY, SENDS, Api, ApiKind, api
from .conftest import World

pytestmark = pytest.mark.parametrize("kind", ["gmail", "graph"])


@pytest.fixture
async def box(
    kind: ApiKind, world: World, keys: KeyService, own_keys: KeyService, settings: SenderSettings
) -> AsyncIterator[Api]:
    async with api(kind, world, keys, own_keys, settings) as one:
        yield one


@pytest.fixture
async def client(box: Api) -> AsyncIterator[httpx.AsyncClient]:
    service = build(box.mail._settings)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(service.http),
        base_url="http://sender",
        headers={"Authorization": "Bearer internal-token"},
    ) as client:
        yield client
    await service.db.close()
    service.keys.close()


async def asked(
    box: Api, world: World, keys: KeyService, scopes: tuple[str, ...], **changes: Any
) -> dict[str, Any]:
    """What the gateway sends to test a mailbox that is not saved yet."""
    box.twin.add_mailbox(world.email)
    granted = box.identity.grant(world.email, scopes if box.kind == "gmail" else frozenset(scopes))
    client = google if box.kind == "gmail" else microsoft
    oauth = {
        "client_id": client.CLIENT_ID, "client_secret": client.CLIENT_SECRET,
        "refresh_token": granted["refresh_token"], "access_token": granted["access_token"],
        "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "scopes": list(scopes), **changes,
    }  # fmt: skip
    sealed = await keys.seal(
        "send", world.workspace_id, msgspec.json.encode({"oauth": oauth}),
        table="mailbox", row=world.mailbox_id,
    )  # fmt: skip
    return {
        "workspace_id": ids.encode("ws", world.workspace_id),
        "mailbox_id": ids.encode("mbx", world.mailbox_id),
        "email": world.email,
        "display_name": "Ann",
        "kind": box.kind,
        "smtp": None,
        "oauth": box.oauth(scopes),
        "credential": base64.b64encode(sealed).decode(),
        "token": "probe-token-1",
    }


@pytest.mark.parametrize("scopes", [FULL, SEND_ONLY])
async def test_a_probe_sends_one_line_to_the_mailbox_itself(
    world: World, box: Api, keys: KeyService, client: httpx.AsyncClient, scopes: Any
) -> None:
    answer = await client.post(
        "/internal/probe", json=await asked(box, world, keys, scopes[box.kind])
    )
    assert answer.json()["ok"] is True, answer.text
    (message,) = box.sent()
    assert message["X-Paceline-Probe"] == "probe-token-1"
    assert message["To"] == world.email
    assert box.drafts() == 0


async def test_a_probe_that_is_refused_leaves_no_draft_behind(
    world: World, box: Api, keys: KeyService, client: httpx.AsyncClient
) -> None:
    question = await asked(box, world, keys, FULL[box.kind])
    code = "invalidArgument" if box.kind == "gmail" else "ErrorSendAsDenied"
    status = 400 if box.kind == "gmail" else 403
    box.fail(SENDS[box.kind], "status", status=status, code=code, message="Not like this.")
    answer = (await client.post("/internal/probe", json=question)).json()
    code = "message_refused" if box.kind == "gmail" else "sender_refused"
    assert (answer["ok"], answer["code"], answer["message"]) == (False, code, "Not like this.")
    assert box.drafts() == 0
    assert box.sent() == []


async def test_a_probe_of_a_revoked_grant_says_so_and_what_to_do(
    world: World, box: Api, keys: KeyService, client: httpx.AsyncClient
) -> None:
    question = await asked(
        box, world, keys, FULL[box.kind], expires_at=datetime.now(UTC).isoformat()
    )
    box.revoke()
    answer = (await client.post("/internal/probe", json=question)).json()
    assert (answer["ok"], answer["code"]) == (False, "auth_failed")
    words = "expired or revoked" if box.kind == "gmail" else "AADSTS50173"
    assert words in answer["message"]
    assert "onnect the mailbox again" in answer["remedy"]
    assert box.sent() == []


async def test_a_probe_of_a_grant_without_sending_is_refused_before_anything_leaves(
    world: World, box: Api, keys: KeyService, client: httpx.AsyncClient
) -> None:
    scopes = (f"{google.PREFIX}gmail.readonly",) if box.kind == "gmail" else ("Mail.Read",)
    answer = await client.post("/internal/probe", json=await asked(box, world, keys, scopes))
    assert answer.json()["code"] == "auth_failed"
    assert "does not include sending" in answer.json()["message"]


async def test_a_credential_without_a_grant_is_told_apart(
    world: World, box: Api, keys: KeyService, client: httpx.AsyncClient
) -> None:
    question = await asked(box, world, keys, FULL[box.kind])
    sealed = await keys.seal(
        "send", world.workspace_id, b'{"password": "x"}', table="mailbox", row=world.mailbox_id
    )
    question["credential"] = base64.b64encode(sealed).decode()
    answer = (await client.post("/internal/probe", json=question)).json()
    assert (answer["ok"], answer["code"]) == (False, "protocol_error")


async def test_a_recheck_asks_for_the_grant_not_for_a_token_that_is_still_good(
    world: World, box: Api, client: httpx.AsyncClient
) -> None:
    await box.connect()
    whose = f"{ids.encode('ws', world.workspace_id)}/{ids.encode('mbx', world.mailbox_id)}"
    answer = (await client.post(f"/internal/recheck/{whose}")).json()
    assert answer["ok"] is True, answer
    assert box.identity.refreshes == 1
    box.revoke()
    answer = (await client.post(f"/internal/recheck/{whose}")).json()
    assert (answer["ok"], answer["code"]) == (False, "auth_failed")
    good, bad = world.events("mailbox-probed")
    assert (good.ok, good.leg, bad.ok, bad.code) == (True, "send", False, "auth_failed")


async def test_revoking_gives_the_newest_grant_back_and_drops_the_tokens(
    world: World, box: Api, own_keys: KeyService, client: httpx.AsyncClient
) -> None:
    await box.connect(access_lasts=timedelta(minutes=1))
    whose = f"{ids.encode('ws', world.workspace_id)}/{ids.encode('mbx', world.mailbox_id)}"
    # A refresh leaves a row behind.
    assert (await client.post(f"/internal/recheck/{whose}")).json()["ok"] is True
    stored = SealedTokens(
        box.mail._db, own_keys, "send", workspace_id=world.workspace_id,
        mailbox_id=world.mailbox_id, credential_version=1,
    )  # fmt: skip
    assert await stored.load() is not None
    answer = (await client.post(f"/internal/revoke/{whose}")).json()
    assert await stored.load() is None
    if box.kind == "gmail":
        assert answer["result"] == "revoked"
        assert box.identity.refresh == {}
        again = (await client.post(f"/internal/revoke/{whose}")).json()
        assert again["result"] == "already_gone"
    else:
        assert answer["result"] == "not_supported"
        assert "no application" in answer["message"]


async def test_revoking_what_has_no_grant_says_so(
    world: World, box: Api, client: httpx.AsyncClient
) -> None:
    whose = f"{ids.encode('ws', world.workspace_id)}/{ids.encode('mbx', world.mailbox_id)}"
    assert (await client.post(f"/internal/revoke/{whose}")).json()["result"] == "none"
    assert (await client.post("/internal/revoke/ws_x/mbx_y")).status_code == 404
    world.rows(
        "UPDATE gateway.mailbox SET send_credential = 'not sealed' WHERE mailbox_id = %s",
        world.mailbox_id,
    )
    assert (await client.post(f"/internal/revoke/{whose}")).json()["result"] == "none"
