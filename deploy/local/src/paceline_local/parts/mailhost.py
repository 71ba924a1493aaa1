"""The mail host: Postfix and Dovecot with Pigeonhole, as senders' and recipients' servers."""

import base64
import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from paceline_local import certificate
from paceline_local.parts import mailconfig
from paceline_local.parts.base import Need, PartFailed, Say, Site, await_ready
from paceline_local.process import fingerprint, wait_until

_ACCOUNT: Final = "mail"  # Debian's own account for mail storage
_ADDRESS: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}@[a-z0-9.-]+")
_MASTER: Final = Path("/usr/lib/postfix/sbin/master")


@dataclass(frozen=True, slots=True)
class User:
    """One account of the mail host. `sieve` is its delivery script (RFC 5228), if any."""

    email: str
    password: str
    sieve: str | None = None


def vacation_script(text: str) -> str:
    """Return a Sieve script that answers every sender once (RFC 5230) and keeps the mail.

    Pigeonhole never answers mail with List-Unsubscribe headers: they are
    deleted before `vacation` looks.
    """
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        'require ["vacation", "editheader"];\n'
        'deleteheader "List-Unsubscribe";\n'
        'deleteheader "List-Unsubscribe-Post";\n'
        f'vacation :days 1 :subject "Out of office" "{quoted}";\n'
    )


class MailHost:
    """Postfix and Dovecot for `north.test`, `south.test` (senders) and `example.test`.

    Any account may submit (AUTH required, as itself only) and read its mail by
    IMAP, with its password or with an access token that Gmail's twin knows. An unknown
    user of these domains is refused at RCPT with 550 5.1.1; mail to `late.test` is
    accepted and bounced a moment later by a DSN.
    """

    name: ClassVar[str] = "mailhost"
    processes: ClassVar[tuple[str, ...]] = ("dovecot", "postfix")
    port_names: ClassVar[tuple[str, ...]] = mailconfig.PORTS

    def __init__(self, site: Site) -> None:
        self._site = site
        self._home = site.layout.state / "mail"

    def needs(self) -> list[Need]:
        return [
            Need(_MASTER.exists, ("postfix",)),
            Need(
                lambda: all(map(shutil.which, ("dovecot", "sievec"))) and _lmtp().exists(),
                ("dovecot-core", "dovecot-imapd", "dovecot-lmtpd", "dovecot-sieve"),
            ),
        ]

    @property
    def ca_file(self) -> Path:
        """PEM certificate of the authority that signed the servers' certificate."""
        return self._site.layout.run / "tls" / "ca.pem"

    @property
    def log_path(self) -> Path:
        """Postfix's log: every queue id (microseconds encoded), sender and recipient."""
        return self._site.processes.log_path("postfix")

    def maildir(self, email: str) -> Path:
        """Return the Maildir of an account (`new/`, `cur/`, `.Sent/`, …)."""
        local, _, domain = _checked(email).partition("@")
        return self._home / "box" / domain / local

    def add_user(self, email: str, password: str, sieve: str | None = None) -> None:
        """Add an account, or give an existing one this password and script."""
        self.add_users([User(email, password, sieve)])

    def add_users(self, users: Iterable[User]) -> None:
        """Add or change several accounts; on return each can log in and receive mail."""
        changed: list[User] = []
        for user in users:
            entry = self._entry(user.email)
            entry.parent.mkdir(parents=True, exist_ok=True)
            if entry.exists():
                changed.append(user)
            self._write_entry(entry, user)
            self._write_script(user)
        self._list_recipients()
        # Dovecot looks at a known account's file once a second.
        for user in changed:
            if not wait_until(lambda user=user: self._admits(user), 5):  # type: ignore[misc]
                raise TimeoutError(f"Dovecot does not take the new password of {user.email}")

    def remove_users(self, emails: Iterable[str]) -> None:
        """Remove these accounts, where they exist, with their mail and their Sieve memory."""
        for email in emails:
            local, _, domain = _checked(email).partition("@")
            self._entry(email).unlink(missing_ok=True)
            for folder in ("box", "home"):
                shutil.rmtree(self._home / folder / domain / local, ignore_errors=True)
        self._list_recipients()

    def clear(self) -> None:
        """Remove every account, every message and the whole queue."""
        if self.ready():
            self._run("postsuper", "-c", str(self._postfix), "-d", "ALL")
        for folder in ("users", "box", "home"):
            shutil.rmtree(self._home / folder, ignore_errors=True)
        self._make_folders()
        self._list_recipients()

    def start(self, say: Say) -> None:
        if not self._site.is_root:
            raise PartFailed(
                self.name,
                "Postfix and Dovecot change users, which only root may",
                "run as root, or use the Compose stack (deploy/compose)",
            )
        self._home.mkdir(mode=0o755, exist_ok=True)
        self._make_folders()
        certificate.ensure(self.ca_file.parent)
        self._start_dovecot(say)
        self._start_postfix(say)

    def ready(self) -> bool:
        ports = self._site.ports
        return mailconfig.greets(ports["imap"], b"* OK") and mailconfig.greets(
            ports["smtp"], b"220 "
        )

    def version(self) -> str:
        postfix = self._run("postconf", "-d", "-h", "mail_version").strip()
        dovecot = self._run("dovecot", "--version").split()[0]
        return f"postfix {postfix}, dovecot {dovecot}"

    def stop(self) -> None:
        self._site.processes.stop("postfix")
        self._site.processes.stop("dovecot")

    @property
    def _postfix(self) -> Path:
        return self._home / "postfix"

    @property
    def _dovecot(self) -> Path:
        return self._home / "dovecot" / "dovecot.conf"

    def _start_dovecot(self, say: Say) -> None:
        text = mailconfig.dovecot(self._home, self.ca_file.parent, self._site.ports, _ACCOUNT)
        oauth2 = mailconfig.dovecot_oauth2(self._site.ports)
        self._dovecot.parent.mkdir(exist_ok=True)
        mark = fingerprint(text, oauth2, self._certificate())
        if self._kept("dovecot", mark):
            return
        self._dovecot.write_text(text)
        self._dovecot.with_name("oauth2.conf").write_text(oauth2)
        say("starting Dovecot")
        self._site.processes.spawn(
            "dovecot", ["dovecot", "-F", "-c", str(self._dovecot)], print_=mark, cwd=self._home
        )
        await_ready(
            self._site, self.name, "dovecot",
            lambda: mailconfig.greets(self._site.ports["imap"], b"* OK"),
            20, "read the log",
        )  # fmt: skip

    def _start_postfix(self, say: Say) -> None:
        main = mailconfig.postfix_main(
            self._home, self.ca_file.parent, self._site.ports, self.log_path
        )
        master = mailconfig.postfix_master(self._site.ports)
        mark = fingerprint(main, master, self._certificate())
        if self._kept("postfix", mark):
            return
        self._postfix.mkdir(exist_ok=True)
        (self._postfix / "main.cf").write_text(main)
        (self._postfix / "master.cf").write_text(master)
        self._list_recipients()
        data = self._home / "postfix-data"
        data.mkdir(mode=0o700, exist_ok=True)
        shutil.chown(data, "postfix")
        spool = self._home / "spool"
        spool.mkdir(mode=0o755, exist_ok=True)
        say("starting Postfix")
        # Makes the queue directories. `start-fg` would too, but its shell outlives a TERM.
        self._run("postfix", "-c", str(self._postfix), "check")
        self._site.processes.spawn(
            "postfix", [str(_MASTER), "-c", str(self._postfix), "-d"], print_=mark, cwd=self._home,
            env={"MAIL_CONFIG": str(self._postfix)},
        )  # fmt: skip
        await_ready(
            self._site, self.name, "postfix",
            lambda: mailconfig.greets(self._site.ports["smtp"], b"220 "),
            20, "read the log",
        )  # fmt: skip

    def _kept(self, process: str, mark: str) -> bool:
        running = self._site.processes.find(process)
        if running and running.fingerprint != mark:
            self._site.processes.stop(process, ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)))
            return False
        return running is not None

    def _certificate(self) -> bytes:
        return (self.ca_file.parent / "server.pem").read_bytes()

    def _make_folders(self) -> None:
        account = pwd.getpwnam(_ACCOUNT)
        (self._home / "users").mkdir(mode=0o755, exist_ok=True)
        for folder in ("box", "home"):
            (self._home / folder).mkdir(mode=0o755, exist_ok=True)
            shutil.chown(self._home / folder, account.pw_uid, account.pw_gid)

    def _entry(self, email: str) -> Path:
        local, _, domain = _checked(email).partition("@")
        return self._home / "users" / domain / local

    def _write_entry(self, entry: Path, user: User) -> None:
        salt = secrets.token_bytes(8)
        digest = hashlib.sha256(user.password.encode() + salt).digest()
        line = f"{user.email}:{{SSHA256}}{base64.b64encode(digest + salt).decode()}\n"
        temporary = entry.with_suffix(".new")
        temporary.write_text(line)
        temporary.chmod(0o644)
        if entry.exists():
            # Dovecot compares whole seconds and the size, and the size stays.
            newer = max(time.time(), entry.stat().st_mtime + 1)
            os.utime(temporary, (newer, newer))
        temporary.replace(entry)

    def _write_script(self, user: User) -> None:
        local, _, domain = user.email.partition("@")
        home = self._home / "home" / domain / local
        script = home / ".dovecot.sieve"
        if user.sieve is None:
            script.unlink(missing_ok=True)
            script.with_suffix(".svbin").unlink(missing_ok=True)
            return
        home.mkdir(parents=True, exist_ok=True)
        script.write_text(user.sieve)
        self._run("sievec", "-c", str(self._dovecot), str(script))
        for path in (home.parent, home, script, script.with_suffix(".svbin")):
            shutil.chown(path, _ACCOUNT, _ACCOUNT)

    def _list_recipients(self) -> None:
        """Rewrite Postfix's table of accounts; smtpd sees a replaced file at its next session."""
        users = sorted((self._home / "users").glob("*/*"))
        self._postfix.mkdir(exist_ok=True)
        table = self._postfix / f"users-{time.time_ns()}"
        table.write_text(
            "".join(f"{u.name}@{u.parent.name} {u.name}@{u.parent.name}\n" for u in users)
        )
        self._run("postmap", "-c", str(self._postfix), f"hash:{table}")
        table.with_name(f"{table.name}.db").replace(self._postfix / "users.db")
        table.replace(self._postfix / "users")

    def _admits(self, user: User) -> bool:
        tried = subprocess.run(
            ["doveadm", "-c", str(self._dovecot), "auth", "test", user.email],
            input=f"{user.password}\n", text=True, capture_output=True, check=False,
        )  # fmt: skip
        return tried.returncode == 0

    def _run(self, *argv: str) -> str:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            lines = (done.stdout + done.stderr).splitlines()[-12:]
            raise PartFailed(self.name, f"{argv[0]} failed", "read the lines below", lines)
        return done.stdout


def _lmtp() -> Path:
    return Path("/usr/lib/dovecot/lmtp")


def _checked(email: str) -> str:
    if not _ADDRESS.fullmatch(email):
        raise ValueError(f"not an address that the mail host can hold: {email!r}")
    return email
