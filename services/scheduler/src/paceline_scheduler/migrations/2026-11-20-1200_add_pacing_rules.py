"""Add what the whole set of pacing rules needs: more budgets, decisions, rechecks."""

from alembic import op

from paceline_common.db.tables import enable_tenancy

revision = "202611201200"
down_revision = "202611200900"

SCHEMA = "scheduler"

COLUMNS = (
    """
    ALTER TABLE scheduler.mailbox_budget
        DROP COLUMN windows,
        ADD COLUMN revision bigint NOT NULL DEFAULT 0,
        ADD COLUMN policy jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN provider text NOT NULL DEFAULT 'smtp',
        ADD COLUMN country text,
        ADD COLUMN region text,
        ADD COLUMN connected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ADD COLUMN ceiling integer,
        ADD COLUMN account_ref bigint NOT NULL DEFAULT 0,
        ADD COLUMN host smallint NOT NULL DEFAULT 0,
        ADD COLUMN types smallint NOT NULL DEFAULT 7,
        ADD COLUMN health smallint,
        ADD COLUMN health_floor boolean NOT NULL DEFAULT true,
        ADD COLUMN stage smallint NOT NULL DEFAULT 0,
        ADD COLUMN health_version bigint NOT NULL DEFAULT 0,
        ADD COLUMN throttled_until timestamptz,
        ADD COLUMN inactive_since timestamptz,
        ADD CONSTRAINT mailbox_budget_health_check CHECK (health BETWEEN 0 AND 100),
        ADD CONSTRAINT mailbox_budget_stage_check CHECK (stage BETWEEN 0 AND 5),
        ADD CONSTRAINT mailbox_budget_types_check CHECK (types BETWEEN 0 AND 7),
        ADD CONSTRAINT mailbox_budget_ceiling_check CHECK (ceiling >= 0),
        -- A node's rate has no jitter, and its limit of leases may be lowered under their number.
        DROP CONSTRAINT mailbox_budget_jitter_check,
        ADD CONSTRAINT mailbox_budget_jitter_check CHECK (
            grace_ms >= 0 AND jitter_min_ms >= 0 AND jitter_max_ms >= jitter_min_ms
            AND (jitter_max_ms = 0 OR jitter_min_ms >= grace_ms)),
        DROP CONSTRAINT mailbox_budget_outstanding_check,
        ADD CONSTRAINT mailbox_budget_outstanding_check CHECK (
            outstanding >= 0 AND max_outstanding >= 1)
    """,
    """
    ALTER TABLE scheduler.address
        ADD COLUMN host smallint,
        ADD COLUMN host_at timestamptz
    """,
    """
    ALTER TABLE scheduler.lead
        ADD COLUMN contacted_at timestamptz,
        ADD COLUMN contacted_campaign_id bigint
    """,
    "ALTER TABLE scheduler.enrollment ADD COLUMN contact_hold boolean NOT NULL DEFAULT false",
    """
    CREATE INDEX enrollment_held_idx ON scheduler.enrollment (workspace_id, lead_id)
        WHERE contact_hold AND state = 'active'
    """,
    """
    CREATE INDEX send_job_sticky_idx ON scheduler.send_job (workspace_id, mailbox_id, campaign_id)
        WHERE state = 'queued' AND sticky
    """,
    """
    ALTER TABLE scheduler.slot
        ADD COLUMN day_used integer,
        ADD COLUMN day_cap integer,
        ADD COLUMN hour_used integer,
        ADD COLUMN hour_cap integer,
        ADD COLUMN rolling_used integer,
        ADD COLUMN ceiling integer,
        ADD COLUMN account_ref bigint,
        ADD COLUMN domain_ref bigint,
        ADD COLUMN recipient_ref bigint,
        ADD COLUMN domain_day date,
        ADD COLUMN recipient_day date
    """,
    "ALTER TABLE scheduler.shard ADD COLUMN lanes jsonb NOT NULL DEFAULT '[]'",
    """
    CREATE INDEX suspension_workspace_id_closed_at_idx
        ON scheduler.suspension (workspace_id, closed_at) WHERE closed_at IS NOT NULL
    """,
    """
    CREATE INDEX suspension_workspace_id_scope_ref_opened_at_idx
        ON scheduler.suspension (workspace_id, scope, ref, opened_at)
    """,
    """
    CREATE INDEX send_job_closed_idx ON scheduler.send_job (workspace_id, enrollment_id)
        WHERE state IN ('sent', 'bounced', 'failed', 'cancelled')
    """,
    """
    CREATE INDEX slot_workspace_id_mailbox_id_slot_at_idx
        ON scheduler.slot (workspace_id, mailbox_id, slot_at)
    """,
)

TABLES = (
    # Of the whole installation: one provider account may be connected by several workspaces.
    """
    CREATE TABLE scheduler.account_budget (
        account_ref bigint NOT NULL PRIMARY KEY,
        hour timestamptz NOT NULL DEFAULT '-infinity',
        hours integer[] NOT NULL DEFAULT array_fill(0, ARRAY[25]),
        foreign_hours integer[] NOT NULL DEFAULT array_fill(0, ARRAY[25]),
        CONSTRAINT account_budget_hours_check CHECK (
            cardinality(hours) = 25 AND cardinality(foreign_hours) = 25)
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE scheduler.domain_budget (
        workspace_id bigint NOT NULL,
        domain_ref bigint NOT NULL,
        domain text NOT NULL,
        tz text NOT NULL,
        day_cap integer,
        day date NOT NULL DEFAULT '-infinity',
        day_used integer NOT NULL DEFAULT 0,
        PRIMARY KEY (workspace_id, domain_ref),
        CONSTRAINT domain_budget_used_check CHECK (day_used >= 0)
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE scheduler.recipient_budget (
        workspace_id bigint NOT NULL,
        domain_id bigint NOT NULL,
        tz text NOT NULL,
        spacing_ms bigint NOT NULL DEFAULT 0,
        day_cap integer,
        next_at timestamptz NOT NULL DEFAULT '-infinity',
        cursor_at timestamptz NOT NULL DEFAULT '-infinity',
        retry_at timestamptz NOT NULL DEFAULT '-infinity',
        day date NOT NULL DEFAULT '-infinity',
        day_used integer NOT NULL DEFAULT 0,
        cursor_used integer NOT NULL DEFAULT 0,
        is_stale boolean NOT NULL DEFAULT false,
        PRIMARY KEY (workspace_id, domain_id),
        CONSTRAINT recipient_budget_spacing_check CHECK (spacing_ms >= 0),
        CONSTRAINT recipient_budget_used_check CHECK (day_used >= 0)
    ) WITH (fillfactor = 70)
    """,
    """
    CREATE TABLE scheduler.campaign_policy (
        workspace_id bigint NOT NULL,
        campaign_id bigint NOT NULL,
        version bigint NOT NULL,
        type smallint NOT NULL,
        min_health smallint NOT NULL DEFAULT 70,
        stickiness text NOT NULL DEFAULT 'reassign',
        reassign_after_s bigint NOT NULL DEFAULT 172800,
        esp_match text NOT NULL DEFAULT 'off',
        allow_parallel boolean NOT NULL DEFAULT false,
        throttled_since timestamptz,
        throttle_cause text,
        PRIMARY KEY (workspace_id, campaign_id),
        CONSTRAINT campaign_policy_type_check CHECK (type IN (1, 2, 4)),
        CONSTRAINT campaign_policy_stickiness_check CHECK (
            stickiness IN ('wait', 'reassign', 'stop')),
        CONSTRAINT campaign_policy_esp_match_check CHECK (esp_match IN ('off', 'prefer', 'strict')),
        CONSTRAINT campaign_policy_throttled_check CHECK (
            (throttled_since IS NULL) = (throttle_cause IS NULL))
    )
    """,
    """
    CREATE TABLE scheduler.node_recheck (
        workspace_id bigint NOT NULL,
        mailbox_id bigint NOT NULL,
        reason text NOT NULL,
        every_s integer NOT NULL,
        next_at timestamptz NOT NULL,
        until timestamptz NOT NULL,
        attempts integer NOT NULL DEFAULT 0,
        last_code text,
        PRIMARY KEY (workspace_id, mailbox_id, reason)
    )
    """,
    "CREATE INDEX node_recheck_next_at_idx ON scheduler.node_recheck (next_at)",
    """
    CREATE TABLE scheduler.decision (
        workspace_id bigint NOT NULL,
        decision_id bigint GENERATED BY DEFAULT AS IDENTITY,
        scope text NOT NULL,
        ref bigint NOT NULL,
        reason text NOT NULL,
        inputs jsonb NOT NULL DEFAULT '{}',
        until timestamptz,
        times integer NOT NULL DEFAULT 1,
        first_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        is_open boolean NOT NULL DEFAULT true,
        PRIMARY KEY (workspace_id, decision_id),
        CONSTRAINT decision_scope_check CHECK (scope IN ('mailbox', 'job', 'campaign'))
    )
    """,
    """
    CREATE UNIQUE INDEX decision_open_key ON scheduler.decision (workspace_id, scope, ref)
        WHERE is_open AND scope <> 'job'
    """,
    """
    CREATE UNIQUE INDEX decision_job_key ON scheduler.decision (workspace_id, ref, reason)
        WHERE scope = 'job'
    """,
    """
    CREATE INDEX decision_workspace_id_scope_ref_first_at_idx
        ON scheduler.decision (workspace_id, scope, ref, first_at)
    """,
    "CREATE INDEX decision_last_at_idx ON scheduler.decision (last_at)",
)
TENANT = (
    "domain_budget", "recipient_budget", "campaign_policy", "node_recheck", "decision",
)  # fmt: skip

GUARDS = (
    "DROP TRIGGER append_only ON scheduler.slot",
    """
    CREATE TRIGGER append_only BEFORE UPDATE ON scheduler.slot FOR EACH ROW
    WHEN (OLD.returned_at IS NOT NULL
        OR (OLD.workspace_id, OLD.job_id, OLD.fence, OLD.mailbox_id, OLD.slot_at, OLD.not_after,
            OLD.day, OLD.hour, OLD.reserved_at, OLD.day_used, OLD.day_cap, OLD.hour_used,
            OLD.hour_cap, OLD.rolling_used, OLD.ceiling, OLD.account_ref, OLD.domain_ref,
            OLD.recipient_ref, OLD.domain_day, OLD.recipient_day)
        IS DISTINCT FROM (NEW.workspace_id, NEW.job_id, NEW.fence, NEW.mailbox_id, NEW.slot_at,
            NEW.not_after, NEW.day, NEW.hour, NEW.reserved_at, NEW.day_used, NEW.day_cap,
            NEW.hour_used, NEW.hour_cap, NEW.rolling_used, NEW.ceiling, NEW.account_ref,
            NEW.domain_ref, NEW.recipient_ref, NEW.domain_day, NEW.recipient_day))
    EXECUTE FUNCTION scheduler.refuse_slot_change()
    """,
)


def upgrade() -> None:
    for statement in (*COLUMNS, *TABLES, *GUARDS):
        op.execute(statement)
    for table in TENANT:
        enable_tenancy(op, SCHEMA, table, "scheduler_worker")
