"""Object storage, both kinds: a directory, and a bucket behind a foreign S3 server (moto)."""

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pydantic import SecretStr

from paceline_common.keys import KeyDenied, KeyService, SealBroken
from paceline_common.storage import (
    AttachmentFiles,
    ObjectMissing,
    ObjectStore,
    StorageSettings,
    StorageUnavailable,
)
from paceline_local.stack import Stack

from .conftest import World, key_login

BUCKET = "paceline-files"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an S3 server with an empty bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client(url).create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


def client(url: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="id",
        aws_secret_access_key="secret",
    )  # fmt: skip


def s3_settings(url: str) -> StorageSettings:
    return StorageSettings(
        storage_url=f"s3://{BUCKET}/one",
        storage_endpoint=url,
        storage_access_key_id="id",
        storage_secret_access_key=SecretStr("secret"),
    )


@pytest.fixture(params=["file", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    if request.param == "file":
        return StorageSettings(storage_url=(tmp_path / "files").as_uri())
    return s3_settings(request.getfixturevalue("s3"))


async def test_objects_are_stored_read_replaced_and_removed(settings: StorageSettings) -> None:
    store = ObjectStore.of(settings)
    content = bytes(range(256)) * 4096
    await store.put("a/b/1", content)
    assert await store.get("a/b/1") == content
    await store.put("a/b/1", b"")
    assert await store.get("a/b/1") == b""
    await store.delete("a/b/1")
    await store.delete("a/b/1")
    with pytest.raises(ObjectMissing):
        await store.get("a/b/1")


async def test_a_storage_that_is_away_is_not_a_missing_object() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        store = ObjectStore.of(s3_settings(f"http://127.0.0.1:{taken.getsockname()[1]}"))
        for call in (store.get("a"), store.put("a", b"x"), store.delete("a")):
            with pytest.raises(StorageUnavailable) as caught:
                await call
            assert "secret" not in str(caught.value)


async def test_a_bucket_that_is_none_of_ours_is_no_missing_object(s3: str) -> None:
    store = ObjectStore.of(
        s3_settings(s3).model_copy(update={"storage_url": "s3://somebody-elses/x"})
    )
    with pytest.raises((StorageUnavailable, ObjectMissing)):
        await store.get("a")
    with pytest.raises(StorageUnavailable):
        await store.put("a", b"x")


async def test_without_a_url_there_is_no_storage() -> None:
    store = ObjectStore.of(StorageSettings())
    assert not store.is_set_up
    with pytest.raises(StorageUnavailable):
        await store.get("a")


@pytest.mark.parametrize("url", ["http://x/y", "file://host/x", "s3:///x", "files"])
def test_a_url_of_another_kind_is_refused_at_start(url: str) -> None:
    with pytest.raises(ValueError, match="storage_url"):
        ObjectStore.of(StorageSettings(storage_url=url))


async def test_two_prefixes_of_a_bucket_do_not_meet(s3: str) -> None:
    one = ObjectStore.of(s3_settings(s3))
    other = ObjectStore.of(s3_settings(s3).model_copy(update={"storage_url": f"s3://{BUCKET}/two"}))
    await one.put("k", b"one")
    with pytest.raises(ObjectMissing):
        await other.get("k")
    held = client(s3).list_objects_v2(Bucket=BUCKET)["Contents"]
    assert [item["Key"] for item in held] == ["one/k"]


# ---- sealed


async def files_of(
    house: Stack, principal: str, settings: StorageSettings
) -> AsyncIterator[AttachmentFiles]:
    async with KeyService(key_login(house, principal)) as keys:
        yield AttachmentFiles(ObjectStore.of(settings), keys)


@pytest.fixture
async def gateways(house: Stack, settings: StorageSettings) -> AsyncIterator[AttachmentFiles]:
    async for files in files_of(house, "gateway", settings):
        yield files


@pytest.fixture
async def senders(house: Stack, settings: StorageSettings) -> AsyncIterator[AttachmentFiles]:
    async for files in files_of(house, "sender", settings):
        yield files


async def test_what_the_gateway_stores_only_the_sender_reads(
    world: World, gateways: AttachmentFiles, senders: AttachmentFiles, settings: StorageSettings
) -> None:
    content = b"the offer, in confidence " * 1000
    key = gateways.new_key(world.workspace_id, 5)
    await gateways.put(world.workspace_id, 5, key, content)
    assert await senders.get(world.workspace_id, 5, key) == content
    with pytest.raises(KeyDenied):
        await gateways.get(world.workspace_id, 5, key)
    stored = await ObjectStore.of(settings).get(key)
    assert b"in confidence" not in stored


async def test_an_altered_or_exchanged_object_does_not_open(
    world: World, gateways: AttachmentFiles, senders: AttachmentFiles, settings: StorageSettings
) -> None:
    store = ObjectStore.of(settings)
    keys = [gateways.new_key(world.workspace_id, number) for number in (1, 2)]
    for number, key in enumerate(keys, 1):
        await gateways.put(world.workspace_id, number, key, f"file {number}".encode())
    first, second = [await store.get(key) for key in keys]
    for altered in (
        second,  # another's object in its place
        first[:-1] + bytes([first[-1] ^ 1]),
        first[:40] + bytes([first[40] ^ 1]) + first[41:],
        first[:-5],
        b"",
    ):
        await store.put(keys[0], altered)
        with pytest.raises(SealBroken):
            await senders.get(world.workspace_id, 1, keys[0])
    await store.put(keys[0], first)
    assert await senders.get(world.workspace_id, 1, keys[0]) == b"file 1"
    await gateways.delete(keys[0])
    with pytest.raises(ObjectMissing):
        await senders.get(world.workspace_id, 1, keys[0])
