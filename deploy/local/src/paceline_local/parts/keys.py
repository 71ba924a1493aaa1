"""The key service: the real Vault (or OpenBao), or the twin that development makes do with."""

import base64
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar, Final, Literal

import httpx
import hvac
import hvac.exceptions
from pydantic import SecretStr

from paceline_common import grants, keys
from paceline_local import vaultbuild
from paceline_local.layout import REPOSITORY
from paceline_local.parts.base import Need, PartFailed, Say, Site, await_ready
from paceline_local.ports import LOOPBACK
from paceline_local.process import fingerprint

Kind = Literal["vault", "twin"]

_CONFIG: Final = """\
disable_mlock = true
ui = false
api_addr = "http://{host}:{port}"
cluster_addr = "https://{host}:{cluster}"
storage "raft" {{
  path = "{data}"
  node_id = "local"
  performance_multiplier = 1
}}
listener "tcp" {{
  address = "{host}:{port}"
  cluster_address = "{host}:{cluster}"
  tls_disable = true
}}
"""


class Keys:
    """Vault keeps its keys on disk over a restart; so does the twin, in the clear."""

    name: ClassVar[str] = "keys"
    processes: ClassVar[tuple[str, ...]] = ("keys",)
    port_names: ClassVar[tuple[str, ...]] = ("keys", "keys_cluster")

    def __init__(self, site: Site) -> None:
        self._site = site
        self._home = site.layout.state / "vault"
        self._twin_state = site.layout.state / "twin.json"
        self._choice = site.layout.run / "keys"

    @property
    def chosen(self) -> Kind | None:
        """What this stack was last started with; None before the first time."""
        if not self._choice.exists():
            return None
        return "vault" if self._choice.read_text().strip() == "vault" else "twin"

    @property
    def kind(self) -> Kind:
        """What this stack uses; `twin` until somebody chose."""
        return self.chosen or "twin"

    def choose(self, kind: Kind) -> None:
        """Use `kind` from the next start on."""
        self._choice.write_text(kind)

    def needs(self) -> list[Need]:
        return []

    def url(self) -> str:
        """Return the base URL of the API."""
        return f"http://{LOOPBACK}:{self._site.ports['keys']}"

    def root_token(self) -> str:
        """Return the token that may do all, for provisioning and tests."""
        return self._site.passwords.get(self.kind, "root_token")

    def start(self, say: Say) -> None:
        if self.kind == "vault":
            self._start_vault(say)
        else:
            self._start_twin(say)
        say("policies, logins, keys")
        try:
            self._provision()
        except (hvac.exceptions.VaultError, OSError) as error:  # requests' errors are OSErrors
            tail = self._site.processes.tail(self.name)
            raise PartFailed(self.name, f"provisioning: {error}", "read the log", tail) from error

    def ready(self) -> bool:
        health = self._health()
        return bool(health.get("initialized")) and not health.get("sealed", True)

    def version(self) -> str:
        version = str(self._health().get("version", ""))
        return f"{version} ({self.kind})" if self.kind not in version else version

    def stop(self) -> None:
        self._site.processes.stop(self.name, ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)))

    def role_id(self, principal: str) -> str:
        """Return the AppRole id of a principal; its secret id lies in its secrets folder."""
        return (self._site.passwords.folder(principal) / "paceline_keys_role_id").read_text()

    def _start_twin(self, say: Say) -> None:
        token = self._site.passwords.folder("twin") / "root_token"
        self.root_token()
        argv = [
            sys.executable, "-m", "tests.twins.vault",
            "--port", str(self._site.ports["keys"]), "--root-token-file", str(token),
            "--state", str(self._twin_state),
        ]  # fmt: skip
        self._spawn(say, argv, fingerprint(argv), REPOSITORY)
        await_ready(self._site, self.name, self.name, self.ready, 30, "read the log")

    def _start_vault(self, say: Say) -> None:
        binary = vaultbuild.ensure(self._site.processes.log_path("vault-build"), say)
        text = _CONFIG.format(
            host=LOOPBACK,
            port=self._site.ports["keys"],
            cluster=self._site.ports["keys_cluster"],
            data=self._home,
        )
        self._home.mkdir(mode=0o700, exist_ok=True)
        config = self._home / "server.hcl"
        config.write_text(text)
        argv = [str(binary), "server", f"-config={config}", "-log-level=warn"]
        self._spawn(say, argv, fingerprint(argv, text), self._home)
        await_ready(
            self._site, self.name, self.name, lambda: bool(self._health()), 30, "read the log"
        )
        client = hvac.Client(url=self.url())
        passwords = self._site.passwords
        if not client.sys.is_initialized():
            say("initialising")
            answer = client.sys.initialize(secret_shares=1, secret_threshold=1)
            passwords.put("vault", "unseal_key", answer["keys"][0])
            passwords.put("vault", "root_token", answer["root_token"])
        if client.sys.is_sealed():
            client.sys.submit_unseal_key(passwords.get("vault", "unseal_key"))
        # The one node elects itself first.
        await_ready(self._site, self.name, self.name, self._is_active, 30, "read the log")

    def _spawn(self, say: Say, argv: list[str], mark: str, cwd: Path) -> None:
        running = self._site.processes.find(self.name)
        if running and running.fingerprint != mark:
            self.stop()
            running = None
        if running is None:
            say(f"starting {'the twin (development only)' if self.kind == 'twin' else 'Vault'}")
            self._site.processes.spawn(self.name, argv, print_=mark, cwd=cwd)

    def _health(self) -> dict[str, object]:
        try:
            answer = httpx.get(
                f"{self.url()}/v1/sys/health",
                params={"sealedcode": "200", "uninitcode": "200", "standbyok": "true"},
                timeout=2,
            )
            body = answer.json()
        except (httpx.HTTPError, ValueError):
            return {}
        return body if isinstance(body, dict) else {}

    def _is_active(self) -> bool:
        health = self._health()
        return not health.get("sealed", True) and health.get("standby") is False

    def _provision(self) -> None:
        """Make policies, logins, keys and the address-hash secret, unless they are there."""
        policies = grants.key_policies()
        stamp = fingerprint(self._identity(), sorted(policies.items()))
        passwords = self._site.passwords
        marker = passwords.folder("stack") / "keys_provisioned"
        if marker.exists() and marker.read_text() == stamp:
            return
        self._seed_address_hash()
        logins = keys.provision(self.url(), SecretStr(self.root_token()), policies)
        for name, login in logins.items():
            passwords.put(name, "paceline_keys_role_id", login.role_id)
            passwords.put(name, "paceline_keys_secret_id", login.secret_id.get_secret_value())
        passwords.put("stack", "keys_provisioned", stamp)

    def _identity(self) -> object:
        """Name the store of keys."""
        return self._health().get("cluster_id")

    def _seed_address_hash(self) -> None:
        """Store this stack's own address-hash key where none is.

        Vault and twin share it: another one would lose every suppression in Postgres.
        """
        passwords = self._site.passwords
        held = passwords.folder("stack") / "address_hash"
        if not held.exists():
            passwords.put("stack", "address_hash", base64.b64encode(os.urandom(32)).decode())
        client = hvac.Client(url=self.url(), token=self.root_token())
        if "secret/" not in client.sys.list_mounted_secrets_engines()["data"]:
            client.sys.enable_secrets_engine("kv", path="secret", options={"version": "2"})
        with contextlib.suppress(hvac.exceptions.InvalidRequest):  # cas=0: already there
            client.write_data(
                f"secret/data/{keys.ADDRESS_HASH_SECRET}",
                data={"options": {"cas": 0}, "data": {"value": held.read_text()}},
            )
