"""Add variants, attachments, and what a mailbox puts into its messages."""

revision = "202611201400"
down_revision = "202611201300"

SCHEMA = "gateway"


def upgrade() -> None:
    pass
