"""The life of one OAuth flow: start link → consent → way back → test → a connected mailbox.

A flow is made by an API key. Its start link works once and binds the flow to the browser
that opens it, by a cookie; each trip to the provider has a `state` of its own, which is good
for that browser and for one way back. Whatever ends a flow is kept with it, in the
provider's own words and with what to do.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, cast

from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, ids
from paceline_common.db.session import hit_after_commit
from paceline_common.http import Problem, ProblemType
from paceline_gateway import problems, trail
from paceline_gateway.auth import Caller
from paceline_gateway.domain import consent
from paceline_gateway.domain.consent import Access, Grant, Leg, OAuthProvider
from paceline_gateway.oauth import App, OAuthFailed, refusal
from paceline_gateway.oauth_apps import find as find_app
from paceline_gateway.oauth_apps import load as load_app
from paceline_gateway.oauth_connect import Wanted, finish
from paceline_gateway.parts import Parts
from paceline_gateway.store.tables import ApiKey, OAuthFlow, OAuthState, Workspace

_SECRET_BYTES: Final = 32
_KEPT: Final = timedelta(days=30)
_TIDY_EVERY_S: Final = 60.0
# Who consented in the last moment may still be at the connection test.
_TESTING: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Trip:
    """Where a browser goes next, and the cookie that binds it to the flow."""

    url: str
    cookie: str
    session: str
    max_age_s: int


def cookie_name(flow_id: int) -> str:
    """Return the name of a flow's cookie: several flows may be open in one browser."""
    return f"paceline_{ids.encode('flow', flow_id)}"


async def create(
    parts: Parts,
    caller: Caller,
    grant: Grant,
    wanted: Wanted,
    *,
    leg: Leg | None,
    mailbox_id: int | None,
    login_hint: str | None,
) -> tuple[int, str]:
    """Open a flow; return its number and its start link. Raises `oauth_app_missing`."""
    token = secrets.token_urlsafe(_SECRET_BYTES)
    now = parts.clock.now()
    async with parts.db.transaction([caller.workspace_id]) as tx:
        found = await find_app(tx, caller.workspace_id, grant.provider)
        if found is None:
            raise Problem(problems.OAUTH_APP_MISSING)
        number: int = (
            await tx.execute(
                insert(OAuthFlow)
                .values(
                    workspace_id=caller.workspace_id,
                    key_id=caller.key_id,
                    provider=grant.provider,
                    access=grant.access,
                    legs=[leg] if leg else consent.legs(grant.separate),
                    app=found[0],
                    client_id=found[1].client_id,
                    login_hint=login_hint,
                    settings=wanted.stored(),
                    mailbox_id=mailbox_id,
                    reconnects=mailbox_id is not None,
                    start_hash=_digest(token),
                    expires_at=now + timedelta(seconds=parts.settings.oauth_flow_s),
                )
                .returning(OAuthFlow.flow_id)
            )
        ).scalar_one()
        await trail.audit(
            parts, tx, caller, "oauth.flow_started", ids.encode("flow", number),
            provider=grant.provider, access=grant.access, client_id=found[1].client_id,
        )  # fmt: skip
    return number, f"{parts.settings.public_url.rstrip('/')}/oauth/start/{token}"


async def start(parts: Parts, token: str) -> Trip:
    """Use a start link up: bind the flow to this browser, return where it goes.

    Raises `oauth_link_unknown`, `oauth_link_used`, `oauth_flow_expired`, `oauth_app_missing`.
    """
    async with parts.db.transaction(worker=True) as tx:
        found = (
            await tx.execute(
                select(OAuthFlow.workspace_id, OAuthFlow.flow_id, OAuthFlow.provider).where(
                    OAuthFlow.start_hash == _digest(token)
                )
            )
        ).one_or_none()
    if found is None:
        raise Problem(problems.OAUTH_LINK_UNKNOWN)
    app = await load_app(parts, found.workspace_id, found.provider)
    async with parts.db.transaction([found.workspace_id]) as tx:
        flow = await _lock(tx, found.workspace_id, found.flow_id)
        await _demand_open(parts, tx, flow)
        if flow.state != "open":
            raise Problem(problems.OAUTH_LINK_USED)
        await _set(tx, flow, state="waiting")
        hit_after_commit(tx, "gateway.oauth_link_used")
        return await _trip(parts, tx, flow, app, secrets.token_urlsafe(_SECRET_BYTES))


async def start_admin(parts: Parts, flow_id: int) -> Trip:
    """Send an administrator to consent for the organisation; works until the flow is deleted.

    Raises `oauth_link_unknown` unless the flow waits, or waited, for such a consent.
    """
    async with parts.db.transaction(worker=True) as tx:
        found = (
            await tx.execute(
                select(OAuthFlow.workspace_id, OAuthFlow.flow_id).where(
                    OAuthFlow.flow_id == flow_id, OAuthFlow.admin_consent.is_not(None)
                )
            )
        ).one_or_none()
    if found is None:
        raise Problem(problems.OAUTH_LINK_UNKNOWN)
    app = await load_app(parts, found.workspace_id, "microsoft")
    async with parts.db.transaction([found.workspace_id]) as tx:
        flow = await _lock(tx, found.workspace_id, found.flow_id)
        session = secrets.token_urlsafe(_SECRET_BYTES)
        state = await _new_state(tx, flow, "admin", session)
    url = parts.oauth.admin_consent_url(app, _grant(flow), state)
    return Trip(url, cookie_name(flow_id), session, parts.settings.oauth_flow_s)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A way back that is good: from the right browser, for the first time."""

    flow: Row[Any]
    purpose: str
    state: str
    session: str


async def arrive(
    parts: Parts, provider: OAuthProvider, query: Mapping[str, str], cookies: Mapping[str, str]
) -> Arrival:
    """Check and use up the state of a way back; nothing is changed when it is not good.

    Raises `oauth_state_unknown`, `oauth_wrong_session`, `oauth_state_used`, and
    `oauth_flow_expired`.
    """
    state = query.get("state", "")
    async with parts.db.transaction(worker=True) as tx:
        found = (
            await tx.execute(
                select(OAuthState.__table__, OAuthFlow.provider)
                .join(
                    OAuthFlow,
                    (OAuthFlow.workspace_id == OAuthState.workspace_id)
                    & (OAuthFlow.flow_id == OAuthState.flow_id),
                )
                .where(OAuthState.state_hash == _digest(state))
            )
        ).one_or_none()
    if found is None or found.provider != provider:
        raise Problem(problems.OAUTH_STATE_UNKNOWN)
    session = cookies.get(cookie_name(found.flow_id), "")
    if not hmac.compare_digest(_digest(session), bytes(found.session_hash)):
        # Whoever it is, they must not end the flow of the one who began it.
        raise Problem(problems.OAUTH_WRONG_SESSION)
    async with parts.db.transaction([found.workspace_id]) as tx:
        flow = await _lock(tx, found.workspace_id, found.flow_id)
        used = await tx.execute(
            update(OAuthState)
            .where(
                OAuthState.workspace_id == found.workspace_id,
                OAuthState.state_hash == found.state_hash,
                OAuthState.used_at.is_(None),
            )
            .values(used_at=parts.clock.now())
            .returning(OAuthState.purpose)
        )
        if used.one_or_none() is None:
            raise Problem(problems.OAUTH_STATE_USED)
        if found.purpose != "admin":
            await _demand_open(parts, tx, flow)
            if flow.state != "waiting":
                raise Problem(problems.OAUTH_STATE_USED)
    failpoints.hit("gateway.oauth_arrived")
    return Arrival(flow, found.purpose, state, session)


async def admin_answered(parts: Parts, arrival: Arrival, query: Mapping[str, str]) -> bool:
    """Note an administrator's answer; tell whether they consented."""
    given = query.get("admin_consent", "").lower() == "true" and "error" not in query
    flow = arrival.flow
    async with parts.db.transaction([flow.workspace_id]) as tx:
        await _set(tx, flow, admin_consent="given" if given else "refused")
        action = "oauth.admin_consented" if given else "oauth.admin_refused"
        await trail.audit(
            parts, tx, _caller(flow), action, ids.encode("flow", flow.flow_id),
            client_id=flow.client_id,
        )  # fmt: skip
    return given


async def consented(
    parts: Parts, arrival: Arrival, query: Mapping[str, str], source_ip: str | None
) -> Trip | int:
    """Take the answer of a person: go on to the second consent, or connect the mailbox.

    Returns the connected mailbox's number. What is wrong ends the flow, and is raised as
    the problem that it is kept with.
    """
    flow = arrival.flow
    leg = cast("Leg", arrival.purpose)
    caller = replace(_caller(flow), source_ip=source_ip)
    try:
        if "error" in query:
            raise refusal(flow.provider, query["error"], query.get("error_description", ""))
        app = await load_app(parts, flow.workspace_id, flow.provider)
        if app.client_id != flow.client_id:
            raise OAuthFailed(
                problems.OAUTH_APP_REFUSED, "the OAuth app was changed in between",
                "Start again with a new link.",
            )  # fmt: skip
        grant = _grant(flow)
        tokens = await parts.oauth.exchange(
            app, grant, leg, code=query.get("code", ""), state=arrival.state,
            session=arrival.session,
        )  # fmt: skip
        failpoints.hit("gateway.oauth_exchanged")
        profile = await parts.oauth.profile(flow.provider, grant, tokens)
        outcome = await finish(parts, caller, flow, app, grant, leg, tokens, profile)
    except OAuthFailed as failure:
        problem = await fail(parts, flow, failure.kind, failure.words, failure.remedy)
        raise problem from None
    except Problem as refused:
        detail = refused.detail or refused.kind.title
        raise await fail(
            parts, flow, refused.kind, detail, refused.kind.remedy, refused.extra
        ) from None
    if outcome is not None:
        return outcome
    async with parts.db.transaction([flow.workspace_id]) as tx:
        flow = await _lock(tx, flow.workspace_id, flow.flow_id)
        return await _trip(parts, tx, flow, app, arrival.session)


async def fail(
    parts: Parts,
    flow: Row[Any],
    kind: ProblemType,
    words: str,
    remedy: str,
    extra: Mapping[str, Any] | None = None,
) -> Problem:
    """End a flow with a problem and return it; what was held of it is destroyed."""
    public = ids.encode("flow", flow.flow_id)
    more = dict(extra or {})
    values: dict[str, Any] = {}
    if kind is problems.OAUTH_ADMIN_CONSENT_REQUIRED:
        values["admin_consent"] = "wanted"
        base = parts.settings.public_url.rstrip("/")
        more["admin_consent_url"] = f"{base}/oauth/admin-consent/{public}"
    told = _told(kind, words, remedy) | more
    async with parts.db.transaction([flow.workspace_id]) as tx:
        await _set(
            tx, flow, state="failed", problem=told, finished_at=parts.clock.now(), held=None,
            held_credential=None, **values,
        )  # fmt: skip
        await trail.audit(parts, tx, _caller(flow), "oauth.flow_failed", public, code=kind.code)
    # The remedy that fits this occurrence.
    return Problem(replace(kind, remedy=remedy), words, **more)


def standing(flow: Row[Any], now: datetime) -> tuple[str, dict[str, Any] | None]:
    """Return a flow's state and problem; one that nobody finished in time is `expired`."""
    over = _told(problems.OAUTH_FLOW_EXPIRED)
    if flow.problem == over or (flow.finished_at is None and now >= flow.expires_at):
        return "expired", over
    return flow.state, flow.problem


async def tidy_when_due(parts: Parts) -> None:
    """End what nobody finished, for the life of the process."""
    while True:
        await tidy(parts)
        await asyncio.sleep(_TIDY_EVERY_S)


async def tidy(parts: Parts) -> None:
    """End flows whose time is over, destroying what they hold; forget those of long ago."""
    now = parts.clock.now()
    async with parts.db.transaction(worker=True) as tx:
        await tx.execute(
            update(OAuthFlow)
            .where(OAuthFlow.finished_at.is_(None), OAuthFlow.expires_at < now - _TESTING)
            .values(
                state="failed", problem=_told(problems.OAUTH_FLOW_EXPIRED), finished_at=now,
                held=None, held_credential=None,
            )
        )  # fmt: skip
        await tx.execute(delete(OAuthFlow).where(OAuthFlow.created_at < now - _KEPT))


def _told(kind: ProblemType, words: str | None = None, remedy: str | None = None) -> dict[str, Any]:
    """Return a problem as a flow is kept with it."""
    return {
        "code": kind.code,
        "title": kind.title,
        "detail": words or kind.title,
        "remedy": remedy or kind.remedy,
    }


async def _lock(tx: AsyncConnection, workspace_id: int, flow_id: int) -> Row[Any]:
    return (
        await tx.execute(
            select(OAuthFlow.__table__)
            .where(OAuthFlow.workspace_id == workspace_id, OAuthFlow.flow_id == flow_id)
            .with_for_update()
        )
    ).one()


async def _demand_open(parts: Parts, tx: AsyncConnection, flow: Row[Any]) -> None:
    """Refuse a flow whose time is over, or whose key was revoked meanwhile."""
    good = (
        await tx.execute(
            select(ApiKey.key_id)
            .join(Workspace, Workspace.workspace_id == ApiKey.workspace_id)
            .where(
                ApiKey.workspace_id == flow.workspace_id, ApiKey.key_id == flow.key_id,
                ApiKey.revoked_at.is_(None), Workspace.is_active,
            )
        )
    ).one_or_none()  # fmt: skip
    if good is None or parts.clock.now() >= flow.expires_at:
        raise Problem(problems.OAUTH_FLOW_EXPIRED)


async def _set(tx: AsyncConnection, flow: Row[Any], **values: Any) -> None:
    await tx.execute(
        update(OAuthFlow)
        .where(OAuthFlow.workspace_id == flow.workspace_id, OAuthFlow.flow_id == flow.flow_id)
        .values(values)
    )


async def _trip(parts: Parts, tx: AsyncConnection, flow: Row[Any], app: App, session: str) -> Trip:
    leg = cast("Leg", flow.legs[0])
    state = await _new_state(tx, flow, leg, session)
    url = parts.oauth.authorize_url(
        app, _grant(flow), leg, state=state, session=session, login_hint=flow.login_hint
    )
    left = (flow.expires_at - parts.clock.now()).total_seconds()
    return Trip(url, cookie_name(flow.flow_id), session, max(1, int(left)))


async def _new_state(tx: AsyncConnection, flow: Row[Any], purpose: str, session: str) -> str:
    state = secrets.token_urlsafe(_SECRET_BYTES)
    await tx.execute(
        insert(OAuthState).values(
            workspace_id=flow.workspace_id,
            state_hash=_digest(state),
            flow_id=flow.flow_id,
            purpose=purpose,
            session_hash=_digest(session),
        )
    )
    return state


def _grant(flow: Row[Any]) -> Grant:
    provider = cast("OAuthProvider", flow.provider)
    access = cast("Access", flow.access)
    # One leg alone is one half of two consents.
    separate = Wanted.of(flow.settings).separate
    return consent.find(provider, access, separate=separate)


def _caller(flow: Row[Any]) -> Caller:
    return Caller(flow.workspace_id, flow.key_id, frozenset(), None)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
