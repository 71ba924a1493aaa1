"""The gateway put together."""

from typing import Any

import email_validator
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from sqlalchemy.exc import DataError

from paceline_common.http import REQUEST_INVALID, Problem
from paceline_common.service import Service
from paceline_common.storage import AttachmentFiles, ObjectStore
from paceline_gateway import (
    attachments,
    idempotency,
    lifecycle,
    oauth_flow,
    oauth_secrets,
    tracking,
    unsubscribe,
)
from paceline_gateway.api import attachments as attachments_api
from paceline_gateway.api import (
    campaign_life,
    campaigns,
    doubts,
    enrollments,
    imports,
    issues,
    leads,
    mailboxes,
    oauth,
    oauth_pages,
    pacing,
    pools,
    presets,
    preview,
    quarantine,
    receipts,
    reports,
    sendlog,
    shaping,
    suppressions,
    suspensions,
    workspace,
)
from paceline_gateway.api import tracking as tracking_api
from paceline_gateway.api.types import ProblemOut
from paceline_gateway.consumers import subscriptions
from paceline_gateway.failpoints import FAILPOINTS
from paceline_gateway.oauth import OAuthClient
from paceline_gateway.pacing import Pacing
from paceline_gateway.parts import Parts
from paceline_gateway.preview import Previewer
from paceline_gateway.probe import Prober
from paceline_gateway.settings import GatewaySettings
from paceline_gateway.settling import Settling

ROUTERS = (
    workspace.router, mailboxes.router, presets.router, oauth.router, oauth_pages.router,
    pools.router, campaigns.router, campaign_life.router, pacing.router, shaping.router,
    suspensions.router, reports.router, leads.router, imports.router, enrollments.router,
    suppressions.router, sendlog.router, doubts.router, quarantine.router, receipts.router,
    issues.router, unsubscribe.router, attachments_api.router, preview.router,
    tracking_api.router, tracking.router,
)  # fmt: skip


def run() -> None:
    """Run the gateway until it is told to stop."""
    build(GatewaySettings()).run()


def build(settings: GatewaySettings) -> Service:
    """Return the gateway's service, ready to run."""
    # The library's own switch: validators of request fields know no settings.
    email_validator.TEST_ENVIRONMENT = settings.accept_test_domains
    service = Service("gateway", settings, failpoint_names=frozenset(FAILPOINTS))
    parts = Parts(
        settings=settings,
        db=service.db,
        outbox=service.outbox,
        keys=service.keys,
        prober=Prober(settings),
        previewer=Previewer(settings),
        files=AttachmentFiles(ObjectStore.of(settings), service.keys),
        pacing=Pacing(settings),
        settling=Settling(settings.sender_url, settings.sender_token),
        oauth=OAuthClient(settings, service.clock),
        clock=service.clock,
    )
    service.http.state.parts = parts
    for router in ROUTERS:
        service.include(router)
    service.http.add_exception_handler(DataError, _unstorable)
    describe(service.http)
    for subscription in subscriptions():
        service.subscribe(subscription)
    service.background("scheduled-starts", lambda: lifecycle.start_when_due(parts))
    service.background("oauth-flows", lambda: oauth_flow.tidy_when_due(parts))
    service.background("oauth-secrets", lambda: oauth_secrets.share_when_due(parts))
    service.background("attachments", lambda: attachments.sweep_when_due(parts))
    service.background("idempotency-keys", lambda: idempotency.trim_when_due(parts))
    service.readiness("keys", service.keys.check)
    return service


async def _unstorable(_request: Request, _error: Exception) -> Response:
    # A NUL in a text, say: whatever field it is, Postgres is the judge.
    return Problem(
        REQUEST_INVALID, "A value holds something that cannot be stored, such as a NUL character."
    ).response()


def describe(app: FastAPI) -> None:
    """Have `app` serve the public API's own OpenAPI document."""
    made: dict[str, Any] = {}

    def document() -> dict[str, Any]:
        if not made:
            made.update(_document(app))
        return made

    app.openapi = document  # type: ignore[method-assign]


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of the public API, without running anything."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    return _document(app)


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title="Paceline",
        version="1",
        summary="One-to-one outbound email through a fleet of real mailboxes.",
        description=_DESCRIPTION,
        routes=app.routes,
    )
    problem = ProblemOut.model_json_schema()
    document["components"]["schemas"]["Problem"] = problem
    return document


_DESCRIPTION = (
    "Every request carries an API key: `Authorization: Bearer pl_…`; the key names the workspace. "
    "Lists are read by cursor. Errors are RFC 9457 problems with a stable `code`, listed in "
    "docs/errors.md."
)
