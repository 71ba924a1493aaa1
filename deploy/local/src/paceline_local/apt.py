"""Debian packages that the stack's parts need, installed without starting any server."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from paceline_local.parts.base import PartFailed, Say

_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_LOCK: Final = Path("/run/lock/paceline-apt")


def install(packages: Sequence[str], log: Path, say: Say) -> None:
    """Install `packages` as root; raise `PartFailed` naming them where that is not possible."""
    names = " ".join(packages)
    by_hand = f"apt-get install {names}; or use the Compose stack (deploy/compose)"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PartFailed("packages", f"missing: {names}", by_hand)
    apt = ["apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=180"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with log.open("ab") as output, _one_at_a_time(), _no_service_starts():
        for label, step in (
            ("package lists", ["update"]),
            (
                f"installing {names}",
                ["install", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold",
                 *packages],
            ),
        ):  # fmt: skip
            say(label)
            done = subprocess.run(
                [*apt, *step], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment, check=False,
            )  # fmt: skip
            if done.returncode:
                tail = log.read_text(errors="replace").splitlines()[-12:]
                raise PartFailed("packages", f"apt-get failed ({label})", by_hand, tail)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Wait for another stack that installs: apt guards its own locks, nobody `_POLICY`."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Deny packages to start their servers (policy-rc.d, exit 101), then put things back."""
    before = _POLICY.read_bytes() if _POLICY.exists() else None
    mode = _POLICY.stat().st_mode if before is not None else 0o755
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            _POLICY.unlink(missing_ok=True)
        else:
            _POLICY.write_bytes(before)
            _POLICY.chmod(mode)
