"""Add what the stage of a mailbox was measured by: whether it is attested."""

from alembic import op

revision = "202611201300"
down_revision = "202611201200"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE bounce.mailbox_health ADD COLUMN attested boolean DEFAULT false NOT NULL"
    )
    # An owner under FORCE sees no tenant's rows.
    op.execute("ALTER TABLE bounce.mailbox_health NO FORCE ROW LEVEL SECURITY")
    op.execute("UPDATE bounce.mailbox_health SET recompute_at = now()")
    op.execute("ALTER TABLE bounce.mailbox_health FORCE ROW LEVEL SECURITY")
