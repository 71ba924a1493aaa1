"""`lead-enrolled` becomes address, lead, enrollment, first job and receipt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.db import Queries
from paceline_common.db.session import after_commit
from paceline_common.db.sql import bytes_array, number_array, text_array
from paceline_common.events import LeadEnrolled
from paceline_common.kafka.subscribe import Delivery, EventFault
from paceline_scheduler.campaigns import Campaigns
from paceline_scheduler.contact import Key, Known, load_known, pressure
from paceline_scheduler.domain.contact import Pressure, Sibling, must_wait, not_before
from paceline_scheduler.recipient import Recipient, Recipients
from paceline_scheduler.shaping import Shaper

# What a campaign can be when nobody may enter it any more.
_OVER: Final = frozenset({"stopped", "finished", "archived"})
_IDS: Final = 10_000
# All look-ups are by key, those of foreign keys too. A plan made while a table was nearly empty
# reads all of it, and stays until the table is analyzed: a first import took 3 ms a row by then.
_BY_KEY: Final = text("SET LOCAL enable_seqscan = off")

Lead = Delivery[LeadEnrolled]

# Made for each request: frozen ones take thrice the time to make.


@dataclass(slots=True)
class _Answer:
    """What becomes of one request: its receipt."""

    delivery: Lead
    import_id: int | None
    outcome: str = "enrolled"
    reason: str | None = None
    enrollment_id: int | None = None

    def change(self, outcome: str, reason: str) -> None:
        self.outcome, self.reason = outcome, reason


@dataclass(slots=True)
class _Request:
    """One readable request."""

    answer: _Answer
    workspace_id: int
    campaign_id: int
    recipient: Recipient


@dataclass(frozen=True, slots=True)
class _Campaign:
    """A row of `load_campaigns.sql`, and what it says about contact pressure."""

    row: Row[Any]
    pressure: Pressure


@dataclass(slots=True)
class _Address:
    """An address or recipient domain, locked; `reason` says why it is suppressed."""

    address_id: int
    reason: str | None = None
    is_new: bool = True


@dataclass(slots=True)
class _Person:
    """A lead that requests of this batch speak of, with the newest values they give."""

    workspace_id: int
    address_id: int
    domain_id: int
    email: str
    known: Known
    lead_id: int | None
    first_name: str | None
    last_name: str | None
    company: str | None
    timezone: str | None
    fields: dict[str, str]
    enrollments: "list[_Enrollment]" = field(default_factory=list)

    def take(self, body: LeadEnrolled) -> None:
        self.first_name = self.first_name if body.first_name is None else body.first_name
        self.last_name = self.last_name if body.last_name is None else body.last_name
        self.company = self.company if body.company is None else body.company
        self.timezone = self.timezone if body.timezone is None else body.timezone
        self.fields = {**self.fields, **body.fields}

    def siblings(self) -> list[Sibling]:
        """Return its enrollments, those of this batch included."""
        return [
            *self.known.siblings,
            *(
                Sibling(0, one.campaign_id, True, not one.campaign.row.allow_parallel, one.hold)
                for one in self.enrollments
            ),
        ]


@dataclass(slots=True)
class _Enrollment:
    """An enrollment to be made: held back for another campaign, or not before an instant.

    Its first answer is that of the request which makes it; the others repeat it.
    """

    person: _Person
    campaign_id: int
    campaign: _Campaign
    hold: bool
    not_before: datetime | None
    answers: list[_Answer]
    job_id: int | None = None

    @property
    def has_job(self) -> bool:
        return not self.hold and self.campaign.row.first_step is not None


class Enroller:
    """Takes batches of lead-enrolled, in the wrapper's transaction.

    `hasher` is asked for at first use, since its key lies in the key service.
    `wake` is called once a batch has committed. With `accept_test_domains`
    addresses in `.test` (RFC 2606) are taken too; they reach nobody.
    """

    def __init__(
        self,
        queries: Queries,
        hasher: Callable[[], Any],
        wake: Callable[[], None],
        policies: Campaigns,
        shaper: Shaper,
        *,
        accept_test_domains: bool = False,
    ) -> None:
        self._queries = queries
        self._hasher = hasher
        self._wake = wake
        self._policies = policies
        self._shaper = shaper
        self._accept_test_domains = accept_test_domains
        self._recipients: Recipients | None = None

    async def enroll(self, tx: AsyncConnection, deliveries: Sequence[Lead]) -> None:
        """Enroll, or answer why not. Raises `EventFault` for what the producer must repair.

        Faults: workspace_not_allowed, invalid_id, unknown_campaign, and
        invalid_email on publishers' topics (for imports and the API it is a
        refused receipt).
        """
        await tx.execute(_BY_KEY)
        await self._check_publishers(tx, deliveries)
        if self._recipients is None:
            self._recipients = Recipients(
                await self._hasher(), accept_test_domains=self._accept_test_domains
            )
        read = self._recipients.read
        asked: list[_Request] = []
        answers: list[_Answer] = []
        replayed: list[tuple[int, int]] = []
        for one in deliveries:
            body = one.body
            campaign_id = _id("cmp", body.campaign_id)
            answer = _Answer(one, None if body.import_id is None else _id("imp", body.import_id))
            answers.append(answer)
            if body.replay_of is not None:
                replayed.append((one.workspace_id, _id("qua", body.replay_of)))
            recipient = read(body.email)
            if isinstance(recipient, Recipient):
                asked.append(_Request(answer, one.workspace_id, campaign_id, recipient))
            elif one.publisher is not None:
                raise EventFault("invalid_email", f"`email` is not an address: {recipient}")
            else:
                answer.change("refused", "invalid_email")
        new = await self._place(tx, asked) if asked else []
        await self._write(tx, new, answers)
        if replayed:
            await tx.execute(
                self._queries["settle_replayed"],
                {
                    "workspaces": [workspace for workspace, _ in replayed],
                    "entries": [entry for _, entry in replayed],
                },
            )
        after_commit(tx, "pacer", self._wake)

    async def belongs(self, tx: AsyncConnection, delivery: Delivery[LeadEnrolled | None]) -> bool:
        """Tell whether the publisher of a record may enroll into the workspace it names."""
        return (delivery.workspace_id, delivery.publisher) in await self._allowed(
            tx, [delivery.publisher]
        )

    async def _check_publishers(self, tx: AsyncConnection, deliveries: Sequence[Lead]) -> None:
        publishers = {one.publisher for one in deliveries} - {None}
        if not publishers:
            return
        allowed = await self._allowed(tx, list(publishers))
        for one in deliveries:
            if one.publisher is not None and (one.workspace_id, one.publisher) not in allowed:
                raise EventFault(
                    "workspace_not_allowed",
                    f"publisher {one.publisher} may not enroll into"
                    f" {ids.encode('ws', one.workspace_id)}: ask for it to be added",
                    installation=True,
                )

    async def _allowed(
        self, tx: AsyncConnection, publishers: Sequence[str | None]
    ) -> set[tuple[int, str | None]]:
        rows = await tx.execute(
            self._queries["load_publishers"], {"publishers": [one for one in publishers if one]}
        )
        return {(row.workspace_id, row.publisher) for row in rows}

    async def _place(self, tx: AsyncConnection, asked: Sequence[_Request]) -> list[_Enrollment]:
        """Return the enrollments to be made; answer the requests that make none.

        Their addresses are locked. Of several requests for one lead the later
        ones see the earlier.
        """
        campaigns = await self._campaigns(tx, asked)
        addresses = await self._addresses(tx, asked)
        accepted: list[tuple[_Request, _Address, int]] = []
        for one in asked:
            address = addresses[one.workspace_id, one.recipient.address_hash]
            domain = addresses[one.workspace_id, one.recipient.domain_hash]
            if campaigns[one.workspace_id, one.campaign_id].row.status in _OVER:
                one.answer.change("refused", "campaign_over")
            elif (reason := address.reason or domain.reason) is not None:
                one.answer.change("suppressed", reason)
            else:
                accepted.append((one, address, domain.address_id))
        # A new address has no lead yet.
        met = {
            (one.workspace_id, address.address_id)
            for one, address, _ in accepted
            if not address.is_new
        }
        known = await load_known(tx, self._queries, met) if met else {}
        await self._shaper.meet(tx, {(one.workspace_id, domain) for one, _, domain in accepted})
        people: dict[Key, _Person] = {}
        new: list[_Enrollment] = []
        for one, address, domain_id in accepted:
            key = (one.workspace_id, address.address_id)
            body = one.answer.delivery.body
            person = people.get(key)
            if person is None:
                lead = known.get(key, _NOBODY)
                person = people[key] = _Person(
                    one.workspace_id, address.address_id, domain_id, one.recipient.email, lead,
                    lead.lead_id, body.first_name, body.last_name, body.company, body.timezone,
                    body.fields,
                )  # fmt: skip
            else:
                person.take(body)
            campaign = campaigns[one.workspace_id, one.campaign_id]
            if not _repeats(person, one):
                made = _enrollment(person, campaign, one)
                person.enrollments.append(made)
                new.append(made)
        await self._update(tx, [one for one in people.values() if one.lead_id is not None])
        return new

    async def _update(self, tx: AsyncConnection, people: Sequence[_Person]) -> None:
        if not people:
            return
        people = sorted(people, key=lambda one: (one.workspace_id, one.lead_id))
        await tx.execute(self._queries["update_leads"], {**_values(people), **_leads(people)})

    async def _write(
        self, tx: AsyncConnection, new: Sequence[_Enrollment], answers: Sequence[_Answer]
    ) -> None:
        """Write leads, enrollments, jobs and all receipts."""
        people = [one.person for one in new]
        brings = [
            person.lead_id is None and person.enrollments[0] is one
            for one, person in zip(new, people, strict=True)
        ]
        if new:
            await self._draw(
                tx, new, [one.person for one, is_first in zip(new, brings, strict=True) if is_first]
            )
        rows = [one.campaign.row for one in new]
        deliveries = [one.delivery for one in answers]
        await tx.execute(
            self._queries["enroll_leads"],
            {
                **_values(people),
                **_leads(people),
                "firsts": number_array(brings),
                "enrollments": number_array([one.answers[0].enrollment_id for one in new]),
                "jobs": number_array([one.job_id for one in new]),
                "campaigns": number_array([one.campaign_id for one in new]),
                "addresses": number_array([one.address_id for one in people]),
                "domains": number_array([one.domain_id for one in people]),
                "steps": number_array([row.first_step for row in rows]),
                "start_ats": _instants([row.start_at for row in rows]),
                "not_befores": _instants([one.not_before for one in new]),
                "holds": number_array([one.hold for one in new]),
                "traceparents": text_array([one.answers[0].delivery.traceparent for one in new]),
                "receipt_workspaces": number_array([one.workspace_id for one in deliveries]),
                "sources": text_array([one.source for one in deliveries]),
                "event_ids": text_array([one.event_id for one in deliveries]),
                "imports": number_array([one.import_id for one in answers]),
                "rows": number_array([one.body.row for one in deliveries]),
                "outcomes": text_array([one.outcome for one in answers]),
                "reasons": text_array([one.reason for one in answers]),
                "receipt_enrollments": number_array([one.enrollment_id for one in answers]),
            },
        )

    async def _draw(
        self, tx: AsyncConnection, new: Sequence[_Enrollment], people: Sequence[_Person]
    ) -> None:
        """Give enrollments their numbers, and those of their jobs and of people who are new."""
        due = [one for one in new if one.has_job]
        drawn = (
            await tx.execute(
                self._queries["draw_ids"],
                {"leads": len(people), "enrollments": len(new), "jobs": len(due)},
            )
        ).one()
        for person, number in zip(people, drawn.leads, strict=True):
            person.lead_id = number
        for one, number in zip(new, drawn.enrollments, strict=True):
            for answer in one.answers:
                answer.enrollment_id = number
        for one, number in zip(due, drawn.jobs, strict=True):
            one.job_id = number

    async def _campaigns(
        self, tx: AsyncConnection, asked: Sequence[_Request]
    ) -> dict[tuple[int, int], _Campaign]:
        wanted = sorted({(one.workspace_id, one.campaign_id) for one in asked})
        pairs = {
            "workspaces": [workspace for workspace, _ in wanted],
            "campaigns": [campaign for _, campaign in wanted],
        }
        # First: what locks the gates of changed campaigns comes before what shares them.
        await self._policies.refresh(tx, pairs["campaigns"])
        rows = (await tx.execute(self._queries["load_campaigns"], pairs)).all()
        campaigns = {
            (row.workspace_id, row.campaign_id): _Campaign(row, pressure(row)) for row in rows
        }
        for workspace, campaign in wanted:
            if (workspace, campaign) not in campaigns:
                raise EventFault(
                    "unknown_campaign",
                    f"there is no campaign {ids.encode('cmp', campaign)} in this workspace",
                )
        gates = [
            gate
            for (workspace, campaign), known in campaigns.items()
            for gate in (
                (workspace, "workspace", workspace),
                (workspace, "campaign", campaign),
                *((workspace, "pool", pool) for tier in known.row.tiers for pool in tier["pools"]),
            )
        ]
        await tx.execute(
            self._queries["add_gates"],
            {
                "workspaces": [workspace for workspace, _, _ in gates],
                "scopes": [scope for _, scope, _ in gates],
                "refs": [ref for _, _, ref in gates],
            },
        )
        return campaigns

    async def _addresses(
        self, tx: AsyncConnection, asked: Sequence[_Request]
    ) -> Mapping[tuple[int, bytes], _Address]:
        """Return the addresses and domains of requests by (workspace, hash), all of them locked."""
        wanted = [
            *((workspace, "address", digest) for workspace, digest in {
                (one.workspace_id, one.recipient.address_hash) for one in asked}),
            *((workspace, "domain", digest) for workspace, digest in {
                (one.workspace_id, one.recipient.domain_hash) for one in asked}),
        ]  # fmt: skip
        rows = await tx.execute(self._queries["add_addresses"], _addresses(wanted))
        found = {(workspace, digest): _Address(number) for workspace, number, digest in rows}
        if met := [one for one in wanted if (one[0], one[2]) not in found]:
            for row in await tx.execute(self._queries["lock_addresses"], _addresses(met)):
                found[row.workspace_id, row.hash] = _Address(row.address_id, row.reason, False)
        return found


_NOBODY: Final = Known()


def _repeats(person: _Person, one: _Request) -> bool:
    """Answer a request for what is there already, before this batch or by it; return if it is."""
    for made in person.enrollments:
        if made.campaign_id == one.campaign_id:
            made.answers.append(one.answer)
            break
    else:
        for sibling in person.known.siblings:
            if sibling.campaign_id == one.campaign_id:
                one.answer.enrollment_id = sibling.enrollment_id
                break
        else:
            return False
    one.answer.change("duplicate", "already_enrolled")
    return True


def _enrollment(person: _Person, campaign: _Campaign, one: _Request) -> _Enrollment:
    """Return the enrollment that a request makes, contact pressure considered."""
    known = person.known
    return _Enrollment(
        person, one.campaign_id, campaign,
        must_wait(one.campaign_id, campaign.pressure, person.siblings()),
        not_before(
            one.campaign_id, campaign.pressure, known.contacted_at, known.contacted_campaign_id
        ),
        [one.answer],
    )  # fmt: skip


def _leads(people: Sequence[_Person]) -> dict[str, str]:
    return {
        "workspaces": number_array([one.workspace_id for one in people]),
        "leads": number_array([one.lead_id for one in people]),
    }


def _values(people: Sequence[_Person]) -> dict[str, str]:
    encode = msgspec.json.encode
    return {
        "emails": text_array([one.email for one in people]),
        "first_names": text_array([one.first_name for one in people]),
        "last_names": text_array([one.last_name for one in people]),
        "companies": text_array([one.company for one in people]),
        "timezones": text_array([one.timezone for one in people]),
        "fields": text_array([encode(one.fields).decode() for one in people]),
    }


def _addresses(wanted: Sequence[tuple[int, str, bytes]]) -> dict[str, str]:
    return {
        "workspaces": number_array([workspace for workspace, _, _ in wanted]),
        "kinds": text_array([kind for _, kind, _ in wanted]),
        "hashes": bytes_array([digest for _, _, digest in wanted]),
    }


def _instants(values: Sequence[datetime | None]) -> str:
    return text_array([None if value is None else value.isoformat() for value in values])


# A batch names few campaigns and imports.
@lru_cache(_IDS)
def _id(kind: ids.Kind, text: str) -> int:
    try:
        return ids.decode(kind, text)
    except ids.InvalidIdError:
        raise EventFault("invalid_id", f"an id that begins with {kind}_ is not valid") from None
