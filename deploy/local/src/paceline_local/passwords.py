"""Passwords of the stack: drawn once, one file each, readable by this user only."""

import contextlib
import secrets
import tempfile
from pathlib import Path


class Passwords:
    """Secrets by name, in `<run>/secrets/<owner>/<name>` with mode 0600."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, owner: str, name: str) -> str:
        """Return the password of that name, drawing 160 random bits the first time.

        Whoever asks at the same moment, in this process or another, gets the same one.
        """
        path = self.root / owner / name
        if not path.exists():
            drawn = self._write(owner, secrets.token_urlsafe(20))
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(drawn)
            drawn.unlink()
        return path.read_text()

    def put(self, owner: str, name: str, value: str) -> None:
        """Store a secret that something else drew."""
        self._write(owner, value).replace(self.root / owner / name)

    def _write(self, owner: str, value: str) -> Path:
        """Return a new file beside the owner's secrets that holds `value`."""
        folder = self.root / owner
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Mode 0600; a name that no glob for secrets finds.
        handle, name = tempfile.mkstemp(prefix=".", suffix=".new", dir=folder)
        with open(handle, "w") as stream:
            stream.write(value)
        return Path(name)

    def folder(self, owner: str) -> Path:
        """Return the directory of `owner`'s secrets, for `PACELINE_SECRETS_DIR`."""
        return self.root / owner
