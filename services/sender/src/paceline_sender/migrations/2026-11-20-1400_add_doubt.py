"""Add the evidence about submissions in doubt, and when to look again."""

revision = "202611201400"
down_revision = "202611201300"

SCHEMA = "sender"


def upgrade() -> None:
    pass
