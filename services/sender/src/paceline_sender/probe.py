"""`/internal/probe` and `/internal/recheck`: the sending leg of a mailbox's connection test."""

import json
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter
from pydantic import Base64Bytes, BaseModel, Field
from sqlalchemy import Row, text

from paceline_common import events, ids, topics
from paceline_common.address import without_addresses
from paceline_common.clock import Clock
from paceline_common.db.outbox import Outbox, Outgoing
from paceline_common.db.session import Database
from paceline_common.db.sql import Queries
from paceline_common.http import Problem, ProblemType, public_id
from paceline_common.keys import KeyService, SealBroken
from paceline_providers import base
from paceline_providers.base import ProbeResult
from paceline_sender.domain.message import is_address
from paceline_sender.domain.outcome import REMEDIES, trim
from paceline_sender.transport import Account, SmtpTransport

# A mailbox being connected has no row yet: its draft's id was drawn before.
_IS_SAVED: Final = text(
    "SELECT EXISTS (SELECT FROM gateway.v_mailbox"
    " WHERE workspace_id = :workspace AND mailbox_id = :mailbox)"
)
CREDENTIAL_UNREADABLE: Final = ProblemType(
    "credential_unreadable",
    422,
    "The sealed credential cannot be opened",
    "Enter the password again.",
)
UNKNOWN_MAILBOX: Final = ProblemType(
    "unknown_mailbox",
    404,
    "There is no such mailbox",
    "It was disconnected, or never was in this workspace.",
)


class ProbeRequest(BaseModel):
    """A mailbox's sending side, its credential sealed (scope send) for the row `mailbox_id`."""

    workspace_id: Annotated[int, *public_id("ws")]
    mailbox_id: Annotated[int, *public_id("mbx")]
    email: str
    display_name: str | None = None
    smtp: dict[str, Any]
    credential: Base64Bytes
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{8,100}$")


class ProbeAnswer(BaseModel):
    """`message` is the server's exact words, `remedy` what to do about them."""

    ok: bool
    code: str
    message: str
    remedy: str


def router(
    db: Database, keys: KeyService, transport: SmtpTransport, outbox: Outbox, clock: Clock
) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    queries = Queries("paceline_sender")

    @routes.post("/probe")
    async def probe(asked: ProbeRequest) -> ProbeAnswer:
        result = await _probe(asked, keys, transport, clock)
        async with db.transaction([asked.workspace_id]) as tx:
            named = {"workspace": asked.workspace_id, "mailbox": asked.mailbox_id}
            if await tx.scalar(_IS_SAVED, named):
                told = _probed(asked.workspace_id, asked.mailbox_id, answer(result), clock)
                await outbox.add(tx, [told])
        return answer(result)

    @routes.post("/recheck/{workspace_id}/{mailbox_id}")
    async def recheck(workspace_id: str, mailbox_id: str) -> ProbeAnswer:
        """Sign in with what is stored of a mailbox; nothing is sent."""
        try:
            workspace, mailbox = ids.decode("ws", workspace_id), ids.decode("mbx", mailbox_id)
        except ids.InvalidIdError:
            raise Problem(UNKNOWN_MAILBOX) from None
        named = {"workspace": workspace, "mailbox": mailbox}
        async with db.transaction([workspace]) as tx:
            row = (await tx.execute(queries["load_mailbox"], named)).one_or_none()
        if row is None:
            raise Problem(UNKNOWN_MAILBOX)
        found = await _recheck(row, keys, transport)
        async with db.transaction([workspace]) as tx:
            await outbox.add(tx, [_probed(workspace, mailbox, found, clock)])
        return found

    return routes


def answer(result: ProbeResult) -> ProbeAnswer:
    """Return what a test found as both routes tell it."""
    return ProbeAnswer(
        ok=result.ok,
        code=result.code,
        message=trim(result.message) or "",
        remedy=result.remedy,
    )


async def _recheck(row: Row[Any], keys: KeyService, transport: SmtpTransport) -> ProbeAnswer:
    try:
        plain = await keys.open(
            "send", row.workspace_id, row.credential, table="mailbox", row=row.mailbox_id
        )
        account = Account(row.email, row.smtp, json.loads(plain))
    except (SealBroken, ValueError):
        remedy = REMEDIES["credential_unreadable"]
        return ProbeAnswer(ok=False, code="credential_unreadable", message=remedy, remedy=remedy)
    try:
        provider = transport.provider(account)
    except msgspec.ValidationError as error:
        return answer(base.probe_result("protocol_error", str(error)))
    return answer(await base.handshake(provider))


async def _probe(
    asked: ProbeRequest, keys: KeyService, transport: SmtpTransport, clock: Clock
) -> ProbeResult:
    if not is_address(asked.email):
        return base.probe_result("sender_refused", "this address cannot be used in an envelope")
    try:
        plain = await keys.open(
            "send", asked.workspace_id, asked.credential, table="mailbox", row=asked.mailbox_id
        )
        account = Account(asked.email, asked.smtp, json.loads(plain))
    except (SealBroken, ValueError):
        raise Problem(CREDENTIAL_UNREADABLE) from None
    try:
        provider = transport.provider(account)
    except msgspec.ValidationError as error:
        return base.probe_result("protocol_error", str(error))
    return await base.probe(provider, asked.email, message(asked.email, asked.token, clock))


def message(email: str, token: str, clock: Clock) -> bytes:
    """Return the one-line test message from a mailbox to itself."""
    made = EmailMessage(policy=policy.SMTP)
    made["Date"] = format_datetime(clock.now())
    made["From"] = email
    made["To"] = email
    made["Subject"] = f"Paceline connection test {token}"
    made["Message-ID"] = make_msgid("probe", domain=email.rpartition("@")[2])
    made["Auto-Submitted"] = "auto-generated"
    made["X-Paceline-Probe"] = token
    made.set_content("This message tests the connection of this mailbox; it is deleted again.\n")
    return made.as_bytes()


def _probed(workspace_id: int, mailbox_id: int, found: ProbeAnswer, clock: Clock) -> Outgoing:
    mailbox = ids.encode("mbx", mailbox_id)
    return Outgoing(
        topic=topics.MAILBOX_PROBED,
        key=mailbox,
        subject=mailbox,
        body=events.MailboxProbed(
            workspace_id=ids.encode("ws", workspace_id),
            mailbox_id=mailbox,
            leg="send",
            ok=found.ok,
            probed_at=clock.now(),
            code=found.code,
            detail=without_addresses(found.message),
        ),
    )
