"""Add the evidence about submissions in doubt, and when to look again.

An attempt cannot become `in_doubt` without a row here, nor leave that outcome with the row still
open: triggers see to it, whoever writes the attempt.
"""

from alembic import op

from paceline_common.db.tables import enable_tenancy

revision = "202611201400"
down_revision = "202611201300"

SCHEMA = "sender"

TABLE = """
    CREATE TABLE sender.doubt (
        workspace_id bigint NOT NULL,
        job_id bigint NOT NULL,
        fence_no integer NOT NULL,
        mailbox_id bigint NOT NULL,
        enrollment_id bigint,
        campaign_id bigint,
        step integer,
        provider text NOT NULL,
        message_id text,
        has_draft boolean NOT NULL,
        since timestamptz NOT NULL DEFAULT clock_timestamp(),
        looks integer NOT NULL DEFAULT 0,
        next_look_at timestamptz,
        looking_by uuid,
        looking_until timestamptz,
        destroying_since timestamptz,
        alarmed_at timestamptz,
        evidence jsonb[] NOT NULL,
        settled_at timestamptz,
        settled_as text,
        settled_by text,
        why text,
        PRIMARY KEY (workspace_id, job_id, fence_no),
        CONSTRAINT doubt_settled_as_check
            CHECK (settled_as IN ('sent', 'rejected', 'unsent', 'failed', 'moot')),
        CONSTRAINT doubt_settled_check CHECK (
            (settled_at IS NULL) = (settled_as IS NULL)
            AND (settled_at IS NULL) = (settled_by IS NULL)),
        CONSTRAINT doubt_draft_check CHECK (destroying_since IS NULL OR has_draft)
    )
    """

TRIGGERS = (
    """
    CREATE FUNCTION sender.open_doubt() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO sender.doubt (
            workspace_id, job_id, fence_no, mailbox_id, enrollment_id, campaign_id, step, provider,
            message_id, has_draft, evidence
        ) VALUES (
            NEW.workspace_id, NEW.job_id, NEW.fence, NEW.mailbox_id, NEW.enrollment_id,
            NEW.campaign_id, NEW.step, NEW.provider, NEW.message_id, NEW.draft IS NOT NULL,
            ARRAY[jsonb_build_object('at', clock_timestamp(), 'source', 'attempt',
                'finding', coalesce(NEW.reason, 'no_answer'), 'text', NEW.text)]
        ) ON CONFLICT DO NOTHING;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER doubt_opened AFTER INSERT OR UPDATE OF outcome ON sender.attempt FOR EACH ROW
    WHEN (NEW.outcome = 'in_doubt') EXECUTE FUNCTION sender.open_doubt()
    """,
    """
    CREATE FUNCTION sender.close_doubt() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE sender.doubt AS d
        SET settled_at = clock_timestamp(), settled_by = 'answer',
            settled_as = CASE NEW.outcome WHEN 'accepted' THEN 'sent'
                WHEN 'rejected' THEN 'rejected' WHEN 'failed' THEN 'failed' ELSE 'unsent' END,
            evidence = d.evidence || jsonb_build_object('at', clock_timestamp(),
                'source', 'answer', 'finding', NEW.outcome, 'text', NEW.text)
        WHERE (d.workspace_id, d.job_id, d.fence_no) = (NEW.workspace_id, NEW.job_id, NEW.fence)
            AND d.settled_at IS NULL;
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER doubt_closed AFTER UPDATE OF outcome ON sender.attempt FOR EACH ROW
    WHEN (OLD.outcome = 'in_doubt' AND NEW.outcome <> 'in_doubt')
    EXECUTE FUNCTION sender.close_doubt()
    """,
)


def upgrade() -> None:
    op.execute(TABLE)
    op.execute(
        "CREATE INDEX doubt_open_idx ON sender.doubt (workspace_id, since, job_id)"
        " WHERE settled_at IS NULL"
    )
    enable_tenancy(op, SCHEMA, "doubt", "sender_worker")
    # Its views tell tenants apart themselves: the installation's one shows all.
    op.execute("CREATE POLICY views ON sender.doubt FOR SELECT TO sender_owner USING (true)")
    for statement in TRIGGERS:
        op.execute(statement)
