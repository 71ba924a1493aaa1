"""The real Vault and the twin, each a process of its own; neither may be absent."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from paceline_common import grants
from paceline_common.clock import Clock
from paceline_common.keys import AppRole, KeyAdmin, KeyService, provision
from paceline_local import vaultbuild

_ROOT = Path(__file__).parents[3]
_START_S = 30.0

# Policies beside the house's own, for what no service of the house may do.
_EXTRA_POLICIES = {
    "reader": '{"path": {"secret/data/*": {"capabilities": ["read"]}}}',
    "globs": """
        # The most specific rule wins, and deny wins over everything.
        path "transit/encrypt/*"       { capabilities = ["update"] }
        path "transit/encrypt/glob-*"  { capabilities = ["deny"] }
        path "transit/encrypt/glob-ok" { capabilities = ["create", "update"] }
        path "transit/+/plus"          { capabilities = ["update"] }
    """,
}


@dataclass(frozen=True)
class Settings:
    """The settings that `paceline_common.keys` reads."""

    keys_url: str
    keys_role_id: str
    keys_secret_id: SecretStr


@dataclass(frozen=True)
class Running:
    """One started and provisioned key service."""

    url: str
    root_token: SecretStr
    logins: dict[str, AppRole]

    def settings(self, name: str) -> Settings:
        """Return what the principal `name` logs in with."""
        return Settings(self.url, self.logins[name].role_id, self.logins[name].secret_id)

    def login(self, name: str) -> str:
        """Return a fresh token of the principal `name`."""
        login = self.logins[name]
        answer = self.request(
            "POST",
            "auth/approle/login",
            {"role_id": login.role_id, "secret_id": login.secret_id.get_secret_value()},
            token="",
        )
        assert answer.status_code == 200
        return str(answer.json()["auth"]["client_token"])

    def request(
        self, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> requests.Response:
        """Send one raw request, as root unless `token` says otherwise (empty: none)."""
        chosen = self.root_token.get_secret_value() if token is None else token
        return requests.request(
            method,
            f"{self.url}/v1/{path}",
            json=body,
            headers={"X-Vault-Token": chosen} if chosen else {},
            timeout=10,
        )


@contextmanager
def started(kind: str, directory: Path) -> Iterator[Running]:
    """Run a key service on a free loopback port until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = SecretStr(f"root-{secrets.token_hex(16)}")
    log = directory / f"{kind}.log"
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    if kind == "vault":
        command = [
            str(_vault()), "server", "-dev", "-dev-no-store-token",
            f"-dev-listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        environment["VAULT_DEV_ROOT_TOKEN_ID"] = token.get_secret_value()
    else:
        token_file = directory / "root-token"
        token_file.write_text(token.get_secret_value())
        command = [
            sys.executable, "-m", "tests.twins.vault",
            "--port", str(port), "--root-token-file", str(token_file),
            "--state", str(directory / "state.json"),
        ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdout=output, stderr=output,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _await_health(url, process, log)
        policies = grants.key_policies() | _EXTRA_POLICIES
        yield Running(url, token, provision(url, token, policies))
    finally:
        process.terminate()
        process.wait(10)


def _vault() -> Path:
    found = vaultbuild.find()
    assert found, "no real key service here: put vault or bao on PATH, or run `make vault`"
    return found


def _await_health(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if requests.get(f"{url}/v1/sys/health", timeout=1).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.05)
    pytest.fail(f"the key service did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session", params=["vault", "twin"])
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A provisioned key service, shared by the tests: each takes workspaces of its own."""
    with started(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture(params=["vault", "twin"])
def own_running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """A provisioned key service that the test may break."""
    with started(request.param, tmp_path) as running:
        yield running


_workspaces = count(1)


@pytest.fixture
def new_workspace() -> Callable[[], int]:
    """Draws workspace numbers that no other test uses."""
    return lambda: next(_workspaces)


@pytest.fixture
def service(running: Running) -> Iterator[Callable[..., KeyService]]:
    """Makes the `KeyService` of a principal; closed after the test."""
    made: list[KeyService] = []

    def make(name: str, clock: Clock | None = None, **changes: Any) -> KeyService:
        settings = running.settings(name)
        made.append(KeyService(Settings(**{**vars(settings), **changes}), clock=clock))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def admin(running: Running) -> Iterator[KeyAdmin]:
    """The key administration, under its own policy."""
    admin = KeyAdmin(running.settings("admin"))
    yield admin
    admin.close()


@pytest.fixture
async def workspace(new_workspace: Callable[[], int], admin: KeyAdmin) -> int:
    """A new workspace with its keys."""
    number = new_workspace()
    await admin.create_workspace_keys(number)
    return number
