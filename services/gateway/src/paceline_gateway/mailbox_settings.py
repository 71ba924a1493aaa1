"""A mailbox's settings however it is reached: as they are asked for, and as they are stored."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common.http import Problem
from paceline_gateway import message_defaults, problems, trail
from paceline_gateway.api.types import Email, Name, Timezone
from paceline_gateway.auth import Caller
from paceline_gateway.domain import mailbox_policy
from paceline_gateway.domain.provider import Provider
from paceline_gateway.message_defaults import MessageDefaults
from paceline_gateway.parts import Parts
from paceline_gateway.places import places


class MailboxSettings(BaseModel):
    """What a mailbox is connected with beside the way it is reached."""

    model_config = ConfigDict(extra="forbid")

    display_name: Name | None = None
    reply_to: Email | None = None
    timezone: Timezone | None = Field(default=None, description="The workspace's if left out.")
    policy: dict[str, Any] = Field(
        default_factory=dict, description="What differs from the defaults; see `effective_policy`."
    )
    provider: Provider | None = Field(
        default=None, description="Found by server and address if left out."
    )
    already_in_use: bool = Field(
        default=True,
        description="Whether people already write from it. If so, stage 3 is attested and cold "
        "mail may start (policy `attested`); if not, it starts at stage 0 and has to warm up.",
    )
    message: MessageDefaults = Field(default_factory=MessageDefaults)


def columns(body: MailboxSettings, found: Provider, now: datetime) -> dict[str, Any]:
    """Return the columns of a mailbox that is connected now, at the provider that was `found`.

    Raises `policy_invalid`, `header_refused` and `template_invalid`.
    """
    return {
        "provider_found": found,
        "provider_set": body.provider,
        "display_name": body.display_name,
        "reply_to": body.reply_to,
        "timezone": body.timezone,
        "policy": starting_policy(body, body.provider or found),
        "is_active": True,
        "connected_at": now,
        "deleted_at": None,
        "updated_at": now,
        **message_defaults.columns(body.message),
    }


def starting_policy(body: MailboxSettings, provider: str) -> dict[str, Any]:
    """Return the policy a new mailbox starts with; raise `policy_invalid` if it cannot hold."""
    attested = body.policy.get("attested", body.already_in_use)
    if "already_in_use" in body.model_fields_set and attested is not body.already_in_use:
        raise _invalid({"attested": "contradicts already_in_use: leave one of the two out"})
    policy = body.policy if body.already_in_use else {**body.policy, "attested": False}
    return _checked(policy, provider)


def _checked(policy: dict[str, Any], provider: str) -> dict[str, Any]:
    try:
        mailbox_policy.check(policy, provider, places())
    except mailbox_policy.InvalidPolicy as error:
        raise _invalid(error.faults) from None
    return policy


def _invalid(faults: Mapping[str, str]) -> Problem:
    return Problem(
        problems.POLICY_INVALID,
        "; ".join(f"{name}: {why}" for name, why in faults.items()),
        errors=[{"setting": name, "why": why} for name, why in faults.items()],
    )


def changed_policy(
    held: Mapping[str, Any], resets: Sequence[str], changes: Mapping[str, Any], provider: str
) -> dict[str, Any]:
    """Return the policy after a PATCH; raise `policy_invalid` if it cannot hold."""
    reset = set(resets)
    if unknown := reset - {*mailbox_policy.KEYS, "all"}:
        known = f"there is no such setting; known are {', '.join(mailbox_policy.KEYS)}, and all"
        raise _invalid(dict.fromkeys(sorted(unknown), known))
    kept = {name: value for name, value in held.items() if name not in reset and "all" not in reset}
    return _checked({**kept, **changes}, provider)


async def audit_pacing(
    parts: Parts,
    tx: AsyncConnection,
    caller: Caller,
    mailbox: str,
    values: Mapping[str, Any],
    before: Mapping[str, Any],
) -> None:
    """Record what somebody vouches for: that a mailbox is warm, that it is at this provider."""
    if "policy" in values:
        attests, did = (
            policy.get("attested", True) for policy in (values["policy"], before["policy"])
        )
        if attests and not did:
            await trail.audit(parts, tx, caller, "mailbox.stage_attested", mailbox, stage="3")
        elif did and not attests:
            await trail.audit(parts, tx, caller, "mailbox.attestation_withdrawn", mailbox)
    if "provider_set" in values and values["provider_set"] != before.get("provider_set"):
        provider = values["provider_set"] or "as found"
        await trail.audit(parts, tx, caller, "mailbox.provider_set", mailbox, provider=provider)
