"""Create reply's tables: where each mailbox was read to, what arrived, who answered."""

from alembic import op

from paceline_common.db.tables import create_common_tables, enable_tenancy

revision = "202611200900"
down_revision = None

SCHEMA = "reply"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE reply.cursor (
            workspace_id bigint NOT NULL,
            mailbox_id bigint NOT NULL,
            version bigint NOT NULL,
            is_active boolean NOT NULL,
            connected_at timestamptz NOT NULL,
            uid_validity bigint,
            last_uid bigint,
            PRIMARY KEY (workspace_id, mailbox_id),
            CONSTRAINT cursor_place_check CHECK ((uid_validity IS NULL) = (last_uid IS NULL))
        )
        """
    )
    op.execute(
        """
        CREATE TABLE reply.inbound_message (
            workspace_id bigint NOT NULL,
            inbound_id bigint GENERATED ALWAYS AS IDENTITY,
            mailbox_id bigint NOT NULL,
            kind text NOT NULL,
            message_id text NOT NULL,
            digest bytea NOT NULL,
            job_id bigint,
            enrollment_id bigint,
            matched_by text,
            received_at timestamptz NOT NULL,
            report bytea,
            PRIMARY KEY (workspace_id, inbound_id),
            UNIQUE (workspace_id, mailbox_id, message_id, digest),
            CONSTRAINT inbound_message_kind_check CHECK (kind IN (
                'human', 'auto_reply', 'dsn', 'complaint', 'unsubscribe', 'own', 'other'
            )),
            CONSTRAINT inbound_message_match_check CHECK (
                (matched_by IS NULL) = (job_id IS NULL)
                AND matched_by IN ('token', 'references', 'address')
            ),
            CONSTRAINT inbound_message_report_check CHECK (
                report IS NULL OR kind IN ('dsn', 'complaint')
            )
        )
        """
    )
    op.execute(
        """
        CREATE TABLE reply.reply (
            workspace_id bigint NOT NULL,
            inbound_id bigint NOT NULL,
            job_id bigint NOT NULL,
            enrollment_id bigint NOT NULL,
            mailbox_id bigint NOT NULL,
            subject text NOT NULL,
            snippet text NOT NULL,
            received_at timestamptz NOT NULL,
            PRIMARY KEY (workspace_id, inbound_id),
            FOREIGN KEY (workspace_id, inbound_id)
                REFERENCES reply.inbound_message (workspace_id, inbound_id) ON DELETE CASCADE
        )
        """
    )
    op.execute(
        "CREATE INDEX reply_workspace_id_enrollment_id_idx"
        " ON reply.reply (workspace_id, enrollment_id)"
    )
    for table in ("cursor", "inbound_message", "reply"):
        enable_tenancy(op, SCHEMA, table, "reply_worker")
    create_common_tables(op, SCHEMA)
