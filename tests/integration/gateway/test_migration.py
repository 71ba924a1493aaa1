"""The revision that adds the settings of pacing fills them for mailboxes that were there before."""

from collections.abc import Iterator

import psycopg
import pytest
from tests.integration.revisions import Revisions, scratch

import paceline_gateway
from paceline_gateway.domain.provider import derive
from paceline_local.stack import Stack

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
def revisions(stack: Stack) -> Iterator[Revisions]:
    with scratch(stack, paceline_gateway) as made:
        yield made


def test_mailboxes_from_before_have_their_provider_and_day_of_connect(revisions: Revisions) -> None:
    revisions.run("2026-11-20-0900_create_schema")
    with revisions.superuser() as superuser:
        superuser.execute("INSERT INTO gateway.workspace (name) VALUES ('one'), ('two')")
        for number, (host, domain) in enumerate(MAILBOXES):
            superuser.execute(
                "INSERT INTO gateway.mailbox (workspace_id, email, domain, kind, smtp, imap,"
                " smtp_credential, imap_credential, created_at)"
                " VALUES (%s, %s, %s, 'smtp', jsonb_build_object('host', %s::text), '{}', '', '',"
                " '2026-01-05T12:00Z')",
                (1 + number % 2, f"{number}@{domain}", domain, host),
            )
    revisions.run("2026-11-20-1200_add_pacing_settings")
    with revisions.superuser() as superuser:
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


def test_mailboxes_from_before_keep_their_servers_and_credentials_by_leg(
    revisions: Revisions,
) -> None:
    revisions.run("2026-11-20-0900_create_schema")
    with revisions.superuser() as superuser:
        superuser.execute("INSERT INTO gateway.workspace (name) VALUES ('one')")
        superuser.execute(
            "INSERT INTO gateway.mailbox (workspace_id, email, domain, kind, smtp, imap,"
            " smtp_credential, imap_credential)"
            " VALUES (1, 'ann@acme.test', 'acme.test', 'smtp', '{\"host\": \"a\"}', '{}', 's', 'i')"
        )
    revisions.run("2026-11-20-1200_add_pacing_settings")
    revisions.run("2026-11-20-1300_add_oauth")
    with revisions.superuser() as superuser:
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
