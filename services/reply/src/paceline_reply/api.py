"""Reply's questions under `/internal`."""

from typing import Annotated, Any, Literal, Self

import msgspec
from fastapi import APIRouter
from pydantic import AwareDatetime, Base64Bytes, BaseModel, Field, model_validator

from paceline_common import ids
from paceline_common.http import REQUEST_INVALID, Problem, public_id
from paceline_common.keys import SealBroken
from paceline_providers.proof import Found, NotSeen, Unavailable
from paceline_providers.tls import TlsVersion
from paceline_reply.find_sent import SentFinder
from paceline_reply.probe import Prober
from paceline_reply.revoke import Revoker
from paceline_reply.sources.imap_client import Auth, Tls


class Imap(BaseModel):
    """Where a mailbox is read, and as whom."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: Tls
    username: Annotated[str, Field(min_length=1, max_length=320)]
    auth: Auth = "auto"
    tls_min: TlsVersion = "1.2"
    tls_verify: bool = True


class OAuth(BaseModel):
    """The reading leg's grant, without its secrets: `gateway.v_mailbox_read.oauth`."""

    provider: Literal["google", "microsoft"]
    scopes: list[str]
    tenant: str | None = None


class ProbeRequest(BaseModel):
    """A mailbox as it would be saved; `credential` is sealed for scope read.

    `imap` for kind `smtp`, `oauth` for the others (and for IMAP with a grant).
    """

    workspace_id: Annotated[int, *public_id("ws")]
    mailbox_id: Annotated[int, *public_id("mbx")]
    email: str
    kind: Literal["smtp", "gmail", "graph"] = "smtp"
    imap: Imap | None = None
    oauth: OAuth | None = None
    credential: Base64Bytes
    # Of a credential that is saved already.
    credential_version: int | None = None
    # It goes into a search command: nothing that needs quoting.
    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
    wait_s: Annotated[float, Field(ge=0, le=120)]

    @model_validator(mode="after")
    def reachable(self) -> Self:
        """A mailbox needs its kind's way in."""
        if (self.imap if self.kind == "smtp" else self.oauth) is None:
            raise ValueError("imap for kind smtp, oauth for gmail and graph")
        return self


class FindSentRequest(BaseModel):
    """Which message to look for; `job_token` is the whole value of its X-Paceline-Job."""

    workspace_id: Annotated[int, *public_id("ws")]
    mailbox_id: Annotated[int, *public_id("mbx")]
    recipient: Annotated[str, Field(min_length=3, max_length=320)]
    # It goes into a search command.
    job_token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,300}$")]
    since: AwareDatetime


def router(prober: Prober, finder: SentFinder, revoker: Revoker) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.post("/probe")
    async def probe(request: ProbeRequest) -> dict[str, Any]:
        """Test the reading leg; 200 whatever the mailbox's server says."""
        try:
            finding = await prober.probe(
                workspace_id=request.workspace_id,
                mailbox_id=request.mailbox_id,
                email=request.email,
                kind=request.kind,
                imap=request.imap.model_dump() if request.imap else None,
                oauth=request.oauth.model_dump() if request.oauth else None,
                credential=request.credential,
                credential_version=request.credential_version,
                token=request.token,
                wait_s=request.wait_s,
            )
        except SealBroken:
            raise Problem(
                REQUEST_INVALID, "The credential is not sealed for this mailbox."
            ) from None
        except msgspec.ValidationError as error:
            raise Problem(REQUEST_INVALID, str(error)) from None
        return {
            "ok": finding.ok,
            "code": finding.code,
            "message": finding.message,
            "remedy": finding.remedy or None,
        }

    @routes.post("/find-sent")
    async def find_sent(request: FindSentRequest) -> dict[str, Any]:
        """Look for one job's message among a mailbox's sent mail; 200 whatever comes of it."""
        match await finder.find(
            request.workspace_id,
            request.mailbox_id,
            request.recipient,
            request.job_token,
            request.since,
        ):
            case Found() as found:
                return {
                    "found": True,
                    "provider_message_id": found.provider_message_id,
                    "message_id": found.message_id,
                    "thread_id": found.thread_id,
                    "sent_at": found.sent_at.isoformat(),
                }
            case NotSeen():
                return {"found": False}
            case Unavailable() as unavailable:
                wish = unavailable.retry_after
                return {
                    "unavailable": unavailable.outcome_class,
                    "message": unavailable.text,
                    "retry_after_s": None if wish is None else wish.total_seconds(),
                }

    @routes.post("/revoke/{workspace}/{mailbox}")
    async def revoke(workspace: str, mailbox: str) -> dict[str, Any]:
        """Give the reading leg's grant back; 200 whatever the provider says."""
        try:
            key = ids.decode("ws", workspace), ids.decode("mbx", mailbox)
        except ids.InvalidIdError:
            raise Problem(REQUEST_INVALID, "A workspace and a mailbox are named.") from None
        revoked = await revoker.revoke(*key)
        return {
            "result": revoked.result,
            "message": revoked.message,
            "dropped": revoked.dropped,
        }

    return routes
