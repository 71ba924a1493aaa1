"""The gateway's groups of `paceline-admin` on workspaces, keys, publishers and quarantine."""

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.engine import Connection

from paceline_common import events, grants, ids, topics
from paceline_common.admin import AdminSettings, JsonFlag, refuse, show, show_rows
from paceline_common.keys import KeyAdmin
from paceline_gateway import kafka_publishers
from paceline_gateway.domain import apikey
from paceline_gateway.domain.zone import is_timezone
from paceline_gateway.places import places
from paceline_gateway.store.tables import ApiKey, Publisher, PublisherWorkspace, Workspace

workspace = typer.Typer(help="Tenants.", no_args_is_help=True)
key = typer.Typer(help="API keys of a workspace.", no_args_is_help=True)
publisher = typer.Typer(
    help="External services that enroll leads by Kafka, each on a topic of its own.",
    no_args_is_help=True,
)
quarantine = typer.Typer(
    help="Events that could not be handled and belong to no workspace.", no_args_is_help=True
)

_ACTOR: Final = "admin"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_ALL_QUARANTINES: Final = " UNION ALL ".join(
    f"SELECT '{service}' AS service, quarantine_id, workspace_id, topic, event_id, source, body,"  # noqa: S608 - our own service names
    f" reason_code, reason, attempts, created_at, settled_at, settled_by"
    f" FROM {service}.v_quarantine_all"
    for service in topics.SERVICES
)

WorkspaceId = Annotated[str, typer.Argument(metavar="WORKSPACE", help="ws_…")]
PublisherName = Annotated[str, typer.Argument(help="Lower case letters, digits and dashes.")]


@contextmanager
def transaction(settings: AdminSettings) -> Iterator[Connection]:
    """One transaction as `admin`."""
    with settings.engine.begin() as tx:
        yield tx


# ---- workspace


@workspace.command("create")
@workspace.command("add", hidden=True)
def create_workspace(
    name: str,
    timezone: Annotated[str, typer.Option(help="IANA zone, the default of its mailboxes.")] = "UTC",
    country: Annotated[str | None, typer.Option(help="ISO 3166 code, for holidays.")] = None,
    json_: JsonFlag = False,
) -> None:
    """Make a workspace and its keys in the key service."""
    if not is_timezone(timezone):
        refuse(f"{timezone!r} is no IANA time zone; write it like Europe/Berlin")
    if country is not None and country not in places():
        refuse(f"{country!r} is no country whose holidays are known; write two letters, like DE")
    settings = AdminSettings()
    keys = KeyAdmin(settings)
    with transaction(settings) as tx:
        number = tx.execute(
            insert(Workspace)
            .values(name=name, timezone=timezone, country=country)
            .returning(Workspace.workspace_id)
        ).scalar_one()
        public = ids.encode("ws", number)
        audit(tx, "workspace.created", public, workspace_id=public)
        # Before the commit: a workspace without keys cannot seal a password.
        asyncio.run(keys.create_workspace_keys(number))
    keys.close()
    show({"workspace_id": public, "name": name, "timezone": timezone}, json_)


@workspace.command("list")
def list_workspaces(json_: JsonFlag = False) -> None:
    """List all workspaces."""
    with transaction(AdminSettings()) as tx:
        rows = tx.execute(select(Workspace.__table__).order_by(Workspace.workspace_id)).all()
    show_rows(
        [
            {
                "workspace_id": ids.encode("ws", row.workspace_id),
                "name": row.name,
                "timezone": row.timezone,
                "country": row.country,
                "is_active": row.is_active,
                "created_at": row.created_at,
            }
            for row in rows
        ],
        ("workspace_id", "name", "timezone", "country", "is_active", "created_at"),
        json_,
    )


# ---- key


@key.command("create")
@key.command("add", hidden=True)
def create_key(
    workspace_id: WorkspaceId,
    name: Annotated[str, typer.Option(help="What it is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(apikey.SCOPES)}; may be repeated.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Make an API key and print it, this once."""
    scopes = scope or ["write"]
    if unknown := sorted(set(scopes) - set(apikey.SCOPES)):
        refuse(f"no such scope: {', '.join(unknown)}; there are {', '.join(apikey.SCOPES)}")
    made = apikey.issue(secrets.token_bytes(apikey.SECRET_BYTES))
    with transaction(AdminSettings()) as tx:
        number = _workspace(tx, workspace_id)
        key_id = tx.execute(
            insert(ApiKey)
            .values(
                workspace_id=number,
                name=name,
                key_hash=apikey.digest(made),
                hint=apikey.hint(made),
                scopes=scopes,
            )
            .returning(ApiKey.key_id)
        ).scalar_one()
        public = ids.encode("key", key_id)
        audit(tx, "key.created", public, workspace_id=workspace_id, scopes=" ".join(scopes))
    show({"key_id": public, "key": made, "scopes": scopes}, json_)


@key.command("list")
def list_keys(workspace_id: WorkspaceId, json_: JsonFlag = False) -> None:
    """List the keys of a workspace by their first characters."""
    with transaction(AdminSettings()) as tx:
        number = _workspace(tx, workspace_id)
        rows = tx.execute(
            select(ApiKey.__table__).where(ApiKey.workspace_id == number).order_by(ApiKey.key_id)
        ).all()
    show_rows(
        [
            {
                "key_id": ids.encode("key", row.key_id),
                "name": row.name,
                "hint": f"{row.hint}…",
                "scopes": row.scopes,
                "created_at": row.created_at,
                "revoked_at": row.revoked_at,
            }
            for row in rows
        ],
        ("key_id", "name", "hint", "scopes", "created_at", "revoked_at"),
        json_,
    )


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="key_…")], json_: JsonFlag = False
) -> None:
    """Revoke an API key; the next request with it is refused."""
    number = _decode("key", key_id)
    now = datetime.now(UTC)
    with transaction(AdminSettings()) as tx:
        row = tx.execute(
            update(ApiKey)
            .where(ApiKey.key_id == number, ApiKey.revoked_at.is_(None))
            .values(revoked_at=now)
            .returning(ApiKey.workspace_id)
        ).one_or_none()
        if row is None:
            refuse("there is no such key, or it was revoked before")
        audit(tx, "key.revoked", key_id, workspace_id=ids.encode("ws", row.workspace_id))
    show({"key_id": key_id, "revoked_at": now}, json_)


# ---- publisher


@publisher.command("add")
def add_publisher(
    name: PublisherName,
    workspace_id: Annotated[
        list[str] | None, typer.Option("--workspace", help="May enroll into it; repeatable.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Make a publisher: its Kafka topic, principal and ACLs, and the workspaces it may use.

    Where `admin` may not provision Kafka (a Strimzi operator does, say, or
    `paceline-local publisher`), it prints what has to be made there.
    """
    if not _NAME.fullmatch(name):
        refuse(f"{name!r} is no publisher name: lower case letters, digits, dashes, at most 40")
    settings = AdminSettings()
    with transaction(settings) as tx:
        tx.execute(upsert(Publisher).values(publisher=name).on_conflict_do_nothing())
        audit(tx, "publisher.added", name)
        for one in workspace_id or []:
            _allow(tx, name, one)
        password = secrets.token_urlsafe(24)
        try:
            kafka_publishers.provision(settings, name, password)
            made = True
        except kafka_publishers.NotAllowed:
            made = False
    answer: dict[str, Any] = {
        "publisher": name,
        "topic": topics.publisher_topic(name),
        "principal": grants.publisher_principal(name),
        "kafka": "provisioned" if made else "not provisioned: admin may not",
    }
    if made:
        answer["password"] = password
    else:
        family = topics.LEAD_ENROLLED_BY_PUBLISHER
        answer["acls"] = [
            f"{acl.operation} on {acl.resource} {acl.name}" for acl in grants.publisher_acls(name)
        ]
        answer["next"] = (
            f"as an administrator of Kafka make the topic ({family.partitions} partitions, "
            f"retention.ms={int(family.retention.total_seconds() * 1000)}), the principal "
            "(SCRAM-SHA-512, a password of your choice) and the ACLs; "
            f"on the local stack: paceline-local publisher {name}"
        )
    show(answer, json_)


@publisher.command("allow")
def allow_publisher(
    name: PublisherName, workspace_id: WorkspaceId, json_: JsonFlag = False
) -> None:
    """Let a publisher enroll into one more workspace."""
    with transaction(AdminSettings()) as tx:
        _allow(tx, name, workspace_id)
    show({"publisher": name, "workspace_id": workspace_id}, json_)


@publisher.command("list")
def list_publishers(json_: JsonFlag = False) -> None:
    """List publishers and the workspaces each may use."""
    with transaction(AdminSettings()) as tx:
        names = tx.execute(select(Publisher.publisher).order_by(Publisher.publisher)).scalars()
        allowed: dict[str, list[str]] = {name: [] for name in names}
        for row in tx.execute(
            select(PublisherWorkspace.publisher, PublisherWorkspace.workspace_id).order_by(
                PublisherWorkspace.workspace_id
            )
        ):
            allowed[row.publisher].append(ids.encode("ws", row.workspace_id))
    show_rows(
        [
            {"publisher": name, "topic": topics.publisher_topic(name), "workspaces": workspaces}
            for name, workspaces in allowed.items()
        ],
        ("publisher", "topic", "workspaces"),
        json_,
    )


@publisher.command("remove")
def remove_publisher(name: PublisherName, json_: JsonFlag = False) -> None:
    """Take a publisher's rights away; its topic stays until its retention has passed."""
    settings = AdminSettings()
    with transaction(settings) as tx:
        tx.execute(delete(PublisherWorkspace).where(PublisherWorkspace.publisher == name))
        gone = tx.execute(delete(Publisher).where(Publisher.publisher == name)).rowcount
        if not gone:
            refuse(f"there is no publisher {name!r}")
        audit(tx, "publisher.removed", name)
        try:
            kafka_publishers.withdraw(settings, name)
            answer = "withdrawn"
        except kafka_publishers.NotAllowed:
            answer = "not changed: admin may not; remove its principal and ACLs"
    show({"publisher": name, "kafka": answer}, json_)


# ---- quarantine


@quarantine.command("list")
def list_quarantine(
    settled: Annotated[bool, typer.Option("--settled", help="Settled ones as well.")] = False,
    json_: JsonFlag = False,
) -> None:
    """List what belongs to the installation; tenants see their own by the API."""
    where = "" if settled else " AND settled_at IS NULL"
    with transaction(AdminSettings()) as tx:
        rows = tx.execute(
            text(
                f"SELECT * FROM ({_ALL_QUARANTINES}) AS q WHERE workspace_id IS NULL{where}"  # noqa: S608 - constants
                " ORDER BY created_at DESC, service, quarantine_id LIMIT 1000"
            )
        ).all()
    show_rows(
        [
            {
                "id": ids.encode("qua", row.quarantine_id),
                "service": row.service,
                "topic": row.topic,
                "event_id": row.event_id,
                "source": row.source,
                "reason_code": row.reason_code,
                "reason": row.reason,
                "attempts": row.attempts,
                "created_at": row.created_at,
                "settled_at": row.settled_at,
                "settled_by": row.settled_by,
            }
            for row in rows
        ],
        ("id", "service", "topic", "reason_code", "reason", "created_at", "settled_at"),
        json_,
    )


@quarantine.command("replay")
def replay_quarantine(
    quarantine_id: Annotated[str, typer.Argument(metavar="ID", help="qua_…")],
    workspace_id: Annotated[str, typer.Option("--workspace", help="Enroll into: ws_…")],
    lead: Annotated[
        Path | None, typer.Option(help="A JSON file with the repaired lead; else as it came.")
    ] = None,
    json_: JsonFlag = False,
) -> None:
    """Enroll a quarantined lead into a workspace, repaired or as it came."""
    # They bring the whole web stack, a second to import: no other command needs it.
    import email_validator

    from paceline_common.http import Problem
    from paceline_gateway import quarantine as entries

    number = _decode("qua", quarantine_id)
    settings = AdminSettings()
    email_validator.TEST_ENVIRONMENT = settings.accept_test_domains
    repaired = None if lead is None else json.loads(lead.read_text())
    with transaction(settings) as tx:
        target = _workspace(tx, workspace_id)
        row = tx.execute(
            text(
                f"SELECT * FROM ({_ALL_QUARANTINES}) AS q WHERE workspace_id IS NULL"  # noqa: S608 - constants
                " AND service = :service AND quarantine_id = :number"
            ),
            {"service": entries.OWNER, "number": number},
        ).one_or_none()
        if row is None:
            refuse("the installation has no such lead in quarantine")
        try:
            event = entries.repaired(target, row, repaired)
        except Problem as problem:
            refuse(f"{problem.kind.title}: {problem.detail or problem.kind.remedy}")
        _publish(tx, event.topic, event.key, event.body, event.event_id)
        audit(tx, "quarantine.replayed", quarantine_id, workspace_id=workspace_id)
    show({"id": quarantine_id, "event_id": event.event_id}, json_)


def _workspace(tx: Connection, public: str) -> int:
    number = _decode("ws", public)
    held = tx.execute(select(Workspace.name).where(Workspace.workspace_id == number))
    if held.one_or_none() is None:
        refuse(f"there is no workspace {public}")
    return number


def _allow(tx: Connection, name: str, public: str) -> None:
    number = _workspace(tx, public)
    if tx.execute(select(Publisher).where(Publisher.publisher == name)).one_or_none() is None:
        refuse(f"there is no publisher {name!r}; add it first")
    fresh = tx.execute(
        upsert(PublisherWorkspace)
        .values(workspace_id=number, publisher=name)
        .on_conflict_do_nothing()
    ).rowcount
    if fresh:
        audit(tx, "publisher.allowed", name, workspace_id=public)


def _decode(kind: ids.Kind, public: str) -> int:
    try:
        return ids.decode(kind, public)
    except ids.InvalidIdError as error:
        refuse(str(error))


def audit(
    tx: Connection, action: str, subject: str, *, workspace_id: str = "", **detail: str
) -> None:
    """Record what the operator did; commits with `tx`. No secrets in `detail`."""
    body = events.AuditRecorded(
        workspace_id=workspace_id,
        action=action,
        actor=_ACTOR,
        subject=subject,
        at=datetime.now(UTC),
        detail=detail,
    )
    _publish(tx, topics.AUDIT_RECORDED, workspace_id or "installation", body, None)


def _publish(
    tx: Connection, topic: topics.Topic, record_key: str, body: events.Event, event_id: str | None
) -> None:
    """Add an event to the gateway's outbox; its relay publishes it after the commit."""
    tx.execute(
        text(
            "INSERT INTO gateway.outbox (workspace_id, topic, key, event_id, type, subject, body)"
            " VALUES (:workspace, :topic, :key, :event, :type, NULL, :body)"
        ),
        {
            "workspace": ids.decode("ws", body.workspace_id) if body.workspace_id else None,
            "topic": topic.name,
            "key": record_key,
            "event": event_id or ids.new_event_id(),
            "type": events.event_type(topic),
            "body": msgspec.json.encode(body),
        },
    )
