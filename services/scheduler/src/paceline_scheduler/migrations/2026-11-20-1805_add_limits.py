"""Add what is known of providers' limits on mailboxes."""

from alembic import op

revision = "202611201805"
down_revision = "202611201300"


def upgrade() -> None:
    """Remember on which day a mailbox was limited last, and on how many in a row."""
    op.execute(
        """
        ALTER TABLE scheduler.mailbox_budget
            ADD COLUMN limited_day date,
            ADD COLUMN limited_times integer DEFAULT 0 NOT NULL,
            ADD CONSTRAINT mailbox_budget_limited_check
                CHECK ((limited_day IS NULL) = (limited_times = 0) AND limited_times >= 0)
        """
    )
