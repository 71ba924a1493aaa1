"""What a consent makes of a mailbox: sealed for both legs, tested, saved whole or not at all."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, cast

from sqlalchemy import update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import failpoints, ids
from paceline_common.address import normalise
from paceline_common.http import Problem
from paceline_gateway import connect, mailbox_settings, oauth_secrets, problems, trail
from paceline_gateway.auth import Caller
from paceline_gateway.domain.consent import Grant, Leg, OAuthProvider
from paceline_gateway.domain.provider import Provider, derive
from paceline_gateway.mailbox_settings import MailboxSettings
from paceline_gateway.oauth import App, OAuthFailed, Profile, Tokens
from paceline_gateway.parts import Parts
from paceline_gateway.probe import Draft, Result, Side
from paceline_gateway.servers import ServerSettings, stored
from paceline_gateway.store.tables import OAuthFlow
from paceline_providers.presets import presets

# Whose servers take a grant of these providers where none are named.
_SERVERS: Final[Mapping[OAuthProvider, str]] = {"google": "gmail", "microsoft": "microsoft365"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the mailbox shall be, as the flow was asked for."""

    separate: bool = False
    settings: MailboxSettings = field(default_factory=MailboxSettings)
    smtp: ServerSettings | None = None
    imap: ServerSettings | None = None

    def stored(self) -> dict[str, Any]:
        """Return it as JSON; what was left out stays left out."""
        return {
            "separate": self.separate,
            "mailbox": self.settings.model_dump(mode="json", exclude_unset=True),
            "smtp": self.smtp and self.smtp.model_dump(mode="json"),
            "imap": self.imap and self.imap.model_dump(mode="json"),
        }

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Wanted":
        """Read what `stored` made."""
        return cls(
            kept["separate"],
            MailboxSettings.model_validate(kept["mailbox"]),
            ServerSettings.model_validate(kept["smtp"]) if kept["smtp"] else None,
            ServerSettings.model_validate(kept["imap"]) if kept["imap"] else None,
        )


async def finish(
    parts: Parts,
    caller: Caller,
    flow: Row[Any],
    app: App,
    grant: Grant,
    leg: Leg,
    tokens: Tokens,
    profile: Profile,
) -> int | None:
    """Connect the mailbox that these tokens are of and return its number.

    None when the other leg's consent is still to come: this one is held, sealed. Raises
    `OAuthFailed`, and the problems of connecting; nothing was saved then.
    """
    email = normalise(profile.email)
    whose = await _whose(parts, caller, flow, grant, email)
    fresh = await _sides(parts, caller, whose.mailbox_id, app, leg, tokens, profile)
    if len(flow.legs) > 1:
        await _hold(parts, flow, whose.mailbox_id, email, profile, fresh["send"])
        return None
    of = oauth_secrets.Of(caller.workspace_id, app.provider, app.client_id)
    secret = await oauth_secrets.seal(parts.keys, of, app.client_secret, app.set_at)
    draft = _draft(caller, flow, grant, whose, fresh, email, profile)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await _note(tx, flow, state="testing")
    failpoints.hit("gateway.oauth_testing")
    result = await parts.prober.probe(draft)
    connect.demand(result)
    await _save(parts, caller, flow, draft, whose, profile, result, secret)
    return whose.mailbox_id


@dataclass(frozen=True, slots=True)
class _Whose:
    """The mailbox at hand: its number, and its row when it is connected already."""

    mailbox_id: int
    row: Row[Any] | None


async def _whose(parts: Parts, caller: Caller, flow: Row[Any], grant: Grant, email: str) -> _Whose:
    """Find the mailbox by the account's address; raise when it is another one's."""
    if flow.held is not None and flow.held["email"] != email:
        words = f"{email} signed in; {flow.held['email']} gave the first consent"
        raise OAuthFailed(problems.OAUTH_WRONG_ACCOUNT, words)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        if not flow.reconnects:
            if flow.held is not None:
                return _Whose(flow.held["mailbox_id"], None)
            return _Whose(await connect.id_for(tx, caller, email), None)
        row = await connect.lock(tx, caller, flow.mailbox_id)
    if row.email != email:
        words = f"{email} signed in; the mailbox is {row.email}"
        raise OAuthFailed(problems.OAUTH_WRONG_ACCOUNT, words)
    return _Whose(flow.mailbox_id, row)


async def _sides(
    parts: Parts,
    caller: Caller,
    mailbox_id: int,
    app: App,
    leg: Leg,
    tokens: Tokens,
    profile: Profile,
) -> dict[str, Side]:
    """Seal the tokens for each leg that they are for."""
    credential = {
        "oauth": {
            "client_id": app.client_id,
            "client_secret": app.client_secret,
            "refresh_token": tokens.refresh_token,
            "access_token": tokens.access_token,
            "expires_at": tokens.expires_at.isoformat(),
            "scopes": list(tokens.scopes),
        }
    }
    told = {
        "provider": app.provider,
        "scopes": list(tokens.scopes),
        "tenant": profile.tenant,
        "account": profile.account,
        "app": app.source,
        "client_id": app.client_id,
    }
    scopes: tuple[Literal["send", "read"], ...] = ("send", "read") if leg == "both" else (leg,)
    return {
        scope: Side(None, told, await connect.seal(parts, caller, scope, mailbox_id, credential))
        for scope in scopes
    }


async def _hold(
    parts: Parts, flow: Row[Any], mailbox_id: int, email: str, profile: Profile, side: Side
) -> None:
    held = {
        "email": email,
        "mailbox_id": mailbox_id,
        "name": profile.name,
        "oauth": dict(side.oauth or {}),
    }
    async with parts.db.transaction([flow.workspace_id]) as tx:
        await _note(tx, flow, held=held, held_credential=side.credential, legs=list(flow.legs[1:]))
    failpoints.hit("gateway.oauth_held")


def _draft(
    caller: Caller,
    flow: Row[Any],
    grant: Grant,
    whose: _Whose,
    fresh: Mapping[str, Side],
    email: str,
    profile: Profile,
) -> Draft:
    """Put the mailbox together: new legs, the one that was held, the one that stays."""
    wanted = Wanted.of(flow.settings)
    legs = dict(fresh)
    if flow.held is not None:
        legs["send"] = Side(None, flow.held["oauth"], bytes(flow.held_credential))
    if grant.kind == "smtp":
        preset = presets()[_SERVERS[grant.provider]]
        for name, filled, leg in (("smtp", preset.smtp, "send"), ("imap", preset.imap, "read")):
            server = getattr(wanted, name)
            if server is None and filled is not None:
                server = ServerSettings(host=filled.host, port=filled.port, tls=filled.tls)
            if server.auth == "auto":
                server = server.model_copy(update={"auth": "xoauth2"})
            if leg in legs:
                legs[leg] = replace(legs[leg], server=stored(server, email))
    if whose.row is None:
        return Draft(
            caller.workspace_id, whose.mailbox_id, email,
            wanted.settings.display_name or profile.name, grant.kind, legs["send"], legs["read"],
        )  # fmt: skip
    before = connect.saved(whose.row)
    if len(legs) == 1 and before.kind != grant.kind:
        raise Problem(problems.OAUTH_REACHED_OTHERWISE)
    return replace(
        before,
        kind=grant.kind,
        send=legs.get("send", before.send),
        read=legs.get("read", before.read),
    )


async def _save(
    parts: Parts,
    caller: Caller,
    flow: Row[Any],
    draft: Draft,
    whose: _Whose,
    profile: Profile,
    result: Result,
    secret: oauth_secrets.Secret,
) -> None:
    now = parts.clock.now()
    found = _found(draft, profile)
    tested = connect.outcome(result, now)
    async with parts.db.transaction([caller.workspace_id]) as tx:
        await oauth_secrets.save(tx, secret)
        if whose.row is None:
            settings = Wanted.of(flow.settings).settings
            values = mailbox_settings.columns(settings, found, now)
            values["display_name"] = draft.display_name
            await connect.connected(parts, tx, caller, draft, values | tested)
        else:
            await _reconnect(parts, tx, caller, draft, tested | {"provider_found": found})
        await _note(
            tx, flow, state="connected", mailbox_id=draft.mailbox_id, finished_at=now, held=None,
            held_credential=None,
        )  # fmt: skip


async def _reconnect(
    parts: Parts, tx: AsyncConnection, caller: Caller, draft: Draft, values: Mapping[str, Any]
) -> None:
    """Change how a connected mailbox is reached; its id, settings and history stay."""
    before = connect.saved(await connect.lock(tx, caller, draft.mailbox_id))
    values = {**connect.columns(draft), **connect.renewed(draft), **values}
    number, mailbox = draft.mailbox_id, ids.encode("mbx", draft.mailbox_id)
    version = await connect.change(tx, caller, number, values, parts.clock.now())
    await connect.reopen(tx, caller, number)
    await trail.mailbox_changed(parts, tx, caller.workspace_id, number, version)
    await trail.audit(parts, tx, caller, "mailbox.reconnected", mailbox, **connect.told(draft))
    await connect.audit_weakness(parts, tx, caller, draft, before)


def _found(draft: Draft, profile: Profile) -> Provider:
    host = draft.send.server and cast("str", draft.send.server["host"])
    domain = draft.email.partition("@")[2]
    return derive(draft.kind, domain, host or None, profile.tenant)


async def _note(tx: AsyncConnection, flow: Row[Any], **values: Any) -> None:
    await tx.execute(
        update(OAuthFlow)
        .where(OAuthFlow.workspace_id == flow.workspace_id, OAuthFlow.flow_id == flow.flow_id)
        .values(values)
    )
