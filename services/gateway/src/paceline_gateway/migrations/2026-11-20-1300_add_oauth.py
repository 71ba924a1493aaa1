"""Add OAuth apps and flows, and mailboxes behind an API."""

from alembic import op

revision = "202611201300"
down_revision = "202611201200"

SCHEMA = "gateway"


def upgrade() -> None:
    """Let a mailbox be reached by API or by OAuth."""
    op.execute("ALTER TABLE gateway.mailbox RENAME COLUMN smtp_credential TO send_credential")
    op.execute("ALTER TABLE gateway.mailbox RENAME COLUMN imap_credential TO read_credential")
    op.execute(
        """
        ALTER TABLE gateway.mailbox
            ALTER COLUMN smtp DROP NOT NULL,
            ALTER COLUMN imap DROP NOT NULL,
            ADD COLUMN send_oauth jsonb,
            ADD COLUMN read_oauth jsonb,
            ADD COLUMN send_credential_version bigint DEFAULT 1 NOT NULL,
            ADD COLUMN read_credential_version bigint DEFAULT 1 NOT NULL,
            DROP CONSTRAINT mailbox_kind_check,
            ADD CONSTRAINT mailbox_kind_check CHECK (kind IN ('smtp', 'gmail', 'graph')),
            ADD CONSTRAINT mailbox_reached_check CHECK (
                CASE WHEN kind = 'smtp' THEN smtp IS NOT NULL AND imap IS NOT NULL
                ELSE smtp IS NULL AND imap IS NULL
                    AND send_oauth IS NOT NULL AND read_oauth IS NOT NULL END
            ),
            ADD CONSTRAINT mailbox_credential_version_check
                CHECK (send_credential_version > 0 AND read_credential_version > 0)
        """
    )
