"""Connecting a mailbox: its sealed credentials, the test before anything is saved."""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import problems, trail
from paceline_gateway.auth import Caller
from paceline_gateway.mailbox_settings import audit_pacing
from paceline_gateway.parts import Parts
from paceline_gateway.probe import Draft, Result, Side
from paceline_gateway.servers import ServerIn, stored, weaknesses
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Mailbox

TABLE: Final = "mailbox"
# What the sender holds a mailbox back for, and a passed test disproves.
DISPROVED: Final = ("auth_failed", "grant_revoked", "sender_refused", "connect_failed")
DEACTIVATED: Final = "deactivated"


async def draft_new(
    parts: Parts,
    caller: Caller,
    mailbox_id: int,
    email: str,
    display_name: str | None,
    smtp: ServerIn,
    imap: ServerIn,
) -> Draft:
    """Return a mailbox that has no row yet, its passwords sealed for the id it will have."""
    return Draft(
        workspace_id=caller.workspace_id,
        mailbox_id=mailbox_id,
        email=email,
        display_name=display_name,
        kind="smtp",
        send=await _by_password(parts, caller, "send", mailbox_id, email, smtp),
        read=await _by_password(parts, caller, "read", mailbox_id, email, imap),
    )


async def draft_saved(
    parts: Parts,
    caller: Caller,
    mailbox_id: int,
    smtp: ServerIn | None = None,
    imap: ServerIn | None = None,
) -> Draft:
    """Return a connected mailbox as it would be with these servers.

    A leg that stays is tested with its sealed credential as it is: each leg's
    test needs the other. Raises `servers_incomplete` for one server of a mailbox
    behind an API.
    """
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await lock(tx, caller, mailbox_id)
    draft = saved(held)
    if held.kind != "smtp" and (smtp is None) != (imap is None):
        raise Problem(problems.SERVERS_INCOMPLETE)
    if smtp:
        side = await _by_password(parts, caller, "send", mailbox_id, held.email, smtp)
        draft = replace(draft, kind="smtp", send=side)
    if imap:
        side = await _by_password(parts, caller, "read", mailbox_id, held.email, imap)
        draft = replace(draft, kind="smtp", read=side)
    return draft


def saved(held: Row[Any]) -> Draft:
    """Return a connected mailbox as its row has it."""
    return Draft(
        workspace_id=held.workspace_id,
        mailbox_id=held.mailbox_id,
        email=held.email,
        display_name=held.display_name,
        kind=held.kind,
        send=Side(
            held.smtp, held.send_oauth, bytes(held.send_credential), held.send_credential_version
        ),
        read=Side(
            held.imap, held.read_oauth, bytes(held.read_credential), held.read_credential_version
        ),
    )


def columns(draft: Draft) -> dict[str, Any]:
    """Return how the draft is reached, as columns; credential versions are `renewed`'s."""
    return {
        "kind": draft.kind,
        "smtp": _plain(draft.send.server),
        "imap": _plain(draft.read.server),
        "send_oauth": _plain(draft.send.oauth),
        "read_oauth": _plain(draft.read.oauth),
        "send_credential": draft.send.credential,
        "read_credential": draft.read.credential,
    }


def renewed(draft: Draft) -> dict[str, Any]:
    """Return the new credential versions of a saved mailbox's legs that have a new credential."""
    found: dict[str, Any] = {}
    if draft.send.version is None:
        found["send_credential_version"] = Mailbox.send_credential_version + 1
    if draft.read.version is None:
        found["read_credential_version"] = Mailbox.read_credential_version + 1
    return found


def outcome(result: Result, now: datetime) -> dict[str, Any]:
    """Return the columns that tell the last test of both legs."""
    return {
        "send_probe_ok": result.send.ok,
        "send_probe_code": result.send.code,
        "send_probed_at": now,
        "read_probe_ok": result.read.ok,
        "read_probe_code": result.read.code,
        "read_probed_at": now,
    }


async def reopen(tx: AsyncConnection, caller: Caller, mailbox_id: int) -> None:
    """Close what the sender opened for faults that a passed test has disproved."""
    for reason in DISPROVED:
        await foreign.resume(tx, caller.workspace_id, "mailbox", mailbox_id, reason, caller.actor)


def demand(result: Result) -> None:
    """Raise `connection_test_failed` unless both legs work; the first fault is the detail."""
    if result.ok:
        return
    side, leg = ("sending", result.send) if not result.send.ok else ("reading", result.read)
    members = result.as_members() | ({"remedy": leg.remedy} if leg.remedy else {})
    raise Problem(problems.CONNECTION_TEST_FAILED, f"{side}: {leg.message}", **members)


async def id_for(tx: AsyncConnection, caller: Caller, email: str) -> int:
    """Return the id under which `email` would be saved; refuse one that is connected."""
    held = (
        await tx.execute(
            select(Mailbox.mailbox_id, Mailbox.deleted_at).where(
                Mailbox.workspace_id == caller.workspace_id, Mailbox.email == email
            )
        )
    ).one_or_none()
    if held is None:
        drawn = func.nextval(func.pg_get_serial_sequence("gateway.mailbox", "mailbox_id"))
        fresh: int = (await tx.execute(select(drawn))).scalar_one()
        return fresh
    if held.deleted_at is None:
        raise _exists(held.mailbox_id)
    number: int = held.mailbox_id
    return number


async def save(
    tx: AsyncConnection, caller: Caller, mailbox_id: int, email: str, values: Mapping[str, Any]
) -> int:
    """Insert the mailbox, or bring a disconnected one back; return its version."""
    row = {
        "workspace_id": caller.workspace_id,
        "mailbox_id": mailbox_id,
        "email": email,
        **values,
    }
    back = {
        "version": Mailbox.version + 1,
        "send_credential_version": Mailbox.send_credential_version + 1,
        "read_credential_version": Mailbox.read_credential_version + 1,
    }
    statement = insert(Mailbox).values(row)
    version = (
        await tx.execute(
            statement.on_conflict_do_update(
                index_elements=[Mailbox.workspace_id, Mailbox.email],
                set_={**values, **back},
                where=(Mailbox.deleted_at.is_not(None)) & (Mailbox.mailbox_id == mailbox_id),
            ).returning(Mailbox.version)
        )
    ).scalar_one_or_none()
    if version is None:
        # Somebody else connected it while this one was tested.
        holder = (
            await tx.execute(
                select(Mailbox.mailbox_id).where(
                    Mailbox.workspace_id == caller.workspace_id, Mailbox.email == email
                )
            )
        ).scalar_one()
        raise _exists(holder)
    saved: int = version
    return saved


async def lock(
    tx: AsyncConnection, caller: Caller, mailbox_id: int, *, deleted_too: bool = False
) -> Row[Any]:
    """Return the mailbox's row, locked; the problem `not_found` or `mailbox_deleted` otherwise."""
    held = (
        await tx.execute(
            select(Mailbox.__table__)
            .where(Mailbox.workspace_id == caller.workspace_id, Mailbox.mailbox_id == mailbox_id)
            .with_for_update()
        )
    ).one_or_none()
    if held is None:
        raise Problem(problems.NOT_FOUND, "there is no such mailbox in this workspace")
    if held.deleted_at is not None and not deleted_too:
        raise Problem(problems.MAILBOX_DELETED)
    return held


async def change(
    tx: AsyncConnection, caller: Caller, mailbox_id: int, values: Mapping[str, Any], now: datetime
) -> int:
    """Change a locked mailbox and return its new version."""
    version: int = (
        await tx.execute(
            update(Mailbox)
            .where(Mailbox.workspace_id == caller.workspace_id, Mailbox.mailbox_id == mailbox_id)
            .values({**values, "version": Mailbox.version + 1, "updated_at": now})
            .returning(Mailbox.version)
        )
    ).scalar_one()
    return version


async def connected(
    parts: Parts, tx: AsyncConnection, caller: Caller, draft: Draft, values: Mapping[str, Any]
) -> None:
    """Save a tested mailbox: insert it or bring it back, let it send, tell everybody.

    `values` are its settings' columns and its test's outcome.
    """
    number, mailbox = draft.mailbox_id, ids.encode("mbx", draft.mailbox_id)
    domain = draft.email.partition("@")[2]
    row = {"domain": domain, **columns(draft), **values}
    version = await save(tx, caller, number, draft.email, row)
    await foreign.resume(tx, caller.workspace_id, "mailbox", number, DEACTIVATED, caller.actor)
    await reopen(tx, caller, number)
    await trail.mailbox_changed(parts, tx, caller.workspace_id, number, version)
    await trail.audit(parts, tx, caller, "mailbox.connected", mailbox, **told(draft))
    await audit_weakness(parts, tx, caller, draft)
    await audit_pacing(parts, tx, caller, mailbox, values, {"policy": {"attested": False}})


def told(draft: Draft) -> dict[str, str]:
    """Return what an audit record tells of how a mailbox is reached; never a secret."""
    found = {"kind": draft.kind}
    for leg, side in (("send", draft.send), ("read", draft.read)):
        if side.oauth is not None:
            found[f"{leg}_client"] = f"{side.oauth['client_id']} ({side.oauth['app']})"
            found[f"{leg}_scopes"] = " ".join(side.oauth["scopes"])
    return found


async def audit_weakness(
    parts: Parts, tx: AsyncConnection, caller: Caller, draft: Draft, before: Draft | None = None
) -> None:
    """Record where somebody chose to do without encryption or verification, when it is new."""
    for name, side, was in (
        ("smtp", draft.send, before and before.send),
        ("imap", draft.read, before and before.read),
    ):
        found = weaknesses(side.server)
        if found and found != weaknesses(was.server if was else None):
            await trail.audit(
                parts, tx, caller, "mailbox.connection_weakened",
                ids.encode("mbx", draft.mailbox_id), **{name: ", ".join(found)},
            )  # fmt: skip


async def _by_password(
    parts: Parts,
    caller: Caller,
    scope: Literal["send", "read"],
    mailbox_id: int,
    email: str,
    server: ServerIn,
) -> Side:
    credential = {"password": server.password.get_secret_value()}
    sealed = await seal(parts, caller, scope, mailbox_id, credential)
    return Side(stored(server, email), None, sealed)


async def seal(
    parts: Parts,
    caller: Caller,
    scope: Literal["send", "read"],
    mailbox_id: int,
    credential: Mapping[str, Any],
) -> bytes:
    """Return a credential sealed for one leg of one mailbox; the gateway cannot open it again."""
    plaintext = json.dumps(credential).encode()
    return await parts.keys.seal(scope, caller.workspace_id, plaintext, table=TABLE, row=mailbox_id)


def _plain(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def _exists(mailbox_id: int) -> Exception:
    return Problem(problems.MAILBOX_EXISTS, mailbox_id=ids.encode("mbx", mailbox_id))
