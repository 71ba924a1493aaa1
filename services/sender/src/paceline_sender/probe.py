"""`/internal/probe`, `/internal/recheck` and `/internal/revoke`: a mailbox's sending leg tested,
and its grant taken back."""

from email import policy
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import Base64Bytes, BaseModel, Field
from sqlalchemy import text

from paceline_common import events, failpoints, ids, tokens, topics
from paceline_common.address import without_addresses
from paceline_common.clock import Clock
from paceline_common.db.outbox import Outbox, Outgoing
from paceline_common.db.session import Database
from paceline_common.http import Problem, ProblemType, public_id
from paceline_common.keys import KeyService, KeyServiceError, SealBroken
from paceline_providers import aadsts, base, oauth
from paceline_providers.base import ProbeResult
from paceline_providers.classes import OutcomeClass
from paceline_providers.proof import TokenRefused, TokenUnavailable
from paceline_sender.accounts import Accounts, opened
from paceline_sender.domain.message import is_address
from paceline_sender.domain.outcome import REMEDIES, trim
from paceline_sender.transport import Account, MailTransport, Unusable

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


GRANT_REMEDY: Final = (
    "Connect the mailbox again and agree to everything that is asked: the provider does not "
    "honour the grant, or it does not include what is needed."
)


class ProbeRequest(BaseModel):
    """A mailbox's sending side, its credential sealed (scope send) for the row `mailbox_id`.

    `smtp` for a mailbox that submits to a host, `oauth` for one with a grant.
    """

    workspace_id: Annotated[int, *public_id("ws")]
    mailbox_id: Annotated[int, *public_id("mbx")]
    email: str
    display_name: str | None = None
    kind: Literal["smtp", "gmail", "graph"] = "smtp"
    smtp: dict[str, Any] | None = None
    oauth: dict[str, Any] | None = None
    credential: Base64Bytes
    # Of a credential that is saved already: its newest tokens are used, and kept.
    credential_version: int | None = None
    token: str = Field(pattern=r"^[A-Za-z0-9_-]{8,100}$")


class ProbeAnswer(BaseModel):
    """`message` is the server's exact words, `remedy` what to do about them."""

    ok: bool
    code: str
    message: str
    remedy: str


class RevokeAnswer(BaseModel):
    """`result`: what became of the grant at its provider; `message` is the provider's words.

    `none`: the mailbox has no grant, or none that can be read any more.
    """

    result: Literal["revoked", "already_gone", "not_supported", "failed", "none"]
    message: str


def router(
    db: Database,
    keys: KeyService,
    accounts: Accounts,
    transport: MailTransport,
    outbox: Outbox,
    clock: Clock,
) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.post("/probe")
    async def probe(asked: ProbeRequest) -> ProbeAnswer:
        found = await _probe(asked, keys, transport, clock)
        async with db.transaction([asked.workspace_id]) as tx:
            named = {"workspace": asked.workspace_id, "mailbox": asked.mailbox_id}
            if await tx.scalar(_IS_SAVED, named):
                told = _probed(asked.workspace_id, asked.mailbox_id, found, clock)
                await outbox.add(tx, [told])
        return found

    @routes.post("/recheck/{workspace_id}/{mailbox_id}")
    async def recheck(workspace_id: str, mailbox_id: str) -> ProbeAnswer:
        """Sign in with what is stored of a mailbox; nothing is sent."""
        workspace, mailbox = _named(workspace_id, mailbox_id)
        try:
            account = await accounts.load(workspace, mailbox)
        except SealBroken:
            remedy = REMEDIES["credential_unreadable"]
            found = ProbeAnswer(
                ok=False, code="credential_unreadable", message=remedy, remedy=remedy
            )
        else:
            if account is None:
                raise Problem(UNKNOWN_MAILBOX)
            found = answer(await _recheck(account, transport), account)
        async with db.transaction([workspace]) as tx:
            await outbox.add(tx, [_probed(workspace, mailbox, found, clock)])
        return found

    @routes.post("/revoke/{workspace_id}/{mailbox_id}")
    async def revoke(workspace_id: str, mailbox_id: str) -> RevokeAnswer:
        """Take a mailbox's grant back at its provider and drop the tokens kept of it.

        The caller destroys the credential afterwards, whatever the answer.
        """
        workspace, mailbox = _named(workspace_id, mailbox_id)
        found = RevokeAnswer(result="none", message="the mailbox has no grant")
        try:
            account = await accounts.load(workspace, mailbox)
            if account is not None:
                found = await _revoke(account, transport)
        except (SealBroken, Unusable) as error:
            found = RevokeAnswer(result="none", message=str(error))
        except (KeyServiceError, TokenUnavailable) as error:
            found = RevokeAnswer(result="failed", message=str(error))
        failpoints.hit("sender.grant_revoked")
        await tokens.drop(db, workspace, mailbox)
        return found

    return routes


def answer(result: ProbeResult, account: Account) -> ProbeAnswer:
    """Return what a test found as both routes tell it."""
    remedy = result.remedy
    if result.code == "auth_failed" and account.oauth is not None:
        remedy = GRANT_REMEDY
        if "AADSTS" in result.message:
            remedy = aadsts.rule_for("", result.message).sentence
    return ProbeAnswer(
        ok=result.ok, code=result.code, message=trim(result.message) or "", remedy=remedy
    )


async def _revoke(account: Account, transport: MailTransport) -> RevokeAnswer:
    grant_tokens = transport.tokens(account)
    if grant_tokens is None or account.oauth is None:
        return RevokeAnswer(result="none", message="the mailbox has no grant")
    result, words = await oauth.revoke(
        transport.http,
        transport.revoke_url(account),
        (await grant_tokens.newest()).refresh_token,
    )
    transport.forget(account)
    return RevokeAnswer(result=result, message=trim(words) or "")


async def _recheck(account: Account, transport: MailTransport) -> ProbeResult:
    try:
        grant_tokens = transport.tokens(account)
        provider = transport.provider(account)
    except Unusable as error:
        return base.probe_result("protocol_error", str(error))
    if grant_tokens is not None:
        # A token that is still good would say nothing about the grant.
        try:
            await grant_tokens((await grant_tokens.newest()).access_token)
        except TokenRefused as refusal:
            return base.probe_result("auth_failed", str(refusal))
        except TokenUnavailable as failure:
            config = failure.outcome_class is OutcomeClass.CONFIG
            return base.probe_result("app_refused" if config else "connect_timeout", str(failure))
    return await base.handshake(provider)


async def _probe(
    asked: ProbeRequest, keys: KeyService, transport: MailTransport, clock: Clock
) -> ProbeAnswer:
    try:
        credential = await opened(keys, asked.workspace_id, asked.mailbox_id, asked.credential)
    except SealBroken:
        raise Problem(CREDENTIAL_UNREADABLE) from None
    account = Account(
        workspace_id=asked.workspace_id,
        mailbox_id=asked.mailbox_id,
        kind=asked.kind,
        email=asked.email,
        smtp=asked.smtp,
        oauth=asked.oauth,
        credential=credential,
        credential_version=asked.credential_version,
    )
    if not is_address(asked.email):
        words = "this address cannot be used in an envelope"
        return answer(base.probe_result("sender_refused", words), account)
    try:
        provider, prover = transport.provider(account), transport.prover(account)
    except Unusable as error:
        return answer(base.probe_result("protocol_error", str(error)), account)
    sent = message(asked.email, asked.token, clock)
    discard = None if prover is None else prover.destroy
    return answer(await base.probe(provider, asked.email, sent, discard), account)


def _named(workspace_id: str, mailbox_id: str) -> tuple[int, int]:
    try:
        return ids.decode("ws", workspace_id), ids.decode("mbx", mailbox_id)
    except ids.InvalidIdError:
        raise Problem(UNKNOWN_MAILBOX) from None


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
