"""Add the health of mailboxes; the counters per day get the volumes that it is made of."""

from alembic import op

from paceline_common.db.tables import enable_tenancy

revision = "202611201200"
down_revision = "202611200900"

SCHEMA = "bounce"


def upgrade() -> None:
    op.execute("ALTER TABLE bounce.mailbox_health RENAME TO mailbox_day")
    op.execute(
        "ALTER TABLE bounce.mailbox_day RENAME CONSTRAINT mailbox_health_pkey TO mailbox_day_pkey"
    )
    op.execute(
        """
        ALTER TABLE bounce.mailbox_day
            ADD COLUMN refused integer DEFAULT 0 NOT NULL,
            ADD COLUMN limited integer DEFAULT 0 NOT NULL,
            ADD COLUMN complaint integer DEFAULT 0 NOT NULL
        """
    )
    op.execute(
        """
        CREATE TABLE bounce.mailbox_health (
            workspace_id bigint NOT NULL,
            mailbox_id bigint NOT NULL,
            version bigint DEFAULT 0 NOT NULL,
            score smallint,
            stage smallint DEFAULT 0 NOT NULL,
            fell_at timestamptz,
            delivered bigint DEFAULT 0 NOT NULL,
            cooldown_since timestamptz,
            cooldown_until timestamptz,
            cooldown_level smallint DEFAULT 0 NOT NULL,
            recent_sends bigint DEFAULT 0 NOT NULL,
            recent_hard bigint[] DEFAULT '{}' NOT NULL,
            newest_hour timestamptz,
            hour_sends integer[] DEFAULT '{}' NOT NULL,
            hour_hard integer[] DEFAULT '{}' NOT NULL,
            recompute_at timestamptz,
            updated_at timestamptz DEFAULT now() NOT NULL,
            PRIMARY KEY (workspace_id, mailbox_id),
            CONSTRAINT mailbox_health_score_check CHECK (score BETWEEN 0 AND 100),
            CONSTRAINT mailbox_health_stage_check CHECK (stage BETWEEN 0 AND 5),
            CONSTRAINT mailbox_health_cooldown_check CHECK (
                (cooldown_since IS NULL) = (cooldown_until IS NULL)
                AND cooldown_until > cooldown_since AND cooldown_level >= 0
            )
        )
        """
    )
    op.execute(
        "CREATE INDEX mailbox_health_recompute_at_idx ON bounce.mailbox_health (recompute_at)"
    )
    # Before the table is sealed again: an owner under FORCE sees no tenant's rows.
    op.execute("ALTER TABLE bounce.mailbox_day NO FORCE ROW LEVEL SECURITY")
    op.execute(
        """
        INSERT INTO bounce.mailbox_health (workspace_id, mailbox_id, delivered, recompute_at)
        SELECT workspace_id, mailbox_id, sum(sent), now()
        FROM bounce.mailbox_day
        GROUP BY 1, 2
        """
    )
    op.execute("ALTER TABLE bounce.mailbox_day FORCE ROW LEVEL SECURITY")
    enable_tenancy(op, SCHEMA, "mailbox_health", "bounce_worker")
