"""Refreshed tokens in Postgres: compare-and-set, one connect at a time, the service's own key."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from paceline_common import tokens
from paceline_common.db import Database
from paceline_common.keys import KeyDenied, KeyService, SealBroken
from paceline_common.tokens import SealedTokens, Superseded
from paceline_local.stack import Stack
from paceline_sender.settings import SenderSettings

from .conftest import World

END = datetime(2026, 11, 20, 13, tzinfo=UTC)


def token(number: int) -> dict[str, Any]:
    return {
        "refresh_token": f"rt-{number}", "access_token": f"at-{number}",
        "expires_at": END + timedelta(minutes=number),
    }  # fmt: skip


@pytest.fixture
async def db(settings: SenderSettings) -> AsyncIterator[Database]:
    database = Database(settings)
    yield database
    await database.close()


def store(
    db: Database, keys: KeyService, world: World, credential_version: int = 1
) -> SealedTokens:
    return SealedTokens(
        db, keys, "send", workspace_id=world.workspace_id, mailbox_id=world.mailbox_id,
        credential_version=credential_version,
    )  # fmt: skip


def reconnect(world: World) -> None:
    world.rows(
        "UPDATE gateway.mailbox SET send_credential_version = send_credential_version + 1"
        " WHERE mailbox_id = %s",
        world.mailbox_id,
    )


async def test_what_was_stored_is_read_back_by_any_process(
    world: World, db: Database, own_keys: KeyService
) -> None:
    one, other = store(db, own_keys, world), store(db, own_keys, world)
    assert await one.load() is None
    assert await one.replace(0, token(1)) == {**token(1), "version": 1}
    assert await other.load() == {**token(1), "version": 1}
    assert await other.replace(1, token(2)) == {**token(2), "version": 2}
    assert await one.load() == {**token(2), "version": 2}


async def test_of_many_that_replace_the_same_version_one_wins_and_all_get_its_token(
    world: World, db: Database, own_keys: KeyService
) -> None:
    for seen in (0, 1, 2):
        got = await asyncio.gather(
            *(store(db, own_keys, world).replace(seen, token(n)) for n in range(8))
        )
        assert all(one == got[0] for one in got)
        assert got[0]["version"] == seen + 1
        assert await store(db, own_keys, world).load() == got[0]


async def test_a_new_connect_voids_older_tokens_and_older_credentials_store_nothing(
    world: World, db: Database, own_keys: KeyService
) -> None:
    before = store(db, own_keys, world, 1)
    await before.replace(0, token(1))
    reconnect(world)
    after = store(db, own_keys, world, 2)
    assert await after.load() is None
    # A refresh that began before the connect comes to its end after it.
    with pytest.raises(Superseded):
        await before.replace(2, token(7))
    assert await after.replace(0, token(5)) == {**token(5), "version": 1}
    with pytest.raises(Superseded):
        await before.load()
    with pytest.raises(Superseded):
        await before.replace(1, token(8))
    assert await after.load() == {**token(5), "version": 1}


async def test_a_disconnected_mailbox_keeps_no_tokens_and_gets_none(
    world: World, db: Database, own_keys: KeyService
) -> None:
    kept = store(db, own_keys, world)
    await kept.replace(0, token(1))
    world.rows(
        "UPDATE gateway.mailbox SET deleted_at = now(), send_credential = NULL,"
        " read_credential = NULL, is_active = false WHERE mailbox_id = %s",
        world.mailbox_id,
    )
    assert await tokens.drop(db, world.workspace_id, world.mailbox_id) is True
    assert await tokens.drop(db, world.workspace_id, world.mailbox_id) is False
    with pytest.raises(Superseded):
        await kept.replace(1, token(2))
    assert (
        world.rows("SELECT * FROM sender.oauth_token WHERE mailbox_id = %s", world.mailbox_id) == []
    )


async def test_a_row_holds_no_token_in_the_clear_and_opens_in_its_own_place_only(
    world: World, db: Database, own_keys: KeyService, keys: KeyService
) -> None:
    await store(db, own_keys, world).replace(0, token(1))
    row = world.one("SELECT * FROM sender.oauth_token WHERE mailbox_id = %s", world.mailbox_id)
    sealed = bytes(row["sealed"])
    assert b"rt-1" not in sealed
    assert b"at-1" not in sealed
    assert row["expires_at"] == token(1)["expires_at"]
    place = {"table": "oauth_token", "row": world.mailbox_id}
    plain = await own_keys.open("send", world.workspace_id, sealed, **place)
    assert b"rt-1" in plain
    for wrong in ({**place, "row": world.mailbox_id + 1}, {**place, "table": "mailbox"}):
        with pytest.raises(SealBroken):
            await own_keys.open("send", world.workspace_id, sealed, **wrong)
    # The gateway seals credentials and opens nothing.
    with pytest.raises(KeyDenied):
        await keys.open("send", world.workspace_id, sealed, **place)


async def test_no_other_workspace_sees_the_row(
    world: World, db: Database, own_keys: KeyService
) -> None:
    await store(db, own_keys, world).replace(0, token(1))
    foreign = SealedTokens(
        db, own_keys, "send", workspace_id=world.workspace_id + 1_000_000,
        mailbox_id=world.mailbox_id, credential_version=1,
    )  # fmt: skip
    with pytest.raises(Superseded):
        await foreign.load()
    assert await tokens.drop(db, world.workspace_id + 1_000_000, world.mailbox_id) is False


async def test_the_other_services_cannot_read_the_table(house: Stack, world: World) -> None:
    for role in ("gateway", "reply", "scheduler"):
        world.rows(f"SET ROLE {role}")
        try:
            with pytest.raises(Exception, match="permission denied"):
                world.rows("SELECT * FROM sender.oauth_token")
        finally:
            world.rows("RESET ROLE")
