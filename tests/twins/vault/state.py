"""What the twin knows, and the file that may keep it over a restart.

For development only: the file holds every key in the clear (mode 0600).
"""

import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tests.twins.vault.transit import Key


@dataclass
class Role:
    """An AppRole."""

    token_policies: tuple[str, ...]
    ttl_s: float
    max_ttl_s: float
    role_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    secret_ids: set[str] = field(default_factory=set)


@dataclass
class Secret:
    """The versions of one KV v2 path; None is a deleted one."""

    versions: list[dict[str, Any] | None] = field(default_factory=list)


@dataclass
class State:
    """Everything but the tokens: those end with the process, as after any long absence."""

    cluster_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    policies: dict[str, str] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    secrets: dict[str, Secret] = field(default_factory=dict)
    mounts: dict[str, Any] = field(
        default_factory=lambda: {"secret/": {"type": "kv", "options": {"version": "2"}}}
    )
    auths: dict[str, Any] = field(default_factory=lambda: {"token/": {"type": "token"}})
    keys: dict[str, Key] = field(default_factory=dict)


class StateFile:
    """A `State` as JSON in one file, replaced as a whole at every change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = b""

    def load(self) -> State:
        """Return what the file holds, a new state if there is none; raise `ValidationError`."""
        if not self._path.exists():
            return State()
        return msgspec.json.decode(self._path.read_bytes(), type=State)

    def save(self, state: State) -> None:
        """Write `state` unless the file holds it."""
        encoded = msgspec.json.encode(state)
        if encoded == self._held:
            return
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(encoded)
        fresh.replace(self._path)
        self._held = encoded
