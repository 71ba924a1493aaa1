"""Cursors from before other sources were read keep their place."""

from collections.abc import Iterator

import pytest
from tests.integration.revisions import Revisions, scratch

import paceline_reply
from paceline_local.stack import Stack


@pytest.fixture
def revisions(stack: Stack) -> Iterator[Revisions]:
    with scratch(stack, paceline_reply) as made:
        yield made


def test_a_mailbox_that_was_read_is_read_on_where_it_was(revisions: Revisions) -> None:
    revisions.run("2026-11-20-0900_create_schema")
    with revisions.superuser() as superuser:
        for workspace, place in ((1, (7, 99)), (2, (None, None))):
            superuser.execute(
                "INSERT INTO reply.cursor VALUES (%s, 5, 1, true, now(), %s, %s)",
                (workspace, *place),
            )
    revisions.run("2026-11-20-1300_add_sources")
    with revisions.superuser() as superuser:
        places = superuser.execute("SELECT place FROM reply.cursor ORDER BY workspace_id")
        assert [row[0] for row in places] == [{"uid_validity": 7, "last_uid": 99}, None]
        (forced,) = superuser.execute(
            "SELECT relforcerowsecurity FROM pg_class WHERE oid = 'reply.cursor'::regclass"
        ).fetchone() or (False,)
    assert forced is True
