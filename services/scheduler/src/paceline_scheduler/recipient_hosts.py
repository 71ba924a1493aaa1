"""Who reads a recipient domain's mail: looked up by its MX records, kept with the domain."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.resolver
from sqlalchemy import Row

from paceline_common import telemetry
from paceline_common.db import Database, Queries
from paceline_common.db.session import after_commit
from paceline_scheduler.shaping import Shaper

GOOGLE: Final = 1
MICROSOFT: Final = 2
# Suffixes of the names of mail exchangers, as the providers document them.
_SUFFIXES: Final = (
    ("google.com", GOOGLE),
    ("googlemail.com", GOOGLE),
    ("mail.protection.outlook.com", MICROSOFT),
    ("olc.protection.outlook.com", MICROSOFT),
    ("mx.microsoft", MICROSOFT),
    ("hotmail.com", MICROSOFT),
)
_KEPT: Final = timedelta(days=7)
_RETRY: Final = timedelta(hours=1)
_BATCH: Final = 50
_AT_ONCE: Final = 10
# Look-ups per second at most.
_RATE: Final = 20.0
_LOOK_S: Final = 5.0
_IDLE_S: Final = 30.0
_TIMEOUT_S: Final = 5.0

_log = telemetry.logger("scheduler.recipient_hosts")

Resolver = Callable[[str], Awaitable[Sequence[str] | None]]


def code_of(exchangers: Sequence[str]) -> int:
    """Return the host code of a domain by its mail exchangers, best first: 1 Google, 2 Microsoft,
    0 anybody else. What stands in front of a provider (a filter) is anybody else."""
    name = exchangers[0].rstrip(".").lower() if exchangers else ""
    return next((code for suffix, code in _SUFFIXES if f".{name}".endswith(f".{suffix}")), 0)


async def resolve_mx(domain: str) -> Sequence[str] | None:
    """Return a domain's mail exchangers (RFC 5321 §5.1), best first; None: not known just now."""
    try:
        answer = await dns.asyncresolver.resolve(
            f"{domain}.", "MX", lifetime=_TIMEOUT_S, raise_on_no_answer=False
        )
    except (dns.resolver.NXDOMAIN, dns.resolver.YXDOMAIN):
        return []
    except (dns.exception.DNSException, OSError):
        return None
    records = sorted(answer, key=lambda record: (record.preference, record.exchange))
    return [record.exchange.to_text() for record in records]


class RecipientHosts:
    """Looks up the hosts of recipient domains, for workspaces that have a use for it.

    Nobody waits for it: a domain not looked up yet counts as anybody else's.
    """

    def __init__(
        self,
        db: Database,
        queries: Queries,
        shaper: Shaper,
        wake: Callable[[], None],
        resolve: Resolver = resolve_mx,
        *,
        rate: float = _RATE,
    ) -> None:
        self._db = db
        self._queries = queries
        self._shaper = shaper
        self._wake = wake
        self._resolve = resolve
        self._rate = rate

    async def run(self) -> None:
        """Look up until cancelled."""
        while True:
            begun = time.monotonic()
            found = await self.look()
            pause = found / self._rate if found == _BATCH else _LOOK_S if found else _IDLE_S
            await asyncio.sleep(max(0.0, pause - (time.monotonic() - begun)))

    async def look(self) -> int:
        """Look up a batch of domains; return how many there were."""
        async with self._db.transaction(worker=True) as tx:
            workspaces = list((await tx.execute(self._queries["load_workspaces"])).scalars())
        if not workspaces:
            return 0
        async with self._db.transaction(workspaces) as tx:
            rows = (
                await tx.execute(
                    self._queries["load_unknown_hosts"],
                    {"kept": _KEPT, "retry": _RETRY, "most": _BATCH},
                )
            ).all()
        if not rows:
            return 0
        hosts = await self._look_up(sorted({row.domain for row in rows}))
        async with self._db.transaction(sorted({row.workspace_id for row in rows})) as tx:
            written = await tx.execute(
                self._queries["set_hosts"],
                {
                    "workspaces": [row.workspace_id for row in rows],
                    "domains": [row.domain_id for row in rows],
                    "hosts": [hosts[row.domain] for row in rows],
                },
            )
            changed = [row for row in written if row.host != row.was]
            await self._tell(tx, changed)
        if changed:
            _log.info("recipient hosts found", count=len(changed))
        return len(rows)

    async def _look_up(self, domains: Sequence[str]) -> dict[str, int | None]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(domain: str) -> int | None:
            async with gate:
                exchangers: Sequence[str] | None = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(2 * _TIMEOUT_S):
                        exchangers = await self._resolve(domain)
                return None if exchangers is None else code_of(exchangers)

        return dict(
            zip(domains, await asyncio.gather(*(one(domain) for domain in domains)), strict=True)
        )

    async def _tell(self, tx: Any, changed: Sequence[Row[Any]]) -> None:
        if not changed:
            return
        keys = sorted((row.workspace_id, row.domain_id) for row in changed)
        # Rules of a host hold for its domains from now on.
        await self._shaper.refresh(tx, sorted({workspace for workspace, _ in keys}), keys)
        await tx.execute(
            self._queries["tell_matched_jobs"],
            {
                "workspaces": [workspace for workspace, _ in keys],
                "domains": [domain for _, domain in keys],
            },
        )
        after_commit(tx, "pacer", self._wake)
