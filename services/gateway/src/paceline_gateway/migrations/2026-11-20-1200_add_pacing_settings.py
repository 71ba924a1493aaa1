"""Add what pacing is set by: providers, pools' rotation, campaigns' routing, rules, budgets."""

from typing import Final

from alembic import op

from paceline_common.db.tables import enable_tenancy

revision = "202611201200"
down_revision = "202611200900"

SCHEMA: Final = "gateway"
TENANT_TABLES: Final = ("shaping_rule", "domain_budget")


def upgrade() -> None:
    """Add the columns, fill them for what is there, make the two tables and seal them."""
    op.execute(
        """
        ALTER TABLE gateway.workspace
            ADD COLUMN region text,
            ADD COLUMN parallel_campaigns boolean DEFAULT false NOT NULL,
            ADD COLUMN min_days_between integer DEFAULT 0 NOT NULL,
            ADD COLUMN company_stop boolean DEFAULT false NOT NULL,
            ADD COLUMN version integer DEFAULT 1 NOT NULL,
            ADD CONSTRAINT workspace_min_days_between_check
                CHECK (min_days_between BETWEEN 0 AND 3650),
            ADD CONSTRAINT workspace_version_check CHECK (version > 0)
        """
    )
    op.execute(
        """
        ALTER TABLE gateway.mailbox
            ADD COLUMN provider_found text DEFAULT 'smtp' NOT NULL,
            ADD COLUMN provider_set text,
            ADD COLUMN connected_at timestamptz DEFAULT clock_timestamp() NOT NULL,
            ADD CONSTRAINT mailbox_provider_found_check CHECK (provider_found IN (
                'gmail_consumer', 'google_workspace', 'microsoft365', 'outlook_consumer', 'yahoo',
                'smtp', 'esp'
            )),
            ADD CONSTRAINT mailbox_provider_set_check CHECK (provider_set IN (
                'gmail_consumer', 'google_workspace', 'microsoft365', 'outlook_consumer', 'yahoo',
                'smtp', 'esp'
            ))
        """
    )
    # The owner is held to the tenants' policies; without FORCE it sees every row it has to fill.
    op.execute("ALTER TABLE gateway.mailbox NO FORCE ROW LEVEL SECURITY")
    op.execute(
        r"""
        UPDATE gateway.mailbox SET
            connected_at = created_at,
            provider_found = CASE
                WHEN domain IN ('gmail.com', 'googlemail.com') THEN 'gmail_consumer'
                WHEN lower(smtp ->> 'host') IN ('smtp.gmail.com', 'smtp.googlemail.com')
                    THEN 'google_workspace'
                WHEN lower(smtp ->> 'host') IN ('smtp-mail.outlook.com', 'smtp.live.com')
                    OR domain ~ '^(outlook|hotmail|live|msn)\.(com|[a-z]{2}|com?\.[a-z]{2})$'
                    THEN 'outlook_consumer'
                WHEN lower(smtp ->> 'host') = 'smtp.office365.com' THEN 'microsoft365'
                WHEN lower(smtp ->> 'host') IN ('smtp.mail.yahoo.com', 'smtp.bizmail.yahoo.com')
                    OR domain ~ '^yahoo\.(com|[a-z]{2}|com?\.[a-z]{2})$'
                    OR domain IN ('ymail.com', 'rocketmail.com') THEN 'yahoo'
                ELSE 'smtp'
            END
        """
    )
    op.execute("ALTER TABLE gateway.mailbox FORCE ROW LEVEL SECURITY")
    op.execute(
        """
        ALTER TABLE gateway.pool
            ADD COLUMN rotation text DEFAULT 'next_in_line' NOT NULL,
            ADD CONSTRAINT pool_rotation_check CHECK (rotation IN (
                'next_in_line', 'round_robin', 'random', 'weighted', 'priority'
            ))
        """
    )
    op.execute(
        """
        ALTER TABLE gateway.pool_member
            ADD COLUMN weight integer DEFAULT 1 NOT NULL,
            ADD COLUMN rank integer DEFAULT 0 NOT NULL,
            ADD CONSTRAINT pool_member_weight_check CHECK (weight BETWEEN 1 AND 1000),
            ADD CONSTRAINT pool_member_rank_check CHECK (rank BETWEEN 0 AND 100)
        """
    )
    op.execute(
        """
        ALTER TABLE gateway.campaign
            ADD COLUMN min_health integer DEFAULT 70 NOT NULL,
            ADD COLUMN reassign_after_s integer DEFAULT 172800 NOT NULL,
            ADD COLUMN esp_match text DEFAULT 'off' NOT NULL,
            ADD COLUMN allow_parallel boolean DEFAULT false NOT NULL,
            ADD COLUMN tier_after_s integer[] DEFAULT '{}'::integer[] NOT NULL,
            ADD CONSTRAINT campaign_min_health_check CHECK (min_health BETWEEN 0 AND 100),
            ADD CONSTRAINT campaign_reassign_after_s_check CHECK (reassign_after_s >= 0),
            ADD CONSTRAINT campaign_esp_match_check
                CHECK (esp_match IN ('off', 'prefer', 'strict')),
            ADD CONSTRAINT campaign_tier_after_s_check CHECK (0 <= ALL (tier_after_s))
        """
    )
    op.execute(
        """
        CREATE TABLE gateway.shaping_rule (
            workspace_id bigint NOT NULL,
            pattern text NOT NULL,
            spacing_s numeric,
            daily_max integer,
            created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
            updated_at timestamptz DEFAULT clock_timestamp() NOT NULL,
            PRIMARY KEY (workspace_id, pattern),
            FOREIGN KEY (workspace_id) REFERENCES gateway.workspace (workspace_id),
            CONSTRAINT shaping_rule_spacing_s_check CHECK (spacing_s > 0),
            CONSTRAINT shaping_rule_daily_max_check CHECK (daily_max >= 0),
            CONSTRAINT shaping_rule_limit_check
                CHECK (spacing_s IS NOT NULL OR daily_max IS NOT NULL)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE gateway.domain_budget (
            workspace_id bigint NOT NULL,
            domain text NOT NULL,
            daily_max integer NOT NULL,
            created_at timestamptz DEFAULT clock_timestamp() NOT NULL,
            updated_at timestamptz DEFAULT clock_timestamp() NOT NULL,
            PRIMARY KEY (workspace_id, domain),
            FOREIGN KEY (workspace_id) REFERENCES gateway.workspace (workspace_id),
            CONSTRAINT domain_budget_daily_max_check CHECK (daily_max >= 0)
        )
        """
    )
    for table in TENANT_TABLES:
        enable_tenancy(op, SCHEMA, table, "gateway_worker")
