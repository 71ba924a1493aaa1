"""`/internal/probe`, `/internal/recheck` and `/internal/preview`, as their callers use them."""

import base64
import json
from typing import Any

import httpx
import pytest
from tests.waiting import until

from paceline_common import ids
from paceline_common.keys import KeyService
from paceline_local.stack import Stack

from .conftest import PASSWORD, World


async def request(
    house: Stack, world: World, keys: KeyService, password: str = PASSWORD, **smtp: Any
) -> dict[str, Any]:
    sealed = await keys.seal(
        "send", world.workspace_id, json.dumps({"password": password}).encode(),
        table="mailbox", row=world.mailbox_id,
    )  # fmt: skip
    return {
        "workspace_id": ids.encode("ws", world.workspace_id),
        "mailbox_id": ids.encode("mbx", world.mailbox_id),
        "email": world.email,
        "display_name": "Ann",
        "smtp": {
            "host": "127.0.0.1", "port": house.ports["smtp"], "tls": "starttls",
            "username": world.email, "auth": "auto", **smtp,
        },
        "credential": base64.b64encode(sealed).decode(),
        "token": "probe-token-1",
    }  # fmt: skip


async def test_a_probe_sends_one_line_to_the_mailbox_itself(
    house: Stack, world: World, keys: KeyService, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/internal/probe", json=await request(house, world, keys))
    assert answer.status_code == 200, answer.text
    assert answer.json()["ok"] is True
    assert answer.json()["code"] == "ok"
    folder = house.mailhost.maildir(world.email) / "new"
    await until(lambda: folder.exists() and any(folder.iterdir()), "delivered")
    (path,) = folder.iterdir()
    text = path.read_text()
    assert "Subject: Paceline connection test probe-token-1" in text
    assert "X-Paceline-Probe: probe-token-1" in text
    (event,) = world.events("mailbox-probed")
    assert (event.leg, event.ok) == ("send", True)


async def test_a_probe_of_a_mailbox_not_yet_saved_raises_no_event(
    house: Stack, world: World, keys: KeyService, client: httpx.AsyncClient
) -> None:
    asked = await request(house, world, keys)
    asked["mailbox_id"] = ids.encode("mbx", world.mailbox_id + 1)
    sealed = await keys.seal(
        "send", world.workspace_id, json.dumps({"password": PASSWORD}).encode(),
        table="mailbox", row=world.mailbox_id + 1,
    )  # fmt: skip
    asked["credential"] = base64.b64encode(sealed).decode()
    answer = await client.post("/internal/probe", json=asked)
    assert answer.json()["ok"] is True
    assert world.events("mailbox-probed") == []


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"password": "wrong"}, "auth_failed", "5.7.8"),
        ({"host": "no-such-host.invalid"}, "dns_failed", "no-such-host.invalid"),
        ({"host": "10.255.255.1"}, "host_not_allowed", "10.255.255.1"),
        ({"port": 1}, "connect_refused", ""),
        ({"tls": "implicit"}, "tls_failed", ""),
    ],
)
async def test_a_failed_probe_gives_the_exact_words_and_a_remedy(
    house: Stack,
    world: World,
    keys: KeyService,
    client: httpx.AsyncClient,
    change: dict[str, Any],
    code: str,
    words: str,
) -> None:
    answer = await client.post("/internal/probe", json=await request(house, world, keys, **change))
    body = answer.json()
    assert (body["ok"], body["code"]) == (False, code)
    assert words in body["message"]
    assert body["message"]
    assert body["remedy"]


def recheck_path(world: World, mailbox_id: int | None = None) -> str:
    return "/internal/recheck/{}/{}".format(
        ids.encode("ws", world.workspace_id), ids.encode("mbx", mailbox_id or world.mailbox_id)
    )


async def test_a_recheck_signs_in_with_what_is_stored_and_sends_nothing(
    house: Stack, world: World, client: httpx.AsyncClient
) -> None:
    answer = await client.post(recheck_path(world))
    assert answer.status_code == 200, answer.text
    assert (answer.json()["ok"], answer.json()["code"]) == (True, "ok")
    (event,) = world.events("mailbox-probed")
    assert (event.leg, event.ok, event.mailbox_id) == ("send", True, world.mailbox)
    folder = house.mailhost.maildir(world.email) / "new"
    assert not folder.exists() or not any(folder.iterdir())


async def test_a_failed_recheck_tells_the_servers_words_without_addresses_in_the_event(
    house: Stack, world: World, client: httpx.AsyncClient
) -> None:
    house.mailhost.add_user(world.email, "another-password-8")
    answer = (await client.post(recheck_path(world))).json()
    assert (answer["ok"], answer["code"]) == (False, "auth_failed")
    assert "5.7.8" in answer["message"]
    assert answer["remedy"]
    (event,) = world.events("mailbox-probed")
    assert (event.ok, event.code) == (False, "auth_failed")
    assert "5.7.8" in event.detail
    assert "@" not in event.detail


async def test_a_recheck_of_a_credential_that_cannot_be_opened_fails_by_name(
    world: World, client: httpx.AsyncClient
) -> None:
    world.rows(
        "UPDATE gateway.mailbox SET send_credential = 'x' WHERE mailbox_id = %s", world.mailbox_id
    )
    answer = (await client.post(recheck_path(world))).json()
    assert (answer["ok"], answer["code"]) == (False, "credential_unreadable")


async def test_a_mailbox_that_is_none_cannot_be_rechecked(
    world: World, client: httpx.AsyncClient
) -> None:
    for path in (recheck_path(world, world.mailbox_id + 1), "/internal/recheck/ws_1/mbx_2"):
        answer = await client.post(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_mailbox")
    world.rows(
        "UPDATE gateway.mailbox SET deleted_at = now(), is_active = false, send_credential = NULL,"
        " read_credential = NULL WHERE mailbox_id = %s",
        world.mailbox_id,
    )
    assert (await client.post(recheck_path(world))).status_code == 404
    assert world.events("mailbox-probed") == []


async def test_an_address_of_another_account_is_refused_as_sender(
    house: Stack, world: World, keys: KeyService, client: httpx.AsyncClient
) -> None:
    asked = await request(house, world, keys)
    asked["email"] = "somebody-else@north.test"
    answer = await client.post("/internal/probe", json=asked)
    assert answer.json()["code"] in ("sender_refused", "message_refused")


async def test_a_credential_sealed_for_another_row_is_a_problem(
    house: Stack, world: World, keys: KeyService, client: httpx.AsyncClient
) -> None:
    asked = await request(house, world, keys)
    asked["mailbox_id"] = ids.encode("mbx", world.mailbox_id + 1)
    answer = await client.post("/internal/probe", json=asked)
    assert answer.status_code == 422
    assert answer.json()["code"] == "credential_unreadable"


async def test_without_the_service_token_nothing_is_answered(
    house: Stack, world: World, keys: KeyService, client: httpx.AsyncClient
) -> None:
    asked = await request(house, world, keys)
    for token in ("", "Bearer wrong"):
        answer = await client.post("/internal/probe", json=asked, headers={"Authorization": token})
        assert answer.status_code == 401


async def test_only_public_ids_are_understood(
    house: Stack, world: World, keys: KeyService, client: httpx.AsyncClient
) -> None:
    asked = await request(house, world, keys)
    for wrong in (world.mailbox_id, str(world.mailbox_id), asked["workspace_id"]):
        answer = await client.post("/internal/probe", json={**asked, "mailbox_id": wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "request_invalid"), wrong
        assert answer.json()["errors"][0]["at"] == "body/mailbox_id"


async def test_a_preview_shows_the_step_and_what_is_missing(
    world: World, client: httpx.AsyncClient
) -> None:
    asked = {
        "workspace_id": ids.encode("ws", world.workspace_id),
        "campaign_id": ids.encode("cmp", world.campaign_id),
        "step": 2,
        "mailbox_id": ids.encode("mbx", world.mailbox_id),
        "lead": {"email": "bob@example.test", "first_name": "<Bob>"},
    }
    answer = await client.post("/internal/preview", json=asked)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert shown["subject"] == "Re: Hello <Bob>"
    assert shown["text"] == "Did you see this, <Bob>? [company]\n"
    assert shown["html"] == "<p>Did you see this, &lt;Bob&gt;? [company]</p>\n"
    assert shown["missing"] == ["company"]
    assert (shown["from_email"], shown["to_email"]) == (world.email, "bob@example.test")
    assert {"From", "To", "Subject", "In-Reply-To", "List-Unsubscribe"} <= {
        header["name"] for header in shown["headers"]
    }
    assert (shown["variant"], shown["attachments"], shown["message"]) == (None, [], None)


async def test_a_preview_of_nothing_or_of_a_wrong_template_is_a_problem(
    world: World, client: httpx.AsyncClient
) -> None:
    asked = {
        "workspace_id": ids.encode("ws", world.workspace_id),
        "campaign_id": ids.encode("cmp", world.campaign_id),
        "step": 9,
        "mailbox_id": ids.encode("mbx", world.mailbox_id),
        "lead": {},
    }
    answer = await client.post("/internal/preview", json=asked)
    assert (answer.status_code, answer.json()["code"]) == (404, "step_not_found")
    world.rows(
        "UPDATE gateway.step SET text_template = '{{ oops' WHERE workspace_id = %s"
        " AND position = 1",
        world.workspace_id,
    )
    answer = await client.post("/internal/preview", json={**asked, "step": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "template_error")


async def test_a_preview_of_another_workspaces_step_is_not_found(
    world: World, client: httpx.AsyncClient
) -> None:
    asked = {
        "workspace_id": ids.encode("ws", world.workspace_id + 1_000_000),
        "campaign_id": ids.encode("cmp", world.campaign_id),
        "step": 1,
        "mailbox_id": ids.encode("mbx", world.mailbox_id),
        "lead": {},
    }
    answer = await client.post("/internal/preview", json=asked)
    assert answer.status_code == 404
