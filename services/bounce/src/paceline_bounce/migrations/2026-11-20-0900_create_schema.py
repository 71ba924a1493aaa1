"""Create bounce's tables: every report with what became of it, and volumes per mailbox and day."""

from alembic import op

from paceline_common.db.tables import create_common_tables, enable_tenancy

revision = "202611200900"
down_revision = None

SCHEMA = "bounce"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE bounce.bounce (
            workspace_id bigint NOT NULL,
            bounce_id bigint GENERATED ALWAYS AS IDENTITY,
            source text NOT NULL,
            state text NOT NULL,
            reason text,
            mailbox_id bigint NOT NULL,
            job_id bigint,
            enrollment_id bigint,
            inbound_id bigint,
            part smallint,
            bounce_class text,
            status text,
            code integer,
            diagnostic text,
            rule text,
            occurred_at timestamptz NOT NULL,
            PRIMARY KEY (workspace_id, bounce_id),
            UNIQUE (workspace_id, inbound_id, part),
            CONSTRAINT bounce_source_check CHECK (source IN ('smtp', 'dsn')),
            CONSTRAINT bounce_state_check CHECK (
                state IN ('counted', 'delayed', 'ignored', 'untrusted')
            ),
            CONSTRAINT bounce_class_check CHECK (
                bounce_class IN ('hard', 'soft', 'block', 'limit', 'auth', 'config')
            ),
            CONSTRAINT bounce_counted_check CHECK (
                state <> 'counted' OR (job_id IS NOT NULL AND bounce_class IS NOT NULL)
            ),
            CONSTRAINT bounce_reason_check CHECK ((state = 'counted') = (reason IS NULL)),
            CONSTRAINT bounce_inbound_check CHECK (
                (source = 'dsn') = (inbound_id IS NOT NULL)
                AND (inbound_id IS NULL) = (part IS NULL)
            )
        )
        """
    )
    # A job bounces once per source, however many reports arrive.
    op.execute(
        "CREATE UNIQUE INDEX bounce_workspace_id_job_id_source_idx "
        "ON bounce.bounce (workspace_id, job_id, source) WHERE state = 'counted'"
    )
    op.execute(
        """
        CREATE TABLE bounce.mailbox_health (
            workspace_id bigint NOT NULL,
            mailbox_id bigint NOT NULL,
            day date NOT NULL,
            sent integer DEFAULT 0 NOT NULL,
            hard integer DEFAULT 0 NOT NULL,
            soft integer DEFAULT 0 NOT NULL,
            block integer DEFAULT 0 NOT NULL,
            other integer DEFAULT 0 NOT NULL,
            PRIMARY KEY (workspace_id, mailbox_id, day)
        )
        """
    )
    for table in ("bounce", "mailbox_health"):
        enable_tenancy(op, SCHEMA, table, "bounce_worker")
    create_common_tables(op, SCHEMA)
