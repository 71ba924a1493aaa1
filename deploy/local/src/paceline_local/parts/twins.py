"""The twins of Gmail and Graph: providers for the demo and for tests, never for real mail.

What they take they hand to the mail host; mail for their domains comes back to them by SMTP.
"""

import signal
import sys
from typing import Any, Final, Literal

import httpx

from paceline_local.layout import REPOSITORY
from paceline_local.parts.base import Need, Say, Site, await_ready
from paceline_local.ports import LOOPBACK
from paceline_local.process import fingerprint

Kind = Literal["gmail", "graph"]

# The domain of each twin's accounts.
DOMAINS: Final[dict[Kind, str]] = {"gmail": "gmail.test", "graph": "outlook.test"}


class Twin:
    """One twin, `python -m tests.twins.<kind>`, with its consent pages."""

    def __init__(self, kind: Kind, site: Site) -> None:
        self.kind: Final = kind
        self.name = f"{kind}-twin"
        self.processes = (self.name,)
        self.port_names = (f"{kind}_twin", f"{kind}_twin_smtp")
        self._site = site

    def needs(self) -> list[Need]:
        return []

    def url(self) -> str:
        """Return the base URL of its API, its sign-in and its `/control/`."""
        return f"http://{LOOPBACK}:{self._site.ports[self.port_names[0]]}"

    def control(self, method: str, path: str, content: Any = None) -> Any:
        """Do a call below `/control/` and return its JSON; see `tests/twins/control.py`."""
        answer = httpx.request(
            method, f"{self.url()}/control/{path}", json=content, timeout=30, trust_env=False
        )
        # Not `raise_for_status`: its words would lack the twin's.
        if answer.is_error:
            raise httpx.HTTPStatusError(
                f"{path}: {answer.text[:300]}", request=answer.request, response=answer
            )
        return answer.json()

    def start(self, say: Say) -> None:
        ports = self._site.ports
        argv = [
            sys.executable, "-m", f"tests.twins.{self.kind}", "--interactive",
            "--port", str(ports[self.port_names[0]]),
            "--smtp-port", str(ports[self.port_names[1]]),
            "--relay", f"{LOOPBACK}:{ports['smtp_in']}",
        ]  # fmt: skip
        mark = fingerprint(argv)
        running = self._site.processes.find(self.name)
        if running and running.fingerprint != mark:
            self.stop()
            running = None
        if running is None:
            say("starting (development only)")
            self._site.processes.spawn(self.name, argv, print_=mark, cwd=REPOSITORY)
        await_ready(self._site, self.name, self.name, self.ready, 30, "read the log")

    def ready(self) -> bool:
        try:
            return bool(self.control("GET", "ready")["ready"])
        except httpx.HTTPError:
            return False

    def version(self) -> str:
        return "twin"

    def stop(self) -> None:
        self._site.processes.stop(self.name, ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)))
