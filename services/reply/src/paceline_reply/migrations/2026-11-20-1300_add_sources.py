"""Add refreshed tokens and the cursors of mailboxes behind an API."""

revision = "202611201300"
down_revision = "202611200900"

SCHEMA = "reply"


def upgrade() -> None:
    pass
