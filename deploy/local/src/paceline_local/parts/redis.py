"""Redis: one private server; every user comes from the grants, the default one is off."""

import hashlib
import shutil
import signal
import subprocess
from typing import ClassVar, Final

import redis

from paceline_common import grants
from paceline_local.parts.base import Need, PartFailed, Say, Site, await_ready
from paceline_local.ports import LOOPBACK
from paceline_local.process import fingerprint

_CONFIG: Final = """\
bind {host}
port {port}
dir {data}
daemonize no
aclfile {acl}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
"""


class Redis:
    """The pacing store of the stack. `stack` may do all, for tests and `paceline-local` only."""

    name: ClassVar[str] = "redis"
    processes: ClassVar[tuple[str, ...]] = ("redis",)
    port_names: ClassVar[tuple[str, ...]] = ("redis",)

    def __init__(self, site: Site) -> None:
        self._site = site
        self._data = site.layout.state / "redis"

    def needs(self) -> list[Need]:
        return [Need(lambda: shutil.which("redis-server") is not None, ("redis-server",))]

    def url(self) -> str:
        """Return the URL of the `stack` user, password included."""
        password = self._site.passwords.get("stack", "paceline_redis_password")
        return f"redis://stack:{password}@{LOOPBACK}:{self._site.ports['redis']}/0"

    def start(self, say: Say) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise PartFailed(self.name, "no redis-server", "apt-get install redis-server")
        self._data.mkdir(mode=0o700, exist_ok=True)
        acl = self._data / "users.acl"
        acl.touch(mode=0o600)
        users = "".join(f"{line}\n" for line in self._users())
        acl.write_text(users)
        config = self._data / "redis.conf"
        text = _CONFIG.format(
            host=LOOPBACK, port=self._site.ports["redis"], data=self._data, acl=acl
        )
        config.write_text(text)
        mark = fingerprint(program, text, users)
        running = self._site.processes.find(self.name)
        if running and running.fingerprint != mark:
            self.stop()
            running = None
        if running is None:
            say("starting")
            self._site.processes.spawn(
                self.name, [program, str(config)], print_=mark, cwd=self._data
            )
        await_ready(self._site, self.name, self.name, self.ready, 20, "read the log")

    def ready(self) -> bool:
        try:
            with redis.Redis.from_url(self.url(), socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def version(self) -> str:
        program = shutil.which("redis-server")
        if program is None:
            return ""
        words = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        return next((w[2:] for w in words.stdout.split() if w.startswith("v=")), "")

    def stop(self) -> None:
        self._site.processes.stop(self.name, ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)))

    def _users(self) -> list[str]:
        users = ["user default off", f"user stack on {self._digest('stack')} ~* &* +@all"]
        for principal in grants.BY_NAME:
            rules = grants.redis_rules(principal)
            if rules:
                users.append(f"user {principal} on {self._digest(principal)} {' '.join(rules)}")
        return users

    def _digest(self, owner: str) -> str:
        password = self._site.passwords.get(owner, "paceline_redis_password")
        return f"#{hashlib.sha256(password.encode()).hexdigest()}"
