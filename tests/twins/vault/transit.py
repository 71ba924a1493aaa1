"""Vault's Transit engine, in memory: the subset that Paceline uses, with Vault's own texts.

https://developer.hashicorp.com/vault/api-docs/secret/transit
"""

import base64
import binascii
import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Body = Mapping[str, Any]

_HASHES = {
    "sha2-224": hashlib.sha224,
    "sha2-256": hashlib.sha256,
    "sha2-384": hashlib.sha384,
    "sha2-512": hashlib.sha512,
}
_TOO_OLD = "ciphertext or signature version is disallowed by policy (too old)"


class Refused(Exception):
    """The call is refused with this HTTP status and Vault's words."""

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(*errors)
        self.status = status
        self.errors = errors


@dataclass
class Version:
    """One version of a key: its AES or Ed25519 secret, and its HMAC secret."""

    secret: bytes
    hmac_secret: bytes
    created_s: float = field(default_factory=time.time)


@dataclass
class Key:
    """A named key with its versions (1-based)."""

    name: str
    type: str
    key_size: int = 0
    versions: dict[int, Version] = field(default_factory=dict)
    min_decryption_version: int = 1
    min_encryption_version: int = 0
    deletion_allowed: bool = False

    @property
    def latest(self) -> int:
        return max(self.versions)

    def rotate(self) -> None:
        """Add a version."""
        secret = os.urandom(self.key_size or 32)
        own = secret if self.type == "hmac" else os.urandom(32)
        self.versions[len(self.versions) + 1] = Version(secret, own)

    def encrypt(self, plaintext: bytes, associated: bytes | None) -> str:
        """Return `vault:v<n>:<base64 of nonce, ciphertext, tag>`."""
        self._need_cipher()
        nonce = os.urandom(12)
        secret = self.versions[self.latest].secret
        sealed = nonce + AESGCM(secret).encrypt(nonce, plaintext, associated)
        return f"vault:v{self.latest}:{b64(sealed)}"

    def decrypt(self, ciphertext: str, associated: bytes | None) -> bytes:
        """Undo `encrypt`."""
        self._need_cipher()
        version, encoded = self._split(ciphertext, "ciphertext")
        try:
            sealed = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            raise Refused(400, "invalid ciphertext: could not decode base64") from None
        if len(sealed) < 12:
            raise Refused(400, "invalid ciphertext length")
        try:
            return AESGCM(version.secret).decrypt(sealed[:12], sealed[12:], associated)
        except InvalidTag:
            raise Refused(400, "cipher: message authentication failed") from None

    def mac(self, message: bytes, algorithm: str) -> str:
        """Return `vault:v<n>:<base64 of the HMAC>`."""
        digest = hmac.digest(self.versions[self.latest].hmac_secret, message, _hash(algorithm))
        return f"vault:v{self.latest}:{b64(digest)}"

    def verify_mac(self, message: bytes, mac: str, algorithm: str) -> bool:
        """Tell whether `mac` is one of `mac`'s."""
        if not mac.startswith("vault:v"):
            raise Refused(400, "invalid HMAC to verify: no prefix")
        version, encoded = self._split(mac, "HMAC")
        wanted = hmac.digest(version.hmac_secret, message, _hash(algorithm))
        try:
            return hmac.compare_digest(base64.b64decode(encoded, validate=True), wanted)
        except binascii.Error as error:
            raise Refused(400, f"unable to decode verification HMAC as base64: {error}") from None

    def sign(self, message: bytes) -> str:
        """Return `vault:v<n>:<base64 of the Ed25519 signature>`."""
        self._need_signing()
        signature = self._private(self.latest).sign(message)
        return f"vault:v{self.latest}:{b64(signature)}"

    def verify_signature(self, message: bytes, signature: str) -> bool:
        """Tell whether `signature` is one of `sign`'s."""
        self._need_signing()
        self._split(signature, "signature")
        _, version, encoded = signature.split(":")
        try:
            self._private(int(version[1:])).public_key().verify(
                base64.b64decode(encoded, validate=True), message
            )
        except binascii.Error:
            raise Refused(400, "invalid base64 signature value") from None
        except InvalidSignature:
            return False
        return True

    def described(self) -> dict[str, Any]:
        """Return what reading the key answers."""
        cipher, signing = self.type == "aes256-gcm96", self.type == "ed25519"
        keys: dict[str, Any] = {
            str(number): int(version.created_s) for number, version in self.versions.items()
        }
        if signing:
            keys = {
                str(number): {
                    "name": "ed25519",
                    "public_key": b64(self._private(number).public_key().public_bytes_raw()),
                    "certificate_chain": "",
                    "creation_time": time.strftime(
                        "%Y-%m-%dT%H:%M:%SZ", time.gmtime(version.created_s)
                    ),
                }
                for number, version in self.versions.items()
            }
        described: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "derived": False,
            "exportable": False,
            "allow_plaintext_backup": False,
            "deletion_allowed": self.deletion_allowed,
            "latest_version": self.latest,
            "min_available_version": 0,
            "min_decryption_version": self.min_decryption_version,
            "min_encryption_version": self.min_encryption_version,
            "supports_encryption": cipher,
            "supports_decryption": cipher,
            "supports_derivation": cipher or signing,
            "supports_signing": signing,
            "auto_rotate_period": 0,
            "imported_key": False,
        }
        # Vault shows no versions of an HMAC key.
        return described if self.type == "hmac" else described | {"keys": keys}

    def _private(self, version: int) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.versions[version].secret)

    def _need_cipher(self) -> None:
        if self.type != "aes256-gcm96":
            raise Refused(400, f"message encryption not supported for key type {self.type}")

    def _need_signing(self) -> None:
        if self.type != "ed25519":
            raise Refused(400, f"key type {self.type} does not support signing")

    def _split(self, text: str, what: str) -> tuple[Version, str]:
        if not text.startswith("vault:v"):
            raise Refused(400, f"invalid {what}: no prefix")
        number, colon, encoded = text.removeprefix("vault:v").partition(":")
        if not colon:
            raise Refused(400, f"invalid {what}: wrong number of fields")
        if not number.isascii() or not number.isdigit():
            raise Refused(400, f"invalid {what}: version number could not be decoded")
        # Version 0 is what the first releases wrote: the first version.
        wanted = int(number) or 1
        if wanted > self.latest:
            raise Refused(400, f"invalid {what}: version is too new")
        if wanted < self.min_decryption_version:
            raise Refused(400, _TOO_OLD)
        return self.versions[wanted], encoded


class Transit:
    """All keys of one mount."""

    def __init__(self, keys: dict[str, Key]) -> None:
        self.keys = keys

    def create(self, name: str, body: Body) -> tuple[dict[str, Any], list[str]]:
        """Make a key unless it exists; return its description and warnings."""
        if name in self.keys:
            return self.keys[name].described(), [f"key {name} already existed"]
        kind = body.get("type", "aes256-gcm96")
        size = int(body.get("key_size", 0))
        if kind not in ("aes256-gcm96", "ed25519", "hmac"):
            raise Refused(400, f"unknown key type {kind}")
        if kind != "hmac" and size:
            raise Refused(400, f"key_size is not valid for algorithm {kind}")
        if kind == "hmac" and not 32 <= size <= 512:
            # Vault finds a missing size only while it makes the key.
            raise Refused(400 if size else 500, f"invalid key_size {size}")
        key = self.keys[name] = Key(name, kind, size)
        key.rotate()
        return key.described(), []

    def configure(self, name: str, body: Body) -> dict[str, Any]:
        """Set what the body names of a key's settings."""
        if name not in self.keys:
            raise Refused(400, f"no existing key named {name} could be found")
        key = self.keys[name]
        minimum = int(body.get("min_decryption_version", key.min_decryption_version))
        if minimum > key.latest:
            raise Refused(
                400,
                f"cannot set min decryption version of {minimum}, "
                f"latest key version is {key.latest}",
            )
        key.min_decryption_version = max(minimum, 1)
        key.deletion_allowed = bool(body.get("deletion_allowed", key.deletion_allowed))
        return key.described()

    def rotate(self, name: str) -> dict[str, Any]:
        """Add a version to a key."""
        if name not in self.keys:
            raise Refused(400, "key not found")
        self.keys[name].rotate()
        return self.keys[name].described()

    def read(self, name: str) -> dict[str, Any]:
        """Return a key's description."""
        if name not in self.keys:
            raise Refused(404)
        return self.keys[name].described()

    def delete(self, name: str) -> None:
        """Destroy a key that may be deleted."""
        if name not in self.keys:
            reason = "could not delete key; not found"
            raise Refused(400, f"error deleting policy {name}: {reason}")
        if not self.keys[name].deletion_allowed:
            reason = "deletion is not allowed for this key"
            raise Refused(400, f"error deleting policy {name}: {reason}")
        del self.keys[name]

    def encrypt(self, name: str, body: Body) -> tuple[int, dict[str, Any]]:
        """Encrypt; a key that does not exist is made (the caller's policy allowed `create`)."""
        self.create(name, {})
        key = self.keys[name]

        def one(item: Body) -> dict[str, Any]:
            if "plaintext" not in item:
                raise Refused(400, "missing plaintext to encrypt")
            text = key.encrypt(_decoded(item["plaintext"]), _associated(item))
            return {"ciphertext": text, "key_version": key.latest}

        return _batched(body, one, "missing batch input to process")

    def decrypt(self, name: str, body: Body) -> tuple[int, dict[str, Any]]:
        """Decrypt one value or a batch."""
        key = self._cipher_key(name)

        def one(item: Body) -> dict[str, Any]:
            if not item.get("ciphertext"):
                raise Refused(400, "missing ciphertext to decrypt")
            return {"plaintext": b64(key.decrypt(item["ciphertext"], _associated(item)))}

        return _batched(body, one, "missing batch input to process")

    def rewrap(self, name: str, body: Body) -> tuple[int, dict[str, Any]]:
        """Encrypt anew with the latest version, showing no plaintext."""
        key = self._cipher_key(name)

        def one(item: Body) -> dict[str, Any]:
            if not item.get("ciphertext"):
                raise Refused(400, "missing ciphertext to decrypt")
            plain = key.decrypt(item["ciphertext"], _associated(item))
            return {
                "ciphertext": key.encrypt(plain, _associated(item)),
                "key_version": key.latest,
            }

        return _batched(body, one, "missing batch input to process")

    def datakey(self, form: str, name: str, body: Body) -> dict[str, Any]:
        """Return a fresh data key, wrapped, and in plaintext too when the path says so."""
        if form not in ("plaintext", "wrapped"):
            raise Refused(400, "Invalid path, must be 'plaintext' or 'wrapped'")
        bits = int(body.get("bits", 256))
        if bits not in (128, 256, 512):
            raise Refused(400, "invalid bit length")
        key = self._cipher_key(name)
        fresh = os.urandom(bits // 8)
        answer = {"ciphertext": key.encrypt(fresh, None), "key_version": key.latest}
        return answer | ({"plaintext": b64(fresh)} if form == "plaintext" else {})

    def hmac(self, name: str, body: Body, algorithm: str | None) -> tuple[int, dict[str, Any]]:
        """Return the MACs of one input or a batch."""
        key = self._cipher_key(name)
        chosen = algorithm or body.get("algorithm", "sha2-256")
        _hash(chosen)

        def one(item: Body) -> dict[str, Any]:
            if "input" not in item:
                raise Refused(400, "missing input for HMAC")
            return {"hmac": key.mac(_decoded(item["input"]), chosen)}

        # Here Vault answers 200 whatever became of the items.
        return 200, _batched(body, one, "missing batch input to process")[1]

    def verify(self, name: str, body: Body, algorithm: str | None) -> tuple[int, dict[str, Any]]:
        """Tell whether MACs or signatures are this key's."""
        items = body.get("batch_input") or [body]
        if name not in self.keys:
            signed = any("signature" in item for item in items)
            raise Refused(
                400,
                "signature verification key not found" if signed else "encryption key not found",
            )
        key = self.keys[name]
        chosen = algorithm or body.get("algorithm", "sha2-256")

        def one(item: Body) -> dict[str, Any]:
            message = _decoded(item.get("input", ""))
            if "hmac" in item:
                return {"valid": key.verify_mac(message, item["hmac"], chosen)}
            if "signature" in item:
                return {"valid": key.verify_signature(message, item["signature"])}
            raise Refused(400, "neither a 'signature' nor an 'hmac' was given to verify")

        # Here, too, Vault answers 200 for a batch whatever became of its items.
        answer = _batched(body, one, "missing batch input to process")[1]
        for result in answer.get("batch_results", ()):
            result.setdefault("valid", False)
        return 200, answer

    def sign(self, name: str, body: Body) -> tuple[int, dict[str, Any]]:
        """Sign one input or a batch."""
        if name not in self.keys:
            raise Refused(400, "signing key not found")
        key = self.keys[name]

        def one(item: Body) -> dict[str, Any]:
            return {"signature": key.sign(_decoded(item["input"])), "key_version": key.latest}

        return _batched(body, one, "missing batch input to process")

    def _cipher_key(self, name: str) -> Key:
        if name not in self.keys:
            raise Refused(400, "encryption key not found")
        return self.keys[name]


def b64(data: bytes) -> str:
    """Return standard base64 as text."""
    return base64.b64encode(data).decode("ascii")


def _batched(
    body: Body, one: Callable[[Body], dict[str, Any]], empty: str
) -> tuple[int, dict[str, Any]]:
    """Apply `one` to the body or to each of its batch; a batch with a fault answers 400."""
    if "batch_input" not in body:
        return 200, one(body)
    if not body["batch_input"]:
        raise Refused(400, empty)
    results: list[dict[str, Any]] = []
    status = 200
    for item in body["batch_input"]:
        try:
            results.append(one(item))
        except Refused as refusal:
            status = 400
            results.append({"error": refusal.errors[0]})
    return status, {"batch_results": results}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise Refused(400, f"unable to decode input as base64: {error}") from None


def _associated(item: Body) -> bytes | None:
    text = item.get("associated_data")
    return _decoded(text) if text else None


def _hash(algorithm: str) -> Callable[..., Any]:
    if algorithm not in _HASHES:
        raise Refused(400, f'unsupported algorithm "{algorithm}"')
    return _HASHES[algorithm]
