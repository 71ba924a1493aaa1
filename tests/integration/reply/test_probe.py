"""The reading leg of a connection test, against a real server."""

import asyncio
import secrets
import socket
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from tests.integration.reply.world import World

from paceline_common.keys import KeyService, SealBroken
from paceline_providers.base import ProbeResult
from paceline_providers.hosts import HostPolicy
from paceline_reply.access import Doors
from paceline_reply.app import resolver, tls_contexts
from paceline_reply.probe import Prober
from paceline_reply.reader import Parts
from paceline_reply.settings import ReplySettings

Probe = Callable[..., Any]


@pytest.fixture
def probe(
    parts: Parts, settings: ReplySettings, keys: KeyService, http: httpx.AsyncClient, world: World
) -> Probe:
    async def run(
        *, password: str | None = None, wait_s: float = 20, allow: str = "127.0.0.0/8", **where: Any
    ) -> ProbeResult:
        sealed = await world.gateway_keys.seal(
            "read",
            world.workspace_id,
            msgspec.json.encode({"password": password or world.password}),
            table="mailbox",
            row=world.mailbox_id,
        )
        endpoint = {
            "host": "127.0.0.1",
            "port": world.stack.ports["imap"],
            "tls": "none",
            "username": world.email,
            **where,
        }
        token = endpoint.pop("token", secrets.token_hex(8))
        doors = Doors(
            settings=settings, db=parts.db, keys=keys, clock=parts.clock, http=http,
            resolve=resolver(HostPolicy(allow)), tls=tls_contexts(settings),
        )  # fmt: skip
        prober = Prober(doors=doors, pace=parts.pace, threads=parts.threads)
        return await prober.probe(
            workspace_id=world.workspace_id,
            mailbox_id=world.mailbox_id,
            email=world.email,
            kind="smtp",
            imap=endpoint,
            oauth=None,
            credential=sealed,
            token=token,
            wait_s=wait_s,
        )

    return run


def send_test(world: World, token: str, header: str | None = None) -> None:
    world.deliver(
        f"From: {world.email}\nTo: {world.email}\nSubject: Paceline connection test {token}\n"
        f"X-Paceline-Probe: {header or token}\n\ntest\n".encode()
    )


def kept(world: World) -> int:
    box = world.stack.mailhost.maildir(world.email)
    return len([*box.glob("new/*"), *box.glob("cur/*")])


async def test_the_test_message_is_awaited_read_back_and_deleted(
    probe: Probe, world: World
) -> None:
    token = secrets.token_hex(8)
    running = asyncio.create_task(probe(token=token))
    send_test(world, "another-token-1")
    send_test(world, token)

    found = await running

    assert (found.ok, found.code, found.remedy) == (True, "ok", "")
    assert kept(world) == 1


async def test_a_message_that_only_has_the_subject_is_left_alone(
    probe: Probe, world: World
) -> None:
    token = secrets.token_hex(8)
    send_test(world, token, header="something-else")

    found = await probe(token=token, wait_s=3)

    assert found.code == "not_read_back"
    assert kept(world) == 1


async def test_without_waiting_signing_in_is_still_tested(probe: Probe) -> None:
    assert (await probe(wait_s=0)).code == "not_read_back"
    assert (await probe(wait_s=0, password="wrong")).code == "auth_failed"


async def test_a_wrong_password_brings_the_servers_own_words_and_a_remedy(probe: Probe) -> None:
    found = await probe(password="wrong")

    assert (found.ok, found.code) == (False, "auth_failed")
    assert found.message == "[AUTHENTICATIONFAILED] Authentication failed."
    assert "app password" in found.remedy


async def test_tls_that_the_server_does_not_speak_there(probe: Probe) -> None:
    found = await probe(tls="implicit")

    assert found.code == "tls_failed"
    assert found.message


async def test_a_certificate_for_another_name(probe: Probe, world: World) -> None:
    # The certificate names the local hosts; this address has none of their names.
    found = await probe(host="127.0.0.2", port=world.stack.ports["imaps"], tls="implicit")

    assert found.code in ("tls_failed", "connect_refused")


async def test_nobody_listens(probe: Probe) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        found = await probe(port=unused.getsockname()[1])

    assert found.code == "connect_refused"
    assert "993" in found.remedy


async def test_a_server_of_another_protocol(probe: Probe, world: World) -> None:
    found = await probe(port=world.stack.ports["smtp_in"])

    assert found.code in ("protocol_error", "connect_timeout")


async def test_a_name_that_does_not_resolve(probe: Probe) -> None:
    found = await probe(host=f"{uuid.uuid4().hex}.invalid")

    assert found.code == "dns_failed"


async def test_a_private_host_that_is_not_allowed(probe: Probe) -> None:
    found = await probe(allow="")

    assert found.code == "host_not_allowed"
    assert "127.0.0.1" in found.message


async def test_a_credential_of_another_mailbox_does_not_open(parts: Parts, world: World) -> None:
    sealed = await world.gateway_keys.seal(
        "read", world.workspace_id, b"{}", table="mailbox", row=world.mailbox_id + 1
    )
    prober = Prober(doors=parts.doors, pace=parts.pace, threads=parts.threads)

    with pytest.raises(SealBroken):
        await prober.probe(
            workspace_id=world.workspace_id, mailbox_id=world.mailbox_id,
            email=world.email, kind="smtp", oauth=None,
            imap={"host": "127.0.0.1", "port": 1, "tls": "none", "username": "x"},
            credential=sealed, token="12345678", wait_s=0,
        )  # fmt: skip
