"""Postgres: one private cluster, TCP on the loopback address, SCRAM passwords."""

import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar, Final

import psycopg

from paceline_local.parts.base import Need, PartFailed, Say, Site, await_ready
from paceline_local.ports import LOOPBACK
from paceline_local.process import fingerprint

DATABASE: Final = "paceline"
_OLDEST: Final = 15

# Durable (the promises rest on committed rows), small, and silent about values:
# an error's statement, parameters and DETAIL line may hold an address.
_SETTINGS: Final = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "192MB",
    "max_wal_size": "2GB",
    "checkpoint_completion_target": "0.9",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length_on_error": "0",
    "password_encryption": "scram-sha-256",
}
_REMEDY: Final = (
    "read the log; `paceline-local down` and a removed data directory start from nothing"
)


def _binaries() -> Path | None:
    """Return the newest Postgres program directory of the machine, 15 or later."""
    found = [
        (int(path.name), path / "bin")
        for path in Path("/usr/lib/postgresql").glob("*")
        if path.name.isdigit() and (path / "bin" / "postgres").exists()
    ]
    newest = max(found, default=None)
    if newest and newest[0] >= _OLDEST:
        return newest[1]
    on_path = shutil.which("postgres")
    return Path(on_path).parent if on_path else None


class Postgres:
    """The database of the stack. `postgres` is its superuser, for provisioning and tests only."""

    name: ClassVar[str] = "postgres"
    processes: ClassVar[tuple[str, ...]] = ("postgres",)
    port_names: ClassVar[tuple[str, ...]] = ("postgres",)

    def __init__(self, site: Site) -> None:
        self._site = site
        self._data = site.layout.state / "postgres"
        # The server refuses to run as root.
        self._user = "postgres" if site.is_root else None

    def needs(self) -> list[Need]:
        return [Need(lambda: _binaries() is not None, ("postgresql",))]

    def dsn(self, role: str = "postgres", database: str = DATABASE) -> str:
        """Return a libpq URI for a login role of the stack (its password included)."""
        owner = "stack" if role == "postgres" else role
        password = self._site.passwords.get(owner, "paceline_postgres_password")
        port = self._site.ports["postgres"]
        return f"postgresql://{role}:{password}@{LOOPBACK}:{port}/{database}"

    def start(self, say: Say) -> None:
        binaries = _binaries()
        if binaries is None:
            raise PartFailed(self.name, "no Postgres 15 or later", "apt-get install postgresql")
        if not (self._data / "PG_VERSION").exists():
            say("making a cluster")
            self._make_cluster(binaries)
        arguments = [f"--{key}={value}" for key, value in _SETTINGS.items()]
        arguments.append(f"--port={self._site.ports['postgres']}")
        mark = fingerprint(str(binaries), arguments)
        running = self._site.processes.find(self.name)
        if running and running.fingerprint != mark:
            say("restarting with changed settings")
            self.stop()
            running = None
        if running is None:
            say("starting")
            self._site.processes.spawn(
                self.name,
                [str(binaries / "postgres"), "-D", str(self._data), *arguments],
                print_=mark,
                cwd=self._data,
                user=self._user,
            )
        await_ready(self._site, self.name, self.name, self.ready, 60, _REMEDY)
        self._make_database()

    def ready(self) -> bool:
        try:
            with psycopg.connect(self.dsn(database="postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def version(self) -> str:
        try:
            with psycopg.connect(self.dsn(database="postgres"), connect_timeout=2) as connection:
                return str(connection.info.parameter_status("server_version")).split()[0]
        except psycopg.OperationalError:
            return ""

    def stop(self) -> None:
        # SIGINT is "fast": sessions are cut off, nothing is lost. SIGQUIT skips the checkpoint.
        self._site.processes.stop(
            self.name, ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
        )

    def _make_cluster(self, binaries: Path) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(mode=0o700, parents=True)
        # initdb reads a file: a pipe of root's cannot be opened by the server's account.
        password = self._data.with_name("postgres.password")
        password.touch(mode=0o600)
        password.write_text(self._site.passwords.get("stack", "paceline_postgres_password"))
        if self._user:
            shutil.chown(self._data, self._user, self._user)
            shutil.chown(password, self._user, self._user)
        try:
            made = subprocess.run(
                [
                    str(binaries / "initdb"), "--pgdata", str(self._data), "--username=postgres",
                    "--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8",
                    "--locale=C.UTF-8", "--no-sync", "--no-instructions",
                ],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=self._data,
                user=self._user, group=self._user, extra_groups=[] if self._user else None,
                check=False,
            )  # fmt: skip
        finally:
            password.unlink()
        if made.returncode:
            raise PartFailed(self.name, "initdb failed", _REMEDY, made.stderr.splitlines()[-12:])

    def _make_database(self) -> None:
        with psycopg.connect(self.dsn(database="postgres"), autocommit=True) as connection:
            known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if known.fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")
