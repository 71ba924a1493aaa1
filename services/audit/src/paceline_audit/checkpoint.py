"""Checkpoints: the head of every chain, signed, every so many records or seconds.

Whoever keeps one elsewhere can later show that the chain before it was not
rewritten; `audit` in the key service signs (Ed25519) and nobody sees its key.
"""

import asyncio
import contextlib
from typing import Final

from paceline_audit.domain.record import statement
from paceline_common import failpoints, ids, telemetry
from paceline_common.clock import Clock
from paceline_common.db import Database, Queries
from paceline_common.keys import KeyService
from paceline_common.telemetry import Metrics

_QUERIES: Final = Queries("paceline_audit")


class Checkpointer:
    """Signs the chains' heads in the background."""

    def __init__(
        self,
        *,
        db: Database,
        keys: KeyService,
        clock: Clock,
        metrics: Metrics,
        every_records: int,
        every_s: float,
    ) -> None:
        self._db = db
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._every_records = every_records
        self._every_s = every_s
        self._unsigned = 0
        self._due = asyncio.Event()
        self._log = telemetry.logger("checkpoint")

    def appended(self, count: int) -> None:
        """Take note of `count` new records."""
        self._unsigned += count
        if self._unsigned >= self._every_records:
            self._due.set()

    async def run(self) -> None:
        """Sign what is due until cancelled; raises what Postgres and the key service raise."""
        while True:
            await self.sign_heads()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._due.wait()

    async def sign_heads(self) -> int:
        """Sign every head without a checkpoint; return how many."""
        self._due.clear()
        self._unsigned = 0
        async with self._db.transaction(worker=True) as tx:
            heads = (await tx.execute(_QUERIES["find_unsigned_heads"])).all()
        for head in heads:
            at = self._clock.now()
            head_digest = bytes(head.digest)
            signature = await self._keys.sign(
                statement(head.workspace_id, head.seq, head_digest, at)
            )
            async with self._db.transaction(worker=True) as tx:
                await tx.execute(
                    _QUERIES["insert_checkpoint"],
                    {
                        "workspace": head.workspace_id,
                        "seq": head.seq,
                        "digest": head_digest,
                        "signed_at": at,
                        "signature": signature,
                    },
                )
                failpoints.hit("audit.before_checkpoint_commit")
            failpoints.hit("audit.after_checkpoint_commit")
            self._metrics.counter("paceline_audit_checkpoints_total").inc()
            workspace = ids.encode("ws", head.workspace_id) if head.workspace_id else None
            self._log.info("checkpoint signed", workspace=workspace, seq=head.seq)
        return len(heads)
