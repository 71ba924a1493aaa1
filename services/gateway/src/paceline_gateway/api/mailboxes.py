"""Mailboxes: connected only when a message could be sent and read back."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Response, status
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.address import normalise
from paceline_common.http import Problem
from paceline_gateway import connect, paging, problems, trail
from paceline_gateway.api.suspensions import SuspensionOut, open_suspensions
from paceline_gateway.api.types import Email, MailboxId, Name, Timezone, answers
from paceline_gateway.auth import Caller, Reader, Writer
from paceline_gateway.connect import ServerIn, Tls
from paceline_gateway.domain import mailbox_policy
from paceline_gateway.lifecycle import touch_campaigns_of_pools
from paceline_gateway.paging import Cursor, Limit, Page
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.probe import Leg, Result
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Mailbox, PoolMember, Workspace

router = APIRouter(prefix="/v1/mailboxes", tags=["mailboxes"])

DEACTIVATED = "deactivated"


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class MailboxIn(_In):
    """A mailbox to connect."""

    email: Email
    display_name: Name | None = None
    reply_to: Email | None = None
    timezone: Timezone | None = Field(default=None, description="The workspace's if left out.")
    policy: dict[str, Any] = Field(
        default_factory=dict, description="What differs from the defaults; see `effective_policy`."
    )
    smtp: ServerIn
    imap: ServerIn


class MailboxPatch(_In):
    """What to change; what is left out stays. `policy` replaces the old one as a whole.

    A changed `smtp` or `imap` is tested before it is saved.
    """

    display_name: Name | None = None
    reply_to: Email | None = None
    timezone: Timezone | None = None
    policy: dict[str, Any] | None = None
    is_active: bool | None = None
    smtp: ServerIn | None = None
    imap: ServerIn | None = None


class ServerOut(BaseModel):
    """A server without its password."""

    host: str
    port: int
    tls: Tls
    username: str


class LegOut(BaseModel):
    """What one leg of a connection test found: the server's exact words, and what to do."""

    ok: bool
    code: str
    message: str
    remedy: str | None


class TestOut(BaseModel):
    """A connection test; nothing was saved."""

    ok: bool
    send: LegOut
    read: LegOut


class LastTest(BaseModel):
    """The last test of a saved mailbox's leg."""

    ok: bool
    code: str | None
    at: datetime


class PaceOut(BaseModel):
    """Where a mailbox stands today, in its own zone: `next_at` is its next possible slot."""

    next_at: datetime | None
    day: str | None
    day_used: int
    day_cap: int | None


class MailboxOut(BaseModel):
    """A mailbox; secrets are never part of an answer.

    `policy` is what was set, `effective_policy` what holds, `daily_capacity` how
    many messages that allows today however high the cap.
    """

    id: str
    email: str
    domain: str
    display_name: str | None
    reply_to: str | None
    kind: str
    is_active: bool
    timezone: str
    policy: dict[str, Any]
    effective_policy: dict[str, Any]
    daily_capacity: int
    smtp: ServerOut
    imap: ServerOut
    last_send_test: LastTest | None
    last_read_test: LastTest | None
    suspensions: list[SuspensionOut]
    pace: PaceOut | None
    version: int
    created_at: datetime
    updated_at: datetime


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
            parts.clock.now(),
        )
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
    _check_policy(body.policy)
    email = normalise(body.email)
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
        "domain": email.partition("@")[2],
        "display_name": body.display_name,
        "reply_to": body.reply_to,
        "timezone": body.timezone,
        "policy": body.policy,
        "is_active": True,
        "deleted_at": None,
        "updated_at": now,
        "smtp": dict(draft.smtp),
        "imap": dict(draft.imap),
        "smtp_credential": draft.smtp_credential,
        "imap_credential": draft.imap_credential,
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
        return await _one(tx, caller, mailbox_id, now)


@router.get("/{mailbox_id}", operation_id="getMailbox", responses=answers(problems.NOT_FOUND))
async def get_mailbox(mailbox_id: MailboxId, parts: PartsDep, caller: Reader) -> MailboxOut:
    """Return one mailbox, disconnected ones included."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        return await _one(tx, caller, mailbox_id, parts.clock.now())


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
    if body.policy is not None:
        _check_policy(body.policy)
    asked = body.model_dump(exclude_unset=True, include={"display_name", "reply_to", "timezone"})
    values: dict[str, Any] = {**asked}
    if body.policy is not None:
        values["policy"] = body.policy
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
        if not values:
            return await _one(tx, caller, mailbox_id, now)
        version = await connect.change(tx, caller, mailbox_id, values, now)
        if body.is_active is not None and body.is_active != held.is_active:
            await _set_active(parts, tx, caller, mailbox_id, active=body.is_active)
        if body.smtp or body.imap:
            await connect.reopen(tx, caller, mailbox_id)
            await trail.audit(parts, tx, caller, "mailbox.credential_changed", mailbox)
        await trail.mailbox_changed(parts, tx, caller.workspace_id, mailbox_id, version)
        return await _one(tx, caller, mailbox_id, now)


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
            "is_active": False, "deleted_at": now, "smtp_credential": None,
            "imap_credential": None,
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


def _select(caller: Caller) -> Select[Any]:
    zone = func.coalesce(Mailbox.timezone, Workspace.timezone).label("zone")
    return (
        select(Mailbox.__table__, zone)
        .join(Workspace, Workspace.workspace_id == Mailbox.workspace_id)
        .where(Mailbox.workspace_id == caller.workspace_id)
    )


async def _one(tx: AsyncConnection, caller: Caller, mailbox_id: int, now: datetime) -> MailboxOut:
    found = await _read(tx, _select(caller).where(Mailbox.mailbox_id == mailbox_id), now)
    if not found:
        raise Problem(problems.NOT_FOUND, "there is no such mailbox in this workspace")
    return found[0]


async def _read(tx: AsyncConnection, statement: Select[Any], now: datetime) -> list[MailboxOut]:
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
    return [_out(row, held.get(row.mailbox_id, []), paces.get(row.mailbox_id), now) for row in rows]


def _out(
    row: Row[Any], held: list[SuspensionOut], pace: PaceOut | None, now: datetime
) -> MailboxOut:
    today = now.astimezone(ZoneInfo(row.zone)).date()
    return MailboxOut(
        id=ids.encode("mbx", row.mailbox_id),
        email=row.email,
        domain=row.domain,
        display_name=row.display_name,
        reply_to=row.reply_to,
        kind=row.kind,
        is_active=row.is_active,
        timezone=row.zone,
        policy=row.policy,
        effective_policy=mailbox_policy.effective(row.policy),
        daily_capacity=mailbox_policy.daily_capacity(row.policy, row.zone, today),
        smtp=ServerOut(**{name: row.smtp[name] for name in ServerOut.model_fields}),
        imap=ServerOut(**{name: row.imap[name] for name in ServerOut.model_fields}),
        last_send_test=_last(row.send_probe_ok, row.send_probe_code, row.send_probed_at),
        last_read_test=_last(row.read_probe_ok, row.read_probe_code, row.read_probed_at),
        suspensions=held,
        pace=pace,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _last(ok: bool | None, code: str | None, at: datetime | None) -> LastTest | None:
    return None if ok is None or at is None else LastTest(ok=ok, code=code, at=at)


def _check_policy(policy: Mapping[str, Any]) -> None:
    try:
        mailbox_policy.check(policy)
    except mailbox_policy.InvalidPolicy as error:
        raise Problem(
            problems.POLICY_INVALID,
            str(error),
            errors=[{"setting": name, "why": why} for name, why in error.faults.items()],
        ) from None


def _test(result: Result) -> TestOut:
    return TestOut(ok=result.ok, send=_leg(result.send), read=_leg(result.read))


def _leg(leg: Leg) -> LegOut:
    return LegOut(ok=leg.ok, code=leg.code, message=leg.message, remedy=leg.remedy)
