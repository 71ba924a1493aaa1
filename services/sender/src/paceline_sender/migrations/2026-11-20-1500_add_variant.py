"""Add the variant that was drawn for a message."""

from alembic import op

revision = "202611201500"
down_revision = "202611201400"

SCHEMA = "sender"


def upgrade() -> None:
    op.execute("ALTER TABLE sender.message ADD COLUMN variant text")
