"""Create the sender's tables: attempts, messages, live instances."""

from alembic import op

from paceline_common.db.tables import create_common_tables, enable_tenancy

revision = "202611200900"
down_revision = None

SCHEMA = "sender"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE sender.attempt (
            workspace_id bigint NOT NULL,
            attempt_id bigint GENERATED ALWAYS AS IDENTITY,
            job_id bigint NOT NULL,
            fence integer NOT NULL,
            attempt_no integer NOT NULL,
            enrollment_id bigint,
            campaign_id bigint,
            step integer,
            mailbox_id bigint NOT NULL,
            provider text NOT NULL,
            message_id text,
            instance_id uuid,
            claimed_at timestamptz,
            not_after timestamptz,
            started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            finished_at timestamptz,
            outcome text,
            outcome_class text,
            reason text,
            code integer,
            status text,
            text text,
            provider_message_id text,
            PRIMARY KEY (workspace_id, attempt_id),
            CONSTRAINT attempt_finished_check CHECK ((outcome IS NULL) = (finished_at IS NULL)),
            CONSTRAINT attempt_outcome_check CHECK (outcome IN (
                'accepted', 'deferred', 'rejected', 'failed', 'in_doubt', 'unsent', 'refused'
            )),
            CONSTRAINT attempt_unclaimed_check CHECK (
                claimed_at IS NOT NULL
                OR (outcome IS NOT NULL AND outcome IN ('failed', 'unsent', 'refused'))
            ),
            CONSTRAINT attempt_claim_check CHECK (
                claimed_at IS NULL
                OR (not_after IS NOT NULL AND instance_id IS NOT NULL AND message_id IS NOT NULL)
            )
        )
        """
    )
    op.execute(
        "CREATE INDEX attempt_workspace_id_job_id_idx ON sender.attempt (workspace_id, job_id)"
    )
    op.execute(
        "CREATE UNIQUE INDEX attempt_claim_key ON sender.attempt (workspace_id, job_id, fence)"
        " WHERE claimed_at IS NOT NULL"
    )
    op.execute("CREATE INDEX attempt_open_idx ON sender.attempt (claimed_at) WHERE outcome IS NULL")
    op.execute(
        """
        CREATE TABLE sender.message (
            workspace_id bigint NOT NULL,
            job_id bigint NOT NULL,
            enrollment_id bigint,
            campaign_id bigint,
            step integer,
            mailbox_id bigint NOT NULL,
            message_id text NOT NULL,
            provider_message_id text,
            subject text NOT NULL,
            references_ text[] NOT NULL,
            submitted_at timestamptz,
            PRIMARY KEY (workspace_id, job_id)
        )
        """
    )
    op.execute(
        "CREATE UNIQUE INDEX message_workspace_id_message_id_idx"
        " ON sender.message (workspace_id, message_id)"
    )
    op.execute(
        "CREATE INDEX message_workspace_id_enrollment_id_step_idx"
        " ON sender.message (workspace_id, enrollment_id, step)"
    )
    op.execute(
        """
        CREATE TABLE sender.instance (
            instance_id uuid PRIMARY KEY,
            started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
            beat_at timestamptz NOT NULL DEFAULT clock_timestamp()
        )
        """
    )
    for table in ("attempt", "message"):
        enable_tenancy(op, SCHEMA, table, "sender_worker")
    create_common_tables(op, SCHEMA)
