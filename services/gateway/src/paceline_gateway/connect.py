"""Connecting a mailbox: its servers, its sealed passwords, the test before anything is saved."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import problems
from paceline_gateway.auth import Caller
from paceline_gateway.parts import Parts
from paceline_gateway.probe import Draft, Result
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Mailbox

TABLE: Final = "mailbox"
# What the sender holds a mailbox back for, and a passed test disproves.
DISPROVED: Final = ("auth_failed", "sender_refused", "connect_failed")

Host = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=253)]
Tls = Literal["implicit", "starttls", "none"]


class ServerIn(BaseModel):
    """One server and how to sign in to it. `tls: none` sends the password in the clear."""

    model_config = ConfigDict(extra="forbid")

    host: Host
    port: int = Field(ge=1, le=65535)
    tls: Tls = "implicit"
    username: Annotated[str, StringConstraints(min_length=1, max_length=320)] | None = Field(
        default=None, description="The mailbox's address if left out."
    )
    password: SecretStr = Field(min_length=1, max_length=1000)


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
        smtp=_smtp(smtp, email),
        imap=_server(imap, email),
        send_credential=await _seal(parts, caller, "send", mailbox_id, smtp.password),
        read_credential=await _seal(parts, caller, "read", mailbox_id, imap.password),
    )


async def draft_saved(
    parts: Parts,
    caller: Caller,
    mailbox_id: int,
    smtp: ServerIn | None = None,
    imap: ServerIn | None = None,
) -> tuple[Draft, dict[str, Any]]:
    """Return a connected mailbox as it would be with these servers, and the columns they change.

    A leg that stays is tested with its sealed credential as it is: each leg's
    test needs the other.
    """
    async with parts.db.transaction([caller.workspace_id]) as tx:
        held = await lock(tx, caller, mailbox_id)
    changed: dict[str, Any] = {}
    if smtp:
        changed["smtp"] = _smtp(smtp, held.email)
        changed["send_credential"] = await _seal(parts, caller, "send", mailbox_id, smtp.password)
    if imap:
        changed["imap"] = _server(imap, held.email)
        changed["read_credential"] = await _seal(parts, caller, "read", mailbox_id, imap.password)
    legs = {
        name: changed.get(name, getattr(held, name))
        for name in ("smtp", "imap", "send_credential", "read_credential")
    }
    draft = Draft(
        workspace_id=caller.workspace_id,
        mailbox_id=mailbox_id,
        email=held.email,
        display_name=held.display_name,
        **legs,
    )
    return draft, changed


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
        "kind": "smtp",
        **values,
    }
    statement = insert(Mailbox).values(row)
    version = (
        await tx.execute(
            statement.on_conflict_do_update(
                index_elements=[Mailbox.workspace_id, Mailbox.email],
                set_={**values, "version": Mailbox.version + 1},
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


def _server(server: ServerIn, email: str) -> dict[str, Any]:
    return {
        "host": server.host,
        "port": server.port,
        "tls": server.tls,
        "username": server.username or email,
    }


def _smtp(server: ServerIn, email: str) -> dict[str, Any]:
    return _server(server, email) | {"auth": "auto"}


async def _seal(
    parts: Parts, caller: Caller, scope: Literal["send", "read"], mailbox_id: int, secret: SecretStr
) -> bytes:
    plaintext = json.dumps({"password": secret.get_secret_value()}).encode()
    return await parts.keys.seal(scope, caller.workspace_id, plaintext, table=TABLE, row=mailbox_id)


def _exists(mailbox_id: int) -> Exception:
    return Problem(problems.MAILBOX_EXISTS, mailbox_id=ids.encode("mbx", mailbox_id))
