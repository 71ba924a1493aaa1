"""The key service, seen from a service: seal, open, MAC, sign, read a secret.

Vault's HTTP API (OpenBao's is the same) through hvac, which is synchronous, so
every call runs in this module's own threads. Bulk data never travels: a sealed
value holds a data key that the key service wrapped, and AES-256-GCM is done here.

Layout of a sealed value::

    0x01 | length of the wrapped key (2 bytes, big endian) | wrapped key (text)
         | nonce (12 bytes) | ciphertext and tag

Its additional authenticated data is `<workspace>/<table>/<row>/<scope>`, so that
a value copied to another row, table, workspace or scope does not open.
"""

import asyncio
import base64
import contextlib
import os
import re
import struct
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

import hvac
import hvac.exceptions
import requests
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from paceline_common.clock import Clock, SystemClock

Scope = Literal["send", "read", "gateway"]

# Each workspace has a key of these; `gateway` is one key, of the gateway's own secrets.
SCOPES: Final[tuple[Scope, ...]] = ("send", "read")
GATEWAY_KEY: Final = "gateway"
MAC_KEY: Final = "mac"
AUDIT_KEY: Final = "audit"
ADDRESS_HASH_SECRET: Final = "address-hash"  # noqa: S105 - the secret's name, not the secret

_SEAL_VERSION: Final = 1
_SEAL_HEAD: Final = struct.Struct(">BH")
_NONCE_BYTES: Final = 12
_TIMEOUT_S: Final = (3.05, 10.0)  # connect, read
_COMPACT: Final = re.compile(r"([1-9][0-9]{0,8})\.([A-Za-z0-9_-]{43}|[A-Za-z0-9_-]{86})")


class KeyServiceError(Exception):
    """Base of everything this module raises."""


class KeyServiceUnavailable(KeyServiceError):
    """The key service is away, sealed or failing: a lost dependency, worth a retry."""


class KeyDenied(KeyServiceError):
    """This service's policy, or its login, does not allow the call."""


class KeyMissing(KeyServiceError):
    """The named key or secret does not exist, or the call makes no sense to it."""


class SealBroken(KeyServiceError):
    """A sealed value cannot be opened here: altered, moved, or its key is destroyed."""


class KeySettings(Protocol):
    """The three settings that a session with the key service needs."""

    @property
    def keys_url(self) -> str: ...
    @property
    def keys_role_id(self) -> str: ...
    @property
    def keys_secret_id(self) -> SecretStr: ...


def workspace_key(scope: Scope, workspace_id: int) -> str:
    """Return the name of the Transit key of one workspace and scope."""
    return GATEWAY_KEY if scope == "gateway" else f"{scope}-{workspace_id}"


class _Session:
    """A logged-in client whose calls run in threads.

    Logs in (AppRole) at the first call, renews the token in the last third of
    its life, and logs in anew when it can no longer be renewed or was revoked.
    """

    def __init__(self, settings: KeySettings, clock: Clock | None, threads: int) -> None:
        self._client = hvac.Client(url=settings.keys_url, timeout=_TIMEOUT_S)
        self._role_id = settings.keys_role_id
        self._secret_id = settings.keys_secret_id
        self._clock = clock or SystemClock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="keys")
        self._lock = threading.Lock()
        self._token: str | None = None
        self._ttl_s = 0.0
        self._expires_at = 0.0  # on the monotonic clock
        self._renewable = False

    async def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Send one request below `/v1/` and return the answer's JSON, `{}` when it has none.

        Every request used here may be repeated without harm.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(self._call, method, path, body))

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.adapter.close()

    def _call(self, method: str, path: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        token = self._live_token()
        try:
            return self._request(method, path, body, token)
        except KeyDenied:
            # Vault answers 403 both to a dead token and to a forbidden path.
            if self._is_live(token):
                raise
        with self._lock:
            if self._token == token:
                self._login()
            token = self._token or ""
        return self._request(method, path, body, token)

    def _live_token(self) -> str:
        with self._lock:
            left_s = self._expires_at - self._clock.monotonic()
            if self._token is None or left_s <= 0:
                self._login()
            elif left_s < self._ttl_s / 3:
                self._renew(self._token)
            return self._token or ""

    def _login(self) -> None:
        answer = self._request(
            "post",
            "auth/approle/login",
            {"role_id": self._role_id, "secret_id": self._secret_id.get_secret_value()},
            None,
        )
        self._keep(answer)

    def _renew(self, token: str) -> None:
        wanted_s = self._ttl_s
        if self._renewable:
            try:
                self._keep(self._request("post", "auth/token/renew-self", {}, token))
            except KeyDenied:
                pass  # revoked meanwhile
            else:
                # Near its maximal age a token is renewed for less and less.
                if self._ttl_s > wanted_s / 2:
                    return
        self._login()

    def _keep(self, answer: dict[str, Any]) -> None:
        auth = answer["auth"]
        self._token = auth["client_token"]
        self._renewable = bool(auth["renewable"])
        # 0 means that the token does not expire.
        self._ttl_s = float(auth["lease_duration"]) or float("inf")
        self._expires_at = self._clock.monotonic() + self._ttl_s

    def _is_live(self, token: str) -> bool:
        try:
            self._request("get", "auth/token/lookup-self", None, token)
        except KeyDenied:
            return False
        return True

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None, token: str | None
    ) -> dict[str, Any]:
        headers = {} if token is None else {"X-Vault-Token": token}
        try:
            answer = self._client.adapter.request(
                method, f"/v1/{path}", headers=headers, json=None if body is None else dict(body)
            )
        except hvac.exceptions.VaultError as error:
            failure = _failure(error, f"{method} {path}")
        except requests.RequestException as error:
            failure = KeyServiceUnavailable(f"{method} {path}: {type(error).__name__}")
        else:
            return answer if isinstance(answer, dict) else {}
        # Raised outside the handlers: the causes hold the request, and so the token.
        raise failure


def _failure(error: hvac.exceptions.VaultError, call: str) -> KeyServiceError:
    reasons = "; ".join(str(reason) for reason in error.errors or ()) or type(error).__name__
    text = f"{call}: {reasons}"
    match error:
        case hvac.exceptions.Forbidden() | hvac.exceptions.Unauthorized():
            return KeyDenied(text)
        case hvac.exceptions.InvalidRequest() if call.endswith("auth/approle/login"):
            return KeyDenied(text)
        case hvac.exceptions.InvalidRequest() | hvac.exceptions.InvalidPath():
            return KeyMissing(text)
        case _:
            return KeyServiceUnavailable(text)


class KeyService:
    """What a running service may ask of the key service; its policy decides which of it.

    Every method may raise `KeyServiceUnavailable` and `KeyDenied`.
    """

    def __init__(
        self, settings: KeySettings, *, clock: Clock | None = None, threads: int = 4
    ) -> None:
        self._session = _Session(settings, clock, threads)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connections; calls under way fail."""
        self._session.close()

    async def check(self) -> None:
        """Return when the key service answers and knows us; raise otherwise (readiness)."""
        await self._session.call("get", "auth/token/lookup-self")

    async def seal(
        self, scope: Scope, workspace_id: int, plaintext: bytes, *, table: str, row: int | str
    ) -> bytes:
        """Return `plaintext` sealed for one row; only the holder of `scope` can open it.

        Raises `KeyMissing` when the workspace has no key of that scope.
        """
        answer = await self._session.call(
            "post",
            f"transit/datakey/plaintext/{workspace_key(scope, workspace_id)}",
            {"bits": 256},
        )
        wrapped: bytes = _data(answer)["ciphertext"].encode()
        key = AESGCM(base64.b64decode(_data(answer)["plaintext"]))
        nonce = os.urandom(_NONCE_BYTES)
        body = key.encrypt(nonce, plaintext, _context(scope, workspace_id, table, row))
        return _SEAL_HEAD.pack(_SEAL_VERSION, len(wrapped)) + wrapped + nonce + body

    async def open(
        self, scope: Scope, workspace_id: int, sealed: bytes, *, table: str, row: int | str
    ) -> bytes:
        """Return what `seal` took, given the same scope, workspace, table and row.

        Raises `SealBroken` when the value was altered or belongs elsewhere, or
        when its key was destroyed.
        """
        wrapped, nonce, body = _unpack(sealed)
        try:
            answer = await self._session.call(
                "post",
                f"transit/decrypt/{workspace_key(scope, workspace_id)}",
                {"ciphertext": wrapped},
            )
        except KeyMissing as error:
            raise SealBroken(str(error)) from None
        place = _context(scope, workspace_id, table, row)
        return _decrypted(_data(answer)["plaintext"], nonce, body, place)

    async def open_all(
        self, scope: Scope, workspace_id: int, sealed: Mapping[int, bytes], *, table: str
    ) -> dict[int, bytes | SealBroken]:
        """Return what `open` returns for each row's value, or the `SealBroken` it raises.

        One call opens them all; only where one cannot be unwrapped, each gets its own.
        """
        found: dict[int, bytes | SealBroken] = {}
        parts: dict[int, tuple[str, bytes, bytes]] = {}
        for row, value in sealed.items():
            try:
                parts[row] = _unpack(value)
            except SealBroken as broken:
                found[row] = broken
        if not parts:
            return found
        try:
            answer = await self._session.call(
                "post",
                f"transit/decrypt/{workspace_key(scope, workspace_id)}",
                {"batch_input": [{"ciphertext": wrapped} for wrapped, _, _ in parts.values()]},
            )
        except KeyMissing:
            # Vault answers 400 to all of a batch for one bad item, and hvac drops its body.
            alone = [
                self._open_or_not(scope, workspace_id, sealed[row], table, row) for row in parts
            ]
            return found | dict(zip(parts, await asyncio.gather(*alone), strict=True))
        results = _data(answer)["batch_results"]
        for (row, (_, nonce, body)), result in zip(parts.items(), results, strict=True):
            place = _context(scope, workspace_id, table, row)
            try:
                found[row] = _decrypted(result["plaintext"], nonce, body, place)
            except SealBroken as broken:
                found[row] = broken
        return found

    async def _open_or_not(
        self, scope: Scope, workspace_id: int, sealed: bytes, table: str, row: int
    ) -> bytes | SealBroken:
        try:
            return await self.open(scope, workspace_id, sealed, table=table, row=row)
        except SealBroken as broken:
            return broken

    async def mac(self, messages: Sequence[bytes]) -> list[str]:
        """Return one MAC (HMAC-SHA-256) per message: `<key version>.<43 base64url characters>`."""
        if not messages:
            return []
        answer = await self._session.call(
            "post",
            f"transit/hmac/{MAC_KEY}",
            {"algorithm": "sha2-256", "batch_input": [{"input": _b64(m)} for m in messages]},
        )
        return [_compact(result["hmac"]) for result in _data(answer)["batch_results"]]

    async def verify_mac(self, messages: Sequence[bytes], macs: Sequence[str]) -> list[bool]:
        """Tell for each message whether its MAC is ours; a malformed one is not."""
        pairs = list(zip(messages, macs, strict=True))
        valid = [False] * len(pairs)
        asked = [
            (place, {"input": _b64(message), "hmac": expanded})
            for place, (message, mac) in enumerate(pairs)
            if (expanded := _expand(mac, 32)) is not None
        ]
        if asked:
            answer = await self._session.call(
                "post",
                f"transit/verify/{MAC_KEY}",
                {"algorithm": "sha2-256", "batch_input": [item for _, item in asked]},
            )
            results = _data(answer)["batch_results"]
            for (place, _), result in zip(asked, results, strict=True):
                valid[place] = bool(result.get("valid", False))
        return valid

    async def sign(self, data: bytes) -> str:
        """Return audit's Ed25519 signature: `<key version>.<86 base64url characters>`."""
        answer = await self._session.call(
            "post", f"transit/sign/{AUDIT_KEY}", {"input": _b64(data), "prehashed": False}
        )
        return _compact(_data(answer)["signature"])

    async def public_keys(self) -> dict[int, bytes]:
        """Return audit's public keys (32 raw bytes each) by version, for `verify_signature`."""
        answer = await self._session.call("get", f"transit/keys/{AUDIT_KEY}")
        return {
            int(version): base64.b64decode(key["public_key"])
            for version, key in _data(answer)["keys"].items()
        }

    async def secret(self, name: str) -> bytes:
        """Return an installation secret (KV v2); raise `KeyMissing` when it does not exist."""
        answer = await self._session.call("get", f"secret/data/{name}")
        value: str = _data(answer)["data"]["value"]
        return base64.b64decode(value)


def verify_signature(data: bytes, signature: str, public_keys: Mapping[int, bytes]) -> bool:
    """Tell whether `signature` (of `KeyService.sign`) is valid; needs no key service."""
    expanded = _expand(signature, 64)
    if expanded is None:
        return False
    _, version, encoded = expanded.split(":")
    key = public_keys.get(int(version.removeprefix("v")))
    if key is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(encoded), data)
    except InvalidSignature:
        return False
    return True


class KeyAdmin:
    """Makes, rotates and destroys keys; for `paceline-admin`, under a policy of its own.

    Every method may be repeated, and may raise `KeyServiceUnavailable` and `KeyDenied`.
    """

    def __init__(self, settings: KeySettings, *, clock: Clock | None = None) -> None:
        self._session = _Session(settings, clock, threads=1)

    def close(self) -> None:
        """Drop the connections."""
        self._session.close()

    async def create_workspace_keys(self, workspace_id: int) -> None:
        """Make the workspace's `send` and `read` keys, where missing."""
        for scope in SCOPES:
            await self._session.call(
                "post",
                f"transit/keys/{workspace_key(scope, workspace_id)}",
                {"type": "aes256-gcm96"},
            )

    async def rotate_workspace_keys(self, workspace_id: int) -> None:
        """Add a version to both keys; what older versions sealed still opens.

        Raises `KeyMissing` when the workspace has no keys.
        """
        for scope in SCOPES:
            await self._session.call(
                "post", f"transit/keys/{workspace_key(scope, workspace_id)}/rotate", {}
            )

    async def destroy_workspace_keys(self, workspace_id: int) -> None:
        """Destroy both keys: nothing sealed for the workspace opens ever again."""
        for scope in SCOPES:
            path = f"transit/keys/{workspace_key(scope, workspace_id)}"
            with contextlib.suppress(KeyMissing):
                await self._session.call("post", f"{path}/config", {"deletion_allowed": True})
                await self._session.call("delete", path)
            with contextlib.suppress(KeyMissing):
                await self._session.call("get", path)
                raise KeyServiceError(f"{path} is still there")


@dataclass(frozen=True, slots=True)
class AppRole:
    """What a service logs in with."""

    role_id: str
    secret_id: SecretStr


def provision(
    url: str, token: SecretStr, policies: Mapping[str, str], *, token_ttl_s: int = 3600
) -> dict[str, AppRole]:
    """Prepare an empty key service with a root token; may be repeated.

    Mounts Transit, KV v2 (`secret/`) and AppRole where missing; makes the MAC
    key, audit's signing key, the gateway's and the address-hash secret where missing; writes
    `policies` (name → HCL or JSON text) and gives each an AppRole of the same
    name, limited to it. Returns the logins, with a new secret id each.
    Raises hvac's and requests' own errors.
    """
    client = hvac.Client(url=url, token=token.get_secret_value(), timeout=_TIMEOUT_S)
    mounts = client.sys.list_mounted_secrets_engines()["data"]
    if "transit/" not in mounts:
        client.sys.enable_secrets_engine("transit")
    if "secret/" not in mounts:
        client.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
    if "approle/" not in client.sys.list_auth_methods()["data"]:
        client.sys.enable_auth_method("approle")
    client.write_data(f"transit/keys/{MAC_KEY}", data={"type": "hmac", "key_size": 32})
    client.write_data(f"transit/keys/{AUDIT_KEY}", data={"type": "ed25519"})
    client.write_data(f"transit/keys/{GATEWAY_KEY}", data={"type": "aes256-gcm96"})
    with contextlib.suppress(hvac.exceptions.InvalidRequest):
        # cas=0, only if absent: another hash key would lose every suppression.
        client.write_data(
            f"secret/data/{ADDRESS_HASH_SECRET}",
            data={"options": {"cas": 0}, "data": {"value": _b64(os.urandom(32))}},
        )
    logins = {}
    for name, policy in policies.items():
        client.sys.create_or_update_acl_policy(name, policy)
        client.auth.approle.create_or_update_approle(
            name,
            token_policies=[name],
            token_ttl=f"{token_ttl_s}s",
            token_max_ttl=f"{24 * token_ttl_s}s",
        )
        logins[name] = AppRole(
            client.auth.approle.read_role_id(name)["data"]["role_id"],
            SecretStr(client.auth.approle.generate_secret_id(name)["data"]["secret_id"]),
        )
    client.adapter.close()
    return logins


def _data(answer: dict[str, Any]) -> dict[str, Any]:
    data = answer.get("data")
    if not isinstance(data, dict):
        # A proxy's page, not Vault.
        raise KeyServiceUnavailable("the key service answered without data")
    return data


def _context(scope: Scope, workspace_id: int, table: str, row: int | str) -> bytes:
    return f"{workspace_id}/{table}/{row}/{scope}".encode()


def _decrypted(key: str, nonce: bytes, body: bytes, place: bytes) -> bytes:
    """Decrypt a value with its data key (base64); raise `SealBroken` where it does not belong."""
    try:
        return AESGCM(base64.b64decode(key)).decrypt(nonce, body, place)
    except InvalidTag:
        raise SealBroken("the value was altered, or sealed for another place") from None


def _unpack(sealed: bytes) -> tuple[str, bytes, bytes]:
    """Split a sealed value into wrapped key, nonce, and ciphertext with tag."""
    try:
        version, length = _SEAL_HEAD.unpack_from(sealed)
        wrapped = sealed[_SEAL_HEAD.size : _SEAL_HEAD.size + length].decode("ascii")
    except (struct.error, UnicodeDecodeError):
        raise SealBroken("not a sealed value") from None
    rest = sealed[_SEAL_HEAD.size + length :]
    if version != _SEAL_VERSION or len(rest) < _NONCE_BYTES:
        raise SealBroken("not a sealed value")
    return wrapped, rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _compact(text: str) -> str:
    """Turn Vault's `vault:v1:<base64>` into `1.<base64url, no padding>`."""
    _, version, encoded = text.split(":")
    raw = base64.b64decode(encoded)
    return f"{version.removeprefix('v')}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"


def _expand(compact: str, size: int) -> str | None:
    """Undo `_compact` for a value of `size` bytes; None for any text it does not write."""
    match = _COMPACT.fullmatch(compact)
    if match is None:
        return None
    version, encoded = match.groups()
    raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    text = f"vault:v{version}:{_b64(raw)}"
    # The unused bits of the last character would make several texts of one MAC.
    return text if len(raw) == size and _compact(text) == compact else None
