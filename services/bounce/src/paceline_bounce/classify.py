"""From a refusal or a report to a bounce: find the message, trust, classify, act.

Everything happens in the caller's transaction: the bounce row, the mailbox's
health, the suppression of a hard-bounced address, the `bounced` event.
"""

import email
import email.policy
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast

from flufl.bounce import all_failures
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_bounce.domain import dsn
from paceline_bounce.domain.dsn import Recipient, Report
from paceline_bounce.domain.trust import Sent, distrust
from paceline_bounce.health import Counted, Health, Hold, volume_of
from paceline_common import events, ids, telemetry, topics
from paceline_common.address import AddressHasher, InvalidAddress
from paceline_common.clock import Clock
from paceline_common.db import Outbox, Outgoing, Queries
from paceline_common.events import BounceClass, SendRejected
from paceline_common.kafka.subscribe import Delivery
from paceline_common.keys import ADDRESS_HASH_SECRET, KeyService
from paceline_common.telemetry import Metrics
from paceline_providers.classes import Rule, rule_for

PROVIDER_LIMIT: Final = "provider_limit"
# A provider counts over a rolling day (PROVIDERS §7).
_LIMIT_HOLD: Final = timedelta(hours=24)
_QUERIES: Final = Queries("paceline_bounce")
_log = telemetry.logger("classify")


def read_report(raw: bytes) -> tuple[Report, tuple[Recipient, ...]]:
    """Read a report of any dialect; never raises. No recipients: nothing could be made of it."""
    report = dsn.read(raw)
    if report.recipients:
        return report, report.recipients
    try:
        message = email.message_from_bytes(raw, policy=email.policy.compat32)
        temporary, permanent = all_failures(message)
    except Exception:  # noqa: BLE001 - flufl.bounce fails in many ways on what it does not know
        return report, ()
    return report, dsn.reported(report, _texts(permanent), _texts(temporary))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounce:
    """A bounce that counts, new in this transaction."""

    workspace_id: int
    sent: Sent
    bounce_class: BounceClass
    source: Literal["smtp", "dsn"]
    status: str | None
    sentence: str
    at: datetime


@dataclass(slots=True)
class _Received:
    """A report with what is known about it before anything is judged."""

    inbound_id: int
    mailbox_id: int
    received_at: datetime
    report: Report
    recipients: tuple[Recipient, ...]
    jobs: list[int] = field(default_factory=list)


class Classifier:
    """Applies refusals and reports."""

    def __init__(
        self,
        *,
        keys: KeyService,
        outbox: Outbox,
        health: Health,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._keys = keys
        self._health = health
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._hasher: AddressHasher | None = None

    async def refused(
        self, tx: AsyncConnection, deliveries: Sequence[Delivery[SendRejected]]
    ) -> None:
        """Record refusals within the submission; each job once, whatever is repeated."""
        jobs = {
            (one.workspace_id, ids.decode("job", one.body.job_id)): one.body for one in deliveries
        }
        named = {"workspaces": [ws for ws, _ in jobs], "jobs": [job for _, job in jobs]}
        hashes = {
            (row.workspace_id, row.job_id): bytes(row.address_hash)
            for row in await tx.execute(_QUERIES["find_recipients"], named)
        }
        inserted = await tx.execute(
            _QUERIES["insert_refusals"],
            {
                **named,
                "mailboxes": [ids.decode("mbx", body.mailbox_id) for body in jobs.values()],
                "enrollments": [_optional("enr", body.enrollment_id) for body in jobs.values()],
                "classes": [body.outcome_class for body in jobs.values()],
                "statuses": [body.status for body in jobs.values()],
                "codes": [body.code for body in jobs.values()],
                "instants": [body.rejected_at for body in jobs.values()],
            },
        )
        bounces = []
        for row in inserted:
            key = (row.workspace_id, row.job_id)
            body = jobs[key]
            sent = Sent(
                row.job_id,
                _optional("enr", body.enrollment_id),
                _optional("cmp", body.campaign_id),
                body.step,
                ids.decode("mbx", body.mailbox_id),
                hashes.get(key),
            )
            bounces.append(
                Bounce(
                    workspace_id=row.workspace_id,
                    sent=sent,
                    bounce_class=body.outcome_class,
                    source="smtp",
                    status=body.status,
                    sentence="",
                    at=body.rejected_at,
                )
            )
        await self._act(tx, bounces)

    async def reported(
        self, tx: AsyncConnection, workspace_id: int, inbound_ids: Sequence[int]
    ) -> None:
        """Judge the reports that reply received in one workspace; each once."""
        rows = await tx.execute(
            _QUERIES["load_reports"], {"workspace": workspace_id, "inbounds": list(inbound_ids)}
        )
        received = [
            _Received(
                row.inbound_id, row.mailbox_id, row.received_at, *read_report(bytes(row.report))
            )
            for row in rows
            if row.report is not None  # erased since
        ]
        await self._verify_tokens(workspace_id, received)
        sent = await _find_sent(tx, workspace_id, received)
        counted = {
            job
            for (job,) in await tx.execute(
                _QUERIES["find_counted"],
                {"workspace": workspace_id, "jobs": list(sent.by_job)},
            )
        }
        hasher = await self._address_hasher()
        bounces: list[Bounce] = []
        for one in received:
            message = sent.of(one)
            if not one.recipients:
                await self._record(tx, workspace_id, one, 0, None, None, "ignored", "unreadable")
            for part, recipient in enumerate(one.recipients):
                doubt = distrust(
                    message,
                    received_in=one.mailbox_id,
                    recipient_hashes=_hashes(hasher, recipient.addresses),
                )
                rule = rule_for(recipient.code, recipient.status, recipient.diagnostic, "dsn")
                if message is None or doubt is not None:
                    await self._record(
                        tx, workspace_id, one, part, recipient, None, "untrusted", doubt
                    )
                elif recipient.action != "failed":
                    state = "delayed" if recipient.action == "delayed" else "ignored"
                    await self._record(
                        tx, workspace_id, one, part, recipient, message, state, recipient.action
                    )
                elif message.job_id in counted:
                    await self._record(
                        tx, workspace_id, one, part, recipient, message, "ignored", "counted_before"
                    )
                elif await self._record(
                    tx, workspace_id, one, part, recipient, message, "counted", None, rule
                ):
                    counted.add(message.job_id)
                    bounces.append(
                        Bounce(
                            workspace_id=workspace_id,
                            sent=message,
                            bounce_class=_class_of(rule),
                            source="dsn",
                            status=recipient.status,
                            sentence=rule.sentence,
                            at=one.received_at,
                        )
                    )
        await self._act(tx, bounces)

    async def _record(
        self,
        tx: AsyncConnection,
        workspace_id: int,
        one: _Received,
        part: int,
        recipient: Recipient | None,
        message: Sent | None,
        state: str,
        reason: str | None,
        rule: Rule | None = None,
    ) -> bool:
        inserted = await tx.execute(
            _QUERIES["insert_report"],
            {
                "workspace": workspace_id,
                "state": state,
                "reason": reason,
                "mailbox": one.mailbox_id,
                "job": message.job_id if message else None,
                "enrollment": message.enrollment_id if message else None,
                "inbound": one.inbound_id,
                "part": part,
                "bounce_class": _class_of(rule) if rule else None,
                "status": recipient.status if recipient else None,
                "code": recipient.code if recipient else None,
                "diagnostic": recipient.diagnostic if recipient else one.report.text,
                "rule": rule.name if rule else None,
                "occurred_at": one.received_at,
            },
        )
        fresh = inserted.first() is not None
        if fresh:
            reports = self._metrics.counter("paceline_bounce_reports_total")
            reports.labels(state, reason or "").inc()
        return fresh

    async def _act(self, tx: AsyncConnection, bounces: Sequence[Bounce]) -> None:
        """Count, hold, suppress and tell; `bounces` are all new."""
        limited = [one for one in bounces if one.bounce_class == "limit"]
        await self._health.record(
            tx, [_counted(one) for one in bounces], [self._hold(one) for one in limited]
        )
        hard = [b for b in bounces if b.bounce_class == "hard" and b.sent.address_hash is not None]
        # In this order, and after the gates, or the locks of two transactions could cross.
        for bounce in sorted(hard, key=lambda b: (b.workspace_id, b.sent.address_hash)):
            await tx.execute(
                _QUERIES["suppress"],
                {
                    "workspace": bounce.workspace_id,
                    "hash": bounce.sent.address_hash,
                    "source": bounce.source,
                    "enrollment": bounce.sent.enrollment_id,
                },
            )
        issues = [self._issue(one) for one in limited]
        await self._outbox.add(tx, [*(_bounced(bounce) for bounce in bounces), *issues])
        for bounce in bounces:
            counter = self._metrics.counter("paceline_bounces_total")
            counter.labels(bounce.bounce_class, bounce.source).inc()
            _log.info(
                "bounced",
                workspace=ids.encode("ws", bounce.workspace_id),
                job=ids.encode("job", bounce.sent.job_id),
                outcome_class=bounce.bounce_class,
                source=bounce.source,
                status=bounce.status,
            )

    def _hold(self, bounce: Bounce) -> Hold:
        """The provider took more than it sends: the mailbox is held for a day."""
        return Hold(
            bounce.workspace_id,
            bounce.sent.mailbox_id,
            PROVIDER_LIMIT,
            self._clock.now() + _LIMIT_HOLD,
            bounce.sentence or None,
        )

    def _issue(self, bounce: Bounce) -> Outgoing:
        mailbox = ids.encode("mbx", bounce.sent.mailbox_id)
        return Outgoing(
            topic=topics.ISSUE_RAISED,
            key=mailbox,
            subject=mailbox,
            body=events.IssueRaised(
                workspace_id=ids.encode("ws", bounce.workspace_id),
                subject=mailbox,
                code=PROVIDER_LIMIT,
                severity="warning",
                detail=bounce.sentence or "The provider refused for a sending limit.",
                raised_at=self._clock.now(),
            ),
        )

    async def _verify_tokens(self, workspace_id: int, received: Sequence[_Received]) -> None:
        """Fill in the jobs whose tokens, in what a report returns, have a MAC of ours."""
        claims: list[tuple[_Received, int, bytes, str]] = []
        for one in received:
            for token in one.report.tokens:
                job, _, rest = token.partition(".")
                workspace, _, mac = rest.partition(".")
                try:
                    if ids.decode("ws", workspace) == workspace_id:
                        number = ids.decode("job", job)
                        claims.append((one, number, f"job/{workspace}/{job}".encode(), mac))
                except ids.InvalidIdError:
                    continue
        valid = await self._keys.verify_mac([c[2] for c in claims], [c[3] for c in claims])
        for (one, number, _, _), ok in zip(claims, valid, strict=True):
            if ok:
                one.jobs.append(number)

    async def _address_hasher(self) -> AddressHasher:
        if self._hasher is None:
            self._hasher = AddressHasher(await self._keys.secret(ADDRESS_HASH_SECRET))
        return self._hasher


@dataclass(frozen=True, slots=True)
class _SentMessages:
    by_job: dict[int, Sent]
    by_id: dict[str, Sent]

    def of(self, one: _Received) -> Sent | None:
        """Return the message a report refers to: by a verified token, then by Message-ID."""
        for job in one.jobs:
            if job in self.by_job:
                return self.by_job[job]
        for message_id in one.report.message_ids:
            if message_id in self.by_id:
                return self.by_id[message_id]
        return None


async def _find_sent(
    tx: AsyncConnection, workspace_id: int, received: Iterable[_Received]
) -> _SentMessages:
    jobs: set[int] = set()
    message_ids: set[str] = set()
    for one in received:
        jobs.update(one.jobs)
        message_ids.update(one.report.message_ids)
    found = _SentMessages({}, {})
    if not jobs and not message_ids:
        return found
    rows = await tx.execute(
        _QUERIES["find_sent"],
        {"workspace": workspace_id, "jobs": sorted(jobs), "ids": sorted(message_ids)},
    )
    for row in rows:
        sent = Sent(
            row.job_id,
            row.enrollment_id,
            row.campaign_id,
            row.step,
            row.mailbox_id,
            bytes(row.address_hash) if row.address_hash is not None else None,
        )
        found.by_job[row.job_id] = found.by_id[row.message_id] = sent
        if row.sent_message_id is not None:
            found.by_id[row.sent_message_id] = sent
    return found


def by_workspace(
    deliveries: Iterable[Delivery[events.InboundReceived]],
) -> dict[int, list[int]]:
    """Return the inbound ids of delivery reports, per workspace."""
    found: dict[int, list[int]] = defaultdict(list)
    for one in deliveries:
        if one.body.kind == "dsn":
            found[one.workspace_id].append(ids.decode("inb", one.body.inbound_id))
    return found


def _hashes(hasher: AddressHasher, addresses: Sequence[str]) -> set[bytes]:
    hashes = set()
    for address in addresses:
        try:
            hashes.add(hasher.address(address))
        except InvalidAddress:
            continue  # nobody of ours
    return hashes


def _texts(addresses: Iterable[Any]) -> set[str]:
    return {
        one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in addresses
    }


def _class_of(rule: Rule) -> BounceClass:
    # No rule calls a report ambiguous (parse_rules).
    return cast("BounceClass", rule.outcome_class.value)


def _optional(kind: ids.Kind, text: str | None) -> int | None:
    return ids.decode(kind, text) if text is not None else None


def _counted(bounce: Bounce) -> Counted:
    return Counted(
        bounce.workspace_id,
        bounce.sent.mailbox_id,
        volume_of(bounce.bounce_class),
        bounce.at,
        refused=bounce.source == "smtp",
    )


def _bounced(bounce: Bounce) -> Outgoing:
    sent = bounce.sent
    job = ids.encode("job", sent.job_id)
    enrollment = ids.encode("enr", sent.enrollment_id) if sent.enrollment_id is not None else None
    return Outgoing(
        topic=topics.BOUNCED,
        key=enrollment or job,
        subject=enrollment or job,
        body=events.Bounced(
            workspace_id=ids.encode("ws", bounce.workspace_id),
            job_id=job,
            mailbox_id=ids.encode("mbx", sent.mailbox_id),
            enrollment_id=enrollment,
            campaign_id=(
                ids.encode("cmp", sent.campaign_id) if sent.campaign_id is not None else None
            ),
            step=sent.step,
            bounce_class=bounce.bounce_class,
            source=bounce.source,
            occurred_at=bounce.at,
            status=bounce.status,
        ),
    )
