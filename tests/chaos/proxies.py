"""toxiproxy between the parts: each way that a service takes to another part can be broken.

The program is Shopify's, pinned by `toxiproxy/go.mod` and built once into the per-user cache.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from paceline_local import vaultbuild
from paceline_local.layout import cache_dir
from paceline_local.parts.base import PartFailed, Site, await_ready
from paceline_local.ports import LOOPBACK

MODULE: Final = Path(__file__).with_name("toxiproxy")
PROCESS: Final = "toxiproxy"


def build(log: Path) -> Path:
    """Return the program, building it (seconds) when the cache does not hold this version."""
    version = vaultbuild.required(MODULE, "Shopify/toxiproxy/v2")
    target = cache_dir() / f"toxiproxy-{version}" / "toxiproxy"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with vaultbuild.toolchain(target.parent, log, lambda _: None) as go, log.open("ab") as output:
        made = target.with_suffix(f".{os.getpid()}")
        built = subprocess.run(
            [go, "build", "-trimpath", "-ldflags", "-s -w", "-o", str(made), "."],
            cwd=MODULE, env=os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"},
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
        )  # fmt: skip
    if built.returncode:
        raise PartFailed(PROCESS, "the build failed", f"see {log}")
    made.replace(target)
    return target


class Proxies:
    """One toxiproxy with a proxy per way; ways are named `<from>-<to>`."""

    def __init__(self, site: Site) -> None:
        self._site = site

    @property
    def _api(self) -> str:
        return f"http://{LOOPBACK}:{self._site.ports[PROCESS]}"

    def start(self, ways: Mapping[str, tuple[int, int]]) -> None:
        """Run the program and make every way: name → (port to listen on, port behind)."""
        processes = self._site.processes
        if processes.find(PROCESS) is None:
            binary = build(processes.log_path("toxiproxy-build"))
            listen = f"{LOOPBACK}:{self._site.ports[PROCESS]}"
            processes.spawn(PROCESS, [str(binary), "-listen", listen], print_="")
        await_ready(self._site, PROCESS, PROCESS, self._ready, 10, "read the log")
        wanted = [
            {
                "name": name, "listen": f"{LOOPBACK}:{port}", "upstream": f"{LOOPBACK}:{behind}",
                "enabled": True,
            }
            for name, (port, behind) in ways.items()
        ]  # fmt: skip
        self._ask("POST", "/populate", wanted)

    def stop(self) -> None:
        """End the program."""
        self._site.processes.stop(PROCESS)

    def cut(self, way: str) -> None:
        """Close every connection of a way and refuse new ones, until `heal`."""
        self._ask("POST", f"/proxies/{way}", {"enabled": False})

    def add(self, way: str, toxic: str, stream: str, **attributes: int) -> None:
        """Put a toxic of toxiproxy's on a way: `upstream` is what the service says."""
        self._ask(
            "POST", f"/proxies/{way}/toxics",
            {"name": f"{toxic}-{stream}", "type": toxic, "stream": stream, "toxicity": 1.0,
             "attributes": attributes},
        )  # fmt: skip

    def heal(self) -> None:
        """Open all ways, without toxics."""
        self._ask("POST", "/reset")

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self._api}/version", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def _ask(self, method: str, path: str, body: Any = None) -> None:
        answer = httpx.request(method, f"{self._api}{path}", json=body, timeout=10)
        answer.raise_for_status()
