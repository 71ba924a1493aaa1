"""Opens and clicks, on the mailboxes' own tracking domains.

A link leads to nothing but what the sender signed into it; without a valid MAC
the answer is 404, whatever else it says. What is recorded is that it happened,
and how often: no address, no device, no cookie.
"""

import base64
from typing import Final

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from paceline_common import ids, telemetry, tracking
from paceline_common.kafka.quarantine import Fault, classify
from paceline_common.keys import KeyServiceUnavailable
from paceline_common.tracking import Link
from paceline_gateway.parts import Parts, PartsDep
from paceline_gateway.store import foreign
from paceline_gateway.store.tables import Tracked

router = APIRouter(prefix="/t", tags=["tracking"], include_in_schema=False)

_PIXEL: Final = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
_ANSWER: Final = {
    "Cache-Control": "no-store, private",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}

_log = telemetry.logger("tracking")


@router.get("/o/{token}", operation_id="trackOpen")
async def track_open(token: str, parts: PartsDep) -> Response:
    """Answer with a pixel; the open is recorded where it can be."""
    link = tracking.read_open(token)
    try:
        if link is None or not await _is_ours(parts, link):
            return Response(status_code=404, headers=_ANSWER)
    except KeyServiceUnavailable:
        # It is not known whose it is; a broken image would help nobody.
        return Response(_PIXEL, media_type="image/gif", headers=_ANSWER)
    await _record(parts, link, "open")
    return Response(_PIXEL, media_type="image/gif", headers=_ANSWER)


@router.get("/c/{token}", operation_id="trackClick")
async def track_click(token: str, parts: PartsDep) -> Response:
    """Lead on to the signed target; the click is recorded where it can be."""
    link = tracking.read_click(token)
    try:
        if link is None or link.target is None or not await _is_ours(parts, link):
            return Response("This link is not valid.", 404, _ANSWER, "text/plain")
    except KeyServiceUnavailable:
        # Never on a guess: that would be an open redirect.
        return Response(
            "Please try again shortly.", 503, {**_ANSWER, "Retry-After": "5"}, "text/plain"
        )
    await _record(parts, link, "click")
    return RedirectResponse(link.target, 302, _ANSWER)


# Scanners ask so: it says the same and counts nothing.
@router.head("/c/{token}", operation_id="showClick")
async def show_click(token: str, parts: PartsDep) -> Response:
    """Say where a link leads."""
    link = tracking.read_click(token)
    try:
        valid = link is not None and await _is_ours(parts, link)
    except KeyServiceUnavailable:
        return Response(status_code=503, headers=_ANSWER)
    if link is None or link.target is None or not valid:
        return Response(status_code=404, headers=_ANSWER)
    return RedirectResponse(link.target, 302, _ANSWER)


async def _is_ours(parts: Parts, link: Link) -> bool:
    (valid,) = await parts.keys.verify_mac([link.signed], [link.mac])
    return valid


async def _record(parts: Parts, link: Link, kind: str) -> None:
    """Count the event; who clicked gets on even when it cannot be counted."""
    now = parts.clock.now()
    c = foreign.JOB_RECIPIENT.c
    try:
        async with parts.db.transaction([link.workspace_id]) as tx:
            job = (
                await tx.execute(
                    select(c.enrollment_id, c.campaign_id, c.step).where(
                        c.workspace_id == link.workspace_id, c.job_id == link.job_id
                    )
                )
            ).one_or_none()
            if job is None:
                # A preview's link, or of a job that is gone.
                return
            row = insert(Tracked).values(
                workspace_id=link.workspace_id,
                job_id=link.job_id,
                kind=kind,
                link=link.number,
                url=link.target,
                enrollment_id=job.enrollment_id,
                campaign_id=job.campaign_id,
                step=job.step,
                first_at=now,
                last_at=now,
            )
            await tx.execute(
                row.on_conflict_do_update(
                    index_elements=[
                        Tracked.workspace_id, Tracked.job_id, Tracked.kind, Tracked.link,
                    ],
                    set_={"times": Tracked.times + 1, "last_at": now},
                )
            )  # fmt: skip
    except Exception as error:
        # A count is not worth the reader's click; anything but a lost dependency is a bug.
        if classify(error) is not Fault.DEPENDENCY:
            raise
        _log.warning(
            "not counted", job=ids.encode("job", link.job_id), **telemetry.describe_error(error)
        )
