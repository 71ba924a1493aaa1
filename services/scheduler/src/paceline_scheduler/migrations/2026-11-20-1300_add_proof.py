"""Let a job in doubt be queued again on proof that it was not sent.

Only with a new fence: what the old attempt may still have under way is refused by it. A late
refusal settles a doubt too.
"""

from alembic import op

revision = "202611201300"
down_revision = "202611201200"

SCHEMA = "scheduler"

# `domain.job.TRANSITIONS`, and the fence.
TRANSITION = """
    CREATE TRIGGER transition BEFORE UPDATE OF state ON scheduler.send_job FOR EACH ROW
    WHEN (OLD.state <> NEW.state AND (
        NEW.state <> ALL (
            CASE OLD.state
                WHEN 'queued' THEN ARRAY['reserved', 'cancelled']
                WHEN 'reserved' THEN ARRAY['sending', 'queued', 'failed', 'cancelled']
                WHEN 'sending' THEN
                    ARRAY['sent', 'bounced', 'failed', 'in_doubt', 'queued', 'cancelled']
                WHEN 'in_doubt' THEN ARRAY['sent', 'bounced', 'failed', 'queued', 'cancelled']
                ELSE ARRAY[]::text[]
            END)
        OR OLD.state = 'in_doubt' AND NEW.state = 'queued' AND NEW.fence <= OLD.fence))
    EXECUTE FUNCTION scheduler.refuse_transition()
    """


def upgrade() -> None:
    op.execute("DROP TRIGGER transition ON scheduler.send_job")
    op.execute(TRANSITION)
