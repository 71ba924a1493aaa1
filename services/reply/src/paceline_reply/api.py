"""Reply's questions under `/internal`."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Base64Bytes, BaseModel, Field

from paceline_common.http import REQUEST_INVALID, Problem, public_id
from paceline_common.keys import SealBroken
from paceline_providers.tls import TlsVersion
from paceline_reply.probe import Prober
from paceline_reply.sources.imap import Auth, Endpoint, Tls


class Imap(BaseModel):
    """Where a mailbox is read, and as whom."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: Tls
    username: Annotated[str, Field(min_length=1, max_length=320)]
    auth: Auth = "auto"
    tls_min: TlsVersion = "1.2"
    tls_verify: bool = True


class ProbeRequest(BaseModel):
    """A mailbox as it would be saved; `credential` is sealed for scope read."""

    workspace_id: Annotated[int, *public_id("ws")]
    mailbox_id: Annotated[int, *public_id("mbx")]
    email: str
    imap: Imap
    credential: Base64Bytes
    # It goes into a search command: nothing that needs quoting.
    token: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
    wait_s: Annotated[float, Field(ge=0, le=120)]


def router(prober: Prober) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.post("/probe")
    async def probe(request: ProbeRequest) -> dict[str, Any]:
        """Test the reading leg; 200 whatever the mailbox's server says."""
        try:
            finding = await prober.probe(
                workspace_id=request.workspace_id,
                mailbox_id=request.mailbox_id,
                endpoint=Endpoint(**request.imap.model_dump()),
                credential=request.credential,
                token=request.token,
                wait_s=request.wait_s,
            )
        except SealBroken:
            raise Problem(
                REQUEST_INVALID, "The credential is not sealed for this mailbox."
            ) from None
        return {
            "ok": finding.ok,
            "code": finding.code,
            "message": finding.message,
            "remedy": finding.remedy or None,
        }

    return routes
