"""What a person's browser sees of an OAuth flow: the start link, the way back, how it went.

No API key here: the start link's secret, and then the cookie that it sets, say who it is.
"""

import html
import json

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from paceline_common import ids
from paceline_common.http import Problem
from paceline_gateway import oauth_flow, problems
from paceline_gateway.domain.consent import OAuthProvider
from paceline_gateway.oauth_flow import Trip
from paceline_gateway.pages import SAFE, page
from paceline_gateway.parts import Parts, PartsDep

router = APIRouter(prefix="/oauth", tags=["oauth"], default_response_class=HTMLResponse)


@router.get("/start/{token}", operation_id="openOAuthLink", include_in_schema=False)
async def open_link(token: str, parts: PartsDep) -> Response:
    """Bind the flow to this browser and send it to the provider."""
    try:
        trip = await oauth_flow.start(parts, token)
    except Problem as problem:
        return _refused(problem)
    return _go(parts, trip)


@router.get("/admin-consent/{flow_id}", operation_id="openAdminConsent", include_in_schema=False)
async def open_admin_link(flow_id: str, parts: PartsDep) -> Response:
    """Send an administrator to consent for their Microsoft organisation."""
    try:
        number = ids.decode("flow", flow_id)
    except ids.InvalidIdError:
        return _refused(Problem(problems.OAUTH_LINK_UNKNOWN))
    try:
        trip = await oauth_flow.start_admin(parts, number)
    except Problem as problem:
        return _refused(problem)
    return _go(parts, trip)


@router.get("/callback/{provider}", operation_id="oauthCallback", include_in_schema=False)
async def come_back(provider: OAuthProvider, request: Request, parts: PartsDep) -> Response:
    """Take the provider's answer: go on to the next consent, or show how it ended."""
    query = dict(request.query_params)
    try:
        arrival = await oauth_flow.arrive(parts, provider, query, request.cookies)
    except Problem as problem:
        return _refused(problem)
    if arrival.purpose == "admin":
        return _leave(parts, arrival, await _admin(parts, arrival, query))
    source_ip = request.client.host if request.client else None
    try:
        outcome = await oauth_flow.consented(parts, arrival, query, source_ip)
    except Problem as problem:
        return _leave(parts, arrival, _refused(problem))
    if isinstance(outcome, Trip):
        return _go(parts, outcome)
    return _leave(
        parts,
        arrival,
        page(
            200,
            "The mailbox is connected",
            "<p>A test message was sent and read back. You may close this window.</p>"
            f'<p><code id="mailbox">{ids.encode("mbx", outcome)}</code></p>',
        ),
    )


async def _admin(parts: Parts, arrival: oauth_flow.Arrival, query: dict[str, str]) -> Response:
    if await oauth_flow.admin_answered(parts, arrival, query):
        return page(
            200,
            "The organisation's consent is given",
            "<p>Mailboxes of the organisation can be connected now: their owners start again "
            "with a new link.</p>",
        )
    error, words = query.get("error", "no answer"), query.get("error_description", "")
    return _refused(Problem(problems.OAUTH_ADMIN_REFUSED, f"{error}: {words}" if words else error))


def _go(parts: Parts, trip: Trip) -> Response:
    answer = RedirectResponse(trip.url, 302, SAFE)
    answer.set_cookie(
        trip.cookie,
        trip.session,
        max_age=trip.max_age_s,
        path="/oauth",
        secure=_is_https(parts),
        httponly=True,
        # The way back is a top-level navigation from another site.
        samesite="lax",
    )
    return answer


def _leave(parts: Parts, arrival: oauth_flow.Arrival, answer: Response) -> Response:
    """Take the flow's cookie away: it has ended."""
    answer.delete_cookie(
        oauth_flow.cookie_name(arrival.flow.flow_id), path="/oauth", secure=_is_https(parts),
        httponly=True, samesite="lax",
    )  # fmt: skip
    return answer


def _is_https(parts: Parts) -> bool:
    return parts.settings.public_url.startswith("https:")


def _refused(problem: Problem) -> Response:
    """Show a problem to a person, with the provider's words and what to do."""
    document = json.loads(bytes(problem.response().body))
    parts = [f"<p>{html.escape(document['remedy'])}</p>"]
    if document["detail"] != document["title"]:
        parts.append(f"<blockquote>{html.escape(document['detail'])}</blockquote>")
    for leg in ("send", "read"):
        side = document.get(leg)
        if isinstance(side, dict) and not side["ok"] and side.get("remedy"):
            parts.append(f"<p>{html.escape(side['remedy'])}</p>")
    if link := document.get("admin_consent_url"):
        shown = html.escape(link)
        parts.append(f'<p>For the administrator: <a href="{shown}">{shown}</a></p>')
    parts.append(f'<p><code id="problem">{html.escape(document["code"])}</code></p>')
    return page(problem.kind.status, html.escape(document["title"]), "\n".join(parts))
