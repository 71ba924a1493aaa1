"""What reply says of a grant that was given back is what the gateway hears."""

from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from paceline_gateway import probe
from paceline_gateway.settings import GatewaySettings
from paceline_reply import api as reply
from paceline_reply.revoke import Revoked

WORKSPACE, MAILBOX = 7, 2**40 + 5


async def test_a_disconnect_reaches_both_legs_by_public_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[int, int]] = []

    class Revoker:
        async def revoke(self, workspace_id: int, mailbox_id: int) -> Revoked:
            asked.append((workspace_id, mailbox_id))
            return Revoked("already_gone", "invalid_token", dropped=True)

    app = FastAPI()
    nobody = cast("Any", None)
    app.include_router(reply.router(nobody, nobody, cast("Any", Revoker())), prefix="/internal")

    def client(base_url: str, _token: SecretStr, *, timeout_s: float) -> httpx.AsyncClient:
        transport: httpx.AsyncBaseTransport = httpx.ASGITransport(app)
        if base_url == "http://sender":
            transport = httpx.MockTransport(lambda _: httpx.Response(503))
        return httpx.AsyncClient(transport=transport, base_url=base_url, timeout=timeout_s)

    monkeypatch.setattr(probe, "internal_client", client)
    prober = probe.Prober(GatewaySettings.model_construct(
        sender_url="http://sender", sender_token=SecretStr("s"),
        reply_url="http://reply", reply_token=SecretStr("r"),
    ))  # fmt: skip
    told = await prober.revoke(WORKSPACE, MAILBOX)
    await prober.close()

    assert asked == [(WORKSPACE, MAILBOX)]
    assert told["read"] == probe.Revoked("already_gone", "invalid_token")
    assert told["send"].result == "failed"
