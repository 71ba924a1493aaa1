"""Passwords of the stack: drawn once, one file each, readable by this user only."""

import os
import secrets
from pathlib import Path


class Passwords:
    """Secrets by name, in `<run>/secrets/<owner>/<name>` with mode 0600."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, owner: str, name: str) -> str:
        """Return the password of that name, drawing 160 random bits the first time."""
        path = self.root / owner / name
        if not path.exists():
            self.put(owner, name, secrets.token_urlsafe(20))
        return path.read_text()

    def put(self, owner: str, name: str, value: str) -> None:
        """Store a secret that something else drew."""
        folder = self.root / owner
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / name
        temporary = folder / f".{name}.new"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(value)
        temporary.replace(path)

    def folder(self, owner: str) -> Path:
        """Return the directory of `owner`'s secrets, for `PACELINE_SECRETS_DIR`."""
        return self.root / owner
