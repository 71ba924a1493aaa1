"""API keys: `pl_` + 160 random bits + a checksum, in Crockford's base 32.

A key is shown once; only its SHA-256 is stored (160 bits of entropy need no
slow hash). The checksum lets a scanner, and us, tell a mistyped or invented
key from a real one without a look-up.
"""

import hashlib
import hmac
from typing import Final

PREFIX: Final = "pl_"
SECRET_BYTES: Final = 20
SCOPES: Final = ("read", "write", "enroll")
"""`read` sees everything of the workspace, `write` changes it, `enroll` only adds leads."""

# Crockford: no i, l, o, u, so that a key survives being read aloud.
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_SECRET_CHARS: Final = SECRET_BYTES * 8 // 5
_CHECK_CHARS: Final = 6
_SHOWN_CHARS: Final = 8


def issue(secret: bytes) -> str:
    """Return the key text for 20 random bytes; raise `ValueError` for another length."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"an API key needs {SECRET_BYTES} random bytes, got {len(secret)}")
    body = _base32(secret, _SECRET_CHARS)
    return PREFIX + body + _checksum(body)


def is_well_formed(key: str) -> bool:
    """Tell whether `key` has the shape and the checksum of a Paceline key."""
    body = key[len(PREFIX) : -_CHECK_CHARS]
    return (
        key.startswith(PREFIX)
        and len(key) == len(PREFIX) + _SECRET_CHARS + _CHECK_CHARS
        and set(key[len(PREFIX) :]) <= set(_ALPHABET)
        and hmac.compare_digest(_checksum(body), key[-_CHECK_CHARS:])
    )


def digest(key: str) -> bytes:
    """Return what is stored of a key: 32 bytes."""
    return hashlib.sha256(key.encode()).digest()


def hint(key: str) -> str:
    """Return the start of a key, enough to recognise it in a list."""
    return key[: len(PREFIX) + _SHOWN_CHARS]


def allows(scopes: frozenset[str], needed: str) -> bool:
    """Tell whether a key with `scopes` may do what needs `needed`.

    `write` includes `enroll` and `read`; `enroll` alone reads nothing.
    """
    return needed in scopes or ("write" in scopes and needed in SCOPES)


def _checksum(body: str) -> str:
    return _base32(hashlib.sha256(b"paceline key " + body.encode()).digest()[:4], _CHECK_CHARS)


def _base32(data: bytes, chars: int) -> str:
    """Return the low `5 * chars` bits of `data` as `chars` characters."""
    number = int.from_bytes(data, "big")
    return "".join(_ALPHABET[number >> 5 * place & 31] for place in reversed(range(chars)))
