"""Add refreshed tokens, places of any source, who reads a mailbox, and API names of messages."""

from alembic import op

from paceline_common.tokens import create_token_table

revision = "202611201300"
down_revision = "202611200900"

SCHEMA = "reply"


def upgrade() -> None:
    create_token_table(op, SCHEMA)
    op.execute(
        """
        ALTER TABLE reply.cursor
            ADD COLUMN place jsonb,
            ADD COLUMN read_at timestamptz,
            ADD COLUMN reader uuid,
            ADD COLUMN reader_until timestamptz,
            ADD CONSTRAINT cursor_reader_check CHECK ((reader IS NULL) = (reader_until IS NULL)),
            ADD CONSTRAINT cursor_read_check CHECK (place IS NOT NULL OR read_at IS NULL)
        """
    )
    # The owner sees no tenant's rows otherwise.
    op.execute("ALTER TABLE reply.cursor NO FORCE ROW LEVEL SECURITY")
    op.execute(
        "UPDATE reply.cursor SET place ="
        " jsonb_build_object('uid_validity', uid_validity, 'last_uid', last_uid)"
        " WHERE uid_validity IS NOT NULL"
    )
    op.execute("ALTER TABLE reply.cursor FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE reply.cursor DROP COLUMN uid_validity, DROP COLUMN last_uid")
    op.execute(
        """
        CREATE TABLE reply.instance (
            instance_id uuid PRIMARY KEY,
            beat_at timestamptz DEFAULT clock_timestamp() NOT NULL
        )
        """
    )
    op.execute(
        """
        ALTER TABLE reply.inbound_message
            ADD COLUMN provider_message_id text,
            DROP CONSTRAINT inbound_message_match_check,
            ADD CONSTRAINT inbound_message_match_check CHECK (
                (matched_by IS NULL) = (job_id IS NULL)
                AND matched_by IN ('token', 'references', 'thread', 'address')
            )
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX inbound_message_workspace_id_mailbox_id_provider_message_id_idx"
        " ON reply.inbound_message (workspace_id, mailbox_id, provider_message_id)"
        " WHERE provider_message_id IS NOT NULL"
    )
