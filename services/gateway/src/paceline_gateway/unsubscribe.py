"""The unsubscribe link: one click by POST (RFC 8058), a page with a button by GET.

`{public_url}/u/<workspace>.<job>.<mac>`; the MAC is over `unsubscribe/<ws>/<job>`
and never expires. GET changes nothing, because scanners follow every link. POST
needs no cookie, no sign-in and no particular body, answers without redirect, and
the suppression is committed before its 200.
"""

import html
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import select

from paceline_common import ids, telemetry
from paceline_common.keys import KeyServiceUnavailable
from paceline_gateway.pages import page
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.store import foreign

router = APIRouter(prefix="/u", tags=["unsubscribe"], default_response_class=HTMLResponse)

REASON: Final = "unsubscribed"
SOURCE: Final = "one_click"

_log = telemetry.logger("unsubscribe")


@dataclass(frozen=True, slots=True)
class _Link:
    workspace_id: int
    job_id: int


@router.get("/{token}", operation_id="showUnsubscribe", include_in_schema=False)
async def show_unsubscribe(token: str, parts: PartsDep) -> Response:
    """Show a button; opening the link unsubscribes nobody."""
    try:
        link = await _verify(parts, token)
    except KeyServiceUnavailable:
        return _away()
    if link is None:
        return _unknown()
    # The form posts to this same address; the token is quoted by the router's own match.
    return page(
        200,
        "Unsubscribe",
        "<p>You will get no further email from this sender.</p>"
        f'<form method="post" action="{html.escape(token)}">'
        '<input type="hidden" name="List-Unsubscribe" value="One-Click">'
        "<button>Unsubscribe</button></form>",
    )


@router.post("/{token}", operation_id="unsubscribe", include_in_schema=False)
async def unsubscribe(token: str, parts: PartsDep) -> Response:
    """Suppress the recipient in the whole workspace; done when this answers 200."""
    try:
        link = await _verify(parts, token)
    except KeyServiceUnavailable:
        return _away()
    if link is None or not await _suppress(parts, link):
        return _unknown()
    return page(200, "You are unsubscribed", "<p>You will get no further email from us.</p>")


async def _verify(parts: Parts, token: str) -> _Link | None:
    workspace, _, rest = token.partition(".")
    job, _, mac = rest.partition(".")
    try:
        link = _Link(ids.decode("ws", workspace), ids.decode("job", job))
    except ids.InvalidIdError:
        return None
    message = f"unsubscribe/{workspace}/{job}".encode()
    (valid,) = await parts.keys.verify_mac([message], [mac])
    return link if valid else None


async def _suppress(parts: Parts, link: _Link) -> bool:
    c = foreign.JOB_RECIPIENT.c
    async with parts.db.transaction([link.workspace_id]) as tx:
        row = (
            await tx.execute(
                select(c.address_hash, c.enrollment_id).where(
                    c.workspace_id == link.workspace_id, c.job_id == link.job_id
                )
            )
        ).one_or_none()
        if row is None:
            return False
        await foreign.suppress(
            tx, link.workspace_id, "address", bytes(row.address_hash), REASON, SOURCE,
            row.enrollment_id,
        )  # fmt: skip
    _log.info(
        "unsubscribed",
        workspace=ids.encode("ws", link.workspace_id),
        job=ids.encode("job", link.job_id),
    )
    return True


def _unknown() -> Response:
    return page(
        404,
        "This link is not valid",
        "<p>It may have been cut off. Copy the whole link from the message, or answer the "
        "message and ask to be taken off.</p>",
    )


def _away() -> Response:
    return page(
        503, "Please try again shortly", "<p>Nothing was changed yet.</p>", {"Retry-After": "10"}
    )
