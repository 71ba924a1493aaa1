"""What one received message does: everything in one transaction, its cursor included."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, failpoints, ids, topics
from paceline_common.address import AddressHasher
from paceline_common.clock import Clock
from paceline_common.db import Database, Outbox, Outgoing, Queries
from paceline_common.keys import ADDRESS_HASH_SECRET, KeyService
from paceline_common.telemetry import Metrics
from paceline_reply import match
from paceline_reply.domain.inbound import Inbound, read
from paceline_reply.domain.kind import Kind, classify
from paceline_reply.match import Match, Tokens
from paceline_reply.sources.base import Fetched, Place

REPLIED: Final = "replied"
PROBE_HEADER: Final = "x-paceline-probe"
_QUERIES: Final = Queries("paceline_reply")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Whose inbox it is; `email` is lower-case."""

    workspace_id: int
    mailbox_id: int
    email: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom a job went to, and the keyed hash of the address."""

    match: Match
    address_hash: bytes


class Receiver:
    """Turns fetched messages into rows, events and stops."""

    def __init__(
        self,
        *,
        db: Database,
        outbox: Outbox,
        keys: KeyService,
        clock: Clock,
        metrics: Metrics,
        thread_life: timedelta,
    ) -> None:
        self._db = db
        self._outbox = outbox
        self._keys = keys
        self._clock = clock
        self._metrics = metrics
        self._thread_life = thread_life
        self._hasher: AddressHasher | None = None

    async def receive(self, mailbox: Mailbox, fetched: Fetched, place: Place) -> Kind | None:
        """Apply one message and move the cursor to `place`; return its kind, None if known already.

        May be repeated: a message counts once per mailbox, Message-ID and digest, and once
        per provider's id.
        Raises what Postgres and the key service raise; nothing is applied then.
        """
        inbound = read(fetched.raw)
        tokens = await match.verified_tokens(self._keys, mailbox.workspace_id, inbound)
        hasher = await self._address_hasher()
        async with self._db.transaction([mailbox.workspace_id]) as tx:
            found = await match.find(
                tx,
                hasher,
                workspace_id=mailbox.workspace_id,
                mailbox_id=mailbox.mailbox_id,
                inbound=inbound,
                thread_id=fetched.thread_id,
                tokens=tokens,
                now=self._clock.now(),
                thread_life=self._thread_life,
            )
            kind = classify(
                inbound,
                own=await self._is_own(tx, mailbox, inbound, tokens),
                unsubscribes=tokens.unsubscribe is not None,
                matched=found is not None,
            )
            recipient = (
                await self._recipient(tx, mailbox, tokens) if kind == "unsubscribe" else None
            )
            if recipient is not None:
                found = recipient.match
            inbound_id = await self._insert(tx, mailbox, inbound, kind, found, fetched)
            if inbound_id is not None:
                await self._act(tx, mailbox, inbound, kind, found, recipient, inbound_id, fetched)
            await tx.execute(
                _QUERIES["advance_cursor"],
                {
                    **_key(mailbox),
                    "place": msgspec.json.encode(place).decode(),
                    "read_at": None,
                },
            )
            failpoints.hit("reply.before_inbound_commit")
        failpoints.hit("reply.after_inbound_commit")
        if inbound_id is None:
            return None
        matched_by = found.by if found else "none"
        self._metrics.counter("paceline_reply_inbound_total").labels(kind, matched_by).inc()
        return kind

    async def _insert(
        self,
        tx: AsyncConnection,
        mailbox: Mailbox,
        inbound: Inbound,
        kind: Kind,
        found: Match | None,
        fetched: Fetched,
    ) -> int | None:
        inserted = await tx.execute(
            _QUERIES["insert_inbound"],
            {
                **_key(mailbox),
                "kind": kind,
                "message_id": inbound.message_id,
                "digest": hashlib.sha256(fetched.raw).digest(),
                "job": found.job_id if found else None,
                "enrollment": found.enrollment_id if found else None,
                "matched_by": found.by if found else None,
                "received_at": fetched.received_at,
                "report": fetched.raw if kind in ("dsn", "complaint") else None,
                "provider_message_id": fetched.provider_id,
            },
        )
        inbound_id: int | None = inserted.scalar_one_or_none()
        return inbound_id

    async def _act(
        self,
        tx: AsyncConnection,
        mailbox: Mailbox,
        inbound: Inbound,
        kind: Kind,
        found: Match | None,
        recipient: Recipient | None,
        inbound_id: int,
        fetched: Fetched,
    ) -> None:
        """What a message that was not known causes."""
        outgoing = [_received(mailbox, inbound_id, kind, found, fetched)]
        if recipient is not None:
            await tx.execute(
                _QUERIES["suppress"],
                {
                    "workspace": mailbox.workspace_id,
                    "hash": recipient.address_hash,
                    "enrollment": recipient.match.enrollment_id,
                },
            )
        if kind == "human" and found is not None and found.enrollment_id is not None:
            await tx.execute(
                _QUERIES["insert_reply"],
                {
                    **_key(mailbox),
                    "inbound": inbound_id,
                    "job": found.job_id,
                    "enrollment": found.enrollment_id,
                    "subject": inbound.subject[:998],
                    "snippet": inbound.snippet(),
                    "received_at": fetched.received_at,
                },
            )
            await tx.execute(
                _QUERIES["suspend"],
                {
                    "workspace": mailbox.workspace_id,
                    "scope": "enrollment",
                    "ref": found.enrollment_id,
                    "reason": REPLIED,
                    "detail": f"answered in {ids.encode('inb', inbound_id)}",
                },
            )
            outgoing.append(_replied(mailbox, inbound_id, found, fetched))
        await self._outbox.add(tx, outgoing)

    async def _is_own(
        self, tx: AsyncConnection, mailbox: Mailbox, inbound: Inbound, tokens: Tokens
    ) -> bool:
        """Tell our own sends and tests, and what people send to themselves.

        Another mailbox of the workspace may be a lead too: what it sends is own
        only with our marks on it.
        """
        if mailbox.email in inbound.from_addresses:
            return True
        marked = tokens.job is not None or bool(inbound.header(PROBE_HEADER))
        if not marked or not inbound.from_addresses:
            return False
        own = await tx.execute(
            _QUERIES["find_own_mailboxes"],
            {"workspace": mailbox.workspace_id, "addresses": list(inbound.from_addresses)},
        )
        return own.first() is not None

    async def _recipient(
        self, tx: AsyncConnection, mailbox: Mailbox, tokens: Tokens
    ) -> Recipient | None:
        """Return who unsubscribes; None when the lead was erased since."""
        row = (
            await tx.execute(
                _QUERIES["find_recipient"],
                {"workspace": mailbox.workspace_id, "job": tokens.unsubscribe},
            )
        ).one_or_none()
        if row is None:
            return None
        return Recipient(
            Match(
                row.job_id, row.enrollment_id, row.campaign_id, row.step, row.mailbox_id, "token"
            ),
            bytes(row.address_hash),
        )

    async def _address_hasher(self) -> AddressHasher:
        if self._hasher is None:
            self._hasher = AddressHasher(await self._keys.secret(ADDRESS_HASH_SECRET))
        return self._hasher


def _key(mailbox: Mailbox) -> dict[str, Any]:
    return {"workspace": mailbox.workspace_id, "mailbox": mailbox.mailbox_id}


def _received(
    mailbox: Mailbox, inbound_id: int, kind: Kind, found: Match | None, fetched: Fetched
) -> Outgoing:
    enrollment = found.enrollment_id if found else None
    return Outgoing(
        topic=topics.INBOUND_RECEIVED,
        key=ids.encode("mbx", mailbox.mailbox_id),
        subject=ids.encode("inb", inbound_id),
        body=events.InboundReceived(
            workspace_id=ids.encode("ws", mailbox.workspace_id),
            inbound_id=ids.encode("inb", inbound_id),
            mailbox_id=ids.encode("mbx", mailbox.mailbox_id),
            # The event's vocabulary has no words yet for these two.
            kind="other" if kind == "complaint" or kind == "unsubscribe" else kind,
            received_at=fetched.received_at,
            job_id=ids.encode("job", found.job_id) if found else None,
            enrollment_id=ids.encode("enr", enrollment) if enrollment is not None else None,
        ),
    )


def _replied(mailbox: Mailbox, inbound_id: int, found: Match, fetched: Fetched) -> Outgoing:
    assert found.enrollment_id is not None
    enrollment = ids.encode("enr", found.enrollment_id)
    return Outgoing(
        topic=topics.REPLIED,
        key=enrollment,
        subject=enrollment,
        body=events.Replied(
            workspace_id=ids.encode("ws", mailbox.workspace_id),
            job_id=ids.encode("job", found.job_id),
            # The mailbox that sent: a Reply-To may lead to another.
            mailbox_id=ids.encode("mbx", found.mailbox_id),
            enrollment_id=enrollment,
            campaign_id=(
                ids.encode("cmp", found.campaign_id) if found.campaign_id is not None else None
            ),
            step=found.step,
            inbound_id=ids.encode("inb", inbound_id),
            received_at=fetched.received_at,
        ),
    )
