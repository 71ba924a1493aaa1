"""Where the local stack keeps its files: the run directory, the state, the cache."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[4]

# A Unix socket's path may hold 107 bytes; Dovecot's longest one adds about 40.
_LONGEST_STATE_PATH: Final = 60


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one stack. Two stacks on one machine have two run directories.

    `run` holds pid records, ports, logs and secrets. `state` holds what servers
    that drop root must reach: it is inside `run` when every parent may be
    traversed by others, and under /var/tmp otherwise (a clone in /root).
    """

    run: Path
    state: Path

    @classmethod
    def of(cls, run: Path | None = None) -> "Layout":
        """Return the layout of `run`; default `$PACELINE_RUN_DIR`, else `.run` of this clone."""
        chosen = run or Path(os.environ.get("PACELINE_RUN_DIR") or REPOSITORY / ".run")
        chosen = chosen.resolve()
        inside = chosen / "state"
        if os.geteuid() != 0 or (_traversable(chosen) and len(str(inside)) <= _LONGEST_STATE_PATH):
            return cls(chosen, inside)
        digest = hashlib.sha256(str(chosen).encode()).hexdigest()[:12]
        return cls(chosen, Path("/var/tmp") / f"paceline-{digest}")  # noqa: S108 - a root-owned name, see create()

    def create(self) -> None:
        """Make the directories; raise `PermissionError` when `state` belongs to another user."""
        for path, mode in (
            (self.run, 0o755),
            (self.log, 0o755),
            (self.pids, 0o755),
            (self.secrets, 0o700),
            (self.state, 0o755),
        ):
            path.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                raise PermissionError(f"{path} is not a directory of this user")
            path.chmod(mode)

    @property
    def log(self) -> Path:
        """Directory of `<part>.log`."""
        return self.run / "log"

    @property
    def pids(self) -> Path:
        """Directory of the process records."""
        return self.run / "pid"

    @property
    def secrets(self) -> Path:
        """Directory of generated passwords, readable by this user only."""
        return self.run / "secrets"

    @property
    def ports_file(self) -> Path:
        """Shell-readable file of the chosen ports."""
        return self.run / "ports.env"


def cache_dir() -> Path:
    """Return the per-user cache for downloaded and built parts (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "paceline"


def _traversable(path: Path) -> bool:
    existing = [p for p in (path, *path.parents) if p.exists()]
    # `run` itself is made by us with 0755.
    return all(p.stat().st_mode & stat.S_IXOTH for p in existing if p != path)
