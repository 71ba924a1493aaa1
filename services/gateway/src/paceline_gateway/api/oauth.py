"""OAuth apps and flows: connecting mailboxes by consent instead of a password."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, status
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator
from sqlalchemy import select
from sqlalchemy.engine import Row

from paceline_common import ids
from paceline_common.http import Problem, public_id
from paceline_gateway import (
    app_secret,
    connect,
    mailbox_settings,
    oauth_apps,
    oauth_flow,
    oauth_secrets,
    problems,
    trail,
)
from paceline_gateway.api.types import Email, MailboxId, answers, public
from paceline_gateway.auth import Reader, Writer
from paceline_gateway.domain import consent
from paceline_gateway.domain.consent import Access, OAuthProvider
from paceline_gateway.domain.provider import Provider
from paceline_gateway.mailbox_settings import MailboxSettings
from paceline_gateway.oauth_connect import Wanted
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.servers import ServerSettings
from paceline_gateway.store.tables import OAuthFlow

router = APIRouter(prefix="/v1/oauth", tags=["oauth"])

FlowId = Annotated[int, *public_id("flow")]
ClientId = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=300, pattern=r"^\S+$")
]
Tenant = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9.-]+$")
]

# Which ceilings a policy is checked against before anybody knows the account.
_USUAL: dict[OAuthProvider, Provider] = {
    "google": "google_workspace", "microsoft": "microsoft365",
}  # fmt: skip


class AppIn(BaseModel):
    """An OAuth app of the workspace's own. `tenant` is Microsoft's: an id, a domain; null: any."""

    model_config = ConfigDict(extra="forbid")

    client_id: ClientId
    client_secret: SecretStr = Field(min_length=1, max_length=1000)
    tenant: Tenant | None = None


class AppOut(BaseModel):
    """The OAuth app in effect; its secret is never part of an answer.

    `source` says whose it is, null when there is none. The app at the provider has to list
    `redirect_uri`, letter by letter.
    """

    provider: OAuthProvider
    source: Literal["workspace", "installation"] | None
    client_id: str | None
    tenant: str | None
    redirect_uri: str
    updated_at: datetime | None


class FlowIn(BaseModel):
    """A mailbox to connect by consent, or, with `mailbox_id`, to reconnect.

    `access` says what is asked for, docs/oauth-grants.md what each allows: `full` (drafts
    as the fence), `send_and_read`, or `servers` (SMTP and IMAP, signed in to with the
    grant). With `consents: separate` sending and reading are consented to one after the
    other and share no token. `leg` renews only that one of a connected mailbox.
    """

    model_config = ConfigDict(extra="forbid")

    access: Access = "full"
    consents: Literal["one", "separate"] = "one"
    login_hint: Email | None = Field(
        default=None, description="The address to sign in with; the provider may show others."
    )
    mailbox_id: MailboxId | None = None
    leg: Literal["send", "read"] | None = None
    mailbox: MailboxSettings | None = None
    smtp: ServerSettings | None = Field(
        default=None,
        description="With `servers`; the provider's own if left out. `auth` is `xoauth2` "
        "unless it says `oauthbearer`.",
    )
    imap: ServerSettings | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.mailbox_id is not None and self.mailbox is not None:
            raise ValueError("mailbox: a mailbox that is reconnected keeps its settings")
        if self.leg is not None and self.mailbox_id is None:
            raise ValueError("leg: a new mailbox needs both")
        if self.access != "servers" and (self.smtp or self.imap):
            raise ValueError("smtp, imap: only with access `servers`")
        for server in (self.smtp, self.imap):
            if server is not None and server.auth not in ("auto", "xoauth2", "oauthbearer"):
                raise ValueError("auth: a grant signs in by xoauth2 or oauthbearer")
        return self


class FlowProblem(BaseModel):
    """Why a flow failed: `detail` is the provider's, or the server's, exact words.

    Some kinds have further members: `admin_consent_url`, `send`, `read`, `mailbox_id`.
    """

    model_config = ConfigDict(extra="allow")

    code: str
    title: str
    detail: str
    remedy: str


class FlowOut(BaseModel):
    """A flow. `start_url` works once, in one browser, and is shown only when it is made.

    `open`: nobody has opened the link; `waiting`: somebody is at the provider; `testing`:
    consented, the connection is being tested; then `connected`, `failed` or `expired`.
    """

    id: str
    provider: OAuthProvider
    access: Access
    state: Literal["open", "waiting", "testing", "connected", "failed", "expired"]
    client_id: str
    app: Literal["workspace", "installation"]
    mailbox_id: str | None
    admin_consent: Literal["wanted", "given", "refused"] | None
    problem: FlowProblem | None
    created_at: datetime
    expires_at: datetime
    finished_at: datetime | None
    start_url: str | None = None


@router.get("/apps", operation_id="listOAuthApps", responses=answers())
async def list_apps(parts: PartsDep, caller: Reader) -> list[AppOut]:
    """List the OAuth app in effect for each provider."""
    return [await _app(parts, caller.workspace_id, one) for one in consent.OAUTH_PROVIDERS]


@router.put("/apps/{provider}", operation_id="setOAuthApp", responses=answers())
async def set_app(provider: OAuthProvider, body: AppIn, parts: PartsDep, caller: Writer) -> AppOut:
    """Use an OAuth app of the workspace's own from now on; connected mailboxes keep theirs.

    A new secret of the same client id reaches the mailboxes that are connected through it:
    none has to be reconnected.
    """
    if body.tenant is not None and provider != "microsoft":
        raise Problem(problems.REQUEST_INVALID, "tenant: only Microsoft has tenants")
    secret = body.client_secret.get_secret_value()
    sealed = await app_secret.seal_for_workspace(parts.keys, caller.workspace_id, provider, secret)
    of = oauth_secrets.Of(caller.workspace_id, provider, body.client_id)
    now = parts.clock.now()
    for_services = await oauth_secrets.seal(parts.keys, of, secret, now)
    values = {
        "client_id": body.client_id, "client_secret": sealed, "tenant": body.tenant,
        "updated_at": now,
    }  # fmt: skip
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await oauth_apps.save(tx, caller.workspace_id, provider, values)
        await oauth_secrets.save(tx, for_services, is_newest=True)
        await oauth_secrets.let_go_on(tx, of, caller.actor)
        await trail.audit(
            parts, tx, caller, "oauth_app.set", caller.workspace,
            provider=provider, client_id=body.client_id,
        )  # fmt: skip
    return await _app(parts, caller.workspace_id, provider)


@router.delete(
    "/apps/{provider}",
    operation_id="removeOAuthApp",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=answers(),
)
async def remove_app(provider: OAuthProvider, parts: PartsDep, caller: Writer) -> None:
    """Use the installation's OAuth app again. May be repeated."""
    async with parts.db.transaction([caller.workspace_id]) as tx:
        if await oauth_apps.remove(tx, caller.workspace_id, provider):
            await trail.audit(
                parts, tx, caller, "oauth_app.removed", caller.workspace, provider=provider
            )


@router.post(
    "/{provider}/flows",
    operation_id="startOAuthFlow",
    status_code=status.HTTP_201_CREATED,
    responses=answers(
        problems.OAUTH_APP_MISSING, problems.OAUTH_REACHED_OTHERWISE, problems.NOT_FOUND,
        problems.MAILBOX_DELETED, problems.POLICY_INVALID, problems.HEADER_REFUSED,
        problems.TEMPLATE_INVALID,
    ),
)  # fmt: skip
async def start_flow(
    provider: OAuthProvider, body: FlowIn, parts: PartsDep, caller: Writer
) -> FlowOut:
    """Make a link with which a person connects a mailbox: they open `start_url` and consent.

    What they grant is checked, the connection tested on both legs, and only then anything
    saved. Ask for the flow to learn how it went.
    """
    separate = body.consents == "separate" or body.leg is not None
    grant = consent.find(provider, body.access, separate=separate)
    settings = body.mailbox or MailboxSettings()
    # What cannot be saved is better said before anybody consents.
    mailbox_settings.columns(settings, _USUAL[provider], parts.clock.now())
    hint = body.login_hint
    if body.mailbox_id is not None:
        async with parts.db.transaction([caller.workspace_id]) as tx:
            held = await connect.lock(tx, caller, body.mailbox_id)
        if body.leg is not None and held.kind != grant.kind:
            raise Problem(problems.OAUTH_REACHED_OTHERWISE)
        hint = hint or held.email
    number, url = await oauth_flow.create(
        parts, caller, grant, Wanted(separate, settings, body.smtp, body.imap),
        leg=body.leg, mailbox_id=body.mailbox_id, login_hint=hint,
    )  # fmt: skip
    made = await _flow(parts, caller.workspace_id, number)
    return made.model_copy(update={"start_url": url})


@router.get("/flows/{flow_id}", operation_id="getOAuthFlow", responses=answers(problems.NOT_FOUND))
async def get_flow(flow_id: FlowId, parts: PartsDep, caller: Reader) -> FlowOut:
    """Return how a flow stands; `mailbox_id` is the mailbox when it is connected."""
    return await _flow(parts, caller.workspace_id, flow_id)


async def _app(parts: Parts, workspace_id: int, provider: OAuthProvider) -> AppOut:
    async with parts.db.transaction([workspace_id]) as tx:
        found = await oauth_apps.find(tx, workspace_id, provider)
    source, row = found or (None, None)
    return AppOut(
        provider=provider,
        source=source,
        client_id=row.client_id if row else None,
        tenant=row.tenant if row else None,
        redirect_uri=parts.oauth.redirect_uri(provider),
        updated_at=row.updated_at if row else None,
    )


async def _flow(parts: Parts, workspace_id: int, number: int) -> FlowOut:
    async with parts.db.transaction([workspace_id]) as tx:
        row: Row[Any] | None = (
            await tx.execute(
                select(OAuthFlow.__table__).where(
                    OAuthFlow.workspace_id == workspace_id, OAuthFlow.flow_id == number
                )
            )
        ).one_or_none()
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such flow in this workspace")
    state, problem = oauth_flow.standing(row, parts.clock.now())
    return FlowOut.model_validate(
        {
            **row._mapping,
            "id": ids.encode("flow", row.flow_id),
            "state": state,
            "problem": problem,
            "mailbox_id": public("mbx", row.mailbox_id),
        }
    )
