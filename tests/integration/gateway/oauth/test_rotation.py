"""A new secret of an OAuth app: in the services' views at once, and nobody connects anything."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from tests.integration.gateway.conftest import Tenant
from tests.integration.gateway.oauth.world import APPS, Browser, connected, suspend, use_app

from paceline_common import ids
from paceline_common.db import Database
from paceline_common.keys import KeyDenied, KeyService, SealBroken
from paceline_common.tokens import APP_TABLE, SealedTokens, app_row
from paceline_gateway import oauth_secrets
from paceline_gateway.parts import Parts
from paceline_local.stack import Stack

CLIENT, SECRET = APPS["google"]
ROTATED = "GOCSPX-rotated"


@pytest.fixture
def services(sender_keys: KeyService, reply_keys: KeyService) -> dict[str, KeyService]:
    return {"sender": sender_keys, "reply": reply_keys}


async def published(tenant: Tenant, services: dict[str, KeyService]) -> set[str]:
    """What sender and reply open of the app's secret in their own views."""
    found = set()
    for role, leg in (("sender", "send"), ("reply", "read")):
        rows = tenant.seen_by(role, f"SELECT app_secret FROM gateway.v_mailbox_{leg}")
        for row in rows:
            plain = await services[role].open(
                leg, tenant.number, bytes(row["app_secret"]), table=APP_TABLE,  # type: ignore[arg-type]
                row=app_row("google", CLIENT),
            )  # fmt: skip
            found.add(plain.decode())
    return found


async def test_a_new_secret_reaches_what_sender_and_reply_read(
    tenant: Tenant, browser: Browser, services: dict[str, KeyService]
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    assert await published(tenant, services) == {SECRET}
    await use_app(tenant, "google", client_secret=ROTATED)
    assert await published(tenant, services) == {ROTATED}
    after = await tenant.call("GET", f"/v1/mailboxes/{mailbox['id']}")
    assert after["version"] == mailbox["version"]
    # Another app of the workspace leaves it alone.
    await use_app(tenant, "google", client_id="other.apps.test", client_secret="other")
    assert await published(tenant, services) == {ROTATED}


async def test_a_new_secret_lets_the_apps_mailboxes_go_on_and_only_for_that_reason(
    tenant: Tenant, browser: Browser
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    for reason in ("app_refused", "grant_revoked"):
        suspend(tenant, mailbox, reason)
    await use_app(tenant, "google", client_id="other.apps.test", client_secret="other")
    assert len((await tenant.call("GET", f"/v1/mailboxes/{mailbox['id']}"))["suspensions"]) == 2
    await use_app(tenant, "google", client_secret=ROTATED)
    (left,) = (await tenant.call("GET", f"/v1/mailboxes/{mailbox['id']}"))["suspensions"]
    assert left["reason"] == "grant_revoked"


async def test_the_operators_new_secret_reaches_every_workspace_that_uses_the_app(
    tenants: Any,
    parts: Parts,
    browser: Browser,
    stranger: Browser,
    services: dict[str, KeyService],
    admin: Any,
    tmp_path: Any,
) -> None:
    one, other = await asyncio.to_thread(tenants), await asyncio.to_thread(tenants)

    async def set_secret(secret: str) -> None:
        file = tmp_path / "secret"
        file.write_text(secret)
        await asyncio.to_thread(
            admin, "oauth-app", "set", "google", "--client-id", CLIENT, "--secret-file", str(file)
        )

    await set_secret(SECRET)
    try:
        held = await connected(one, browser)
        await connected(other, stranger)
        suspend(one, held, "app_refused")
        assert await oauth_secrets.share(parts) == 0
        await set_secret(ROTATED)
        assert await oauth_secrets.share(parts) == 2
        assert await oauth_secrets.share(parts) == 0
        for tenant in (one, other):
            assert await published(tenant, services) == {ROTATED}
        assert (await one.call("GET", f"/v1/mailboxes/{held['id']}"))["suspensions"] == []
    finally:
        await asyncio.to_thread(admin, "oauth-app", "remove", "google")


async def test_a_consent_that_ends_late_does_not_bring_the_old_secret_back(
    tenant: Tenant, parts: Parts, browser: Browser, services: dict[str, KeyService]
) -> None:
    await use_app(tenant, "google")
    await connected(tenant, browser)
    await use_app(tenant, "google", client_secret=ROTATED)
    of = oauth_secrets.Of(tenant.number, "google", CLIENT)
    before = parts.clock.now() - timedelta(minutes=1)
    late = await oauth_secrets.seal(parts.keys, of, SECRET, before)
    async with parts.db.transaction([tenant.number]) as tx:
        assert not await oauth_secrets.save(tx, late)
    assert await published(tenant, services) == {ROTATED}


async def test_a_published_secret_opens_for_its_leg_in_its_place_only(
    tenant: Tenant, parts: Parts, browser: Browser, services: dict[str, KeyService]
) -> None:
    await use_app(tenant, "google")
    await connected(tenant, browser)
    (row,) = tenant.rows(
        "SELECT send_sealed, read_sealed FROM gateway.oauth_secret WHERE workspace_id = %s",
        tenant.number,
    )
    sealed = bytes(row["send_sealed"])
    assert SECRET.encode() not in sealed + bytes(row["read_sealed"])
    place = {"table": APP_TABLE, "row": app_row("google", CLIENT)}
    sender, reply = services["sender"], services["reply"]
    assert (await sender.open("send", tenant.number, sealed, **place)).decode() == SECRET
    for wrong in (place | {"row": app_row("google", "x")}, place | {"table": "mailbox"}):
        with pytest.raises(SealBroken):
            await sender.open("send", tenant.number, sealed, **wrong)
    for stranger in (reply, parts.keys):
        with pytest.raises(KeyDenied):
            await stranger.open("send", tenant.number, sealed, **place)


async def test_what_the_gateway_publishes_is_what_a_refresh_takes(
    tenant: Tenant,
    parts: Parts,
    browser: Browser,
    services: dict[str, KeyService],
    stack: Stack,
) -> None:
    await use_app(tenant, "google")
    mailbox = await connected(tenant, browser)
    await use_app(tenant, "google", client_secret=ROTATED)
    for role, leg in (("sender", "send"), ("reply", "read")):
        password = stack.passwords.get(role, "paceline_postgres_password")
        login = {"postgres_user": role, "postgres_password": SecretStr(password)}
        db = Database(parts.settings.model_copy(update=login))
        store = SealedTokens(
            db, services[role], leg, workspace_id=tenant.number,  # type: ignore[arg-type]
            mailbox_id=ids.decode("mbx", mailbox["id"]), credential_version=1,
        )  # fmt: skip
        assert await store.app_secret() == ROTATED
        await db.close()
