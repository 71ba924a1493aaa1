"""Add the secrets of OAuth apps as sender and reply open them."""

from alembic import op

from paceline_common.db.tables import enable_tenancy

revision = "202611201500"
down_revision = "202611201400"


def upgrade() -> None:
    """Make `oauth_secret`; what a mailbox was connected with stays in its credential."""
    op.execute(
        """
        CREATE TABLE gateway.oauth_secret (
            workspace_id bigint NOT NULL,
            provider text NOT NULL,
            client_id text NOT NULL,
            send_sealed bytea NOT NULL,
            read_sealed bytea NOT NULL,
            set_at timestamptz NOT NULL,
            PRIMARY KEY (workspace_id, provider, client_id),
            FOREIGN KEY (workspace_id) REFERENCES gateway.workspace (workspace_id),
            CONSTRAINT oauth_secret_provider_check CHECK (provider IN ('google', 'microsoft'))
        )
        """
    )
    enable_tenancy(op, "gateway", "oauth_secret", "gateway_worker")
