"""`lead-enrolled` becomes address, lead, enrollment, first job and receipt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import msgspec
from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.address import AddressHasher, InvalidAddress, normalise
from paceline_common.db import Queries
from paceline_common.db.session import after_commit
from paceline_common.events import LeadEnrolled
from paceline_common.kafka.subscribe import Delivery, EventFault
from paceline_scheduler.campaigns import Campaigns
from paceline_scheduler.contact import Known, load_known, pressure
from paceline_scheduler.domain.contact import Sibling, must_wait, not_before
from paceline_scheduler.shaping import Shaper

# What a campaign can be when nobody may enter it any more.
_OVER: Final = frozenset({"stopped", "finished", "archived"})

Lead = Delivery[LeadEnrolled]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One readable request: its ids as numbers, its address in one spelling and hashed."""

    delivery: Lead
    campaign_id: int
    import_id: int | None
    email: str
    address_hash: bytes
    domain_hash: bytes


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an accepted request goes: held back for another campaign, or not before an instant."""

    hold: bool
    not_before: datetime | None


@dataclass(frozen=True, slots=True)
class _Answer:
    delivery: Lead
    import_id: int | None
    outcome: str
    reason: str


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

    async def enroll(self, tx: AsyncConnection, deliveries: Sequence[Lead]) -> None:
        """Enroll, or answer why not. Raises `EventFault` for what the producer must repair.

        Faults: workspace_not_allowed, invalid_id, unknown_campaign, and
        invalid_email on publishers' topics (for imports and the API it is a
        refused receipt).
        """
        await self._check_publishers(tx, deliveries)
        hasher: AddressHasher = await self._hasher()
        asked: list[_Asked] = []
        answers: list[_Answer] = []
        replayed: list[tuple[int, int]] = []
        for one in deliveries:
            import_id = _id("imp", one.body.import_id)
            campaign_id = _id("cmp", one.body.campaign_id)
            assert campaign_id is not None
            if (entry := _id("qua", one.body.replay_of)) is not None:
                replayed.append((one.workspace_id, entry))
            email, problem = _valid(one.body.email, accept_test=self._accept_test_domains)
            if problem is None:
                asked.append(
                    _Asked(
                        one,
                        campaign_id,
                        import_id,
                        email,
                        hasher.address(email),
                        hasher.domain(email),
                    )
                )
            elif one.publisher is not None:
                raise EventFault("invalid_email", f"`email` is not an address: {problem}")
            else:
                answers.append(_Answer(one, import_id, "refused", "invalid_email"))
        if asked:
            answers += await self._enroll(tx, asked)
        if answers:
            await tx.execute(
                self._queries["add_receipts"],
                {
                    "workspaces": [one.delivery.workspace_id for one in answers],
                    "sources": [one.delivery.source for one in answers],
                    "event_ids": [one.delivery.event_id for one in answers],
                    "imports": [one.import_id for one in answers],
                    "rows": [one.delivery.body.row for one in answers],
                    "outcomes": [one.outcome for one in answers],
                    "reasons": [one.reason for one in answers],
                },
            )
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

    async def _enroll(self, tx: AsyncConnection, asked: Sequence[_Asked]) -> list[_Answer]:
        """Enroll what is allowed; return the answers to the rest."""
        campaigns = await self._campaigns(tx, asked)
        suppressed: dict[tuple[int, bytes], str] = {}
        numbers: dict[tuple[int, bytes], int] = {}
        for row in await self._addresses(tx, asked):
            key = (row.workspace_id, bytes(row.hash))
            numbers[key] = row.address_id
            if row.reason is not None:
                suppressed[key] = row.reason
        answers: list[_Answer] = []
        accepted: list[_Asked] = []
        for one in asked:
            workspace = one.delivery.workspace_id
            campaign = campaigns[workspace, one.campaign_id]
            reason = suppressed.get((workspace, one.address_hash)) or suppressed.get(
                (workspace, one.domain_hash)
            )
            if campaign.status in _OVER:
                answers.append(_Answer(one.delivery, one.import_id, "refused", "campaign_over"))
            elif reason is not None:
                answers.append(_Answer(one.delivery, one.import_id, "suppressed", reason))
            else:
                accepted.append(one)
        if accepted:
            bodies = [one.delivery.body for one in accepted]
            places = [campaigns[one.delivery.workspace_id, one.campaign_id] for one in accepted]
            workspaces = [one.delivery.workspace_id for one in accepted]
            domains = [numbers[one.delivery.workspace_id, one.domain_hash] for one in accepted]
            placed = await self._places(
                tx,
                [
                    (one, numbers[one.delivery.workspace_id, one.address_hash], campaign)
                    for one, campaign in zip(accepted, places, strict=True)
                ],
            )
            await self._shaper.meet(tx, zip(workspaces, domains, strict=True))
            await tx.execute(
                self._queries["enroll_leads"],
                {
                    "workspaces": workspaces,
                    "sources": [one.delivery.source for one in accepted],
                    "event_ids": [one.delivery.event_id for one in accepted],
                    "campaigns": [one.campaign_id for one in accepted],
                    "addresses": [
                        numbers[one.delivery.workspace_id, one.address_hash] for one in accepted
                    ],
                    "domains": domains,
                    "emails": [one.email for one in accepted],
                    "first_names": [body.first_name for body in bodies],
                    "last_names": [body.last_name for body in bodies],
                    "companies": [body.company for body in bodies],
                    "timezones": [body.timezone for body in bodies],
                    "fields": [msgspec.json.encode(body.fields).decode() for body in bodies],
                    "imports": [one.import_id for one in accepted],
                    "rows": [body.row for body in bodies],
                    "steps": [place.first_step for place in places],
                    "start_ats": [place.start_at for place in places],
                    "not_befores": [one.not_before for one in placed],
                    "holds": [one.hold for one in placed],
                    "traceparents": [one.delivery.traceparent for one in accepted],
                },
            )
        return answers

    async def _places(
        self, tx: AsyncConnection, asked: Sequence[tuple[_Asked, int, Row[Any]]]
    ) -> list[_Place]:
        """Decide on contact pressure. In: requests with address and campaign, their addresses
        locked; of several for one lead the later ones see the earlier."""
        keys = {(one.delivery.workspace_id, address) for one, address, _ in asked}
        known = await load_known(tx, self._queries, keys)
        places: list[_Place] = []
        for one, address, campaign in asked:
            key = (one.delivery.workspace_id, address)
            rules = pressure(campaign)
            lead = known.get(key, Known())
            hold = must_wait(one.campaign_id, rules, lead.siblings)
            places.append(
                _Place(
                    hold,
                    not_before(
                        one.campaign_id, rules, lead.contacted_at, lead.contacted_campaign_id
                    ),
                )
            )
            if one.campaign_id not in {sibling.campaign_id for sibling in lead.siblings}:
                new = Sibling(0, one.campaign_id, True, not campaign.allow_parallel, hold)
                known[key] = replace(lead, siblings=(*lead.siblings, new))
        return places

    async def _campaigns(
        self, tx: AsyncConnection, asked: Sequence[_Asked]
    ) -> dict[tuple[int, int], Row[Any]]:
        wanted = sorted({(one.delivery.workspace_id, one.campaign_id) for one in asked})
        pairs = {
            "workspaces": [workspace for workspace, _ in wanted],
            "campaigns": [campaign for _, campaign in wanted],
        }
        # First: what locks the gates of changed campaigns comes before what shares them.
        await self._policies.refresh(tx, pairs["campaigns"])
        rows = (await tx.execute(self._queries["load_campaigns"], pairs)).all()
        campaigns = {(row.workspace_id, row.campaign_id): row for row in rows}
        for workspace, campaign in wanted:
            if (workspace, campaign) not in campaigns:
                raise EventFault(
                    "unknown_campaign",
                    f"there is no campaign {ids.encode('cmp', campaign)} in this workspace",
                )
        gates = [
            gate
            for (workspace, campaign), row in campaigns.items()
            for gate in (
                (workspace, "workspace", workspace),
                (workspace, "campaign", campaign),
                *((workspace, "pool", pool) for tier in row.tiers for pool in tier["pools"]),
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

    async def _addresses(self, tx: AsyncConnection, asked: Sequence[_Asked]) -> Sequence[Row[Any]]:
        wanted = {
            (one.delivery.workspace_id, kind, digest)
            for one in asked
            for kind, digest in (("address", one.address_hash), ("domain", one.domain_hash))
        }
        arguments = {
            "workspaces": [workspace for workspace, _, _ in wanted],
            "kinds": [kind for _, kind, _ in wanted],
            "hashes": [digest for _, _, digest in wanted],
        }
        await tx.execute(self._queries["add_addresses"], arguments)
        return (await tx.execute(self._queries["lock_addresses"], arguments)).all()


def _id(kind: ids.Kind, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return ids.decode(kind, text)
    except ids.InvalidIdError:
        raise EventFault("invalid_id", f"an id that begins with {kind}_ is not valid") from None


def _valid(email: str, *, accept_test: bool) -> tuple[str, str | None]:
    """Return the address in its one spelling, or what is wrong with it (without repeating it)."""
    try:
        checked = validate_email(
            email.strip(), check_deliverability=False, test_environment=accept_test
        )
        return normalise(checked.normalized), None
    except EmailNotValidError as error:
        return "", _without_quotes(str(error))
    except InvalidAddress as error:
        return "", str(error)


def _without_quotes(text: str) -> str:
    # The library quotes parts of the address in some sentences.
    return text.split(":")[0].split("'")[0].strip()
