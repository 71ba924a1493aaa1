"""Public ids: a prefix and sixteen hex digits that hide the row's bigint.

A row has one bigint key inside Postgres and one opaque public id everywhere
else (API, events, headers). The two are a bijection: multiplication by an odd
constant modulo 2**64. It hides counts from a casual reader; it is no secret
and guards nothing. `scheduler.public_id` is the same rule in SQL.
"""

from typing import Final, Literal

import uuid_utils

Kind = Literal[
    "ws", "key", "mbx", "pool", "cmp", "stp", "imp", "lead", "enr", "job", "addr", "susp", "inb",
    "qua", "iss", "flow", "att",
]  # fmt: skip

_MASK: Final = (1 << 64) - 1
# Knuth's MMIX multiplier: odd, so it has an inverse modulo 2**64.
_FACTOR: Final = 6364136223846793005
_INVERSE: Final = pow(_FACTOR, -1, 1 << 64)


class InvalidIdError(ValueError):
    """The text is not a public id of the kind asked for."""


def encode(kind: Kind, number: int) -> str:
    """Return the public id of row `number` (0 <= number < 2**63)."""
    return f"{kind}_{number * _FACTOR & _MASK:016x}"


def decode(kind: Kind, text: str) -> int:
    """Return the row number behind a public id; raise `InvalidIdError` for anything else."""
    prefix, _, digits = text.partition("_")
    if prefix != kind or len(digits) != 16:
        raise InvalidIdError(f"not a {kind}_ id: {text[:40]!r}")
    try:
        number = int(digits, 16) * _INVERSE & _MASK
    except ValueError:
        raise InvalidIdError(f"not a {kind}_ id: {text[:40]!r}") from None
    if number >> 63 or encode(kind, number) != text:
        raise InvalidIdError(f"not a {kind}_ id: {text[:40]!r}")
    return number


def new_event_id() -> str:
    """Return a UUIDv7 (RFC 9562): unique, and sorted by time of creation."""
    return str(uuid_utils.uuid7())
