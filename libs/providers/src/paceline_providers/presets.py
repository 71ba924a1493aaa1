"""Mail hosts that are known beforehand: servers, limits, dialect, which password to type.

The data is `presets.toml`, with the source of each entry.
"""

import importlib.resources
from collections.abc import Mapping
from functools import cache
from typing import Final, Literal

import msgspec

GENERIC: Final = "generic"


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to connect, and how the line is encrypted."""

    host: str
    port: int
    tls: Literal["implicit", "starttls"]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the host allows one mailbox; None where it does not say."""

    messages_24h: int | None = None
    messages_per_minute: int | None = None
    recipients_per_message: int | None = None
    message_bytes: int | None = None


Provider = Literal["google_workspace", "microsoft365", "outlook_consumer", "yahoo", "smtp"]


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One host; `presets.toml` says what its fields mean."""

    name: str
    title: str
    provider: Provider
    dialect: Literal["google", "microsoft", "yahoo", ""]
    domains: tuple[str, ...]
    sent_copy: bool
    password: str
    limits: Limits
    sources: tuple[str, ...]
    smtp: Server | None = None
    imap: Server | None = None
    oauth: Literal["google", "microsoft"] | None = None


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    preset: tuple[Preset, ...]


@cache
def presets() -> Mapping[str, Preset]:
    """Return every preset by name, in the order of the file."""
    text = importlib.resources.files("paceline_providers").joinpath("presets.toml").read_bytes()
    return {one.name: one for one in msgspec.toml.decode(text, type=_File).preset}
