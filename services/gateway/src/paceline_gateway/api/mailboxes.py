"""Mailboxes: connected only when a message could be sent and read back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Response, status
from sqlalchemy import Select, func, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.address import normalise
from paceline_common.http import Problem
from paceline_gateway import (
    connect,
    mailbox_settings,
    message_defaults,
    paging,
    problems,
    trail,
)
from paceline_gateway.api.mailbox_models import (
    GrantOut,
    LastTest,
    LegOut,
    MailboxIn,
    MailboxOut,
    MailboxPatch,
    PaceOut,
    TestOut,
)
from paceline_gateway.api.suspensions import SuspensionOut, open_suspensions
from paceline_gateway.api.types import MailboxId, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.disconnect import disconnect
from paceline_gateway.domain import mailbox_policy
from paceline_gateway.domain.provider import Provider, derive
from paceline_gateway.pacing import Capacity
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.probe import Draft, Leg, Result
from paceline_gateway.servers import shown
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Mailbox, Workspace
from paceline_providers.presets import presets

router = APIRouter(prefix="/v1/mailboxes", tags=["mailboxes"])


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
            problems.MAILBOX_EXISTS, problems.POLICY_INVALID, problems.HEADER_REFUSED,
            problems.TEMPLATE_INVALID, problems.CONNECTION_TEST_FAILED,
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
    smtp, imap = body.servers()
    email = normalise(body.email)
    found = _found(email.partition("@")[2], smtp.host, body.preset)
    now = parts.clock.now()
    values = mailbox_settings.columns(body, found, now)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        mailbox_id = await connect.id_for(tx, caller, email)
    draft = await connect.draft_new(parts, caller, mailbox_id, email, body.display_name, smtp, imap)
    result = await parts.prober.probe(draft)
    if test == "only":
        response.status_code = status.HTTP_200_OK
        return _test(result)
    connect.demand(result)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        tested = values | connect.outcome(result, now)
        await connect.connected(parts, tx, caller, draft, tested)
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
        problems.NOT_FOUND, problems.POLICY_INVALID, problems.HEADER_REFUSED,
        problems.TEMPLATE_INVALID, problems.CONNECTION_TEST_FAILED,
        problems.CONNECTION_TEST_UNAVAILABLE, problems.MAILBOX_DELETED,
    ),
)  # fmt: skip
async def change_mailbox(
    mailbox_id: MailboxId, body: MailboxPatch, parts: PartsDep, caller: Writer
) -> MailboxOut:
    """Change a mailbox; a new server or password is tested on both legs first."""
    asked = body.model_dump(exclude_unset=True, include={"display_name", "reply_to", "timezone"})
    values: dict[str, Any] = asked | message_defaults.columns(body.message)
    if "provider" in body.model_fields_set:
        values["provider_set"] = body.provider
    if body.is_active is not None:
        values["is_active"] = body.is_active
    now = parts.clock.now()
    draft: Draft | None = None
    if body.smtp or body.imap:
        draft = await connect.draft_saved(parts, caller, mailbox_id, body.smtp, body.imap)
        result = await parts.prober.probe(draft)
        connect.demand(result)
        values |= connect.columns(draft) | connect.renewed(draft)
        values |= connect.outcome(result, now)
    mailbox = ids.encode("mbx", mailbox_id)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await connect.lock(tx, caller, mailbox_id)
        if body.smtp:
            values["provider_found"] = derive("smtp", held.domain, body.smtp.host)
        if {"policy", "policy_reset", "provider"} & body.model_fields_set:
            settled = {**held._mapping, **values}
            provider = settled["provider_set"] or settled["provider_found"]
            values["policy"] = mailbox_settings.changed_policy(
                held.policy, body.policy_reset or (), body.policy or {}, provider
            )
        if not values:
            return await _one(tx, caller, mailbox_id)
        version = await connect.change(tx, caller, mailbox_id, values, now)
        if body.is_active is not None and body.is_active != held.is_active:
            await _set_active(parts, tx, caller, mailbox_id, active=body.is_active)
        if draft is not None:
            await connect.reopen(tx, caller, mailbox_id)
            await trail.audit(parts, tx, caller, "mailbox.credential_changed", mailbox)
            await connect.audit_weakness(parts, tx, caller, draft, connect.saved(held))
        await mailbox_settings.audit_pacing(parts, tx, caller, mailbox, values, dict(held._mapping))
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
    draft = await connect.draft_saved(parts, caller, mailbox_id)
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
    """Stop sending from a mailbox, revoke and destroy its credentials, keep its history.

    May be repeated. A grant is revoked at its provider where that is possible; the audit
    record `mailbox.disconnected` tells for each leg what came of it.
    """
    await disconnect(parts, caller, mailbox_id)


async def _set_active(
    parts: Parts, tx: AsyncConnection, caller: Caller, mailbox_id: int, *, active: bool
) -> None:
    gate = (tx, caller.workspace_id, "mailbox", mailbox_id, connect.DEACTIVATED, caller.actor)
    if active:
        await foreign.resume(*gate)
    else:
        await foreign.suspend(*gate)
    action = "mailbox.activated" if active else "mailbox.deactivated"
    await trail.audit(parts, tx, caller, action, ids.encode("mbx", mailbox_id))


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
        message=message_defaults.shown(row),
        policy=row.policy,
        effective_policy=mailbox_policy.in_effect(
            row.policy, provider, country, region,
            row.connected_at.astimezone(ZoneInfo(row.zone)).date(),
        ),
        # Until somebody has asked the scheduler, who reads a change a moment after its commit.
        capacity=None,
        capacity_unknown="just_changed",
        smtp=shown(row.smtp),
        imap=shown(row.imap),
        send_grant=GrantOut.model_validate(row.send_oauth) if row.send_oauth else None,
        read_grant=GrantOut.model_validate(row.read_oauth) if row.read_oauth else None,
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


def _found(domain: str, smtp_host: str, preset: str | None) -> Provider:
    """Return the provider by server and address; a preset knows where those say nothing."""
    found = derive("smtp", domain, smtp_host)
    if found == "smtp" and preset is not None:
        known: Provider = presets()[preset].provider
        return known
    return found


def _test(result: Result) -> TestOut:
    return TestOut(ok=result.ok, send=_leg(result.send), read=_leg(result.read))


def _leg(leg: Leg) -> LegOut:
    return LegOut(ok=leg.ok, code=leg.code, message=leg.message, remedy=leg.remedy)
