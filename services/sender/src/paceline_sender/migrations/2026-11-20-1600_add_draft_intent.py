"""Add the drafts that are about to be made."""

from alembic import op

from paceline_common.db.tables import enable_tenancy

revision = "202611201600"
down_revision = "202611201500"


def upgrade() -> None:
    """Make `draft_intent`."""
    op.execute(
        """
        CREATE TABLE sender.draft_intent (
            workspace_id bigint NOT NULL,
            job_id bigint NOT NULL,
            fence integer NOT NULL,
            mailbox_id bigint NOT NULL,
            provider text NOT NULL,
            not_after timestamptz NOT NULL,
            created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
            look_at timestamptz NOT NULL,
            PRIMARY KEY (workspace_id, job_id, fence)
        )
        """
    )
    op.execute("CREATE INDEX draft_intent_look_at_idx ON sender.draft_intent (look_at)")
    enable_tenancy(op, "sender", "draft_intent", "sender_worker")
