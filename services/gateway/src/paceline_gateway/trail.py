"""The gateway's events about its own rows: audit records and `*-changed`."""

from collections.abc import Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from paceline_common import events, ids, topics
from paceline_common.db import Outgoing
from paceline_common.db.session import hit_after_commit
from paceline_gateway.auth import Caller
from paceline_gateway.parts import Parts


async def audit(
    parts: Parts,
    tx: AsyncConnection,
    caller: Caller,
    action: str,
    subject: str,
    **detail: str,
) -> None:
    """Record that `caller` did `action` to `subject` (a public id); commits with `tx`.

    `detail` holds no secrets and no addresses.
    """
    await _record(
        parts, tx, caller.workspace_id, caller.actor, action, subject, caller.source_ip, detail
    )


async def audit_system(
    parts: Parts, tx: AsyncConnection, workspace_id: int, action: str, subject: str, **detail: str
) -> None:
    """Record that the gateway itself did `action`, as it was told to earlier."""
    await _record(parts, tx, workspace_id, "gateway", action, subject, None, detail)


async def _record(
    parts: Parts,
    tx: AsyncConnection,
    workspace_id: int,
    actor: str,
    action: str,
    subject: str,
    source_ip: str | None,
    detail: dict[str, str],
) -> None:
    workspace = ids.encode("ws", workspace_id)
    body = events.AuditRecorded(
        workspace_id=workspace,
        action=action,
        actor=actor,
        subject=subject,
        at=parts.clock.now(),
        source_ip=source_ip,
        detail=detail,
    )
    await parts.outbox.add(
        tx, [Outgoing(topic=topics.AUDIT_RECORDED, key=workspace, body=body, subject=subject)]
    )


async def mailbox_changed(
    parts: Parts,
    tx: AsyncConnection,
    workspace_id: int,
    mailbox_id: int,
    version: int,
    *,
    deleted: bool = False,
) -> None:
    """Announce a mailbox's new version; the caller holds its row's lock."""
    await mailboxes_changed(parts, tx, workspace_id, {mailbox_id: version}, deleted=deleted)


async def mailboxes_changed(
    parts: Parts,
    tx: AsyncConnection,
    workspace_id: int,
    versions: Mapping[int, int],
    *,
    deleted: bool = False,
) -> None:
    """Announce new versions of mailboxes (by number); the caller holds their rows' locks."""
    workspace = ids.encode("ws", workspace_id)
    mailboxes = {ids.encode("mbx", number): version for number, version in versions.items()}
    await parts.outbox.add(
        tx,
        [
            Outgoing(
                topic=topics.MAILBOX_CHANGED,
                key=mailbox,
                body=events.MailboxChanged(
                    workspace_id=workspace, mailbox_id=mailbox, version=version, deleted=deleted
                ),
                subject=mailbox,
            )
            for mailbox, version in mailboxes.items()
        ],
    )
    hit_after_commit(tx, "gateway.after_change_commit")


async def workspace_changed(
    parts: Parts, tx: AsyncConnection, workspace_id: int, version: int
) -> None:
    """Announce a workspace's new version; the caller holds its row's lock."""
    workspace = ids.encode("ws", workspace_id)
    body = events.WorkspaceChanged(workspace_id=workspace, version=version)
    await parts.outbox.add(
        tx, [Outgoing(topic=topics.WORKSPACE_CHANGED, key=workspace, body=body, subject=workspace)]
    )
    hit_after_commit(tx, "gateway.after_change_commit")


async def campaign_changed(
    parts: Parts,
    tx: AsyncConnection,
    workspace_id: int,
    campaign_id: int,
    version: int,
    status: str,
) -> None:
    """Announce a campaign's new version; the caller holds its row's lock."""
    campaign = ids.encode("cmp", campaign_id)
    body = events.CampaignChanged(
        workspace_id=ids.encode("ws", workspace_id),
        campaign_id=campaign,
        version=version,
        status=status,
    )
    await parts.outbox.add(
        tx, [Outgoing(topic=topics.CAMPAIGN_CHANGED, key=campaign, body=body, subject=campaign)]
    )
    hit_after_commit(tx, "gateway.after_change_commit")
