"""The six services, each as one process of this machine with its own credentials."""

import os
import signal
import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

import httpx

from paceline_common import grants
from paceline_common.settings import OAuthEndpoints
from paceline_local.layout import REPOSITORY
from paceline_local.parts.base import Need, PartFailed, Say, Site, await_ready
from paceline_local.parts.keys import Keys
from paceline_local.parts.mailhost import MailHost
from paceline_local.parts.postgres import DATABASE
from paceline_local.ports import LOOPBACK
from paceline_local.process import fingerprint

# Above the services' own drain grace.
_PATIENCE_S: Final = 30.0
_READY_S: Final = 60.0


class Service:
    """One service: `python -m paceline_<name>`, ready when its `/readyz` says so."""

    def __init__(self, name: str, site: Site, keys: Keys, mailhost: MailHost) -> None:
        self.name = name
        self.processes = (name,)
        self.port_names = (name,)
        self._site = site
        self._keys = keys
        self._mailhost = mailhost

    def needs(self) -> list[Need]:
        return []

    def url(self) -> str:
        """Return the base URL of the service."""
        return _url(self._site, self.name)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return its settings; passwords and tokens lie in files of PACELINE_SECRETS_DIR."""
        return environment(self.name, self._site, self._keys, self._mailhost) | dict(extra or {})

    def start(self, say: Say) -> None:
        self.start_with(say, {})

    def start_with(self, say: Say, extra: Mapping[str, str]) -> None:
        """Start with more settings (`PACELINE_FAILPOINTS`, say); restart if they changed."""
        # A killed service's last lines must be in its log.
        settings = self.environment(extra) | {"PYTHONUNBUFFERED": "1"}
        argv = [sys.executable, "-m", f"paceline_{self.name}"]
        mark = fingerprint(argv, sorted(settings.items()), self._secrets())
        running = self._site.processes.find(self.name)
        if running and running.fingerprint != mark:
            say("restarting with changed settings")
            self.stop()
            running = None
        if running is None:
            say("starting")
            self._site.processes.spawn(self.name, argv, print_=mark, env=settings, cwd=REPOSITORY)
        remedy = f"`paceline-local logs {self.name}`; then `paceline-local restart {self.name}`"
        try:
            await_ready(self._site, self.name, self.name, self.ready, _READY_S, remedy)
        except PartFailed as failure:
            raise PartFailed(
                self.name, f"{failure.reason}{self._unready()}", remedy, failure.tail
            ) from failure

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url()}/readyz", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def version(self) -> str:
        return version(f"paceline-{self.name}")

    def stop(self) -> None:
        self._site.processes.stop(self.name, ((signal.SIGTERM, _PATIENCE_S), (signal.SIGKILL, 5.0)))

    def _unready(self) -> str:
        """Say what `/readyz` names as missing."""
        try:
            answer = httpx.get(f"{self.url()}/readyz", timeout=2)
        except httpx.HTTPError:
            return ""
        return f"; /readyz says: {answer.text[:300]}"

    def _secrets(self) -> list[tuple[str, str]]:
        folder = self._site.passwords.folder(self.name)
        return sorted((p.name, fingerprint(p.read_text())) for p in folder.glob("paceline_*"))


def environment(name: str, site: Site, keys: Keys, mailhost: MailHost) -> dict[str, str]:
    """Return the settings of a principal of the house (a service, or `admin`).

    Draws what secrets are missing into its own folder, whose path is
    `PACELINE_SECRETS_DIR`.
    """
    principal = grants.BY_NAME[name]
    settings = {
        "PACELINE_SECRETS_DIR": str(site.passwords.folder(name)),
        "PACELINE_POSTGRES_HOST": LOOPBACK,
        "PACELINE_POSTGRES_PORT": str(site.ports["postgres"]),
        "PACELINE_POSTGRES_DB": DATABASE,
        "PACELINE_POSTGRES_USER": name,
        "PACELINE_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{site.ports['kafka']}",
        "PACELINE_KAFKA_USER": name,
        "PACELINE_HTTP_HOST": LOOPBACK,
        "PACELINE_HTTP_PORT": str(site.ports.get(name, 0)),
    }
    for secret in ("postgres_password", "kafka_password", "internal_token"):
        site.passwords.get(name, f"paceline_{secret}")
    if principal.keys:
        settings["PACELINE_KEYS_URL"] = keys.url()
        settings["PACELINE_KEYS_ROLE_ID"] = keys.role_id(name)
    if principal.redis:
        site.passwords.get(name, "paceline_redis_password")
        settings |= {
            "PACELINE_REDIS_HOST": LOOPBACK,
            "PACELINE_REDIS_PORT": str(site.ports["redis"]),
            "PACELINE_REDIS_USER": name,
        }
    for callee in principal.calls:
        token = site.passwords.get(callee, "paceline_internal_token")
        site.passwords.put(name, f"paceline_{callee}_token", token)
        settings[f"PACELINE_{callee.upper()}_URL"] = _url(site, callee)
    if name in {"gateway", "scheduler", "admin"}:
        # Everybody that the mail host knows lives in `.test`.
        settings["PACELINE_ACCEPT_TEST_DOMAINS"] = "true"
    if name in {"gateway", "sender", "reply"}:
        # The mail host of the stack has a loopback address and a CA of its own.
        settings |= {
            "PACELINE_PUBLIC_URL": _url(site, "gateway"),
            "PACELINE_HOST_ALLOWLIST": "127.0.0.0/8",
            "PACELINE_TLS_CA_FILE": str(mailhost.ca_file),
        }
        settings |= _oauth(site)
    if name == "reply":
        # The providers' twins do not mind being asked often, and people wait for demos.
        settings["PACELINE_API_POLL_S"] = "2"
    if name in {"gateway", "sender"}:
        settings["PACELINE_STORAGE_URL"] = (site.layout.run / "files").as_uri()
    return settings


def _oauth(site: Site) -> dict[str, str]:
    """Return where Google and Microsoft are: their twins (`twins.py`), whether they run or not.

    A variable of this process's own environment wins: a developer's real tenant, say.
    """
    settings: dict[str, str] = {}
    if "gmail_twin" in site.ports:
        google = _url(site, "gmail_twin")
        settings |= {
            "PACELINE_GOOGLE_AUTH_URL": f"{google}/o/oauth2/v2/auth",
            "PACELINE_GOOGLE_TOKEN_URL": f"{google}/token",
            "PACELINE_GOOGLE_REVOKE_URL": f"{google}/revoke",
            "PACELINE_GOOGLE_USERINFO_URL": f"{google}/v1/userinfo",
            "PACELINE_GMAIL_API_URL": google,
        }
    if "graph_twin" in site.ports:
        microsoft = _url(site, "graph_twin")
        settings |= {
            "PACELINE_MICROSOFT_LOGIN_URL": microsoft,
            "PACELINE_GRAPH_API_URL": microsoft,
        }
    chosen = {f"PACELINE_{name.upper()}" for name in OAuthEndpoints.model_fields}
    return settings | {name: value for name, value in os.environ.items() if name in chosen}


def _url(site: Site, service: str) -> str:
    return f"http://{LOOPBACK}:{site.ports[service]}"
