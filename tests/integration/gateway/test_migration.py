"""The revision that adds the settings of pacing fills them for mailboxes that were there before."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

import paceline_gateway
from paceline_common import grants
from paceline_gateway.domain.provider import derive
from paceline_local.stack import Stack

DATABASE = "gateway_before"
REVISIONS = Path(paceline_gateway.__file__).parent / "migrations"
MAILBOXES = [
    ("smtp.gmail.com", "gmail.com"),
    ("SMTP.gmail.com", "acme.test"),
    ("relay.acme.test", "googlemail.com"),
    ("smtp.office365.com", "acme.test"),
    ("smtp.office365.com", "hotmail.co.uk"),
    ("smtp-mail.outlook.com", "acme.test"),
    ("mail.acme.test", "live.com.au"),
    ("mail.acme.test", "live.acme.com"),
    ("smtp.mail.yahoo.com", "acme.test"),
    ("mail.acme.test", "yahoo.de"),
    ("mail.acme.test", "acme.test"),
]


@pytest.fixture
def scratch(stack: Stack) -> Iterator[str]:
    """A superuser's DSN of an empty database with the services' roles and schemas."""
    with psycopg.connect(stack.dsn(), autocommit=True) as superuser:
        superuser.execute(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        superuser.execute(f"CREATE DATABASE {DATABASE}")
        dsn = stack.dsn(database=DATABASE)
        with psycopg.connect(dsn, autocommit=True) as there:
            for statement in grants.postgres_bootstrap():
                there.execute(statement.encode())
        yield dsn
        superuser.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


def revise(dsn: str, name: str) -> None:
    """Run one revision as the schema's owner, held to row-level security as in earnest."""
    spec = importlib.util.spec_from_file_location("revision", REVISIONS / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine = create_engine(make_url(dsn).set(drivername="postgresql+psycopg"), poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL ROLE gateway_owner"))
        with Operations.context(MigrationContext.configure(connection)):
            module.upgrade()


def test_mailboxes_from_before_have_their_provider_and_day_of_connect(scratch: str) -> None:
    revise(scratch, "2026-11-20-0900_create_schema")
    with psycopg.connect(scratch, autocommit=True) as superuser:
        superuser.execute("INSERT INTO gateway.workspace (name) VALUES ('one'), ('two')")
        for number, (host, domain) in enumerate(MAILBOXES):
            superuser.execute(
                "INSERT INTO gateway.mailbox (workspace_id, email, domain, kind, smtp, imap,"
                " smtp_credential, imap_credential, created_at)"
                " VALUES (%s, %s, %s, 'smtp', jsonb_build_object('host', %s::text), '{}', '', '',"
                " '2026-01-05T12:00Z')",
                (1 + number % 2, f"{number}@{domain}", domain, host),
            )
    revise(scratch, "2026-11-20-1200_add_pacing_settings")
    with psycopg.connect(scratch, autocommit=True) as superuser:
        rows = superuser.execute(
            "SELECT smtp ->> 'host', domain, provider_found, provider_set,"
            " connected_at = created_at FROM gateway.mailbox ORDER BY mailbox_id"
        ).fetchall()
        (forced,) = superuser.execute(
            "SELECT bool_and(relrowsecurity AND relforcerowsecurity) FROM pg_class"
            " WHERE relname IN ('mailbox', 'shaping_rule', 'domain_budget')"
            " AND relnamespace = 'gateway'::regnamespace"
        ).fetchone() or (False,)
    assert rows == [
        (host, domain, derive("smtp", domain, host), None, True) for host, domain in MAILBOXES
    ]
    assert forced is True


def test_mailboxes_from_before_keep_their_servers_and_credentials_by_leg(scratch: str) -> None:
    revise(scratch, "2026-11-20-0900_create_schema")
    with psycopg.connect(scratch, autocommit=True) as superuser:
        superuser.execute("INSERT INTO gateway.workspace (name) VALUES ('one')")
        superuser.execute(
            "INSERT INTO gateway.mailbox (workspace_id, email, domain, kind, smtp, imap,"
            " smtp_credential, imap_credential)"
            " VALUES (1, 'ann@acme.test', 'acme.test', 'smtp', '{\"host\": \"a\"}', '{}', 's', 'i')"
        )
    revise(scratch, "2026-11-20-1200_add_pacing_settings")
    revise(scratch, "2026-11-20-1300_add_oauth")
    with psycopg.connect(scratch, autocommit=True) as superuser:
        row = superuser.execute(
            "SELECT kind, smtp, send_credential, read_credential, send_credential_version,"
            " read_credential_version, send_oauth, read_oauth FROM gateway.mailbox"
        ).fetchone()
        assert row == ("smtp", {"host": "a"}, b"s", b"i", 1, 1, None, None)
        # From now on a mailbox may have no servers, but then it has grants.
        with pytest.raises(psycopg.errors.CheckViolation):
            superuser.execute("UPDATE gateway.mailbox SET kind = 'gmail'")
        with pytest.raises(psycopg.errors.CheckViolation):
            superuser.execute("UPDATE gateway.mailbox SET imap = NULL")
        superuser.execute(
            "UPDATE gateway.mailbox SET kind = 'graph', smtp = NULL, imap = NULL,"
            " send_oauth = '{}', read_oauth = '{}'"
        )
