"""Object storage: a local directory or an S3-compatible bucket, behind one small class.

What is stored is sealed with the workspace's own key before it leaves the
process, and bound to its row: a stolen bucket tells nothing, and an object that
was altered, or put in another's place, does not open.
"""

import uuid
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store
from pydantic import BaseModel, SecretStr

from paceline_common.keys import KeyService

_TIMEOUT_S: Final = 30
_RETRIES: Final = 2
ATTACHMENT_TABLE: Final = "attachment"


class ObjectMissing(Exception):
    """There is no such object (any more)."""


class StorageUnavailable(Exception):
    """The storage is away, refuses us, or is not set up: worth a retry, never proof of absence."""


class StorageSettings(BaseModel):
    """Mixed into the settings of services that keep files.

    `storage_url`: `file:///var/lib/paceline` or `s3://bucket/prefix`; without it
    there are no attachments. `storage_endpoint`: of an S3 that is not AWS
    (`http://` there must be meant: content is sealed, names and sizes are not).
    Without an access key the machine's own role is used.
    """

    storage_url: str | None = None
    storage_endpoint: str | None = None
    storage_region: str = "us-east-1"
    storage_access_key_id: str | None = None
    storage_secret_access_key: SecretStr | None = None


class ObjectStore:
    """Bytes by key. Every method raises `StorageUnavailable` while the storage is away."""

    def __init__(self, store: LocalStore | S3Store | None) -> None:
        self._store = store

    @classmethod
    def of(cls, settings: StorageSettings) -> "ObjectStore":
        """Return the store the settings name; raise `ValueError` for a URL of another kind.

        Without a URL every call raises `StorageUnavailable`.
        """
        if settings.storage_url is None:
            return cls(None)
        url = urlsplit(settings.storage_url)
        match url.scheme:
            case "file" if url.path and not url.netloc:
                return cls(LocalStore(Path(url.path), mkdir=True))
            case "s3" if url.netloc:
                return cls(_s3(url.netloc, url.path.strip("/"), settings))
            case _:
                raise ValueError("storage_url must be file:///directory or s3://bucket/prefix")

    @property
    def is_set_up(self) -> bool:
        """Whether there is a storage at all."""
        return self._store is not None

    async def put(self, key: str, content: bytes) -> None:
        """Store an object whole; an earlier one of that key is replaced."""
        store = self._there()
        try:
            await obstore.put_async(store, key, content)
        except (BaseError, OSError) as error:
            raise _away("put", error) from None

    async def get(self, key: str) -> bytes:
        """Return an object; raise `ObjectMissing` when the storage has none of that key."""
        store = self._there()
        try:
            return bytes(await (await obstore.get_async(store, key)).bytes_async())
        except FileNotFoundError:
            raise ObjectMissing(key) from None
        except (BaseError, OSError) as error:
            raise _away("get", error) from None

    async def delete(self, key: str) -> None:
        """Remove an object; to remove what is not there is no error."""
        store = self._there()
        try:
            await obstore.delete_async(store, key)
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise _away("delete", error) from None

    def _there(self) -> LocalStore | S3Store:
        if self._store is None:
            raise StorageUnavailable("no storage is set up (PACELINE_STORAGE_URL)")
        return self._store


class AttachmentFiles:
    """The content of attachments, sealed for scope send: the gateway stores, the sender reads.

    Methods raise what `ObjectStore` and `KeyService` raise.
    """

    def __init__(self, store: ObjectStore, keys: KeyService) -> None:
        self._store = store
        self._keys = keys

    @property
    def are_set_up(self) -> bool:
        """Whether there is a storage to keep them in."""
        return self._store.is_set_up

    @staticmethod
    def new_key(workspace_id: int, attachment_id: int) -> str:
        """Return a key that no object has."""
        return f"attachments/{workspace_id}/{attachment_id}/{uuid.uuid4().hex}"

    async def put(
        self, workspace_id: int, attachment_id: int, storage_key: str, content: bytes
    ) -> None:
        """Seal the content and store it."""
        sealed = await self._keys.seal(
            "send", workspace_id, content, table=ATTACHMENT_TABLE, row=attachment_id
        )
        await self._store.put(storage_key, sealed)

    async def get(self, workspace_id: int, attachment_id: int, storage_key: str) -> bytes:
        """Return the content; raise `ObjectMissing`, or `SealBroken` when it was altered."""
        sealed = await self._store.get(storage_key)
        return await self._keys.open(
            "send", workspace_id, sealed, table=ATTACHMENT_TABLE, row=attachment_id
        )

    async def delete(self, storage_key: str) -> None:
        """Remove the content for good."""
        await self._store.delete(storage_key)


def _s3(bucket: str, prefix: str, settings: StorageSettings) -> S3Store:
    options: dict[str, Any] = {"region": settings.storage_region}
    client: dict[str, Any] = {"timeout": f"{_TIMEOUT_S}s"}
    if settings.storage_endpoint:
        options |= {
            "endpoint": settings.storage_endpoint,
            # What is not AWS seldom has a name for each bucket.
            "virtual_hosted_style_request": False,
        }
        client["allow_http"] = settings.storage_endpoint.startswith("http://")
    if settings.storage_access_key_id and settings.storage_secret_access_key:
        options |= {
            "access_key_id": settings.storage_access_key_id,
            "secret_access_key": settings.storage_secret_access_key.get_secret_value(),
        }
    return S3Store(
        bucket,
        prefix=prefix or None,
        client_options=client,  # type: ignore[arg-type]
        retry_config={"max_retries": _RETRIES},
        **options,
    )


def _away(call: str, error: Exception) -> StorageUnavailable:
    # The type alone: the library's texts carry addresses, keys and answers.
    return StorageUnavailable(f"{call}: {type(error).__name__}")
