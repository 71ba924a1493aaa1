"""Mail hosts that are known beforehand, for forms."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from paceline_gateway.api.types import answers
from paceline_gateway.auth import Reader
from paceline_gateway.domain.consent import OAuthProvider
from paceline_gateway.domain.provider import Provider
from paceline_providers.presets import Preset, presets

router = APIRouter(prefix="/v1/presets", tags=["mailboxes"])


class ServerPreset(BaseModel):
    """Where to connect, and how the line is encrypted."""

    host: str
    port: int
    tls: Literal["implicit", "starttls"]


class LimitsOut(BaseModel):
    """What the host allows one mailbox; null where it does not say."""

    messages_24h: int | None
    messages_per_minute: int | None
    recipients_per_message: int | None
    message_bytes: int | None


class PresetOut(BaseModel):
    """A host. `name` goes into a mailbox's `preset`, and fills the servers left out there.

    `domains`: addresses that are surely there. `password` helps with what to type; `oauth`
    names the sign-in to use instead (`POST /v1/oauth/{provider}/flows`). `dialect` says
    whose way of refusing is understood beside the general one. `sent_copy`: the host keeps
    what was sent by itself. `sources` say where all this stands.
    """

    name: str
    title: str
    domains: list[str]
    smtp: ServerPreset | None
    imap: ServerPreset | None
    provider: Provider
    limits: LimitsOut
    dialect: Literal["google", "microsoft", "yahoo"] | None
    password: str
    oauth: OAuthProvider | None
    sent_copy: bool
    sources: list[str]


@router.get("", operation_id="listPresets", responses=answers())
async def list_presets(_caller: Reader) -> list[PresetOut]:
    """List the mail hosts that are known; `generic` stands for every other."""
    return [_out(one) for one in presets().values()]


def _out(one: Preset) -> PresetOut:
    smtp, imap = (
        server and ServerPreset(host=server.host, port=server.port, tls=server.tls)
        for server in (one.smtp, one.imap)
    )
    return PresetOut(
        name=one.name,
        title=one.title,
        domains=list(one.domains),
        smtp=smtp,
        imap=imap,
        provider=one.provider,
        limits=LimitsOut(
            messages_24h=one.limits.messages_24h,
            messages_per_minute=one.limits.messages_per_minute,
            recipients_per_message=one.limits.recipients_per_message,
            message_bytes=one.limits.message_bytes,
        ),
        dialect=one.dialect or None,
        password=one.password,
        oauth=one.oauth,
        sent_copy=one.sent_copy,
        sources=list(one.sources),
    )
