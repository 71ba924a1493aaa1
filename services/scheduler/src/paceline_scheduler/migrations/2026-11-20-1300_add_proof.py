"""Let a job in doubt be queued again on proof that it was not sent."""

revision = "202611201300"
down_revision = "202611201200"

SCHEMA = "scheduler"


def upgrade() -> None:
    pass
