"""Mailboxes: connected only when a message could be sent and read back."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Response, status
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.address import normalise
from paceline_common.http import Problem
from paceline_gateway import connect, paging, problems, trail
from paceline_gateway.api.mailbox_models import (
    LastTest,
    LegOut,
    MailboxIn,
    MailboxOut,
    MailboxPatch,
    PaceOut,
    ServerOut,
    TestOut,
)
from paceline_gateway.api.suspensions import SuspensionOut, open_suspensions
from paceline_gateway.api.types import MailboxId, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.domain import mailbox_policy
from paceline_gateway.domain.provider import Provider, derive
from paceline_gateway.lifecycle import touch_campaigns_of_pools
from paceline_gateway.pacing import Capacity
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.places import places
from paceline_gateway.probe import Leg, Result
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Mailbox, PoolMember, Workspace

router = APIRouter(prefix="/v1/mailboxes", tags=["mailboxes"])

DEACTIVATED = "deactivated"


@router.get("", operation_id="listMailboxes", responses=answers(problems.CURSOR_INVALID))
async def list_mailboxes(
    parts: PartsDep, caller: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Page[MailboxOut]:
    """List connected mailboxes, oldest first."""
    after = paging.decode(cursor, 1)[0] if cursor else 0
    async with parts.db.transaction([caller.workspace_id]) as tx:
        found = await _read(
            tx,
            _select(caller)
            .where(Mailbox.mailbox_id > after, Mailbox.deleted_at.is_(None))
            .order_by(Mailbox.mailbox_id)
            .limit(limit + 1),
        )
    await _add_capacity(parts, caller, found[:limit])
    return paging.page(found, limit, [(ids.decode("mbx", one.id),) for one in found])


@router.post(
    "",
    operation_id="connectMailbox",
    status_code=status.HTTP_201_CREATED,
    response_model=MailboxOut | TestOut,
    responses={
        200: {"model": TestOut, "description": "With `test=only`: what the test found."},
        **answers(
            problems.MAILBOX_EXISTS, problems.POLICY_INVALID, problems.CONNECTION_TEST_FAILED,
            problems.CONNECTION_TEST_UNAVAILABLE,
        ),
    },
)  # fmt: skip
async def connect_mailbox(
    body: MailboxIn,
    parts: PartsDep,
    caller: Writer,
    response: Response,
    test: Annotated[
        Literal["only"] | None, Query(description="`only`: test the connection, save nothing.")
    ] = None,
) -> MailboxOut | TestOut:
    """Test a mailbox on both legs and, if both work, connect it.

    A mailbox that was disconnected comes back under its old id, with its history.
    """
    email = normalise(body.email)
    domain = email.partition("@")[2]
    found = derive("smtp", domain, body.smtp.host)
    policy = _policy(body, body.provider or found)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        mailbox_id = await connect.id_for(tx, caller, email)
    draft = await connect.draft_new(
        parts, caller, mailbox_id, email, body.display_name, body.smtp, body.imap
    )
    result = await parts.prober.probe(draft)
    if test == "only":
        response.status_code = status.HTTP_200_OK
        return _test(result)
    connect.demand(result)
    now = parts.clock.now()
    values = {
        "domain": domain,
        "provider_found": found,
        "provider_set": body.provider,
        "display_name": body.display_name,
        "reply_to": body.reply_to,
        "timezone": body.timezone,
        "policy": policy,
        "is_active": True,
        "connected_at": now,
        "deleted_at": None,
        "updated_at": now,
        "smtp": dict(draft.smtp),
        "imap": dict(draft.imap),
        "send_credential": draft.send_credential,
        "read_credential": draft.read_credential,
        **connect.outcome(result, now),
    }
    async with parts.db.transaction([caller.workspace_id]) as tx:
        version = await connect.save(tx, caller, mailbox_id, email, values)
        mailbox = ids.encode("mbx", mailbox_id)
        await foreign.resume(
            tx, caller.workspace_id, "mailbox", mailbox_id, DEACTIVATED, caller.actor
        )
        await connect.reopen(tx, caller, mailbox_id)
        await trail.mailbox_changed(parts, tx, caller.workspace_id, mailbox_id, version)
        await trail.audit(parts, tx, caller, "mailbox.connected", mailbox)
        await _audit_pacing(parts, tx, caller, mailbox, values, {"policy": {"attested": False}})
        return await _one(tx, caller, mailbox_id)


@router.get("/{mailbox_id}", operation_id="getMailbox", responses=answers(problems.NOT_FOUND))
async def get_mailbox(mailbox_id: MailboxId, parts: PartsDep, caller: Reader) -> MailboxOut:
    """Return one mailbox, disconnected ones included."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        found = await _one(tx, caller, mailbox_id)
    await _add_capacity(parts, caller, [found])
    return found


@router.patch(
    "/{mailbox_id}",
    operation_id="changeMailbox",
    responses=answers(
        problems.NOT_FOUND, problems.POLICY_INVALID, problems.CONNECTION_TEST_FAILED,
        problems.CONNECTION_TEST_UNAVAILABLE, problems.MAILBOX_DELETED,
    ),
)  # fmt: skip
async def change_mailbox(
    mailbox_id: MailboxId, body: MailboxPatch, parts: PartsDep, caller: Writer
) -> MailboxOut:
    """Change a mailbox; a new server or password is tested on both legs first."""
    asked = body.model_dump(exclude_unset=True, include={"display_name", "reply_to", "timezone"})
    values: dict[str, Any] = {**asked}
    if "provider" in body.model_fields_set:
        values["provider_set"] = body.provider
    if body.is_active is not None:
        values["is_active"] = body.is_active
    now = parts.clock.now()
    if body.smtp or body.imap:
        draft, servers = await connect.draft_saved(parts, caller, mailbox_id, body.smtp, body.imap)
        result = await parts.prober.probe(draft)
        connect.demand(result)
        values |= servers | connect.outcome(result, now)
    mailbox = ids.encode("mbx", mailbox_id)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await connect.lock(tx, caller, mailbox_id)
        if body.smtp:
            values["provider_found"] = derive(held.kind, held.domain, body.smtp.host)
        if {"policy", "policy_reset", "provider"} & body.model_fields_set:
            settled = {**held._mapping, **values}
            provider = settled["provider_set"] or settled["provider_found"]
            values["policy"] = _merged(held.policy, body, provider)
        if not values:
            return await _one(tx, caller, mailbox_id)
        version = await connect.change(tx, caller, mailbox_id, values, now)
        if body.is_active is not None and body.is_active != held.is_active:
            await _set_active(parts, tx, caller, mailbox_id, active=body.is_active)
        if body.smtp or body.imap:
            await connect.reopen(tx, caller, mailbox_id)
            await trail.audit(parts, tx, caller, "mailbox.credential_changed", mailbox)
        await _audit_pacing(parts, tx, caller, mailbox, values, dict(held._mapping))
        await trail.mailbox_changed(parts, tx, caller.workspace_id, mailbox_id, version)
        return await _one(tx, caller, mailbox_id)


@router.post(
    "/{mailbox_id}/test",
    operation_id="testMailbox",
    responses=answers(
        problems.NOT_FOUND, problems.MAILBOX_DELETED, problems.CONNECTION_TEST_UNAVAILABLE
    ),
)
async def test_mailbox(mailbox_id: MailboxId, parts: PartsDep, caller: Writer) -> TestOut:
    """Test a connected mailbox again; if both legs work, it sends again where that held it back."""
    draft, _ = await connect.draft_saved(parts, caller, mailbox_id)
    result = await parts.prober.probe(draft)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await connect.lock(tx, caller, mailbox_id)
        await tx.execute(
            update(Mailbox)
            .where(Mailbox.workspace_id == caller.workspace_id, Mailbox.mailbox_id == mailbox_id)
            .values(connect.outcome(result, parts.clock.now()))
        )
        if result.ok:
            await connect.reopen(tx, caller, mailbox_id)
    return _test(result)


@router.delete(
    "/{mailbox_id}",
    operation_id="disconnectMailbox",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(problems.NOT_FOUND),
)
async def disconnect_mailbox(mailbox_id: MailboxId, parts: PartsDep, caller: Writer) -> None:
    """Stop sending from a mailbox, destroy its passwords and keep its history. May be repeated."""
    mailbox = ids.encode("mbx", mailbox_id)
    now = parts.clock.now()
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await connect.lock(tx, caller, mailbox_id, deleted_too=True)
        if held.deleted_at is not None:
            return
        gone = {
            "is_active": False, "deleted_at": now, "send_credential": None,
            "read_credential": None,
        }  # fmt: skip
        version = await connect.change(tx, caller, mailbox_id, gone, now)
        await foreign.suspend(
            tx, caller.workspace_id, "mailbox", mailbox_id, DEACTIVATED, caller.actor
        )
        pools = (
            await tx.execute(
                delete(PoolMember)
                .where(
                    PoolMember.workspace_id == caller.workspace_id,
                    PoolMember.mailbox_id == mailbox_id,
                )
                .returning(PoolMember.pool_id)
            )
        ).scalars()
        await touch_campaigns_of_pools(parts, tx, caller.workspace_id, list(pools))
        await trail.mailbox_changed(
            parts, tx, caller.workspace_id, mailbox_id, version, deleted=True
        )
        await trail.audit(parts, tx, caller, "mailbox.disconnected", mailbox)


async def _set_active(
    parts: Parts, tx: AsyncConnection, caller: Caller, mailbox_id: int, *, active: bool
) -> None:
    gate = (tx, caller.workspace_id, "mailbox", mailbox_id, DEACTIVATED, caller.actor)
    if active:
        await foreign.resume(*gate)
    else:
        await foreign.suspend(*gate)
    action = "mailbox.activated" if active else "mailbox.deactivated"
    await trail.audit(parts, tx, caller, action, ids.encode("mbx", mailbox_id))


async def _audit_pacing(
    parts: Parts,
    tx: AsyncConnection,
    caller: Caller,
    mailbox: str,
    values: Mapping[str, Any],
    before: Mapping[str, Any],
) -> None:
    """Record what somebody vouches for: that a mailbox is warm, that it is at this provider."""
    if "policy" in values:
        attests, did = (
            policy.get("attested", True) for policy in (values["policy"], before["policy"])
        )
        if attests and not did:
            await trail.audit(parts, tx, caller, "mailbox.stage_attested", mailbox, stage="3")
        elif did and not attests:
            await trail.audit(parts, tx, caller, "mailbox.attestation_withdrawn", mailbox)
    if "provider_set" in values and values["provider_set"] != before.get("provider_set"):
        provider = values["provider_set"] or "as found"
        await trail.audit(parts, tx, caller, "mailbox.provider_set", mailbox, provider=provider)


def _select(caller: Caller) -> Select[Any]:
    zone = func.coalesce(Mailbox.timezone, Workspace.timezone).label("zone")
    return (
        select(
            Mailbox.__table__,
            zone,
            Workspace.country.label("workspace_country"),
            Workspace.region.label("workspace_region"),
        )
        .join(Workspace, Workspace.workspace_id == Mailbox.workspace_id)
        .where(Mailbox.workspace_id == caller.workspace_id)
    )


async def _one(tx: AsyncConnection, caller: Caller, mailbox_id: int) -> MailboxOut:
    found = await _read(tx, _select(caller).where(Mailbox.mailbox_id == mailbox_id))
    if not found:
        raise Problem(problems.NOT_FOUND, "there is no such mailbox in this workspace")
    return found[0]


async def _read(tx: AsyncConnection, statement: Select[Any]) -> list[MailboxOut]:
    rows = (await tx.execute(statement)).all()
    numbers = [row.mailbox_id for row in rows]
    held = await open_suspensions(tx, "mailbox", numbers)
    pace = foreign.MAILBOX_PACE.c
    paces = {
        row.mailbox_id: PaceOut(
            next_at=row.next_at, day=None if row.day is None else str(row.day),
            day_used=row.day_used, day_cap=row.day_cap,
        )
        for row in await tx.execute(
            select(pace.mailbox_id, pace.next_at, pace.day, pace.day_used, pace.day_cap).where(
                pace.mailbox_id.in_(numbers)
            )
        )
    }  # fmt: skip
    return [_out(row, held.get(row.mailbox_id, []), paces.get(row.mailbox_id)) for row in rows]


async def _add_capacity(parts: Parts, caller: Caller, found: Sequence[MailboxOut]) -> None:
    """Ask the scheduler, outside of any transaction."""
    capacities = await parts.pacing.mailbox_capacities(
        caller.workspace_id, [ids.decode("mbx", one.id) for one in found]
    )
    for one in found:
        answer = capacities[ids.decode("mbx", one.id)]
        if isinstance(answer, Capacity):
            one.capacity, one.capacity_unknown = answer, None
        else:
            one.capacity, one.capacity_unknown = None, answer


def _out(row: Row[Any], held: list[SuspensionOut], pace: PaceOut | None) -> MailboxOut:
    provider: Provider = row.provider_set or row.provider_found
    country = row.policy.get("country") or row.workspace_country
    region = row.policy.get("region")
    if region is None and country == row.workspace_country:
        region = row.workspace_region
    return MailboxOut(
        id=ids.encode("mbx", row.mailbox_id),
        email=row.email,
        domain=row.domain,
        display_name=row.display_name,
        reply_to=row.reply_to,
        kind=row.kind,
        provider=provider,
        provider_found=row.provider_found,
        is_active=row.is_active,
        timezone=row.zone,
        policy=row.policy,
        effective_policy=mailbox_policy.in_effect(
            row.policy, provider, country, region,
            row.connected_at.astimezone(ZoneInfo(row.zone)).date(),
        ),
        # Until somebody has asked the scheduler, who reads a change a moment after its commit.
        capacity=None,
        capacity_unknown="just_changed",
        smtp=ServerOut(**{name: row.smtp[name] for name in ServerOut.model_fields}),
        imap=ServerOut(**{name: row.imap[name] for name in ServerOut.model_fields}),
        last_send_test=_last(row.send_probe_ok, row.send_probe_code, row.send_probed_at),
        last_read_test=_last(row.read_probe_ok, row.read_probe_code, row.read_probed_at),
        suspensions=held,
        pace=pace,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )  # fmt: skip


def _last(ok: bool | None, code: str | None, at: datetime | None) -> LastTest | None:
    return None if ok is None or at is None else LastTest(ok=ok, code=code, at=at)


def _policy(body: MailboxIn, provider: str) -> dict[str, Any]:
    """Return the policy a new mailbox starts with; raise `policy_invalid` if it cannot hold."""
    attested = body.policy.get("attested", body.already_in_use)
    if "already_in_use" in body.model_fields_set and attested is not body.already_in_use:
        raise _invalid({"attested": "contradicts already_in_use: leave one of the two out"})
    policy = body.policy if body.already_in_use else {**body.policy, "attested": False}
    return _checked(policy, provider)


def _merged(held: Mapping[str, Any], body: MailboxPatch, provider: str) -> dict[str, Any]:
    """Return the policy after a PATCH; raise `policy_invalid` if it cannot hold."""
    reset = set(body.policy_reset or ())
    if unknown := reset - {*mailbox_policy.KEYS, "all"}:
        known = f"there is no such setting; known are {', '.join(mailbox_policy.KEYS)}, and all"
        raise _invalid(dict.fromkeys(sorted(unknown), known))
    kept = {name: value for name, value in held.items() if name not in reset and "all" not in reset}
    return _checked({**kept, **(body.policy or {})}, provider)


def _checked(policy: dict[str, Any], provider: str) -> dict[str, Any]:
    try:
        mailbox_policy.check(policy, provider, places())
    except mailbox_policy.InvalidPolicy as error:
        raise _invalid(error.faults) from None
    return policy


def _invalid(faults: Mapping[str, str]) -> Problem:
    return Problem(
        problems.POLICY_INVALID,
        "; ".join(f"{name}: {why}" for name, why in faults.items()),
        errors=[{"setting": name, "why": why} for name, why in faults.items()],
    )


def _test(result: Result) -> TestOut:
    return TestOut(ok=result.ok, send=_leg(result.send), read=_leg(result.read))


def _leg(leg: Leg) -> LegOut:
    return LegOut(ok=leg.ok, code=leg.code, message=leg.message, remedy=leg.remedy)
