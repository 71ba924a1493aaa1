"""Add refreshed tokens, drafts as fences, and what a provider made of a message."""

from alembic import op

from paceline_common.tokens import create_token_table

revision = "202611201300"
down_revision = "202611200900"

SCHEMA = "sender"


def upgrade() -> None:
    create_token_table(op, SCHEMA)
    # What the attempt was to send, where that was a draft: kind, draft_id, provider_message_id.
    # `draft_left_at`: since when nobody needs it any more, until it is destroyed.
    op.execute(
        """
        ALTER TABLE sender.attempt
            ADD COLUMN draft jsonb,
            ADD COLUMN draft_left_at timestamptz,
            ADD CONSTRAINT attempt_draft_check CHECK (draft_left_at IS NULL OR draft IS NOT NULL)
        """
    )
    op.execute(
        "CREATE INDEX attempt_draft_left_at_idx ON sender.attempt (draft_left_at)"
        " WHERE draft_left_at IS NOT NULL"
    )
    # What recipients see where the provider rewrote it, and the provider's conversation:
    # the latter means something in that mailbox only.
    op.execute(
        """
        ALTER TABLE sender.message
            ADD COLUMN sent_message_id text,
            ADD COLUMN thread_id text,
            ADD COLUMN thread_mailbox_id bigint,
            ADD CONSTRAINT message_thread_check
                CHECK (thread_id IS NULL OR thread_mailbox_id IS NOT NULL)
        """
    )
    op.execute(
        "CREATE INDEX message_workspace_id_sent_message_id_idx"
        " ON sender.message (workspace_id, sent_message_id) WHERE sent_message_id IS NOT NULL"
    )
    op.execute(
        "CREATE INDEX message_workspace_id_thread_mailbox_id_thread_id_idx ON sender.message"
        " (workspace_id, thread_mailbox_id, thread_id) WHERE thread_id IS NOT NULL"
    )
