"""The one declaration of who may do what; every part's own rules are generated from it.

Postgres roles and grants, Kafka ACLs, Redis ACL users, key-service policies and
the allowed network flows all come from `PRINCIPALS` (and, for Kafka, from
`paceline_common.topics`). `docs/grants.md` is generated; `tests/integration/grants`
shows each grant used and everything else denied.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from paceline_common import topics

Operation = Literal["read", "write", "delete", "describe", "idempotent_write"]
Resource = Literal["topic", "group", "cluster"]

OWNED_DEFAULT: Final = "SELECT, INSERT, UPDATE, DELETE"


@dataclass(frozen=True, slots=True)
class KeyRule:
    """One path of the key service and what may be done there.

    A policy's glob works only at the end of a path: scope first, workspace last.
    """

    path: str
    capabilities: tuple[str, ...] = ("update",)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """A service, or a person's tool, with everything it may reach.

    `owned` are its privileges on the tables of its own schema (empty: no schema).
    `views` and `functions` belong to other services. `writes` are table-level
    privileges in another schema: none for services, some for `admin`.
    `calls` are the services whose `/internal` it uses.
    """

    name: str
    owned: str = OWNED_DEFAULT
    views: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    writes: Mapping[str, str] = field(default_factory=dict)
    redis: tuple[str, ...] = ()
    keys: tuple[KeyRule, ...] = ()
    calls: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


_ADDRESS_HASH: Final = KeyRule("secret/data/address-hash", ("read",), "hashes addresses")
_VERIFY_MAC: Final = KeyRule("transit/verify/mac", ("update",), "verifies tokens")

PRINCIPALS: Final[tuple[Principal, ...]] = (
    Principal(
        "gateway",
        views=(
            "scheduler.v_enrollment", "scheduler.v_lead", "scheduler.v_job_recipient",
            "scheduler.v_suppression", "scheduler.v_receipt", "scheduler.v_suspension",
            "scheduler.v_mailbox_pace", "sender.v_send_log", "reply.v_reply", "bounce.v_bounce",
            "audit.v_audit", "scheduler.v_campaign_throttle", "bounce.v_mailbox_health",
            "scheduler.v_quarantine", "sender.v_quarantine", "bounce.v_quarantine",
            "reply.v_quarantine", "sender.v_doubt",
        ),
        functions=(
            "scheduler.suppress", "scheduler.lift_suppression", "scheduler.suspend",
            "scheduler.resume", "scheduler.stop_enrollment", "scheduler.edit_lead",
        ),
        keys=(
            KeyRule("transit/datakey/plaintext/send-*", ("update",), "seals, never opens"),
            KeyRule("transit/datakey/plaintext/read-*", ("update",), "seals, never opens"),
            KeyRule("transit/datakey/plaintext/gateway", ("update",), "seals OAuth app secrets"),
            KeyRule("transit/decrypt/gateway", ("update",), "opens OAuth app secrets"),
            _VERIFY_MAC,
            _ADDRESS_HASH,
        ),
        calls=("scheduler", "sender", "reply"),
        outside=(
            "people and services, inbound HTTPS",
            "Google's and Microsoft's sign-in and profiles",
        ),
    ),
    Principal(
        "scheduler",
        views=(
            "gateway.v_workspace", "gateway.v_mailbox", "gateway.v_pool_member",
            "gateway.v_campaign", "gateway.v_step", "gateway.v_publisher", "gateway.v_pool",
            "gateway.v_shaping_rule", "gateway.v_domain_budget", "bounce.v_mailbox_health",
        ),
        redis=("pace:*",),
        keys=(_ADDRESS_HASH,),
        calls=("sender",),
        outside=("DNS: MX records of recipient domains",),
    ),
    Principal(
        "sender",
        views=(
            "gateway.v_workspace", "gateway.v_mailbox", "gateway.v_mailbox_send",
            "gateway.v_campaign", "gateway.v_step", "gateway.v_attachment",
            "scheduler.v_job_content", "scheduler.v_lead", "reply.v_inbound", "bounce.v_bounce",
        ),
        functions=(
            "scheduler.claim_send", "scheduler.finish_send", "scheduler.suspend",
            "scheduler.resume",
        ),
        keys=(
            KeyRule("transit/decrypt/send-*", ("update",), "opens what it submits with"),
            KeyRule("transit/datakey/plaintext/send-*", ("update",), "seals refreshed tokens"),
            KeyRule("transit/hmac/mac", ("update",), "makes tokens"),
        ),
        calls=("reply",),
        outside=("SMTP hosts of mailboxes", "Google and Microsoft: tokens and mail"),
    ),
    Principal(
        "bounce",
        views=(
            "gateway.v_mailbox", "scheduler.v_job_recipient", "sender.v_message",
            "reply.v_inbound",
        ),
        functions=("scheduler.suppress", "scheduler.suspend", "scheduler.resume"),
        keys=(_VERIFY_MAC, _ADDRESS_HASH),
    ),
    Principal(
        "reply",
        views=(
            "gateway.v_mailbox", "gateway.v_mailbox_read", "scheduler.v_job_recipient",
            "sender.v_message",
        ),
        functions=("scheduler.suppress", "scheduler.suspend", "scheduler.resume"),
        keys=(
            KeyRule("transit/decrypt/read-*", ("update",), "opens what it reads with"),
            KeyRule("transit/datakey/plaintext/read-*", ("update",), "seals refreshed tokens"),
            _VERIFY_MAC,
            _ADDRESS_HASH,
        ),
        outside=("IMAP hosts of mailboxes", "Google and Microsoft: tokens and mail"),
    ),
    Principal(
        "audit",
        owned="SELECT, INSERT",
        keys=(
            KeyRule("transit/sign/audit", ("update",), "signs checkpoints"),
            KeyRule("transit/keys/audit", ("read",), "publishes the public key"),
        ),
    ),
    Principal(
        "admin",
        owned="",
        views=(
            "audit.v_audit_chain", "audit.v_checkpoint", "sender.v_doubt_all",
            *(f"{service}.v_quarantine_all" for service in topics.SERVICES),
        ),
        writes={
            "gateway.workspace": "SELECT, INSERT, UPDATE",
            "gateway.api_key": "SELECT, INSERT, UPDATE",
            "gateway.publisher": "SELECT, INSERT, UPDATE, DELETE",
            "gateway.publisher_workspace": "SELECT, INSERT, UPDATE, DELETE",
            "gateway.oauth_installation_app": "SELECT, INSERT, UPDATE, DELETE",
            "gateway.outbox": "INSERT",
        },
        keys=(
            KeyRule("transit/keys/send-*", ("create", "read", "update", "delete"), "key admin"),
            KeyRule("transit/keys/read-*", ("create", "read", "update", "delete"), "key admin"),
            KeyRule("transit/keys/audit", ("read",), "verifies checkpoints"),
            KeyRule("transit/datakey/plaintext/gateway", ("update",), "seals, never opens"),
        ),
        calls=("sender",),
    ),
)  # fmt: skip
BY_NAME: Final[Mapping[str, Principal]] = {p.name: p for p in PRINCIPALS}

# Tables whose rows nobody changes once written, per schema; the login role gets INSERT and SELECT.
APPEND_ONLY: Final[Mapping[str, tuple[str, ...]]] = {"audit": ("audit_record", "checkpoint")}
# Tables every consuming service has; the plumbing updates and deletes there.
PLUMBING: Final = ("outbox", "inbox", "quarantine")


def postgres_bootstrap() -> list[str]:
    """Return idempotent SQL, run by a superuser before migrations: roles and schemas.

    Login roles get no password here; whoever runs this sets them.
    """
    sql = [_role("migrator", "LOGIN NOINHERIT")]
    for service in topics.SERVICES:
        owner, worker = f"{service}_owner", f"{service}_worker"
        sql += [
            _role(owner, "NOLOGIN"),
            _role(worker, "NOLOGIN"),
            # NOINHERIT: with INHERIT the login would see every tenant through its worker role.
            _role(service, "LOGIN NOINHERIT"),
            f"GRANT {owner} TO migrator",
            f"GRANT {worker} TO {service}",
            f"CREATE SCHEMA IF NOT EXISTS {service} AUTHORIZATION {owner}",
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC",
        ]
    sql += [
        _role("admin", "LOGIN NOINHERIT"),
        _role("admin_worker", "NOLOGIN"),
        "GRANT admin_worker TO admin",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    ]
    return sql


def postgres_privileges() -> list[str]:
    """Return idempotent SQL, run by a superuser after migrations: who may use what.

    Every service's objects are first closed to all but their owner, so that a
    grant removed from this file is gone from the database as well.
    """
    sql: list[str] = []
    logins = [p.name for p in PRINCIPALS] + [f"{s}_worker" for s in (*topics.SERVICES, "admin")]
    for service in topics.SERVICES:
        for login in logins:
            sql += [
                f"REVOKE ALL ON ALL TABLES IN SCHEMA {service} FROM {login}",
                f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {service} FROM {login}",
                f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {service} FROM {login}",
                f"REVOKE ALL ON SCHEMA {service} FROM {login}",
            ]
        sql.append(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {service} FROM PUBLIC")
    for principal in PRINCIPALS:
        if principal.owned:
            sql += _own_schema(principal)
        for view in principal.views:
            sql += _use(principal.name, view)
            sql.append(f"GRANT SELECT ON {view} TO {principal.name}")
        for function in principal.functions:
            sql += _use(principal.name, function)
            sql.append(f"GRANT EXECUTE ON FUNCTION {function} TO {principal.name}")
        for table, privileges in principal.writes.items():
            sql += _use(principal.name, table)
            sql.append(f"GRANT {privileges} ON {table} TO {principal.name}")
    # Owners' functions and views need their own definitions only; nothing crosses schemas there.
    return sql


def _own_schema(principal: Principal) -> Iterator[str]:
    name = principal.name
    for role in (name, f"{name}_worker"):
        yield f"GRANT USAGE ON SCHEMA {name} TO {role}"
        yield f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {name} TO {role}"
        yield f"GRANT {principal.owned} ON ALL TABLES IN SCHEMA {name} TO {role}"
        yield f"REVOKE ALL ON {name}.alembic_version FROM {role}"
        if principal.owned != OWNED_DEFAULT:
            for table in PLUMBING:
                yield f"GRANT {OWNED_DEFAULT} ON {name}.{table} TO {role}"
        yield f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {name} TO {role}"


def _use(role: str, name: str) -> list[str]:
    return [f"GRANT USAGE ON SCHEMA {name.partition('.')[0]} TO {role}"]


def _role(name: str, options: str) -> str:
    return (
        "DO $$ BEGIN "
        f"IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN "
        f"CREATE ROLE {name}; END IF; "
        f"ALTER ROLE {name} {options} NOBYPASSRLS NOSUPERUSER NOCREATEDB NOCREATEROLE; "
        "END $$"
    )


@dataclass(frozen=True, slots=True, order=True)
class KafkaAcl:
    """One ALLOW rule of Kafka's StandardAuthorizer; everything else is denied."""

    principal: str
    resource: Resource
    name: str
    prefixed: bool
    operation: Operation


def kafka_acls() -> list[KafkaAcl]:
    """Return every service's ACLs, sorted: its topics, its groups, its dead letters.

    A consumer of personal data may delete records that it has read. Kafka has
    one operation for that and for deleting the topic.
    """
    acls: set[KafkaAcl] = set()
    for topic in topics.ALL:
        for producer in topic.producers:
            if producer == "publisher":
                continue
            acls |= _both(producer, "topic", topic.name, topic.pattern, "write")
        for consumer in topic.consumers:
            acls |= _both(consumer, "topic", topic.name, topic.pattern, "read")
            if topic.personal_data:
                acls.add(KafkaAcl(consumer, "topic", topic.name, topic.pattern, "delete"))
            acls |= _both(consumer, "group", topics.group(consumer, topic), False, "read")
            acls |= _both(consumer, "topic", topic.dead_letter, False, "write")
    for principal in {acl.principal for acl in acls}:
        acls.add(KafkaAcl(principal, "cluster", "kafka-cluster", False, "idempotent_write"))
    return sorted(acls)


def publisher_acls(publisher: str) -> list[KafkaAcl]:
    """Return the ACLs of one external publisher: its own topic, nothing else."""
    acls = _both(
        publisher_principal(publisher), "topic", topics.publisher_topic(publisher), False, "write"
    )
    acls.add(
        KafkaAcl(
            publisher_principal(publisher), "cluster", "kafka-cluster", False, "idempotent_write"
        )
    )
    return sorted(acls)


def publisher_principal(publisher: str) -> str:
    """Return the Kafka user name of an external publisher."""
    return f"publisher-{publisher}"


def _both(
    principal: str, resource: Resource, name: str, prefixed: bool, operation: Operation
) -> set[KafkaAcl]:
    return {
        KafkaAcl(principal, resource, name, prefixed, operation),
        KafkaAcl(principal, resource, name, prefixed, "describe"),
    }


def redis_rules(principal: str) -> list[str]:
    """Return the rules of a Redis ACL user (after `user <name> on ><password>`).

    Empty for a principal that has no business with Redis: it gets no user.
    """
    keys = BY_NAME[principal].redis
    if not keys:
        return []
    return [
        "resetchannels",
        *(f"~{pattern}" for pattern in keys),
        *("+@read", "+@write", "+@scripting", "+@connection", "+time", "-@dangerous"),
    ]


def key_policies() -> dict[str, str]:
    """Return one key-service policy per principal, in Vault's JSON policy syntax."""
    return {
        principal.name: json.dumps(
            {
                "path": {
                    rule.path: {"capabilities": list(rule.capabilities)} for rule in principal.keys
                }
            },
            indent=2,
            sort_keys=True,
        )
        for principal in PRINCIPALS
        if principal.keys
    }


def markdown() -> str:
    """Return `docs/grants.md`."""
    lines = [
        "# Who may do what",
        "",
        "Generated from `libs/common/src/paceline_common/grants.py` by `make docs`. What is not",
        "listed is denied; `tests/integration/grants` tries both, with each one's own credentials.",
        "",
    ]
    acls = kafka_acls()
    for principal in PRINCIPALS:
        name = principal.name
        lines += [f"## {name}", ""]
        if principal.owned:
            lines.append(f"- Postgres, own schema `{name}`: {principal.owned} (RLS by workspace)")
        for title, names in (("views", principal.views), ("functions", principal.functions)):
            if names:
                lines.append(f"- Postgres {title}: " + ", ".join(f"`{n}`" for n in names))
        for table, privileges in principal.writes.items():
            lines.append(f"- Postgres table `{table}`: {privileges}")
        for operation in ("read", "write", "delete"):
            patterns = [
                acl.name + ("*" if acl.prefixed else "")
                for acl in acls
                if (acl.principal, acl.resource, acl.operation) == (name, "topic", operation)
            ]
            if patterns:
                lines.append(f"- Kafka {operation}: " + ", ".join(f"`{n}`" for n in patterns))
        if principal.redis:
            lines.append("- Redis keys: " + ", ".join(f"`{k}`" for k in principal.redis))
        for rule in principal.keys:
            lines.append(f"- Keys `{rule.path}`: {', '.join(rule.capabilities)} ({rule.why})")
        for callee in principal.calls:
            lines.append(f"- Calls `{callee}` at `/internal`")
        for peer in principal.outside:
            lines.append(f"- Network beyond the cluster: {peer}")
        lines.append("")
    return "\n".join(lines)
